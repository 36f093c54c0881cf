//! The Host by itself, on nodes of the test's making: placement, the API's forms, what survives a restart.

use std::fs;

use crate::env::{Cluster, SOON, Settings, binary, first_id};
use crate::fake_node::{FakeNode, Hardware, observed};
use crate::{http, program, wait};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJaJOWZ8FQPFlx9LfTg5Yhrg0cmPZDOzSbMEZzkqV3gF user@machine";

fn host() -> Cluster {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    cluster
}

fn submit(cluster: &Cluster, options: &[&str]) -> String {
    let mut args = vec!["vps", "submit", "--no-wait", "--public-key-string", KEY];
    args.extend(options);
    first_id(&cluster.cli(&args).ok())
}

#[test]
fn the_host_chooses_by_its_rule() {
    let cluster = host();
    let _big = FakeNode::obedient(&cluster, "big", &Hardware::cores("0-15", &[]));
    let _mid = FakeNode::obedient(&cluster, "mid", &Hardware::cores("0-7", &[]));
    let _also = FakeNode::obedient(&cluster, "also", &Hardware::cores("0-7", &[]));
    let on = |options: &[&str]| cluster.await_status(&submit(&cluster, options), "running").assigned_node.unwrap();
    // With cores: the node with the fewest free cores that still fits; equal ones by name.
    assert_eq!(on(&["--cores", "4"]), "also");
    assert_eq!(on(&["--cores", "5"]), "mid");
    assert_eq!(on(&["--cores", "3"]), "mid", "three are free there, four on also");
    assert_eq!(on(&["--cores", "5"]), "big");
    assert_eq!(on(&["--cores", "4"]), "also");
    assert_eq!(on(&["--target", "big", "--cores", "1"]), "big");
    // Without: the fewest such tasks per core, then the most free memory, then by name.
    assert_eq!(on(&["--cores", "0"]), "also");
    assert_eq!(on(&["--cores", "0"]), "big");
    assert_eq!(on(&["--cores", "0"]), "mid");
    assert_eq!(on(&["--cores", "0"]), "big", "one on sixteen cores is less than one on eight");
}

#[test]
fn gpus_are_held_by_one_task_each() {
    let cluster = host();
    let _node = FakeNode::obedient(&cluster, "g", &Hardware { gpus: 3, ..Hardware::cores("0-7", &[]) });
    let first = cluster.await_status(&submit(&cluster, &["--target", "g::0,2"]), "running");
    assert_eq!(first.required_gpus, [0, 2]);
    let any = cluster.await_status(&submit(&cluster, &["--gpus", "1"]), "running");
    assert_eq!(any.required_gpus, [1], "the free one");
    let waiting = submit(&cluster, &["--target", "g::2"]);
    let record = cluster.status(&waiting);
    assert_eq!(record.status, "pending");
    assert!(record.reason.is_some_and(|r| r.contains("GPU")));
    cluster.cli(&["vps", "kill", &first.task_id]).ok();
    cluster.await_status(&waiting, "running");
}

#[test]
fn a_numa_target_is_counted_apart() {
    let cluster = host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-7", &[&[0, 1, 2, 3], &[4, 5, 6, 7]]));
    let on_zero = cluster.await_status(&submit(&cluster, &["--target", "n:0", "--cores", "3"]), "running");
    assert_eq!(on_zero.target_numa_node_id, Some(0));
    let waiting = submit(&cluster, &["--target", "n:0", "--cores", "2"]);
    assert_eq!(cluster.status(&waiting).status, "pending", "one core is free on NUMA node 0");
    cluster.await_status(&submit(&cluster, &["--target", "n:1", "--cores", "4"]), "running");
    cluster.cli(&["vps", "kill", &on_zero.task_id]).ok();
    cluster.await_status(&waiting, "running");
}

