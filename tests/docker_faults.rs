//! What happens to containers behind the Runner's back, and to Docker itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::env::{Cluster, SOON, Settings, image_file, write_script};
use crate::invariants::Witness;
use crate::program::docker;
use crate::slow_runtime::SlowRuntime;
use crate::wait;

#[track_caller]
fn await_ssh(cluster: &Cluster, id: &str) {
    wait::until("ssh works", SOON, || {
        let result = cluster.ssh(id, &["--", "echo in"]);
        if result.status == 0 { Ok(()) } else { Err(result.to_string()) }
    });
}

#[test]
fn a_restarted_container_is_running_again_with_port_and_keys_unchanged() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let before = cluster.status(&id);
    let container = cluster.container(&id);
    docker(&["restart", "-t", "5", &container]);
    await_ssh(&cluster, &id);
    let after = cluster.await_status(&id, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(cluster.container(&id), container);
    cluster.kill_vps(&id);
}

#[test]
fn a_container_stopped_behind_our_back_is_started_again() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let before = cluster.status(&id);
    let container = cluster.container(&id);
    docker(&["stop", "-t", "5", &container]);
    await_ssh(&cluster, &id);
    let after = cluster.await_status(&id, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(cluster.container(&id), container);
    cluster.kill_vps(&id);
}

#[test]
fn a_container_removed_behind_our_back_is_failed_and_says_so() {
    let cluster = Cluster::up();
    let id = cluster.submit(&["--cores", "1"]);
    docker(&["rm", "-f", "-v", &cluster.container(&id)]);
    let record = cluster.await_status(&id, "failed");
    assert!(record.error_message.as_deref().is_some_and(|m| m.contains("removed")), "{record:?}");
    wait::until_true("its core is free", SOON, || (cluster.nodes()[0].cores_in_use == 0, "in use".to_owned()));
    let next = cluster.submit(&["--cores", "1"]);
    cluster.kill_vps(&next);
}

#[test]
fn a_vps_that_keeps_dying_is_failed_and_its_container_kept() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let container = cluster.container(&id);
    wait::until("it is given up", Duration::from_secs(90), || {
        let record = cluster.status(&id);
        if record.status == "failed" {
            return Ok(());
        }
        // Its first process dies as by a crash: Docker starts the container again, by its restart policy.
        let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &container]);
        if let Ok(pid @ 1..) = pid.parse::<i32>() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Err(format!("{} {:?}", record.status, record.reason))
    });
    let record = cluster.status(&id);
    assert!(record.error_message.as_deref().is_some_and(|m| m.contains("five times")), "{record:?}");
    wait::until_true("the container is kept, stopped", SOON, || {
        let state = docker(&["inspect", "-f", "{{.State.Status}}", &container]);
        (state == "exited", state)
    });
}

/// A cluster on a daemon of its own; the fields' order is that of their end.
struct Private {
    witness: Witness,
    cluster: Cluster,
    daemon: Daemon,
    _scratch: Cluster,
}

impl Private {
    fn new() -> Self {
        Self::with(|_, daemon| daemon)
    }

    /// `ready` sees the daemon, and a directory for what it needs, before it is started.
    fn with(ready: impl FnOnce(&Path, Daemon) -> Daemon) -> Self {
        let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        let mut daemon = ready(&scratch.dir, Daemon::new(&scratch));
        daemon.start();
        let wrapper = scratch.dir.join("docker");
        write_script(&wrapper, &format!("#!/bin/sh\nexec docker -H {} \"$@\"\n", daemon.socket()));
        let cluster = Cluster::up_with(Settings { docker_command: Some(wrapper), ..Settings::default() });
        let witness = Witness::of(&cluster).with_docker(&["docker", "-H", &daemon.socket()]);
        Self { witness, cluster, daemon, _scratch: scratch }
    }

    fn containers(&self) -> Vec<String> {
        let list = self.daemon.docker(&["ps", "-aq", "--no-trunc"]);
        let mut ids: Vec<_> = list.lines().map(str::to_owned).collect();
        ids.sort_unstable();
        ids
    }

