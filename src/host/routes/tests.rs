//! The handler called directly, on a real engine and database.

use std::path::PathBuf;
use std::thread::JoinHandle;

use crate::store::Store;

use super::super::directory::Directory;
use super::super::engine::Settings;
use super::*;

mod terminal;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g me@here";

/// A Host without sockets.
struct Host {
    folder: PathBuf,
    api: Api,
    worker: Option<JoinHandle<()>>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.api.engine.stop();
        self.worker.take().map(JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An answer, read.
#[derive(Debug)]
struct Got {
    status: u16,
    body: String,
}

impl Got {
    fn of(reply: Reply) -> Self {
        match reply {
            Reply::Full { status, body, .. } => Self { status, body: String::from_utf8(body.to_vec()).expect("text") },
            Reply::Stream { status, .. } => Self { status, body: String::new() },
            Reply::Upgrade { .. } => Self { status: 101, body: String::new() },
        }
    }

    /// The text of a field, found by its name.
    fn field(&self, name: &str) -> String {
        let rest = self.body.split(&format!("\"{name}\":")).nth(1).unwrap_or_else(|| panic!("{name}: {}", self.body));
        rest.trim_start_matches(['"', '[']).split(['"', ',', '}', ']']).next().unwrap_or_default().to_owned()
    }
}

impl Host {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("hakuriver-routes-{}", crate::sys::random::hex(8)));
        std::fs::create_dir(&folder).expect("folder");
        std::fs::write(folder.join("base-17.tar"), "").expect("tarball");
        let store = Store::open(&folder.join("cluster.db")).expect("open");
        let readers = store.readers();
        let settings = Settings {
            cluster_id: "cluster".into(),
            ids: folder.join("ids"),
            epoch: "epoch".into(),
            node_timeout: Duration::from_secs(30),
            retention: Duration::from_secs(86_400),
            cleanup_interval: Duration::from_secs(10),
            most_nodes: 20,
            removed: std::sync::mpsc::channel().0,
        };
        let (engine, worker) = Engine::start(store, settings).expect("start");
        let api = Api {
            engine,
            readers,
            tokens: Tokens::of("user", "node"),
            same_site: SameSite::new(true, Vec::new()),
            rules: Rules {
                default_container: "base".into(),
                default_mounts: Vec::new(),
                privileged_by_default: false,
                allow_privileged: true,
                allowed_mounts: vec!["/".into()],
            },
            environments: Arc::new(Environments::at(folder.clone())),
            archives: Archives::of(Directory::of_archives(&folder)),
            history: Arc::default(),
            outputs: Arc::new(Outputs::below(&folder)),
            terminals: Arc::new(Terminals::new("docker", "cluster")),
            cluster_id: "cluster".into(),
            poll: Duration::from_millis(200),
        };
        Self { folder, api, worker: Some(worker) }
    }

    fn send(&self, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut all: Vec<(String, String)> = vec![("host".into(), "127.0.0.1:8000".into())];
        if !token.is_empty() {
            all.push(("authorization".into(), format!("Bearer {token}")));
        }
        if !body.is_empty() {
            all.push(("content-type".into(), "application/json".into()));
            all.push(("content-length".into(), body.len().to_string()));
        }
        for (name, value) in headers {
            all.retain(|(known, _)| known != name);
            all.push((name.to_string(), value.to_string()));
        }
        let head = Head {
            method: method.into(),
            path: path.into(),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            headers: all,
            peer: ([10, 0, 0, 7], 1).into(),
        };
        match self.api.admit(&head) {
            Err(refusal) => Got::of(refusal),
            Ok(_) => Got::of(self.api.handle(&head, body.as_bytes())),
        }
    }

    fn user(&self, method: &str, path: &str, body: &str) -> Got {
        self.send("user", method, path, &[], body)
    }

    fn node(&self, method: &str, path: &str, body: &str) -> Got {
        self.send("node", method, path, &[], body)
    }

