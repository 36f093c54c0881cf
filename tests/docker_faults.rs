//! What happens to containers behind the Runner's back, and to Docker itself.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{Cluster, SOON};
use crate::private::Private;
use crate::program::docker;
use crate::wait;

#[track_caller]
pub fn await_ssh(cluster: &Cluster, id: &str) {
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
fn a_vps_whose_port_was_taken_while_it_was_down_waits_for_it() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let before = cluster.status(&id);
    let port = before.ssh_port.expect("it runs");
    let container = cluster.container(&id);
    docker(&["stop", "-t", "0", &container]);
    let thief = wait::until("its port is free", SOON, || {
        TcpListener::bind(("127.0.0.1", port)).map_err(|fault| fault.to_string())
    });
    wait::until("it says what it waits for", SOON, || {
        let record = cluster.status(&id);
        let says = record.reason.as_ref().is_some_and(|reason| reason.contains(&format!("port {port}")));
        if record.status == "running" && says { Ok(()) } else { Err(format!("{record:?}")) }
    });
    drop(thief);
    await_ssh(&cluster, &id);
    let after = cluster.await_status(&id, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(cluster.container(&id), container);
    // And who waits for it can be ended.
    docker(&["stop", "-t", "0", &container]);
    let _thief = wait::until("its port is free", SOON, || {
        TcpListener::bind(("127.0.0.1", port)).map_err(|fault| fault.to_string())
    });
    wait::until("it waits again", SOON, || {
        let record = cluster.status(&id);
        let says = record.reason.as_ref().is_some_and(|reason| reason.contains(&format!("port {port}")));
        if says { Ok(()) } else { Err(format!("{record:?}")) }
    });
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

/// Its first process dies as by a crash: Docker starts the container again, by its restart policy.
pub fn crash(container: &str) {
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", container]);
    if let Ok(pid @ 1..) = pid.parse::<i32>() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
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
        crash(&container);
        Err(format!("{} {:?}", record.status, record.reason))
    });
    let record = cluster.status(&id);
    assert!(record.error_message.as_deref().is_some_and(|m| m.contains("five times")), "{record:?}");
    wait::until_true("the container is kept, stopped", SOON, || {
        let state = docker(&["inspect", "-f", "{{.State.Status}}", &container]);
        (state == "exited", state)
    });
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

#[test]
fn a_users_copies_of_a_container_are_left_alone_and_ours_is_ours_whatever_its_name() {
    let mut private = Private::new();
    let id = private.cluster.submit(&[]);
    let container = private.containers().remove(0);
    let docker = |args: &[&str]| private.daemon.docker(args);
    // What is made of it has its labels, and so has what runs that; and here its name as well.
    let image = docker(&["commit", &container]);
    docker(&["rename", &container, "mine"]);
    let name = format!("hakuriver-vps-{id}");
    for name in [&name, "other"].into_iter().cycle().take(12) {
        docker(&["run", "--rm", "--name", name, "--entrypoint", "true", &image]);
    }
    let copy = docker(&["run", "-d", "--name", &name, "--entrypoint", "sleep", &image, "1000"]);
    wait::holds_for("it is not taken for one that ends again and again", Duration::from_secs(2), || {
        let record = private.cluster.status(&id);
        if record.status == "running" && record.reason.is_none() { Ok(()) } else { Err(format!("{record:?}")) }
    });
    // A Runner begins with a look at all that there is; this one knows of nothing else.
    private.cluster.kill9("runner-a");
    fs::remove_dir_all(private.cluster.runner_dir("a")).unwrap();
    private.cluster.start_runner("a");
    let next = private.cluster.script(&[], "exit 0");
    private.cluster.await_status(&next, "completed");
    await_ssh(&private.cluster, &id);
    private.cluster.cli(&["vps", "kill", &id]).ok();
    private.cluster.await_status(&id, "killed");
    wait::holds_for("the copy is there, and is no task", Duration::from_secs(2), || {
        let (containers, nodes) = (private.containers(), private.cluster.nodes());
        let is_fine = containers == [copy.clone()] && nodes.iter().all(|node| node.unknown_tasks.is_empty());
        if is_fine { Ok(()) } else { Err(format!("{containers:?} {nodes:?}")) }
    });
    assert_eq!(private.daemon.docker(&["inspect", "--format", "{{.State.Running}}", &copy]), "true");
    private.daemon.docker(&["rm", "-f", &copy]);
    private.witness.killed(&id);
    private.witness.settles(&private.cluster, SOON);
}

#[test]
fn a_container_whose_shim_dies_ends_and_a_vps_is_started_again() {
    let private = Private::new();
    let cluster = &private.cluster;
    let vps = cluster.submit(&[]);
    let before = cluster.status(&vps);
    let command = cluster.task(&["--container", "hakuriver-base"], &["sleep", "1000"]);
    cluster.await_status(&command, "running");
    let seen = |field: &str| {
        let format = format!("{{{{{field}}}}}");
        private.daemon.docker(&["inspect", "--format", &format, &format!("hakuriver-vps-{vps}")])
    };
    let (id, started) = (seen(".Id"), seen(".State.StartedAt"));
    for container in private.containers() {
        let shim = private.daemon.shim_of(&container).expect("it runs");
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    }
    let ended = cluster.await_end(&command);
    assert_eq!(ended.status, "failed", "{ended:?}");
    assert_ne!(ended.exit_code, Some(0), "{ended:?}");
    wait::until_true("it is started again", SOON, || {
        (seen(".State.StartedAt") != started && seen(".State.Running") == "true", seen(".State"))
    });
    await_ssh(cluster, &vps);
    let after = cluster.await_status(&vps, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(seen(".Id"), id, "the same container");
    cluster.cli(&["vps", "kill", &vps]).ok();
    private.witness.killed(&vps);
    private.witness.settles(cluster, SOON);
}
