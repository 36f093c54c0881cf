//! Nobody without the cluster's token gets anything done, and no web page can drive a Host.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use crate::env::{Cluster, Settings, binary};
use crate::{http, program};

/// Every route of users, with a body where one is read.
const USER_ROUTES: &[(&str, &str, Option<&str>)] = &[
    ("GET", "/nodes", None),
    ("GET", "/health", None),
    ("GET", "/version", None),
    ("POST", "/submit", Some("{}")),
    ("GET", "/status/1", None),
    ("POST", "/kill/1", Some("{}")),
    ("POST", "/command/1/pause", Some("{}")),
    ("GET", "/vps", None),
    ("GET", "/vps/status", None),
    ("POST", "/node/x/drain", Some("{}")),
    ("POST", "/node/x/undrain", Some("{}")),
    ("POST", "/node/x/forget", Some("{}")),
];

const NODE_ROUTES: &[(&str, &str, Option<&str>)] = &[
    ("POST", "/register", Some("{}")),
    ("PUT", "/heartbeat/x", Some("{}")),
    ("PUT", "/runner/x/observed", Some("{}")),
    ("GET", "/runner/x/desired?session=x&version=", None),
];

#[test]
fn every_route_asks_for_its_token() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    let (token, node_token) = (cluster.token(), cluster.node_token());
    assert_ne!(token, node_token);
    for prefix in ["", "/api"] {
        for (method, path, body) in USER_ROUTES.iter().chain(NODE_ROUTES) {
            for wrong in [None, Some(""), Some("wrong"), Some(&token[..token.len() - 1])] {
                let reply = http::call(cluster.api, method, &format!("{prefix}{path}"), wrong, *body);
                assert_eq!(reply.status, 401, "{method} {prefix}{path} with {wrong:?}: {}", reply.text());
                assert!(reply.text().contains("\"detail\""), "{}", reply.text());
            }
        }
    }
    for (method, path, body) in NODE_ROUTES {
        let reply = http::call(cluster.api, method, path, Some(&token), *body);
        assert_eq!(reply.status, 403, "a user's token on {method} {path}: {}", reply.text());
    }
    for (method, path, body) in USER_ROUTES {
        let reply = http::call(cluster.api, method, path, Some(&token), *body);
        assert!(![401, 403].contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.text());
        let reply = http::call(cluster.api, method, path, Some(&node_token), *body);
        if *path == "/version" {
            assert_eq!(reply.status, 200, "a node asks which cluster this is, before it joins: {}", reply.text());
            continue;
        }
        assert!([401, 403].contains(&reply.status), "a node's token on {method} {path}: {}", reply.status);
    }
    assert_eq!(http::call(cluster.api, "GET", "/healthz", None, None).status, 200);
    for file in ["token", "node-token"] {
        let mode = std::fs::metadata(cluster.dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert!(!cluster.log("host").contains(&token) && !cluster.log("host").contains(&node_token), "no token in the log");
}

#[test]
fn the_client_takes_its_token_from_file_or_environment() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    cluster.cli(&["client", "nodes"]).ok();
    let mut wrong = cluster.cli_command(&["client", "nodes"]);
    wrong.env("HAKURIVER_TOKEN", "wrong");
    program::run(&mut wrong, crate::env::SOON).fails(1, &["token"]);

    let elsewhere = cluster.dir.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let config = elsewhere.join("config.toml");
    std::fs::write(&config, format!("[network]\nhost_port = {}\n", cluster.api)).unwrap();
    let mut command = cluster.command(&binary());
    command.args(["client", "nodes"]).env("HAKURIVER_CONFIG", &config).env("HAKURIVER_TOKEN", cluster.token());
    program::run(&mut command, crate::env::SOON).ok();
    command.env_remove("HAKURIVER_TOKEN");
    let none = program::run(&mut command, crate::env::SOON);
    assert!([1, 2].contains(&none.status), "{none}");
    assert!(none.stderr.contains("token"), "{none}");
}

#[test]
fn foreign_origins_and_other_bodies_are_refused_in_every_mode() {
    for lines in ["", "[auth]\nmode = \"none\"\n"] {
        let mut cluster = Cluster::new(Settings { host_lines: lines.to_owned(), ..Settings::default() });
        if !lines.is_empty() {
            // In mode none no token file is promised; the harness looks for one.
            std::fs::write(cluster.dir.join("token"), "ignored").unwrap();
        }
        cluster.start_host();
        let token = cluster.token();
        let call = |headers: &str, body: &str| {
            let mut socket = http::connect(cluster.api);
            let text = format!(
                "POST /submit HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {token}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                cluster.api,
                body.len()
            );
            socket.write_all(text.as_bytes()).unwrap();
            http::read_reply(&mut socket).unwrap()
        };
        let json = "Content-Type: application/json\r\n";
        let foreign = call(&format!("{json}Origin: http://evil.example\r\n"), "{}");
        assert_eq!(foreign.status, 403, "{lines:?}: {}", foreign.text());
        for other in ["Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n", ""] {
            let reply = call(other, "{}");
            assert!((400..500).contains(&reply.status), "{lines:?} {other:?}: {}", reply.status);
            assert!(reply.status == 415, "{lines:?} {other:?}: {} {}", reply.status, reply.text());
        }
        let own = call(&format!("{json}Origin: http://127.0.0.1:{}\r\n", cluster.api), "{\"task_type\": 1}");
        assert_eq!(own.status, 422, "the Host's own pages are heard: {}", own.text());
        assert!(own.text().contains("task_type"), "{}", own.text());
    }
}

#[test]
fn mode_none_is_0_3_and_stays_on_loopback() {
    let lines = "[auth]\nmode = \"none\"\n";
    let mut cluster = Cluster::new(Settings { host_lines: lines.to_owned(), ..Settings::default() });
    std::fs::write(cluster.dir.join("token"), "ignored").unwrap();
    cluster.start_host();
    for token in [None, Some("whatever")] {
        assert_eq!(http::call(cluster.api, "GET", "/nodes", token, None).status, 200);
        assert_eq!(http::call(cluster.api, "GET", "/api/nodes", token, None).status, 200);
    }
    let text = std::fs::read_to_string(cluster.config("config")).unwrap();
    let open = text.replace("[network]\n", "[network]\nhost_bind_ip = \"0.0.0.0\"\n");
    std::fs::write(cluster.config("config"), open).unwrap();
    cluster.stop("host");
    let config = cluster.config("config");
    let mut command = cluster.command(&binary());
    command.args(["host", "--config", &config]);
    // Either refused, or loopback only; never open to the network by 0.3's defaults.
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let outcome = crate::wait::until("the Host answers or ends", crate::env::SOON, || {
        if let Some(status) = child.try_wait().unwrap() {
            return Ok(Some(status));
        }
        http::try_call(cluster.api, "GET", "/healthz", None, None).map(|_| None).map_err(|e| e.to_string())
    });
    if outcome.is_none() {
        let listening = listening_addresses(child.id(), cluster.api);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(listening, ["0100007F"], "loopback only, in the kernel's own words");
    } else {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("insecure_network"), "{said}");
    }
}

/// The addresses (hexadecimal, as in /proc/net/tcp) on which somebody listens on that port.
fn listening_addresses(pid: u32, port: u16) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[3] == "0A" && fields[1].ends_with(&suffix))
        .map(|fields| fields[1].split(':').next().unwrap().to_owned())
        .collect()
}