    /// A node with 4 cores, two NUMA nodes and a GPU, that takes tasks; returns its session.
    fn join(&self) -> String {
        let registered = self.node(
            "POST",
            "/register",
            r#"{"hostname":"n1","instance":"i","machine_id":"m","boot_id":"b","version":"1.0","address":null,
                "inventory":{"cpus":"0-3","memory_bytes":8000000000,"siblings":["0-1"],
                "numa":[{"id":0,"cores":[0,1],"memory_bytes":5},{"id":1,"cores":[2,3],"memory_bytes":6}],
                "gpus":[{"id":0,"uuid":"GPU-1","numa":null}]}}"#,
        );
        assert_eq!(registered.status, 200, "{registered:?}");
        assert_eq!(registered.field("address"), "10.0.0.7", "the address that it calls from");
        let session = registered.field("session");
        let beat = format!(
            r#"{{"session":"{session}","usage":{{"cpu_percent":12.5,"memory_used_bytes":2,"memory_total_bytes":8,"avg_temp":null,"max_temp":null}},
                "gpu_info":[],"conditions":{{"docker":true,"systemd":true,"memory_limit":true,"freezer":true}}}}"#
        );
        assert_eq!(self.node("PUT", "/heartbeat/n1", &beat).status, 200);
        assert_eq!(self.observe(&session, true, "").status, 200);
        session
    }

    fn observe(&self, session: &str, complete: bool, tasks: &str) -> Got {
        let body = format!(r#"{{"session":"{session}","complete":{complete},"tasks":[{tasks}]}}"#);
        self.node("PUT", "/api/runner/n1/observed", &body)
    }

    fn submit(&self, more: &str) -> Got {
        self.user("POST", "/submit", &format!(r#"{{"task_type":"vps","command":"{KEY}"{more}}}"#))
    }
}

fn report(id: &str, rev: u32, state: &str, more: &str) -> String {
    format!(
        r#"{{"task_id":"{id}","attempt":1,"rev":{rev},"state":"{state}","reason":null,"exit_code":null,"exit_signal":null,
            "ssh_port":null,"host_keys":null,"started_at":null,"completed_at":null,"progress":null{more}}}"#
    )
}

#[test]
fn a_stranger_s_body_is_not_waited_for() {
    let host = Host::new();
    let head = Head {
        method: "GET".into(),
        path: "/healthz".into(),
        query: Vec::new(),
        headers: vec![("content-type".into(), "application/json".into()), ("content-length".into(), "5".into())],
        peer: ([127, 0, 0, 1], 1).into(),
    };
    assert_eq!(host.api.admit(&head).map_err(Got::of).expect("open to all"), 0);
}

#[test]
fn what_no_node_comes_to_costs_a_report_and_not_the_node() {
    let host = Host::new();
    let session = host.join();
    let [odd, other] = [0, 1].map(|_| host.submit("").field("task_ids"));
    let status = |id: &str| host.user("GET", &format!("/status/{id}"), "").field("status");
    let good = report(&other, 1, "running", "");
    for row in [
        report(&odd, 1, "failed", "").replace("\"attempt\":1", "\"attempt\":4294967295"),
        report(&odd, 1, "dancing", ""),
        report("x", 1, "running", ""),
    ] {
        // Complete, and still nothing is missing: the other may be what could not be read.
        for _ in 0..3 {
            let got = host.observe(&session, true, &format!("{row},{good}"));
            assert!(got.status == 200 && got.body.contains(&other), "{row}: {got:?}");
        }
        assert_eq!([status(&odd), status(&other)], ["assigning", "running"], "{row}");
    }
    // Signals are what a task may have a hand in: what is none is left out, and the result counts.
    for (at, signal) in ["999", "0", "-1", "2147483647"].into_iter().enumerate() {
        let id = host.submit("").field("task_ids");
        let row = report(&id, u32::try_from(at).expect("few") + 2, "failed", "");
        let row = row.replace("\"exit_signal\":null", &format!("\"exit_signal\":{signal}"));
        assert_eq!(host.observe(&session, false, &row).status, 200, "{signal}");
        assert_eq!(status(&id), "failed", "{signal}");
    }
}

