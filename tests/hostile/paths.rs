//! Names that lead somewhere else.

use std::fs;

use super::host;
use crate::env::{Cluster, SOON, Settings};
use crate::{http, wait};

/// As they stand in a path, and as they are meant.
const NAMES: [(&str, &str); 12] = [
    ("..", ".."),
    ("..%2f..%2fetc", "../../etc"),
    ("%2e%2e%2fx", "../x"),
    ("a%2fb", "a/b"),
    ("%2fetc%2fpasswd", "/etc/passwd"),
    (".hidden", ".hidden"),
    ("-rf", "-rf"),
    ("--privileged", "--privileged"),
    ("a%20b", "a b"),
    ("$(id)", "$(id)"),
    ("a;b", "a;b"),
    ("%c3%a4", "\u{e4}"),
];

#[test]
fn names_of_environments_nodes_and_tasks_lead_nowhere() {
    let cluster = host();
    let (user, node) = (cluster.token(), cluster.node_token());
    // The last file of a start of the Host, which it answers before.
    let address = cluster.dir.join("host/address");
    wait::until_true("the Host has written its address", SOON, || (address.exists(), "it is not there".to_owned()));
    let before = files(&cluster);
    for (path, name) in NAMES {
        for (method, path, token) in [
            ("POST", format!("/docker/host/delete/{path}"), &user),
            ("POST", format!("/docker/host/stop/{path}"), &user),
            ("POST", format!("/docker/host/start/{path}"), &user),
            ("POST", format!("/docker/create_tar/{path}"), &user),
            ("GET", format!("/environments/{path}"), &node),
            ("GET", format!("/environments/{path}/1700000000"), &node),
            ("POST", format!("/node/{path}/drain"), &user),
            ("POST", format!("/node/{path}/forget"), &user),
            ("PUT", format!("/heartbeat/{path}"), &node),
            ("GET", format!("/runner/{path}/desired?session=x"), &node),
            ("GET", format!("/status/{path}"), &user),
            ("POST", format!("/kill/{path}"), &user),
            ("GET", format!("/task/{path}/stdout"), &user),
            ("GET", format!("/task/{path}/stderr?follow=1"), &user),
            ("GET", format!("/tasks?node={path}"), &user),
        ] {
            let body = (method != "GET").then_some("{}");
            let reply = http::call(cluster.api, method, &path, Some(token), body);
            assert!((400..500).contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.text());
            assert!(!reply.text().contains(['\n', '\r', '\u{1b}']), "{method} {path}: {}", reply.text());
        }
        let text = format!("{name:?}").replace("\\u{e4}", "\u{e4}");
        for body in [
            format!("{{\"command\":\"true\",\"container_name\":{text}}}"),
            format!("{{\"command\":\"true\",\"container_name\":\"NULL\",\"name\":{text}}}"),
            format!("{{\"command\":\"true\",\"container_name\":\"NULL\",\"targets\":[{text}]}}"),
        ] {
            let reply = cluster.post("/submit", &body);
            // A target alone of several that are none is a 503 with the reason.
            assert!((400..500).contains(&reply.status) || reply.status == 503, "{body}: {}", reply.text());
        }
        let body = format!("{{\"image_name\":\"x\",\"container_name\":{text}}}");
        let reply = cluster.post("/docker/host/create", &body);
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        let body = format!(
            "{{\"hostname\":{text},\"instance\":\"i\",\"machine_id\":\"m\",\"boot_id\":\"b\",\"version\":\"1\",\"inventory\":\
             {{\"cpus\":\"0\",\"memory_bytes\":1,\"siblings\":[],\"numa\":[],\"gpus\":[]}}}}"
        );
        let reply = http::call(cluster.api, "POST", "/register", Some(&node), Some(&body));
        assert_eq!(reply.status, 422, "{body}: {}", reply.text());
    }
    assert_eq!(files(&cluster), before, "nothing was made or removed");
    assert_eq!(cluster.get("/nodes").trim(), "[]");
    assert_eq!(cluster.get("/tasks").trim(), "[]");
}

/// All that stands in a cluster's folder, but for what the database and the log do meanwhile.
fn files(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![cluster.dir.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path.clone());
            }
            let name = path.strip_prefix(&cluster.dir).unwrap().display().to_string();
            if !name.starts_with("cluster.db") {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn mounts_stay_within_what_is_allowed() {
    let mut cluster =
        Cluster::new(Settings { docker_lines: "allowed_mounts = [\"/data/a\"]\n".into(), ..Settings::default() });
    cluster.start_host();
    for (mount, status) in [
        ("/data/a/../b:/x", 400),
        ("/data/a/./../../etc:/x", 400),
        ("/data/ab:/x", 403),
        ("/data:/x", 403),
        ("/:/x", 403),
        ("//etc:/x", 403),
        ("/data/a/x:/y/../..", 400),
        ("/data/a:/.hakuriver/task", 400),
        ("/data/a://.hakuriver//x", 400),
        ("/data/a:/x,readonly=false", 400),
        ("/data/a,source=/etc:/x", 400),
        ("/data/a\\u0000:/x", 400),
        ("/data/a\\n/etc:/x", 400),
        ("/data/a:/x:ro:z", 400),
        ("volume:/x", 400),
        (":/x", 400),
    ] {
        let body = format!("{{\"command\":\"true\",\"additional_mounts\":[\"{mount}\"]}}");
        let reply = cluster.post("/submit", &body);
        assert_eq!(reply.status, status, "{mount}: {}", reply.text());
    }
}

#[test]
fn files_with_odd_names_among_the_tarballs_are_none() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let folder = cluster.dir.join("shared/hakuriver-containers");
    for name in [
        "-17.tar",
        "..-17.tar",
        ".x-17.tar",
        "a b-17.tar",
        "x-17\n.tar",
        "x\u{1b}[2J-17.tar",
        "x-99999999999999999999999.tar",
        "x-+5.tar",
        "--help-17.tar",
        "NULL-17.tar",
        "x-17.tar.part",
    ] {
        fs::write(folder.join(name), "garbage").unwrap();
    }
    // What is a link to elsewhere is no archive, and nobody gets to see it.
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link-18.tar")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.join("zero-18.tar")).unwrap();
    fs::create_dir(folder.join("folder-18.tar")).unwrap();
    nix::unistd::mkfifo(&folder.join("pipe-18.tar"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    cluster.start_host();
    let list = cluster.get("/docker/list");
    for odd in ["garbage", "\\u001b", " b", "NULL", ".x", "..", "help", "zero", "folder", "pipe"] {
        assert!(!list.contains(odd), "{odd}: {list}");
    }
    let node = cluster.node_token();
    for name in ["link", "zero", "folder", "pipe", "x"] {
        let reply = http::call(cluster.api, "GET", &format!("/environments/{name}"), Some(&node), None);
        assert!((400..500).contains(&reply.status) && !reply.text().contains("root:"), "{name}: {}", reply.text());
        let reply = http::call(cluster.api, "GET", &format!("/environments/{name}/18"), Some(&node), None);
        assert!((400..500).contains(&reply.status) && !reply.text().contains("root:"), "{name}: {}", reply.text());
    }
    assert!(cluster.cli(&["docker", "list-tars"]).ok().lines().count() <= 3);
}