    /// One VPS that runs, and one that is paused.
    fn two(&self) -> (String, String) {
        let (runs, paused) = (self.cluster.submit(&[]), self.cluster.submit(&[]));
        self.cluster.cli(&["vps", "command", &paused, "pause"]).ok();
        self.cluster.await_status(&paused, "paused");
        (runs, paused)
    }

    #[track_caller]
    fn kill_all(&self, ids: [&str; 2]) {
        self.witness.check();
        for id in ids {
            self.cluster.cli(&["vps", "kill", id]).ok();
            self.witness.killed(id);
            self.cluster.await_status(id, "killed");
        }
        self.witness.settles(&self.cluster, SOON);
        wait::until_true("no container is left", SOON, || {
            let left = self.containers();
            (left.is_empty(), left.join(" "))
        });
    }
}

#[test]
fn a_restart_of_the_daemon_brings_every_vps_back_as_it_was() {
    let mut private = Private::new();
    let (runs, paused) = private.two();
    let before = private.cluster.status(&runs);
    let containers = private.containers();

    private.daemon.stop(Signal::SIGTERM);
    wait::until("the node says that Docker is away", SOON, || {
        let problems = private.cluster.nodes()[0].problems.join("; ");
        if problems.to_lowercase().contains("docker") { Ok(()) } else { Err(problems) }
    });
    private.daemon.start();
    let cluster = &private.cluster;
    await_ssh(cluster, &runs);
    let after = cluster.await_status(&runs, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(private.containers(), containers, "the same containers");
    cluster.await_status(&paused, "paused");
    wait::until("the paused one is frozen again", SOON, || {
        let list = private.daemon.docker(&["ps", "-q", "--filter", "status=paused"]);
        if list.lines().count() == 1 { Ok(()) } else { Err(list) }
    });
    cluster.cli(&["vps", "command", &paused, "resume"]).ok();
    await_ssh(cluster, &paused);
    private.kill_all([&runs, &paused]);
}

#[test]
fn a_crash_of_the_daemon_costs_no_vps() {
    let mut private = Private::new();
    let (runs, paused) = private.two();
    let containers = private.containers();
    private.daemon.stop(Signal::SIGKILL);
    // What is killed meanwhile is killed when it is back.
    private.cluster.cli(&["vps", "kill", &paused]).ok();
    private.daemon.start();
    private.cluster.await_status(&paused, "killed");
    await_ssh(&private.cluster, &runs);
    assert!(containers.contains(&private.containers()[0]), "the same container");
    private.kill_all([&runs, &private.cluster.submit(&[])]);
}

#[test]
fn a_frozen_daemon_keeps_containers_waiting_and_nothing_else() {
    let private = Private::new();
    let cluster = &private.cluster;
    let id = cluster.submit(&[]);
    private.daemon.freeze();
    wait::until("the node says that Docker does not answer", SOON, || {
        let problems = cluster.nodes()[0].problems.join("; ");
        if problems.to_lowercase().contains("docker") { Ok(()) } else { Err(problems) }
    });
    // What needs no container runs, what needs one waits, and what runs is reached.
    let null = cluster.script(&[], "exit 4");
    assert_eq!(cluster.await_status(&null, "failed").exit_code, Some(4));
    let next = cluster.submit_no_wait(&[]);
    await_ssh(cluster, &id);
    cluster.cli(&["vps", "kill", &id]).ok();
    assert_eq!(cluster.status(&next).status, "pending", "no container goes to a node without Docker");
    let record = cluster.status(&id);
    assert_eq!((record.status.as_str(), record.want.as_str()), ("running", "stop"));
    private.witness.killed(&id);
    private.daemon.thaw();
    cluster.await_status(&id, "killed");
    cluster.await_status(&next, "running");
    cluster.cli(&["vps", "kill", &next]).ok();
    private.witness.settles(cluster, SOON);
}

/// A private cluster, and the way to make its daemon die after it has started a container, and before it has written so.
fn forgetful() -> (Private, SlowRuntime) {
    let mut slow = None;
    let private = Private::with(|dir, daemon| {
        let (runtime, program) = SlowRuntime::new(dir);
        slow = Some(runtime);
        daemon.with_runtime(program)
    });
    private.cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    (private, slow.unwrap())
}

/// A command that adds a line to the file when it begins, and then does `rest`; the daemon forgets it. The answer: the task's id.
#[track_caller]
fn begun_and_forgotten(private: &mut Private, slow: &SlowRuntime, rest: &str) -> (String, PathBuf) {
    let cluster = &private.cluster;
    let folder = cluster.dir.join("marks");
    fs::create_dir(&folder).unwrap();
    let mount = format!("{}:/marks", folder.display());
    slow.hold();
    let script = format!("echo begun >>/marks/starts; {rest}");
    let id = cluster.task(&["--container", "bare", "--mount", &mount], &["sh", "-c", &script]);
    slow.await_start(SOON);
    let starts = folder.join("starts");
    wait::until_true("the command begins", SOON, || (starts.exists(), "it has not".to_owned()));
    private.daemon.stop(Signal::SIGKILL);
    slow.release();
    (id, starts)
}

#[test]
fn a_command_that_a_dead_daemon_has_started_and_forgotten_does_not_run_twice() {
    let (mut private, slow) = forgetful();
    let (id, starts) = begun_and_forgotten(&mut private, &slow, "exit 3");
    private.daemon.start();
    let record = private.cluster.await_end(&id);
    assert_eq!(fs::read_to_string(starts).unwrap(), "begun\n");
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", Some(3)), "{record:?}");
    private.witness.settles(&private.cluster, SOON);
}

#[test]
fn a_command_that_a_dead_daemon_has_started_and_forgotten_does_not_outlive_its_task() {
    let (mut private, slow) = forgetful();
    let (id, starts) = begun_and_forgotten(&mut private, &slow, "sleep 1000");
    private.daemon.start();
    let record = private.cluster.await_end(&id);
    assert_eq!(fs::read_to_string(starts).unwrap(), "begun\n");
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", None), "{record:?}");
    private.witness.settles(&private.cluster, SOON);
}

#[test]
fn a_command_that_a_dead_daemon_has_started_and_forgotten_is_killed_as_any_other() {
    let (mut private, slow) = forgetful();
    // Its own end is put off, so only what ends it without asking does.
    let (id, _) = begun_and_forgotten(&mut private, &slow, "trap '' TERM; sleep 1000 & wait");
    private.cluster.cli(&["task", "kill", &id]).ok();
    private.witness.killed(&id);
    private.daemon.start();
    private.cluster.await_status(&id, "killed");
    assert_eq!(private.daemon.firsts(), Vec::<i32>::new(), "nothing lives");
    private.witness.settles(&private.cluster, SOON);
}

#[test]
fn the_end_of_a_command_that_was_forgotten_is_its_own_while_it_leaves_others_behind() {
    let (mut private, slow) = forgetful();
    // These do not obey, so its container lives for some seconds more.
    let (id, starts) = begun_and_forgotten(&mut private, &slow, "trap '' TERM; sleep 1000 & exit 3");
    private.daemon.start();
    let record = private.cluster.await_end(&id);
    assert_eq!(fs::read_to_string(starts).unwrap(), "begun\n");
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", Some(3)), "{record:?}");
    private.witness.settles(&private.cluster, SOON);
}

#[test]
fn a_task_holds_what_it_has_until_a_container_that_was_forgotten_has_ended() {
    let (mut private, slow) = forgetful();
    let (id, _) = begun_and_forgotten(&mut private, &slow, "sleep 1000");
    let lost = Pid::from_raw(private.daemon.firsts()[0]);
    // It neither hears nor ends.
    kill(lost, Signal::SIGSTOP).unwrap();
    let cluster = &private.cluster;
    cluster.cli(&["task", "kill", &id]).ok();
    private.witness.killed(&id);
    private.daemon.start();
    // Longer than the Runner waits for an answer of that container's.
    wait::holds_for("it is not called killed, and its core is held", Duration::from_secs(25), || {
        let (record, cores) = (cluster.status(&id), cluster.nodes()[0].cores_in_use);
        let holds = record.want == "stop" && record.status != "killed" && cores == 1;
        if holds { Ok(()) } else { Err(format!("{} {} {cores}", record.want, record.status)) }
    });
    kill(lost, Signal::SIGCONT).unwrap();
    cluster.await_status(&id, "killed");
    assert_eq!(private.daemon.firsts(), Vec::<i32>::new(), "nothing lives");
    wait::until_true("its core is free", SOON, || (cluster.nodes()[0].cores_in_use == 0, "in use".to_owned()));
    private.witness.settles(cluster, SOON);
}

#[test]
fn a_task_is_not_started_beside_a_container_that_was_forgotten() {
    let (mut private, slow) = forgetful();
    let (id, starts) = begun_and_forgotten(&mut private, &slow, "sleep 1000");
    let lost = Pid::from_raw(private.daemon.firsts()[0]);
    kill(lost, Signal::SIGSTOP).unwrap();
    private.daemon.start();
    let cluster = &private.cluster;
    wait::until("it says what it waits for", SOON, || {
        let record = cluster.status(&id);
        let says = record.reason.as_deref().is_some_and(|reason| reason.contains("an earlier container of it to end"));
        if says && record.status == "assigning" { Ok(()) } else { Err(format!("{record:?}")) }
    });
    kill(lost, Signal::SIGCONT).unwrap();
    let record = cluster.await_end(&id);
    assert_eq!(fs::read_to_string(starts).unwrap(), "begun\n");
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", None), "{record:?}");
    private.witness.settles(cluster, SOON);
}

#[test]
fn a_vps_that_a_dead_daemon_has_started_and_forgotten_is_there_once() {
    let (mut private, slow) = forgetful();
    slow.hold();
    let id = private.cluster.submit_no_wait(&[]);
    slow.await_start(SOON);
    wait::until_true("the VPS begins", SOON, || (!private.daemon.firsts().is_empty(), "no process 1".to_owned()));
    let first = private.daemon.firsts();
    private.daemon.stop(Signal::SIGKILL);
    slow.release();
    private.daemon.start();
    private.cluster.await_status(&id, "running");
    await_ssh(&private.cluster, &id);
    let now = private.daemon.firsts();
    assert_eq!(now.len(), 1, "one container: {now:?}");
    assert_ne!(now, first, "not the one that Docker does not know");
    private.cluster.cli(&["vps", "kill", &id]).ok();
    private.witness.killed(&id);
    private.witness.settles(&private.cluster, SOON);
    assert_eq!(private.daemon.firsts(), Vec::<i32>::new(), "nothing lives");
}

#[test]
fn a_vps_that_a_dead_daemon_has_started_again_and_forgotten_is_started_once_more() {
    let (mut private, slow) = forgetful();
    let id = private.cluster.submit(&[]);
    let before = private.cluster.status(&id);
    let containers = private.containers();
    private.daemon.stop(Signal::SIGKILL);
    slow.hold();
    // It finds the container alive, and stops it; the Runner has it started.
    private.daemon.start();
    slow.await_start(SOON);
    // The runtime has let it go, and does not wait until it has become our process 1.
    wait::until("the container lives", SOON, || match private.daemon.firsts().len() {
        1 => Ok(()),
        count => Err(format!("{count} first processes")),
    });
    let lost = private.daemon.firsts();
    private.daemon.stop(Signal::SIGKILL);
    slow.release();
    private.daemon.start();
    let cluster = &private.cluster;
    wait::until("another process 1 runs, and no other", SOON, || {
        let firsts = private.daemon.firsts();
        let record = cluster.status(&id);
        if firsts.len() == 1 && firsts != lost && record.status == "running" && record.reason.is_none() {
            return Ok(());
        }
        Err(format!("{firsts:?} after {lost:?}; {record:?}"))
    });
    await_ssh(cluster, &id);
    let after = cluster.await_status(&id, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(private.containers(), containers, "the same container");
    cluster.cli(&["vps", "kill", &id]).ok();
    private.witness.killed(&id);
    private.witness.settles(cluster, SOON);
    assert_eq!(private.daemon.firsts(), Vec::<i32>::new(), "nothing lives");
}