#[test]
fn a_vps_from_submit_to_killed() {
    let host = Host::new();
    let session = host.join();
    let submitted = host.submit(r#","name":"dev","env_vars":{"SECRET":"s3cret"},"targets":["n1:1"]"#);
    assert_eq!(submitted.status, 202, "{submitted:?}");
    assert_eq!(submitted.field("hostname"), "n1");
    let id = submitted.field("task_ids");
    let list = host.node("GET", &format!("/runner/n1/desired?session={session}&version="), "");
    assert_eq!((list.field("task_id"), list.field("want")), (id.clone(), "run".to_owned()));
    assert!(list.body.contains("s3cret") && list.body.contains("\"numa\":1"), "{list:?}");

    let keys = format!(
        r#"{{"task_id":"{id}","attempt":1,"rev":2,"state":"running","reason":null,"exit_code":null,"exit_signal":null,
        "ssh_port":30001,"host_keys":["{KEY}","nonsense"],"started_at":"2026-01-02T03:04:05+00:00","completed_at":null,"progress":null}}"#
    );
    assert_eq!(host.observe(&session, false, &keys).field("rev"), "2");
    for path in [format!("/status/{id}"), "/api/status/dev".to_owned()] {
        let status = host.user("GET", &path, "");
        assert_eq!((status.field("status"), status.field("ssh_port")), ("running".to_owned(), "30001".to_owned()));
        assert_eq!(status.field("started_at"), "2026-01-02T03:04:05.000+00:00");
        assert!(status.body.contains("s3cret"), "the environment is shown here");
        assert!(status.field("command").contains("me@here SHA256:"), "{status:?}");
        assert!(!status.field("command").contains("AAAA"), "the key itself is not shown");
        let line = status.field("host_keys");
        assert!(line.starts_with("ssh-ed25519 AAAA") && !line.contains("me@here"), "{line}");
        assert!(!status.body.contains("nonsense"), "what is no key is not passed on");
    }
    for path in ["/vps", "/vps/status", "/vps/status?node=n1", "/vps?status=running"] {
        let list = host.user("GET", path, "");
        assert_eq!(list.field("task_id"), id, "{path}");
        assert!(!list.body.contains("s3cret"), "{path} shows no environment");
    }
    assert_eq!(host.user("GET", "/vps/status?node=n2", "").body, "[]");
    assert_eq!(host.user("POST", "/command/dev/pause", "").status, 200);
    assert_eq!(host.user("GET", "/status/dev", "").field("want"), "pause");
    assert_eq!(host.user("POST", "/command/dev/stop", "").status, 400);
    assert_eq!(host.user("POST", &format!("/kill/{id}"), "").status, 202);
    let killed = format!(
        r#"{{"task_id":"{id}","attempt":1,"rev":3,"state":"killed","reason":null,"exit_code":143,"exit_signal":15,
        "ssh_port":null,"host_keys":null,"started_at":null,"completed_at":null,"progress":null}}"#
    );
    host.observe(&session, false, &killed);
    let status = host.user("GET", &format!("/status/{id}"), "");
    assert_eq!((status.field("status"), status.field("exit_signal")), ("killed".to_owned(), "15".to_owned()));
    assert_eq!(host.user("GET", "/status/dev", "").field("task_id"), id, "a settled task is found by its name too");
    assert_eq!(host.user("POST", &format!("/kill/{id}"), "").status, 409);
    assert_eq!(host.user("POST", "/command/dev/pause", "").status, 400);
    assert_eq!(host.user("GET", "/vps/status", "").body, "[]");
    assert_eq!(host.user("GET", &format!("/task/{id}/stdout"), "").status, 400);
}

#[test]
fn nodes_and_health_have_0_3s_shapes() {
    let host = Host::new();
    host.join();
    let nodes = host.user("GET", "/nodes", "");
    for part in [
        r#""hostname":"n1""#,
        r#""url":"http://10.0.0.7:0""#,
        r#""total_cores":4"#,
        r#""available_cores":4"#,
        r#""status":"online""#,
        r#""numa_topology":{"0":{"cores":[0,1],"memory_bytes":5},"1":{"cores":[2,3],"memory_bytes":6}}"#,
    ] {
        assert!(nodes.body.contains(part), "{part}: {}", nodes.body);
    }
    let health = host.user("GET", "/health?hostname=n1", "");
    assert!(health.body.starts_with('[') && health.field("cpu_percent").starts_with("12.5"), "{health:?}");
    assert_eq!(health.field("memory_percent").parse::<f64>(), Ok(25.0));
    assert_eq!(health.field("current_avg_temp"), "null", "a machine without sensors");
    assert_eq!(host.user("GET", "/health?hostname=n2", "").status, 404);
    assert_eq!(host.user("GET", "/health", "").status, 200);
    assert!(host.user("GET", "/metrics", "").body.contains("hakuriver_nodes{status=\"online\"} 1"));
    let before = host.user("GET", "/nodes", "").body;
    assert_eq!(host.user("POST", "/node/n1/drain", "").status, 200);
    let after = host.user("GET", "/nodes", "").body;
    assert!(before != after && after.contains("draining"), "the kept list is replaced when a node changes");
    assert_eq!(host.user("POST", "/node/n1/forget", "").status, 409);
    assert_eq!(host.user("POST", "/node/x/forget", "").status, 404);
}

