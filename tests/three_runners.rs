//! Three Runners with different names on one machine and one Docker daemon.

use crate::env::{Cluster, Settings};
use crate::program::docker;

#[test]
fn three_runners_share_a_daemon_and_nothing_else() {
    let mut cluster = Cluster::new(Settings { timeout_factor: 4, ..Settings::default() });
    cluster.start_host();
    for short in ["a", "b", "c"] {
        cluster.start_runner(short);
    }
    let node = |short: &str| cluster.node(short);
    // Auto-selection: equal nodes by name, then the fewest unpinned tasks per core.
    let mut ids = Vec::new();
    for wanted in ["a", "b", "c"] {
        let id = cluster.submit(&[]);
        assert_eq!(cluster.status(&id).assigned_node.as_deref(), Some(node(wanted).as_str()));
        ids.push(id);
    }
    let on_c = cluster.submit(&["--target", &node("c")]);
    assert_eq!(cluster.status(&on_c).assigned_node, Some(node("c")));
    for (id, short) in ids.iter().zip(["a", "b", "c"]) {
        let label = docker(&["inspect", "-f", "{{index .Config.Labels \"hakuriver.node\"}}", &cluster.container(id)]);
        assert_eq!(label, node(short));
    }

    // A stopped Runner: offline, its VPS lost but alive; the others go on.
    let (container, keys) = (cluster.container(&ids[1]), cluster.status(&ids[1]).host_keys);
    let (b, name) = ("runner-b", node("b"));
    cluster.stop(b);
    cluster.await_node("b", "offline");
    cluster.await_status(&ids[1], "lost");
    assert_eq!(
        docker(&["inspect", "-f", "{{.State.Running}}", &container]),
        "true",
        "nobody touches {name}'s container"
    );
    for id in [&ids[0], &ids[2], &on_c] {
        assert_eq!(cluster.ssh(id, &["--", "echo others go on"]).ok(), "others go on\n");
    }
    let refused = cluster.cli(&[
        "vps",
        "submit",
        "--target",
        &name,
        "--public-key-file",
        cluster.dir.join("key.pub").to_str().unwrap(),
    ]);
    refused.fails(1, &[&name, "offline"]);
    // Started again: the same container.
    cluster.start_runner("b");
    let record = cluster.await_status(&ids[1], "running");
    assert_eq!(record.attempt, 1);
    assert_eq!(cluster.container(&ids[1]), container);
    assert_eq!(record.host_keys, keys);
    assert_eq!(cluster.ssh(&ids[1], &["--", "echo back"]).ok(), "back\n");

    // A Runner of a name that is taken is refused, on the same machine by its lock.
    let config = cluster.config("a");
    let mut second = cluster.command(&crate::env::binary());
    second.args(["runner", "--config", &config]);
    let second = crate::program::run(&mut second, crate::env::SOON);
    assert_ne!(second.status, 0, "{second}");
    assert!(second.stderr.contains(&cluster.node("a")), "{second}");
    for id in ids.iter().chain([&on_c]) {
        cluster.kill_vps(id);
    }
}

#[test]
fn a_runner_joins_with_an_address_and_a_token_file() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    let (address, token) = (format!("127.0.0.1:{}", cluster.api), cluster.dir.join("node-token"));
    // No configuration file but the one in its home directory, which says only what the node is called.
    let home = cluster.dir.join("home/.hakuriver");
    std::fs::create_dir_all(&home).unwrap();
    let text = format!("[network]\nrunner_hostname = \"{}\"\nvps_ports = \"29500-29600\"\n", cluster.node("j"));
    std::fs::write(home.join("config.toml"), text).unwrap();
    cluster.spawn("runner-j", &["runner", "--join", &address, "--token-file", token.to_str().unwrap()]);
    cluster.await_node("j", "online");
    cluster.stop("runner-j");
    std::fs::write(cluster.dir.join("wrong"), "wrong\n").unwrap();
    let wrong = cluster.dir.join("wrong");
    cluster.spawn("runner-w", &["runner", "--join", &address, "--token-file", wrong.to_str().unwrap()]);
    crate::wait::until("the wrong token is named", crate::env::SOON, || {
        let log = cluster.log("runner-w");
        if log.contains("token") { Ok(()) } else { Err(log) }
    });
}
