//! That the witness of all other tests sees what it is there to see.

use std::process::{Child, Command};

use nix::sys::signal::Signal;

use crate::env::{Cluster, SOON, Settings};
use crate::invariants::Witness;
use crate::program::docker;
use crate::wait;

/// A process with a task's mark, which is of no Runner; it ends with this.
struct Stray(Child);

impl Stray {
    fn of(id: &str, wrapper: &[&str]) -> Self {
        let words: Vec<&str> = wrapper.iter().copied().chain(["sleep", "1000"]).collect();
        let mut command = Command::new(words[0]);
        let stray = Self(command.args(&words[1..]).env("HAKURIVER_TASK_ID", id).spawn().unwrap());
        // Marked, or it is not there yet.
        let environment = format!("/proc/{}/environ", stray.0.id());
        let mark = format!("HAKURIVER_TASK_ID={id}");
        wait::until("it is marked", SOON, || match std::fs::read(&environment) {
            Ok(bytes) if String::from_utf8_lossy(&bytes).contains(&mark) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        stray
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A container with the labels of a task's, which ends with this.
struct Double(String);

impl Double {
    fn of(cluster: &Cluster, id: &str, image: &str) -> Self {
        let task = format!("hakuriver.task={id}");
        let owner = format!("hakuriver.cluster={}", cluster.cluster_id().unwrap());
        let labels = ["--label", &task, "--label", &owner, "--label", "hakuriver.attempt=1"];
        let mut args = vec!["run", "-d", "--network", "none"];
        args.extend(labels);
        args.extend(["--entrypoint", "sleep", image, "1000"]);
        Self(docker(&args))
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.0]).output();
    }
}

/// Each of these words is in one of the lines.
#[track_caller]
fn sees(witness: &Witness, words: &[&str]) {
    let found = witness.violations();
    for word in words {
        assert!(found.iter().any(|line| line.contains(word)), "nobody says {word:?}: {found:#?}");
    }
}

#[test]
fn a_process_that_outlives_its_task_is_seen() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let witness = Witness::of(&cluster);
    let id = cluster.script(&[], "exit 0");
    cluster.await_status(&id, "completed");
    witness.check();
    let stray = Stray::of(&id, &[]);
    sees(&witness, &[&format!("task {id} is completed, and its process {} ", stray.0.id())]);
    drop(stray);
    witness.check();
}

#[test]
fn a_vps_that_lives_twice_or_is_made_again_or_outlives_its_end_is_seen() {
    let cluster = Cluster::host_and_runner(Settings::default());
    let witness = Witness::of(&cluster);
    let id = cluster.submit(&[]);
    // Seen to run, and then with its container.
    witness.check();
    witness.check();
    // Who would put this in order does not run for a while.
    cluster.signal("runner-a", Signal::SIGSTOP);
    let image = docker(&["inspect", "-f", "{{.Image}}", &cluster.container(&id)]);
    let stray = Stray::of(&id, &["unshare", "--pid", "--fork", "--kill-child"]);
    sees(&witness, &[&format!("the VPS {id} lives twice")]);
    drop(stray);
    let double = Double::of(&cluster, &id, &image);
    sees(&witness, &["was made again as", "has 2 containers"]);
    drop(double);
    cluster.signal("runner-a", Signal::SIGCONT);
    cluster.kill_vps(&id);
    cluster.signal("runner-a", Signal::SIGSTOP);
    let double = Double::of(&cluster, &id, &image);
    sees(&witness, &[&format!("task {id} is killed, and its container")]);
    drop(double);
    cluster.signal("runner-a", Signal::SIGCONT);
}

#[test]
fn a_daemon_that_does_not_answer_is_not_taken_for_one_without_containers() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let witness = Witness::of(&cluster).with_docker(&["docker", "-H", "unix:///nowhere/docker.sock"]);
    sees(&witness, &["Docker does not tell what lives"]);
}

#[test]
fn a_kill_that_nobody_asked_for_is_seen() {
    let mut cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let witness = Witness::of(&cluster);
    let id = cluster.script(&[], "exit 0");
    cluster.await_status(&id, "completed");
    cluster.stop("host");
    let database = rusqlite::Connection::open(cluster.database()).unwrap();
    let set = |state: &str| database.execute("UPDATE tasks SET state = ?1", [state]).unwrap();
    set("killed");
    sees(&witness, &[&format!("task {id} is killed, and nobody asked for that")]);
    set("completed");
}
