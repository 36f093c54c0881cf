//! Kill ends all of a task, pause freezes all of it, a time limit ends it, in whatever order and however often.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{Cluster, SOON, Settings, image_file};
use crate::tasks::{await_gone, cpu_ticks, mark, processes_with, seen, start_time};
use crate::wait;

/// Host and Runner, with a bare environment (busybox) beside none.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    cluster
}

const EXECUTORS: [&str; 2] = ["NULL", "bare"];

/// Those whose program is `sleep`: a shell has the mark in its line too.
fn sleepers(mark: &str) -> Vec<u32> {
    let comm = |pid: &u32| std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
    processes_with(mark).into_iter().filter(|pid| comm(pid).is_ok_and(|name| name.trim() == "sleep")).collect()
}

#[test]
fn forests_with_double_forks_and_setsid_are_gone() {
    let cluster = cluster();
    for executor in EXECUTORS {
        let mark = mark();
        let setsid = if executor == "NULL" { "setsid" } else { "/bin/busybox setsid" };
        let script = format!(
            "for i in 1 2 3; do {setsid} sh -c 'sleep {mark} & exec {setsid} sleep {mark}' & done\n\
             ( ( {setsid} sleep {mark} & ) & )\n( sleep {mark} >/dev/null 2>&1 </dev/null & )\necho planted\nsleep {mark}"
        );
        let id = cluster.task(&["--container", executor], &["sh", "-c", &script]);
        cluster.await_lines(&id, 1);
        wait::until_true("nine sleep", SOON, || {
            let all = sleepers(&mark);
            (all.len() == 9, format!("{all:?}"))
        });
        cluster.cli(&["task", "kill", &id]).ok();
        cluster.await_status(&id, "killed");
        assert_eq!(processes_with(&mark), [] as [u32; 0], "{executor}: `killed` means that nothing of it lives");
    }
}

#[test]
fn what_ignores_term_is_killed_after_ten_seconds() {
    let cluster = cluster();
    let mark = mark();
    let mut ids = Vec::new();
    for executor in EXECUTORS {
        let script = format!("trap '' TERM; (sleep {mark}) & echo deaf; sleep {mark}; sleep {mark}");
        let id = cluster.task(&["--container", executor], &["sh", "-c", &script]);
        cluster.await_lines(&id, 1);
        ids.push(id);
    }
    let start = Instant::now();
    let mut line = vec!["task", "kill"];
    line.extend(ids.iter().map(String::as_str));
    cluster.cli(&line).ok();
    for id in &ids {
        cluster.await_status(id, "killed");
    }
    assert!(start.elapsed() > Duration::from_secs(9), "they had ten seconds: {:?}", start.elapsed());
    assert_eq!(processes_with(&mark), [] as [u32; 0]);
}

#[test]
fn what_obeys_term_ends_at_once_in_its_own_way() {
    let cluster = cluster();
    for executor in EXECUTORS {
        let id = cluster.task(
            &["--container", executor],
            &["sh", "-c", "trap 'echo cleaned up; exit 7' TERM; echo ready; while :; do sleep 0.1; done"],
        );
        cluster.await_lines(&id, 1);
        let start = Instant::now();
        cluster.cli(&["task", "kill", &id]).ok();
        let record = cluster.await_status(&id, "killed");
        assert!(start.elapsed() < Duration::from_secs(9), "{executor}: {:?}", start.elapsed());
        assert_eq!(cluster.stdout(&id), "ready\ncleaned up\n", "{executor}: {}", seen(&record));
    }
}

#[test]
fn what_a_task_leaves_behind_is_ended_with_it() {
    let cluster = cluster();
    for executor in EXECUTORS {
        let mark = mark();
        let setsid = if executor == "NULL" { "setsid" } else { "/bin/busybox setsid" };
        let script = format!("{setsid} sleep {mark} & echo left; exit 5");
        let id = cluster.task(&["--container", executor], &["sh", "-c", &script]);
        let record = cluster.await_status(&id, "failed");
        assert_eq!(record.exit_code, Some(5), "{executor}: the result is the main process's: {}", seen(&record));
        assert_eq!(processes_with(&mark), [] as [u32; 0], "{executor}: the end is told when nothing lives");
    }
}

#[test]
fn a_paused_busy_loop_uses_no_cpu() {
    let cluster = cluster();
    for executor in EXECUTORS {
        let mark = mark();
        let setsid = if executor == "NULL" { "setsid" } else { "/bin/busybox setsid" };
        // A grandchild in a session of its own is paused as well.
        let script = format!("{setsid} sh -c 'while :; do :; done; : {mark}' & while :; do :; done; : {mark}");
        let id = cluster.task(&["--container", executor], &["sh", "-c", &script]);
        let ticks = |loops: &[u32]| loops.iter().map(|pid| cpu_ticks(*pid)).collect::<Vec<u64>>();
        // Those that loop: their time grows. (Our own supervisor in the container may have the line too.)
        let loops = wait::until("two busy loops", SOON, || {
            let all = processes_with(&mark);
            let busy: Vec<u32> =
                all.into_iter().filter(|pid| start_time(*pid).is_some() && cpu_ticks(*pid) >= 5).collect();
            if busy.len() == 2 { Ok(busy) } else { Err(format!("{busy:?}")) }
        });
        cluster.await_status(&id, "running");
        cluster.cli(&["task", "command", &id, "pause"]).ok();
        cluster.await_status(&id, "paused");
        let frozen = ticks(&loops);
        wait::holds_for(&format!("{executor}: no CPU"), Duration::from_millis(600), || {
            let now = ticks(&loops);
            if now == frozen { Ok(()) } else { Err(format!("{frozen:?} became {now:?}")) }
        });
        cluster.cli(&["task", "command", &id, "resume"]).ok();
        cluster.await_status(&id, "running");
        wait::until("they go on", SOON, || {
            let now = ticks(&loops);
            if now.iter().zip(&frozen).all(|(now, then)| now > then) { Ok(()) } else { Err(format!("{now:?}")) }
        });
        cluster.cli(&["task", "kill", &id]).ok();
        cluster.await_status(&id, "killed");
        assert_eq!(processes_with(&mark), [] as [u32; 0]);
    }
}

