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
    wait::until("the other one serves the node", SOON, || {
        let log = cluster.log("rival");
        if log.contains("registered at") { Ok(()) } else { Err(log) }
    });
    cluster.await_status(&id, "running");
    cluster.kill_vps(&id);
}

/// As another machine: a network and an id of its own, and neither Docker nor (`ip netns exec` mounts another /sys) control groups.
fn spawn_elsewhere(cluster: &mut Cluster, space: &Namespace) {
    let id = cluster.dir.join("machine-id");
    fs::write(&id, format!("{:032x}\n", 0xA11)).unwrap();
    let no_docker = "initial_base_image = \"\"\ncommand = \"/bin/false\"\n";
    let text = space.runner_config(cluster, "a").replace("initial_base_image = \"\"\n", no_docker);
    let config = rival(cluster, &text);
    let script = "mount --bind \"$0\" /etc/machine-id && exec \"$@\"";
    let (id, binary) = (id.to_str().unwrap(), binary());
    let line = ["netns", "exec", &space.name, "unshare", "-m", "sh", "-c", script, id, binary.to_str().unwrap()];
    cluster.spawn_program("rival", Path::new("ip"), &[line.as_slice(), &["runner", "--config", &config]].concat());
}

#[test]
fn a_second_runner_on_another_machine_waits_until_the_first_is_silent_and_starts_nothing_of_it() {
    const TIMEOUT: u32 = 6;
    let settings = Settings { no_environment: true, timeout_factor: TIMEOUT, ..Settings::default() };
    let mut cluster = Cluster::new(settings);
    let space = Namespace::new(&cluster);
    Namespace::open_host(&cluster);
    cluster.start_host();
    cluster.start_runner("a");
    let witness = Witness::of(&cluster);
    let latches = Latches::new(&cluster);
    let starts = cluster.dir.join("starts");
    let script = format!("echo $$ >>{}; echo $$; {}; exit 3", starts.display(), latches.wait("go"));
    let id = cluster.script(&["--cores", "1"], &script);
    witness.acknowledged([&id]);
    witness.expect(&id, 3, Some(starts.clone()));
    let pid = cluster.await_pid(&id);
    let began = start_time(pid);

    spawn_elsewhere(&mut cluster, &space);
    wait::until("it says why it does not begin", SOON, || {
        let log = cluster.log("rival");
        let is_said = log.contains("registered from another machine") && log.contains("stop that Runner");
        if is_said { Ok(()) } else { Err(log) }
    });
    wait::holds_for("the first one goes on", Duration::from_secs(u64::from(TIMEOUT) + 3), || {
        let (node, record) = (cluster.nodes().remove(0), cluster.status(&id));
        let log = cluster.log("rival");
        let is_fine = node.status == "online" && record.status == "running" && !log.contains("registered at");
        if is_fine { Ok(()) } else { Err(format!("{}, {}; {log}", node.status, seen(&record))) }
    });
    assert_eq!(cluster.ended("rival"), None, "it waits");
    assert_eq!(cluster.log("rival").matches("cannot register").count(), 1, "said once: {}", cluster.log("rival"));

    cluster.kill9("runner-a");
    let killed = Instant::now();
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
