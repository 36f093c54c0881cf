//! Containers that Docker has lost sight of: it died after it had started them, and before it had written so. And those that a node has
//! lost sight of, with its records, while Docker was starting them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use hakuriver::api::public::TaskRecord;

use crate::docker_faults::await_ssh;
use crate::env::{Cluster, SOON, Settings, binary, image_file};
use crate::private::Private;
use crate::program::docker;
use crate::slow_runtime::SlowRuntime;
use crate::tasks::Latches;
use crate::wait;

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

/// A folder of the cluster's own, and the words that mount it at `/marks`.
fn marks(cluster: &Cluster) -> (PathBuf, String) {
    let folder = cluster.dir.join("marks");
    fs::create_dir(&folder).unwrap();
    let mount = format!("{}:/marks", folder.display());
    (folder, mount)
}

/// A command that adds a line to the file when it begins, and then does `rest`; the daemon forgets it. The answer: the task's id.
#[track_caller]
fn begun_and_forgotten(private: &mut Private, slow: &SlowRuntime, rest: &str) -> (String, PathBuf) {
    let cluster = &private.cluster;
    let (folder, mount) = marks(cluster);
    slow.hold();
    let script = format!("echo begun >>/marks/starts; {rest}");
    let id = cluster.task(&["--container", "bare", "--mount", &mount], &["sh", "-c", &script]);
    slow.await_one(SOON);
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
    slow.await_one(SOON);
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
    slow.await_one(SOON);
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

#[test]
fn a_command_whose_node_lost_its_records_before_it_began_is_begun() {
    let (mut private, slow) = forgetful();
    let cluster = &mut private.cluster;
    let (folder, mount) = marks(cluster);
    slow.hold_creation();
    let id =
        cluster.task(&["--container", "bare", "--mount", &mount], &["sh", "-c", "echo begun >>/marks/starts; exit 3"]);
    slow.await_one(SOON);
    cluster.kill9("runner-a");
    fs::remove_dir_all(cluster.runner_dir("a")).unwrap();
    cluster.spawn_runner("a");
    // It puts the program where it was, so the runtime makes this place in the container's file system, and then misses the task's own.
    wait::until_true("the new Runner is there", SOON, || {
        let log = cluster.log("runner-a");
        (log.matches("registered at").count() >= 2, log)
    });
    slow.release();
    let record = cluster.await_end(&id);
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", Some(3)), "{record:?}");
    assert_eq!(fs::read_to_string(folder.join("starts")).unwrap(), "begun\n");
    private.witness.settles(&private.cluster, SOON);
}

#[test]
fn a_command_whose_container_s_shim_dies_while_it_is_made_is_begun_once() {
    let (private, slow) = forgetful();
    let cluster = &private.cluster;
    let (folder, mount) = marks(cluster);
    slow.hold_creation();
    let id =
        cluster.task(&["--container", "bare", "--mount", &mount], &["sh", "-c", "echo begun >>/marks/starts; exit 3"]);
    slow.await_one(SOON);
    assert!(private.daemon.kill_maker());
    slow.release();
    let record = cluster.await_end(&id);
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", Some(3)), "{record:?}");
    assert_eq!(fs::read_to_string(folder.join("starts")).unwrap(), "begun\n");
    private.witness.settles(cluster, SOON);
}

#[test]
fn a_vps_whose_container_s_shim_dies_while_it_is_started_again_is_started_again_all_the_same() {
    let (private, slow) = forgetful();
    let cluster = &private.cluster;
    let id = cluster.submit(&[]);
    await_ssh(cluster, &id);
    let containers = private.containers();
    slow.hold_creation();
    private.daemon.docker(&["stop", "-t", "0", &containers[0]]);
    slow.await_one(SOON);
    assert!(private.daemon.kill_maker());
    slow.release();
    await_ssh(cluster, &id);
    assert_eq!(private.containers(), containers, "it is the same one");
    cluster.cli(&["vps", "kill", &id]).ok();
    private.witness.killed(&id);
    private.witness.settles(cluster, SOON);
}

/// What a command came to whose end Docker has not seen: it was down, and then so was all that keeps containers for it.
fn ended_unseen(end: impl FnOnce(&Latches, Pid)) -> TaskRecord {
    let (mut private, _slow) = forgetful();
    let cluster = &private.cluster;
    let latches = Latches::new(cluster);
    let mount = format!("{}:/latches", cluster.dir.join("latches").display());
    let script = format!("{}; exit 3", latches.wait_in("go", Path::new("/latches")));
    let id = cluster.task(&["--container", "bare", "--mount", &mount], &["sh", "-c", &script]);
    cluster.await_status(&id, "running");
    let first = Pid::from_raw(private.daemon.firsts()[0]);
    private.daemon.stop(Signal::SIGKILL);
    end(&latches, first);
    wait::until_true("it ends", SOON, || {
        let firsts = private.daemon.firsts();
        (firsts.is_empty(), format!("{firsts:?}"))
    });
    private.daemon.kill_shims();
    private.takes_unseen_for_0();
    private.daemon.start();
    let record = private.cluster.await_end(&id);
    private.witness.settles(&private.cluster, SOON);
    record
}

#[test]
fn the_end_of_a_command_that_docker_has_not_seen_is_its_own() {
    let record = ended_unseen(|latches, _| latches.open("go"));
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", Some(3)), "{record:?}");
}

#[test]
fn an_end_that_nobody_has_seen_is_no_success() {
    let record = ended_unseen(|_, first| kill(first, Signal::SIGKILL).unwrap());
    assert_eq!((record.status.as_str(), record.exit_code), ("failed", None), "{record:?}");
    assert!(record.error_message.as_deref().is_some_and(|why| why.starts_with("result unknown")), "{record:?}");
}

#[test]
fn a_container_that_is_made_after_its_task_was_forgotten_goes_unless_it_runs() {
    let cluster = Cluster::host_and_runner(Settings::default());
    let ids = ["late", "lives"].map(|_| {
        let id = cluster.submit(&[]);
        cluster.kill_vps(&id);
        wait::until_true("its node has forgotten it", SOON, || {
            let folder = cluster.runner_dir("a").join("tasks").join(format!("{id}.1"));
            (!folder.exists(), folder.display().to_string())
        });
        id
    });
    // As by a call of a Runner that was killed, and that took its time in Docker: what was wanted of it has changed meanwhile.
    let of = |id: &str, rest: &[&str]| {
        let labels = [
            ("cluster", cluster.cluster_id().unwrap().to_owned()),
            ("node", cluster.node("a")),
            ("task", id.to_owned()),
        ];
        let labels = labels.map(|(name, value)| format!("--label=hakuriver.{name}={value}"));
        let own = ["--label=hakuriver.attempt=1", "--label=hakuriver.kind=vps"];
        let name = format!("--name=hakuriver-vps-{id}");
        // By which it is known for ours, and no user's copy.
        let binary = format!("--mount=type=bind,source={},target=/.hakuriver/hakuriver,readonly", binary().display());
        let args = labels.iter().map(String::as_str).chain(own).chain([name.as_str(), binary.as_str()]);
        args.chain(rest.iter().copied()).map(str::to_owned).collect::<Vec<_>>()
    };
    let [late, lives] = ids;
    let call = |verb: &[&str], words: Vec<String>| {
        let args: Vec<&str> = verb.iter().copied().chain(words.iter().map(String::as_str)).collect();
        docker(&args)
    };
    let bare = "hakuriver-test/sshd:1";
    let second = call(&["run", "--detach"], of(&lives, &["--restart=unless-stopped", bare, "sleep", "1000"]));
    call(&["create"], of(&late, &[bare, "sleep", "1000"]));
    cluster.await_no_container(&late);
    wait::until("the one that lives is shown", SOON, || {
        let unknown = cluster.nodes()[0].unknown_tasks.clone();
        if unknown == [lives.clone()] { Ok(()) } else { Err(unknown.join(" ")) }
    });
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &second]), "true");
    docker(&["rm", "-f", "-v", &second]);
}
