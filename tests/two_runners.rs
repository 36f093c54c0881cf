//! A second Runner of one name is refused, wherever it keeps its state; the first does not notice it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::env::{Cluster, SOON, Settings, binary};
use crate::invariants::Witness;
use crate::namespace::Namespace;
use crate::program;
use crate::tasks::{Latches, seen, start_time};
use crate::wait;

/// The file of a Runner with the text of another one's, which keeps its state elsewhere.
fn rival(cluster: &Cluster, text: &str) -> String {
    let state = cluster.dir.join("elsewhere");
    fs::create_dir_all(&state).unwrap();
    let auth = format!("[auth]\nnode_token_file = \"{}\"\n", cluster.dir.join("node-token").display());
    let file = cluster.dir.join("rival.toml");
    fs::write(&file, format!("{text}[paths]\nstate_dir = \"{}\"\n{auth}", state.display())).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_second_runner_with_a_state_directory_of_its_own_is_refused() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let config = rival(&cluster, &fs::read_to_string(cluster.config("a")).unwrap());
    let second = program::run(cluster.command(&binary()).args(["runner", "--config", &config]), SOON);
    second.fails(1, &["another Runner for the node", &cluster.node("a"), "runner_hostname"]);
    assert_eq!(cluster.ended("runner-a"), None, "the first one goes on");
    assert_eq!(cluster.ssh(&id, &["--", "echo in"]).ok(), "in\n");

    // Its place is free with its end, whichever that is.
    cluster.kill9("runner-a");
    cluster.spawn("rival", &["runner", "--config", &config]);
    wait::until("the other one is told that it cannot know what lives on the first", SOON, || {
        let log = cluster.log("rival");
        if log.contains("is another machine") && log.contains("client forget") { Ok(()) } else { Err(log) }
    });
    // It was heard a moment before, and a heartbeat comes each second.
    let waited = killed.elapsed();
    assert!(waited > Duration::from_secs(u64::from(TIMEOUT) - 2), "the place was free after {waited:?}");
    cluster.await_status(&id, "lost");
    wait::holds_for("what it was keeps its cores, and nobody gives it up", Duration::from_secs(3), || {
        let (node, record) = (cluster.nodes().remove(0), cluster.status(&id));
        let is_fine = record.status == "lost" && node.cores_in_use == 1 && start_time(pid) == began;
        if is_fine { Ok(()) } else { Err(format!("{node:?}, {}", seen(&record))) }
    });
    cluster.start_runner("a");
    cluster.await_status(&id, "running");
    assert!(start_time(pid) == began, "nobody has touched it");
    latches.open("go");
    let record = cluster.await_status(&id, "failed");
    assert_eq!((record.exit_code, record.attempt), (Some(3), 1), "{}", seen(&record));
    assert_eq!(cluster.ended("rival"), None, "it still waits");
    cluster.stop("rival");
    witness.settles(&cluster, SOON);
}