#[test]
fn only_who_has_the_right_token_gets_anything_done() {
    let host = Host::new();
    for (token, method, path, status) in [
        ("", "GET", "/healthz", 200),
        ("", "GET", "/nodes", 401),
        ("wrong", "GET", "/nodes", 401),
        ("node", "GET", "/nodes", 403),
        ("user", "GET", "/nodes", 200),
        ("", "POST", "/register", 401),
        ("user", "POST", "/register", 403),
        ("user", "PUT", "/heartbeat/n1", 403),
        ("user", "PUT", "/runner/n1/observed", 403),
        ("user", "GET", "/runner/n1/desired", 403),
        ("node", "GET", "/runner/n1/desired", 422),
        ("user", "GET", "/nothing", 404),
        ("user", "DELETE", "/nodes", 405),
        ("user", "GET", "/status/99", 404),
        ("user", "GET", "/status/Not_A_Name", 404),
        ("user", "GET", "/vps?limit=x", 400),
        ("user", "GET", "/vps?status=odd", 400),
    ] {
        let got = host.send(token, method, path, &[], "");
        assert_eq!(got.status, status, "{token:?} {method} {path}: {got:?}");
        assert!(status == 200 || got.body.starts_with("{\"detail\":\""), "{got:?}");
    }
    let foreign = host.send("user", "GET", "/nodes", &[("origin", "http://evil.example")], "");
    assert_eq!(foreign.status, 403);
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let form = host.send("user", "POST", "/submit", &[("content-type", kind)], "{}");
        assert_eq!(form.status, 415, "{kind}");
    }
    let with_charset = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(host.send("user", "POST", "/submit", &with_charset, "{}").status, 400);
}