#[test]
fn a_0_3_client_s_body_and_paths_work() {
    let cluster = host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-7", &[]));
    // As 0.3's client writes it, with fields it has and we do not need.
    let body = format!(
        "{{\"task_type\": \"vps\", \"command\": \"{KEY}\", \"arguments\": [], \"env_vars\": {{}}, \"required_cores\": 0, \"required_gpus\": [[]], \
         \"required_memory_bytes\": null, \"targets\": null, \"container_name\": null, \"privileged\": null, \"additional_mounts\": null, \"left_over\": [1, {{}}]}}"
    );
    let reply = http::call(cluster.api, "POST", "/api/submit", Some(&cluster.token()), Some(&body));
    assert_eq!(reply.status, 202, "{}", reply.text());
    for field in ["\"message\"", "\"task_ids\"", "\"failed_targets\"", "\"assigned_node\"", "\"runner_response\""] {
        assert!(reply.text().contains(field), "{field}: {}", reply.text());
    }
    let id = first_id(&reply.text());
    assert!(reply.text().contains(&format!("\"{id}\"")), "ids are strings: {}", reply.text());
    cluster.await_status(&id, "running");
    assert_eq!(cluster.get(&format!("/api/status/{id}")), cluster.get(&format!("/status/{id}")));
    for (action, status) in [("pause", 200), ("pause", 200), ("resume", 200), ("restart", 400)] {
        let reply = cluster.post(&format!("/command/{id}/{action}"), "{}");
        assert_eq!(reply.status, status, "{action}: {}", reply.text());
    }
    assert_eq!(cluster.post(&format!("/kill/{id}"), "{}").status, 202);
    cluster.await_status(&id, "killed");
    assert_eq!(cluster.post(&format!("/kill/{id}"), "{}").status, 409);
    assert_eq!(cluster.post("/kill/123456789012345678", "{}").status, 404);
    assert_eq!(cluster.post(&format!("/command/{id}/pause"), "{}").status, 400);
    assert!(cluster.get("/vps").contains(&id) && !cluster.get("/vps/status").contains(&id));
    for (body, field) in [
        ("{\"task_type\": \"vps\", \"command\": 5}", "command"),
        ("{\"task_type\": \"vps\", \"command\": \"x\", \"required_cores\": \"2\"}", "required_cores"),
        ("{\"task_type\": \"vps\", \"command\": \"x\", \"targets\": \"n\"}", "targets"),
    ] {
        let reply = cluster.post("/submit", body);
        assert_eq!(reply.status, 422, "{body}: {}", reply.text());
        assert!(reply.text().contains(field), "{body}: {}", reply.text());
    }
    let circus = cluster.post("/submit", "{\"task_type\": \"circus\", \"command\": \"x\"}");
    assert_eq!(circus.status, 400, "the type is right, the value is not: {}", circus.text());
    assert!(circus.text().contains("task_type"), "{}", circus.text());
}

#[test]
fn the_same_key_and_body_again_is_the_same_task() {
    let mut cluster = host();
    let node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-7", &[]));
    let body = format!("{{\"task_type\": \"vps\", \"command\": \"{KEY}\", \"idempotency_key\": \"k1\"}}");
    let first = cluster.post("/submit", &body);
    assert_eq!(first.status, 202, "{}", first.text());
    let id = first_id(&first.text());
    assert_eq!(first_id(&cluster.post("/submit", &body).text()), id);
    drop(node);
    cluster.kill9("host");
    cluster.start_host();
    assert_eq!(first_id(&cluster.post("/submit", &body).text()), id, "also after a restart");
    let other = cluster.post("/submit", &body.replace("user@machine", "other"));
    assert_eq!(other.status, 409, "{}", other.text());
}

#[test]
fn what_was_accepted_survives_kill_9_and_ids_grow() {
    let mut cluster = host();
    let mut last = 0_u64;
    for _ in 0..3 {
        let _node = FakeNode::silent(&cluster, "n", &Hardware::cores("0-63", &[]));
        let ids: Vec<String> = (0..10).map(|_| submit(&cluster, &["--cores", "1"])).collect();
        cluster.kill9("host");
        cluster.start_host();
        for id in &ids {
            let number: u64 = id.parse().unwrap();
            assert!(number > last, "{number} after {last}");
            last = number;
            assert!(["pending", "assigning"].contains(&cluster.status(id).status.as_str()), "{id}");
        }
        for id in &ids {
            cluster.cli(&["vps", "kill", id]).ok();
        }
    }
}

