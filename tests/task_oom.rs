//! Out of memory is what the kernel says it is; everything else that looks like it is not.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{Cluster, Settings};
use crate::tasks::{mark, processes_with, seen};
use crate::wait;

const LIMIT: &str = "64M";
/// Allocates and touches 300 MB.
const GREEDY: &str = "my $x = 'x' x 300_000_000; sleep 60";

/// In the plain process executor, and in a container of the default environment (Debian).
const EXECUTORS: [&[&str]; 2] = [&["--container", "NULL"], &[]];

fn options<'a>(executor: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    executor.iter().chain(more).copied().collect()
}

#[test]
fn beyond_the_limit_is_killed_oom() {
    let cluster = Cluster::host_and_runner(Settings::default());
    for executor in EXECUTORS {
        let id = cluster.task(&options(executor, &["--memory", LIMIT]), &["perl", "-e", GREEDY]);
        let record = cluster.await_status(&id, "killed_oom");
        assert_eq!((record.exit_code, record.exit_signal), (Some(137), Some(9)), "{executor:?}: {record:?}");
        // A child of it, when the whole then fails.
        let script = format!("perl -e \"{}\"; exit $?", GREEDY.replace('$', "\\$"));
        let id = cluster.task(&options(executor, &["--memory", LIMIT]), &["sh", "-c", &script]);
        let record = cluster.await_status(&id, "killed_oom");
        assert_eq!((record.exit_code, record.exit_signal), (Some(137), None), "{executor:?}: {record:?}");
    }
}

#[test]
fn a_limit_that_is_kept_harms_nothing() {
    let cluster = Cluster::host_and_runner(Settings::default());
    for executor in EXECUTORS {
        let argv = ["perl", "-e", "my $x = 'x' x 20_000_000; print length $x"];
        let id = cluster.task(&options(executor, &["--memory", LIMIT]), &argv);
        let record = cluster.await_status(&id, "completed");
        assert_eq!(record.required_memory_bytes, Some(64_000_000));
        assert_eq!(cluster.stdout(&id), "20000000");
    }
}

#[test]
fn killed_by_hand_is_failed() {
    let cluster = Cluster::host_and_runner(Settings::default());
    for executor in EXECUTORS {
        let mark = mark();
        let id = cluster.task(&options(executor, &["--memory", LIMIT]), &["sleep", &mark]);
        cluster.await_status(&id, "running");
        // Not the client's or Docker's own line, which may name it too.
        let pid = wait::until("the process", crate::env::SOON, || {
            let own = |pid: &u32| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
            };
            let found: Vec<u32> = processes_with(&mark).into_iter().filter(own).collect();
            if found.len() == 1 { Ok(found[0]) } else { Err(format!("{found:?}")) }
        });
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        let record = cluster.await_status(&id, "failed");
        assert_eq!((record.exit_code, record.exit_signal), (Some(137), Some(9)), "{executor:?}: {record:?}");
        let message = record.error_message.clone().unwrap_or_default();
        assert!(message.contains("killed by signal 9"), "{executor:?}: {}", seen(&record));
    }
}

#[test]
fn a_status_of_137_proves_nothing() {
    let cluster = Cluster::host_and_runner(Settings::default());
    for executor in EXECUTORS {
        let id = cluster.task(&options(executor, &["--memory", LIMIT]), &["sh", "-c", "exit 137"]);
        let record = cluster.await_status(&id, "failed");
        assert_eq!((record.exit_code, record.exit_signal), (Some(137), None), "{executor:?}: {record:?}");
    }
}

#[test]
fn a_child_killed_for_memory_under_a_parent_that_exits_0_is_completed() {
    let cluster = Cluster::host_and_runner(Settings::default());
    for executor in EXECUTORS {
        let script = format!("perl -e \"{}\"; echo $?; exit 0", GREEDY.replace('$', "\\$"));
        let id = cluster.task(&options(executor, &["--memory", LIMIT]), &["sh", "-c", &script]);
        let record = cluster.await_status(&id, "completed");
        assert_eq!(record.exit_code, Some(0), "{executor:?}: {record:?}");
        assert_eq!(cluster.stdout(&id), "137\n", "the child was killed");
    }
}
