//! `kill -9` of Host and Runner in each phase of a VPS: after the restart the task ends in its true state, exactly one container
//! exists for a live VPS, and none for a dead one.

use hakuriver::sys::recall;
use nix::sys::signal::Signal;

use crate::env::{Cluster, SOON, Settings};
use crate::gate::Gate;
use crate::image::FreshImage;
use crate::program::docker;
use crate::wait;

/// Where in its life the VPS is when the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted and durable, but no node takes it yet.
    Accepted,
    /// Placed; its node has not heard of it.
    Assigned,
    /// The image's tarball is being loaded.
    Loading,
    /// `docker run` was called, and has done nothing yet.
    Starting,
    /// `docker run` has made the container, and nobody has heard so.
    Started,
    Running,
    /// `docker pause` was called.
    Pausing,
    /// The container is being stopped or removed.
    Killing,
}

const PHASES: [Phase; 8] = [
    Phase::Accepted,
    Phase::Assigned,
    Phase::Loading,
    Phase::Starting,
    Phase::Started,
    Phase::Running,
    Phase::Pausing,
    Phase::Killing,
];

const KILLING: [&str; 3] = ["stop", "kill", "rm"];

struct Walk {
    cluster: Cluster,
    gate: Gate,
    image: FreshImage,
    /// Holds the gate's directory, which must outlive the cluster: a Runner may still call through it.
    _scratch: Cluster,
}

impl Walk {
    fn new() -> Self {
        let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        let gate = Gate::new(&scratch.dir);
        let settings = Settings { docker_command: Some(gate.program()), ..Settings::default() };
        let cluster = Cluster::host_and_runner(settings);
        let image = FreshImage::new(&cluster, "fresh");
        cluster.add_environment("fresh", 1_700_000_000, &image.tarball);
        Self { cluster, gate, image, _scratch: scratch }
    }

    /// Brings a VPS into the phase; the answer is its id.
    fn enter(&self, phase: Phase) -> String {
        let cluster = &self.cluster;
        let node = cluster.node("a");
        match phase {
            Phase::Accepted => {
                cluster.cli(&["client", "drain", &node]).ok();
                let id = cluster.submit_no_wait(&["--target", &node, "--queue"]);
                assert_eq!(cluster.status(&id).status, "pending");
                id
            }
            Phase::Assigned => {
                cluster.signal("runner-a", Signal::SIGSTOP);
                let id = cluster.submit_no_wait(&[]);
                assert_eq!(cluster.status(&id).status, "assigning");
                id
            }
            Phase::Loading => self.held(&["load"], || cluster.submit_no_wait(&["--container", "fresh"])),
            Phase::Starting => self.held(&["run"], || cluster.submit_no_wait(&[])),
            Phase::Started => self.held(&["after-run"], || cluster.submit_no_wait(&[])),
            Phase::Running => cluster.submit(&[]),
            Phase::Pausing => {
                let id = cluster.submit(&[]);
                self.held(&["pause"], || cluster.cli(&["vps", "command", &id, "pause"]).ok());
                id
            }
            Phase::Killing => {
                let id = cluster.submit(&[]);
                self.held(&KILLING, || cluster.cli(&["vps", "kill", &id]).ok());
                id
            }
        }
    }

    fn held(&self, gates: &[&str], act: impl FnOnce() -> String) -> String {
        self.gate.close(gates);
        let answer = act();
        self.gate.await_one(gates);
        answer
    }

    /// What must come of it, once everybody is back.
    fn check(&mut self, phase: Phase, id: &str, victim: &str) {
        let Self { cluster, image, .. } = self;
        let what = format!("{victim} killed while {phase:?}");
        if phase == Phase::Accepted {
            let node = cluster.node("a");
            assert_eq!(cluster.nodes()[0].status, "draining", "{what}: drained is remembered");
            cluster.cli(&["client", "undrain", &node]).ok();
        }
        match phase {
            Phase::Killing => drop(cluster.await_status(id, "killed")),
            Phase::Pausing => {
                cluster.await_status(id, "paused");
                let paused = docker(&["inspect", "-f", "{{.State.Paused}}", &cluster.container(id)]);
                assert_eq!(paused, "true", "{what}");
                cluster.cli(&["vps", "command", id, "resume"]).ok();
                cluster.await_status(id, "running");
            }
            _ => drop(cluster.await_status(id, "running")),
        }
        if phase != Phase::Killing {
            // Also a call that was held when its Runner died has come through by now, or does it still: one in the end.
            wait::holds_for(&format!("{what}: one container"), std::time::Duration::from_millis(500), || {
                let all = cluster.containers(id);
                if all.len() == 1 { Ok(()) } else { Err(format!("{all:?}")) }
            });
            assert_eq!(cluster.ssh(id, &["--", "echo alive"]).ok(), "alive\n", "{what}");
            cluster.cli(&["vps", "kill", id]).ok();
            cluster.await_status(id, "killed");
        }
        cluster.await_no_container(id);
        if phase == Phase::Loading {
            image.unload();
        }
    }
}