#[test]
fn late_old_and_repeated_reports_do_no_harm() {
    let cluster = host();
    let node = FakeNode::silent(&cluster, "n", &Hardware::cores("0-7", &[]));
    let id = submit(&cluster, &[]);
    wait::until("it is placed", SOON, || {
        let record = cluster.status(&id);
        if record.status == "assigning" { Ok(()) } else { Err(record.status) }
    });
    let receipt = node.observe(false, vec![observed(&id, 1, 2, "running", Some(30_000))]);
    assert_eq!((receipt[0].task_id.as_str(), receipt[0].rev), (id.as_str(), 2));
    node.observe(false, vec![observed(&id, 1, 1, "starting", None)]);
    assert_eq!(cluster.status(&id).status, "running", "an older revision changes nothing");
    cluster.cli(&["vps", "kill", &id]).ok();
    node.observe(false, vec![observed(&id, 1, 3, "killed", None)]);
    cluster.await_status(&id, "killed");
    node.observe(false, vec![observed(&id, 1, 4, "running", Some(30_000))]);
    assert_eq!(cluster.status(&id).status, "killed", "final states are final");
}

#[test]
fn what_the_host_does_not_know_is_shown_and_left_alone() {
    let cluster = host();
    let node = FakeNode::silent(&cluster, "n", &Hardware::cores("0-7", &[]));
    let foreign = "6991236812345678901";
    node.observe(true, vec![observed(foreign, 1, 1, "unknown", None)]);
    wait::until("the unknown task is shown", SOON, || {
        let nodes = cluster.nodes();
        if nodes[0].unknown_tasks.iter().any(|t| t.contains(foreign)) { Ok(()) } else { Err(format!("{:?}", nodes[0])) }
    });
    assert!(cluster.cli(&["client", "nodes"]).ok().contains(foreign));
    assert!(node.look().tasks.is_empty(), "nothing is asked of the node about it");
}

#[test]
fn a_silent_node_is_offline_and_its_tasks_lost_until_it_returns() {
    let mut cluster = Cluster::new(Settings { timeout_factor: 3, ..Settings::default() });
    cluster.start_host();
    let hardware = Hardware::cores("0-3", &[]);
    let node = FakeNode::silent(&cluster, "n", &hardware);
    let (lives, dies) = (submit(&cluster, &["--cores", "2"]), submit(&cluster, &["--cores", "2"]));
    for id in [&lives, &dies] {
        node.observe(false, vec![observed(id, 1, 1, "running", Some(30_000))]);
        cluster.await_status(id, "running");
    }
    drop(node);
    cluster.await_status(&lives, "lost");
    cluster.await_status(&dies, "lost");
    assert_eq!(cluster.nodes()[0].status, "offline");
    assert_eq!(cluster.nodes()[0].cores_in_use, 4, "held until proof of death");
    assert!(!cluster.get("/vps/status").contains(&lives), "lost is not active");
    cluster.cli(&["vps", "kill", &dies]).ok();
    assert_eq!(cluster.status(&dies).status, "lost", "killed only when its node says so");
    let has = vec![observed(&lives, 1, 2, "running", Some(30_000)), observed(&dies, 1, 2, "running", Some(30_001))];
    let node = FakeNode::returning(&cluster, "n", &hardware, has);
    cluster.await_status(&lives, "running");
    let wants: Vec<_> = node.look().tasks.into_iter().map(|t| (t.task_id, t.want)).collect();
    assert!(wants.contains(&(dies.clone(), "stop".to_owned())), "{wants:?}");
    node.observe(false, vec![observed(&dies, 1, 3, "killed", None)]);
    cluster.await_status(&dies, "killed");
    assert_eq!(cluster.nodes()[0].cores_in_use, 2);
}

#[test]
fn a_node_that_lost_an_assignment_gets_it_once_more() {
    let cluster = host();
    let hardware = Hardware::cores("0-3", &[]);
    let first = FakeNode::silent(&cluster, "n", &hardware);
    let id = submit(&cluster, &[]);
    wait::until("it is placed", SOON, || {
        if first.look().tasks.is_empty() { Err("nothing desired".into()) } else { Ok(()) }
    });
    // The Runner ends before it did anything, and comes back with nothing.
    drop(first);
    let again = FakeNode::obedient(&cluster, "n", &hardware);
    let record = cluster.await_status(&id, "running");
    assert_eq!(record.attempt, 2, "{record:?}");
    drop(again);
}