#[test]
fn pause_resume_and_kill_in_any_order_and_twice() {
    let cluster = cluster();
    let orders: [&[&str]; 5] = [
        &["pause", "pause", "resume", "resume", "kill", "kill"],
        &["resume", "pause", "kill", "kill"],
        &["pause", "resume", "pause", "resume", "pause", "kill"],
        &["kill", "kill"],
        &["resume", "resume", "pause", "pause", "kill"],
    ];
    for executor in EXECUTORS {
        let mark = mark();
        for order in orders {
            let id = cluster.task(&["--container", executor, "--cores", "0"], &["sleep", &mark]);
            cluster.await_status(&id, "running");
            for word in order {
                if *word == "kill" {
                    // The second may come when it is over, which is a refusal that says so.
                    let said = cluster.cli(&["task", "kill", &id]);
                    assert!(said.status == 0 || said.stderr.contains("killed"), "{order:?}: {said}");
                } else {
                    cluster.cli(&["task", "command", &id, word]).ok();
                    cluster.await_status(&id, if *word == "pause" { "paused" } else { "running" });
                }
            }
            cluster.await_status(&id, "killed");
        }
        await_gone("all of them are gone", &mark);
    }
}

#[test]
fn a_kill_that_comes_before_it_runs_is_carried_out() {
    let cluster = cluster();
    for executor in EXECUTORS {
        let mark = mark();
        for _ in 0..5 {
            let id = cluster.task(&["--container", executor], &["sleep", &mark]);
            cluster.cli(&["task", "kill", &id]).ok();
            let record = cluster.await_status(&id, "killed");
            assert!(record.completed_at.is_some(), "{record:?}");
        }
        // A pause wanted before it runs is carried out once it does.
        let id = cluster.task(&["--container", executor], &["sleep", &mark]);
        let said = cluster.cli(&["task", "command", &id, "pause"]);
        assert_eq!(said.status, 0, "{said}");
        cluster.await_status(&id, "paused");
        cluster.cli(&["client", "kill", &id]).ok();
        cluster.await_status(&id, "killed");
        await_gone("nothing was started afterwards", &mark);
    }
    // One that waits is killed at once.
    let all = cluster.nodes()[0].total_cores.to_string();
    let holder = cluster.script(&["--cores", &all], "sleep 1000");
    let waiting = cluster.script(&[], "exit 0");
    assert_eq!(cluster.status(&waiting).status, "pending");
    cluster.cli(&["task", "command", &waiting, "pause"]).fails(1, &["pending"]);
    cluster.cli(&["task", "kill", &waiting]).ok();
    assert_eq!(cluster.status(&waiting).status, "killed");
    cluster.cli(&["task", "kill", &waiting, &holder]).fails(1, &[&waiting]);
    cluster.await_status(&holder, "killed");
}

#[test]
fn a_time_limit_ends_it_and_says_so() {
    let cluster = cluster();
    for executor in EXECUTORS {
        let mark = mark();
        let options = ["--container", executor, "--time-limit", "1s"];
        let id = cluster.task(&options, &["sh", "-c", &format!("(sleep {mark}) & sleep {mark}")]);
        let polite = cluster.task(&options, &["sh", "-c", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"]);
        let quick = cluster.task(&options, &["true"]);
        for id in [&id, &polite] {
            let record = cluster.await_status(id, "failed");
            let message = record.error_message.clone().unwrap_or_default();
            assert!(message.contains("time limit"), "{executor}: {}", seen(&record));
        }
        assert_eq!(cluster.stdout(&polite), "bye\n");
        cluster.await_status(&quick, "completed");
        assert_eq!(processes_with(&mark), [] as [u32; 0]);
    }
}

/// A Runner that was just started does not know yet what its node's supervisor has: that it finds nothing is no proof.
#[test]
fn a_kill_while_the_runner_was_away_is_done_only_when_the_process_is() {
    let mut cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let id = cluster.script(&["--cores", "0"], "echo $$; exec sleep 600");
    let pid = cluster.await_pid(&id);
    cluster.kill9("runner-a");
    let supervisor = Pid::from_raw(i32::try_from(cluster.supervisor()).unwrap());
    kill(supervisor, Signal::SIGSTOP).unwrap();
    cluster.cli(&["task", "kill", &id]).ok();
    cluster.spawn_runner("a");
    wait::until("the new Runner is registered", SOON, || {
        let log = cluster.log("runner-a");
        if log.matches("ready: node").count() == 2 { Ok(()) } else { Err(log) }
    });
    wait::holds_for("it lives, and is not called killed", Duration::from_secs(3), || {
        let record = cluster.status(&id);
        let lives = Path::new(&format!("/proc/{pid}")).exists();
        if lives && record.status == "running" { Ok(()) } else { Err(format!("{} (it lives: {lives})", seen(&record))) }
    });
    kill(supervisor, Signal::SIGCONT).unwrap();
    cluster.await_status(&id, "killed");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