#[test]
fn the_host_dies_in_every_phase() {
    let mut walk = Walk::new();
    for phase in PHASES {
        let id = walk.enter(phase);
        walk.cluster.kill9("host");
        if phase == Phase::Assigned {
            walk.cluster.signal("runner-a", Signal::SIGCONT);
        }
        walk.gate.open();
        walk.cluster.start_host();
        walk.cluster.await_node("a", if phase == Phase::Accepted { "draining" } else { "online" });
        walk.check(phase, &id, "host");
    }
}

#[test]
fn the_runner_dies_in_every_phase() {
    let mut walk = Walk::new();
    for phase in PHASES {
        let id = walk.enter(phase);
        walk.cluster.kill9("runner-a");
        // What it had called goes on by itself, as a process that nobody waits for: the worst case.
        walk.gate.open();
        walk.cluster.spawn_runner("a");
        walk.cluster.await_node("a", if phase == Phase::Accepted { "draining" } else { "online" });
        walk.check(phase, &id, "runner");
    }
}

#[test]
fn the_runner_comes_back_while_its_old_call_still_hangs() {
    let mut walk = Walk::new();
    for phase in [Phase::Starting, Phase::Started, Phase::Pausing, Phase::Killing] {
        let id = walk.enter(phase);
        walk.cluster.kill9("runner-a");
        walk.cluster.start_runner("a");
        // The new Runner's own call may stand at the gate too by now.
        walk.gate.open();
        walk.check(phase, &id, "runner, call held");
    }
}

#[test]
fn both_die_at_once() {
    let mut walk = Walk::new();
    for phase in [Phase::Assigned, Phase::Starting, Phase::Running, Phase::Killing] {
        let id = walk.enter(phase);
        walk.cluster.kill9("host");
        walk.cluster.kill9("runner-a");
        walk.gate.open();
        walk.cluster.start_host();
        walk.cluster.start_runner("a");
        walk.check(phase, &id, "both");
    }
}

#[test]
fn a_vps_that_was_killed_while_its_runner_was_away_is_stopped_when_it_returns() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    cluster.kill9("runner-a");
    wait::until("what listens for the dead Runner ends too", SOON, || {
        let left = processes_naming(&cluster.node("a"));
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    cluster.cli(&["vps", "kill", &id]).ok();
    let record = cluster.status(&id);
    assert_eq!(
        (record.status.as_str(), record.want.as_str()),
        ("running", "stop"),
        "a kill is a want until it is done"
    );
    cluster.start_runner("a");
    cluster.await_status(&id, "killed");
    cluster.await_no_container(&id);
}

#[test]
fn a_vps_that_died_while_its_runner_was_away_is_told() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let container = cluster.container(&id);
    cluster.kill9("runner-a");
    docker(&["rm", "-f", "-v", &container]);
    cluster.start_runner("a");
    let record = cluster.await_status(&id, "failed");
    assert!(record.error_message.is_some(), "{record:?}");
    let next = cluster.submit(&[]);
    cluster.kill_vps(&next);
}

#[test]
fn a_runner_that_lost_its_state_directory_finds_its_containers_again() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let container = cluster.container(&id);
    cluster.kill9("runner-a");
    std::fs::remove_dir_all(cluster.dir.join("runner").join(cluster.node("a"))).unwrap();
    cluster.start_runner("a");
    wait::until("it is found again", SOON, || {
        let record = cluster.status(&id);
        if record.status == "running" { Ok(()) } else { Err(format!("{} {:?}", record.status, record.error_message)) }
    });
    assert_eq!(cluster.container(&id), container, "nothing runs twice");
    // Nor is it lost with its next restart: it mounts what went with the directory, which is made again.
    let mounts = docker(&["inspect", "--format", "{{range .Mounts}}{{println .Source}}{{end}}", &container]);
    wait::until("what it mounts is there again", SOON, || {
        let lacking: Vec<&str> =
            mounts.lines().filter(|path| !path.is_empty() && !std::path::Path::new(path).exists()).collect();
        if lacking.is_empty() { Ok(()) } else { Err(lacking.join(", ")) }
    });
    let keys = cluster.status(&id).host_keys;
    docker(&["restart", "-t", "5", &container]);
    wait::until("it is reached again", SOON, || {
        let result = cluster.ssh(&id, &["--", "echo in"]);
        if result.status == 0 { Ok(()) } else { Err(result.to_string()) }
    });
    let record = cluster.await_status(&id, "running");
    assert_eq!((record.host_keys, record.attempt), (keys, 1));
    // It can be ended without Docker, as any other.
    let of_box = mounts.lines().find(|path| path.ends_with("/box")).expect("it has one");
    let pid = || docker(&["inspect", "--format", "{{.State.Pid}}", &container]);
    let first = pid();
    assert!(recall::end(&std::path::Path::new(of_box).join("recall"), SOON).expect("it obeys"), "nobody listened");
    wait::until("it is started again", SOON, || {
        let now = pid();
        if now != first && now != "0" { Ok(()) } else { Err(now) }
    });
    cluster.cli(&["vps", "kill", &id]).ok();
    cluster.await_status(&id, "killed");
    cluster.await_no_container(&id);
}

/// The command lines of all processes that have this word in theirs.
fn processes_naming(word: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(word)).collect()
}