#[test]
fn bad_submissions_are_refused_with_a_sentence() {
    let host = Host::new();
    host.join();
    let command = host.user("POST", "/submit", r#"{"task_type":"command","command":"true"}"#);
    assert_eq!(command.status, 202, "{command:?}");
    for (more, status, word) in [
        (r#","targets":["nowhere"]"#, 503, "n1"),
        (r#","targets":["n1:7"]"#, 503, "NUMA"),
        (r#","targets":["n1::5"]"#, 503, "GPU"),
        (r#","targets":["n1:"]"#, 400, "valid"),
        (r#","required_cores":64"#, 503, "n1"),
        (r#","required_cores":"4""#, 422, "required_cores"),
        (r#","container_name":"other""#, 400, "known: base"),
        (r#","container_name":"NULL""#, 400, "NULL"),
    ] {
        let got = host.submit(more);
        assert!(got.status == status && got.body.contains(word), "{more}: {got:?}");
    }
    for (body, status) in [("{\"x\":[", 400), ("{\"x\":}", 400), ("[]", 422), ("{\"command\":5}", 422)] {
        assert_eq!(host.user("POST", "/submit", body).status, status, "{body}");
    }
    assert_eq!(host.submit(r#","name":"dev""#).status, 202);
    let clash = host.submit(r#","name":"dev""#);
    assert!(clash.status == 409 && clash.field("detail").contains("dev"), "{clash:?}");
}

#[test]
fn a_repeated_submission_gets_the_same_answer() {
    let host = Host::new();
    host.join();
    let key = r#","idempotency_key":"k1""#;
    let first = host.submit(key);
    assert_eq!(host.submit(key).body, first.body);
    assert_eq!(host.submit(r#","idempotency_key":"k1","required_cores":1"#).status, 409);
    // Also when what it asked for is there no longer.
    std::fs::remove_file(host.folder.join("base-17.tar")).expect("tarball");
    assert_eq!((host.submit("").status, host.submit(key).body), (400, first.body));
    assert_eq!(host.submit(r#","idempotency_key":"k2""#).status, 400);
}

#[test]
fn a_long_poll_is_woken_by_a_submission_and_ends_by_itself() {
    let host = Host::new();
    let session = host.join();
    let poll = |version: &str| host.node("GET", &format!("/runner/n1/desired?session={session}&version={version}"), "");
    let version = poll("").field("version");
    assert_eq!(poll(&version).field("version"), version, "nothing happened within the interval");
    let next = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| poll(&version));
        assert_eq!(host.submit("").status, 202);
        waiting.join().expect("answered")
    });
    // Whether the poll came before or after the submission: the list has the task, and another version.
    let next = if next.field("version") == version { poll(&version) } else { next };
    assert_ne!(next.field("version"), version);
    assert!(next.body.contains("task_id"), "{next:?}");
    assert_eq!(host.node("GET", "/runner/n1/desired?session=old&version=", "").status, 410);
    assert_eq!(host.node("GET", "/runner/n9/desired?session=x&version=", "").status, 404);
}

#[test]
fn garbage_from_a_runner_names_the_field() {
    let host = Host::new();
    let session = host.join();
    let unknown = host.observe(&session, true, &report("77", 1, "unknown", ""));
    assert_eq!(unknown.status, 200);
    assert!(host.user("GET", "/nodes", "").body.contains(r#""unknown_tasks":["77"]"#));
    let register = host.node("POST", "/register", r#"{"hostname":"../x"}"#);
    assert_eq!(register.status, 422, "{register:?}");
    let lists = vec![r#""0-8000""#; 20].join(",");
    let register = host.node(
        "POST",
        "/register",
        &format!(
            r#"{{"hostname":"n2","instance":"i","machine_id":"m","boot_id":"b","version":"1.0","address":null,
                "inventory":{{"cpus":"0-3","memory_bytes":8,"siblings":[{lists}],"numa":[],"gpus":[]}}}}"#
        ),
    );
    assert!(register.status == 422 && register.field("detail").contains("siblings"), "{register:?}");
}

#[test]
fn what_nodes_tell_is_bounded_and_names_its_field() {
    let host = Host::new();
    let session = host.join();
    let register = |version: &str, inventory: &str| {
        let body = format!(
            r#"{{"hostname":"n2","instance":"i","machine_id":"m","boot_id":"b","version":"{version}","address":null,"inventory":{inventory}}}"#
        );
        host.node("POST", "/register", &body)
    };
    let inventory = |numa: &str, gpus: &str| {
        format!(r#"{{"cpus":"0-3","memory_bytes":8,"siblings":[],"numa":[{numa}],"gpus":[{gpus}]}}"#)
    };
    let cores = |cores: &str| format!(r#"{{"id":0,"cores":[{cores}],"memory_bytes":1}}"#);
    let gpu = |uuid: &str| format!(r#"{{"id":0,"uuid":"{uuid}","numa":null}}"#);
    let long = "x".repeat(1_025);
    for (version, inventory, field) in [
        (long.as_str(), inventory("", ""), "version"),
        ("1", inventory(&cores("65536"), ""), "numa"),
        ("1", inventory(&vec![cores("0,1,2,3"); 20_000].join(","), ""), "numa"),
        ("1", inventory(&cores(&vec!["1"; 65_537].join(",")), ""), "numa"),
        ("1", inventory("", &gpu(&long)), "gpus"),
        ("1", inventory("", &vec![gpu("u"); 4_097].join(",")), "gpus"),
    ] {
        let got = register(version, &inventory);
        assert!(got.status == 422 && got.field("detail").contains(field), "{field}: {got:?}");
    }
    assert_eq!(register("1", &inventory(&cores("0,1"), &gpu("u"))).status, 200);

    let known =
        |count: usize, name: &str| vec![format!(r#"{{"name":"{name}","version":1,"state":"ready"}}"#); count].join(",");
    for (environments, status) in [(known(2, "e"), 200), (known(4_097, "e"), 422), (known(1, &long), 422)] {
        let body = format!(
            r#"{{"session":"{session}","usage":{{}},"gpu_info":[],"conditions":{{"docker":true,"systemd":true,"memory_limit":true,"freezer":true}},"environments":[{environments}]}}"#
        );
        assert_eq!(host.node("PUT", "/heartbeat/n1", &body).status, status);
    }

    let body = r#"{"command":"true","container_name":"NULL"}"#;
    let id = host.user("POST", "/submit", body).field("task_ids");
    let reason = "é".repeat(100_000);
    let failed =
        format!(r#"{{"task_id":"{id}","attempt":1,"rev":1,"state":"failed","reason":"{reason}","exit_code":1}}"#);
    assert_eq!(host.observe(&session, false, &failed).status, 200);
    let told = host.user("GET", &format!("/status/{id}"), "").field("error_message");
    assert!(told.len() < 9_000 && told.starts_with("éé") && told.ends_with("é …"), "{} bytes", told.len());
}

#[test]
fn figures_that_no_machine_has_are_none() {
    let host = Host::new();
    let session = host.join();
    for (percent, memory, told) in
        [("1e308", "9223372036854775807", "100"), ("-1e308", "9223372036854775807", "0"), ("12.5", "8", "12.5")]
    {
        let usage = format!(
            r#"{{"cpu_percent":{percent},"memory_used_bytes":{memory},"memory_total_bytes":{memory},"avg_temp":1e300,"max_temp":-1e300}}"#
        );
        let body = format!(
            r#"{{"session":"{session}","usage":{usage},"gpu_info":[],"conditions":{{"docker":true,"systemd":true,"memory_limit":true,"freezer":true}}}}"#
        );
        assert_eq!(host.node("PUT", "/heartbeat/n1", &body).status, 200);
        let seen = host.user("GET", "/health?hostname=n1", "").body;
        let has = |field: &str| assert!(seen.contains(field), "{field}: {seen}");
        has(&format!("\"cpu_percent\":{told}"));
        has("\"current_max_temp\":null");
        has(&format!("\"memory_used_bytes\":{}", if memory == "8" { "8" } else { "null" }));
    }
}

#[test]
fn an_offset_that_no_file_has_is_refused_before_an_answer_begins() {
    let host = Host::new();
    let session = host.join();
    let body = r#"{"command":"true","container_name":"NULL"}"#;
    let id = host.user("POST", "/submit", body).field("task_ids");
    for stream in ["stdout", "stderr"] {
        for (offset, status) in [("0", 200), ("4611686018427387903", 200), ("4611686018427387904", 422)] {
            let path = format!("/task/{id}/{stream}?follow=0&offset={offset}");
            assert_eq!(host.user("GET", &path, "").status, status, "{path}");
        }
        for offset in ["9223372036854775808", "18446744073709551615", "18446744073709551616", "-1"] {
            let got = host.user("GET", &format!("/task/{id}/{stream}?offset={offset}"), "");
            assert!(got.status == 422 && got.field("detail").contains("offset"), "{offset}: {got:?}");
        }
        let path = format!("/runner/n1/output/{id}/1/{stream}?session={session}&offset=18446744073709551615");
        let bytes = [("content-type", "application/octet-stream")];
        assert_eq!(host.send("node", "PUT", &path, &bytes, "x").status, 422);
    }
}

#[test]
fn events_are_streamed_from_any_number_on_and_say_what_is_gone() {
    let host = Host::new();
    host.join();
    let id = host.submit("").field("task_ids");
    for beyond in ["99999", "18446744073709551615"] {
        assert_eq!(host.user("GET", &format!("/events?since={beyond}"), "").status, 410, "{beyond}");
    }
    assert_eq!(host.user("GET", "/events?batch=x", "").status, 400);
    assert_eq!(host.user("GET", "/events?since=x", "").status, 400);
    let head = Head {
        method: "GET".into(),
        path: "/events".into(),
        query: vec![("since".into(), "0".into()), ("task".into(), id.clone())],
        headers: Vec::new(),
        peer: ([127, 0, 0, 1], 1).into(),
    };
    let Reply::Stream { write, .. } = host.api.handle(&head, b"") else { panic!("a stream") };
    // Ends when the Host stops.
    host.api.engine.view.close();
    let mut out = Vec::new();
    write(&mut out).expect("written");
    let text = String::from_utf8(out).expect("text");
    let seen: Vec<&str> = text.lines().filter(|line| line.starts_with("data:")).collect();
    assert_eq!(seen.len(), 2, "{text}");
    assert!(seen[0].contains("\"to\":\"pending\"") && seen[1].contains("\"to\":\"assigning\""), "{text}");
    assert!(text.contains("event: task\n") && seen[0].contains(&id), "{text}");
}