#[test]
fn forget_is_for_nodes_that_are_gone() {
    let mut cluster = Cluster::new(Settings { timeout_factor: 3, ..Settings::default() });
    cluster.start_host();
    let node = FakeNode::silent(&cluster, "n", &Hardware::cores("0-3", &[]));
    cluster.cli(&["client", "forget", "n"]).fails(1, &["n", "online"]);
    drop(node);
    wait::until("offline", SOON, || {
        let status = cluster.nodes()[0].status.clone();
        if status == "offline" { Ok(()) } else { Err(status) }
    });
    cluster.cli(&["client", "forget", "n"]).ok();
    assert!(cluster.nodes().is_empty());
}

#[test]
fn health_tells_a_minute_and_null_is_a_value() {
    let cluster = host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-3", &[]));
    let one = wait::until("figures of n", SOON, || {
        let reply = http::call(cluster.api, "GET", "/health?hostname=n", Some(&cluster.token()), None);
        if reply.status == 200 { Ok(reply.text()) } else { Err(reply.text()) }
    });
    assert!(one.starts_with("[{") && one.contains("\"current_avg_temp\":null"), "{one}");
    let all = cluster.get("/health");
    for field in ["\"nodes\"", "\"aggregate\"", "\"totalNodes\"", "\"maxMaxCpuTemp\""] {
        assert!(all.contains(field), "{field}: {all:.400}");
    }
    assert_eq!(http::call(cluster.api, "GET", "/health?hostname=x", Some(&cluster.token()), None).status, 404);
    assert!(cluster.cli(&["client", "health"]).ok().contains('n'));
    assert!(cluster.cli(&["client", "health", "n"]).ok().contains('n'));
}

#[test]
fn a_second_host_and_a_damaged_database_are_refused() {
    let mut cluster = host();
    // Other ports, the same database.
    let text = fs::read_to_string(cluster.config("config")).unwrap();
    let text = text.replace(&format!("host_port = {}", cluster.api), "host_port = 0");
    let text = text.replace(&format!("host_ssh_proxy_port = {}", cluster.tunnel), "host_ssh_proxy_port = 0");
    fs::write(cluster.dir.join("second.toml"), text).unwrap();
    let config = cluster.config("second");
    let second = program::run(cluster.command(&binary()).args(["host", "--config", &config]), SOON);
    assert_ne!(second.status, 0, "{second}");
    assert!(second.stderr.contains("cluster.db") || second.stderr.contains(cluster.dir.to_str().unwrap()), "{second}");
    cluster.stop("host");
    let database = cluster.dir.join("cluster.db");
    let mut bytes = fs::read(&database).unwrap();
    for byte in &mut bytes[..4096] {
        *byte = 0x55;
    }
    fs::write(&database, &bytes).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(cluster.dir.join(format!("cluster.db{suffix}")));
    }
    let config = cluster.config("config");
    let damaged = program::run(cluster.command(&binary()).args(["host", "--config", &config]), SOON);
    assert_ne!(damaged.status, 0, "{damaged}");
    assert!(damaged.stderr.contains("cluster.db") && damaged.stderr.contains("backup"), "{damaged}");
    assert_eq!(fs::read(&database).unwrap(), bytes, "nothing is written over it");
}

#[test]
fn lists_have_no_secrets() {
    let cluster = host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-3", &[]));
    let id = submit(&cluster, &["--env", "PASSWORD=hunter2hunter2"]);
    cluster.await_status(&id, "running");
    assert!(cluster.get(&format!("/status/{id}")).contains("hunter2hunter2"), "the record itself has it");
    for path in ["/vps", "/vps/status", "/nodes"] {
        assert!(!cluster.get(path).contains("hunter2"), "{path}");
    }
    assert!(!cluster.log("host").contains("hunter2"));
}
