//! A second Runner of one name is refused, wherever it keeps its state; the first does not notice it.

use std::fs;

use crate::env::{Cluster, SOON, Settings, binary};
use crate::program;
use crate::wait;

/// The file of a Runner that is called as `short`, and keeps its state elsewhere.
fn rival(cluster: &Cluster, short: &str) -> String {
    let state = cluster.dir.join("elsewhere");
    fs::create_dir_all(&state).unwrap();
    let text = fs::read_to_string(cluster.config(short)).unwrap();
    let auth = format!("[auth]\nnode_token_file = \"{}\"\n", cluster.dir.join("node-token").display());
    let file = cluster.dir.join("rival.toml");
    fs::write(&file, format!("{text}[paths]\nstate_dir = \"{}\"\n{auth}", state.display())).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_second_runner_with_a_state_directory_of_its_own_is_refused() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let config = rival(&cluster, "a");
    let second = program::run(cluster.command(&binary()).args(["runner", "--config", &config]), SOON);
    second.fails(1, &["another Runner for the node", &cluster.node("a"), "runner_hostname"]);
    assert_eq!(cluster.ended("runner-a"), None, "the first one goes on");
    assert_eq!(cluster.ssh(&id, &["--", "echo in"]).ok(), "in\n");

    // Its place is free with its end, whichever that is.
    cluster.kill9("runner-a");
    cluster.spawn("rival", &["runner", "--config", &config]);
    wait::until("the other one serves the node", SOON, || {
        let log = cluster.log("rival");
        if log.contains("registered at") { Ok(()) } else { Err(log) }
    });
    cluster.await_status(&id, "running");
    cluster.kill_vps(&id);
}
