//! What does not fit now waits and says for what; what never fits is refused with every node's reason.

use hakuriver::api::public::SubmitBody;

use crate::env::{Cluster, SOON, Settings, image_file};
use crate::fake_node::{FakeNode, Hardware};
use crate::tasks::{Latches, ids, null_body, seen};
use crate::wait;

const NULL: [&str; 2] = ["--container", "NULL"];

#[test]
fn a_waiting_task_says_what_it_waits_for() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let latches = Latches::new(&cluster);
    let node = cluster.node("a");
    let all = cluster.nodes()[0].total_cores.to_string();
    let holder = cluster.script(&["--cores", &all], &latches.wait("go"));
    cluster.await_status(&holder, "running");
    let waiting = cluster.script(&["--cores", "1", "--name", "second"], "exit 0");
    let record = cluster.status(&waiting);
    assert_eq!((record.status.as_str(), record.assigned_node), ("pending", None));
    let reason = record.reason.expect("a reason");
    assert!(reason.contains(&node) && reason.contains("0 of") && reason.contains("core"), "{reason}");
    for args in [vec!["client", "status", &waiting], vec!["client", "status", "second"], vec!["task", "list"]] {
        let said = cluster.cli(&args).ok();
        assert!(said.contains(&reason), "{args:?} lacks {reason:?}:\n{said}");
    }
    assert!(cluster.task_rows("").iter().any(|row| row.reason.as_ref() == Some(&reason)));
    latches.open("go");
    cluster.await_status(&holder, "completed");
    let record = cluster.await_status(&waiting, "completed");
    assert_eq!(record.reason, None, "nothing is waited for any more");
}

#[test]
fn immediate_max_wait_and_queue() {
    let mut cluster = Cluster::new(Settings { no_environment: true, timeout_factor: 3, ..Settings::default() });
    cluster.start_host();
    cluster.start_runner("a");
    cluster.start_runner("b");
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    cluster.stop("runner-b");
    cluster.await_node("b", "offline");
    let latches = Latches::new(&cluster);
    let all = cluster.nodes()[0].total_cores.to_string();
    let holder = cluster.script(&["--cores", &all, "--target", &a], &latches.wait("go"));
    cluster.await_status(&holder, "running");

    let now = cluster.task_submit(&[NULL[0], NULL[1], "--immediate"], &["true"]);
    now.fails(1, &[&a]);
    assert_eq!(ids(&now.out()), [] as [String; 0], "nothing was made of it");
    let impatient = cluster.script(&["--max-wait", "1s"], "exit 0");
    let record = cluster.await_status(&impatient, "failed");
    assert!(record.error_message.as_deref().unwrap_or_default().contains("waited"), "{}", seen(&record));
    assert!(record.started_at.is_none() && record.exit_code.is_none(), "{record:?}");

    // A named node that is offline: refused, saying what waits for it.
    cluster.task_submit(&[NULL[0], NULL[1], "--target", &b], &["true"]).fails(1, &[&b, "offline", "--queue"]);
    let queued = cluster.script(&["--target", &b, "--queue"], "exit 0");
    let record = cluster.status(&queued);
    assert_eq!(record.status, "pending");
    assert!(record.reason.as_deref().unwrap_or_default().contains("offline"), "{}", seen(&record));
    cluster.start_runner("b");
    assert_eq!(cluster.await_status(&queued, "completed").assigned_node.as_ref(), Some(&b));
    // A draining one as well.
    cluster.cli(&["client", "drain", &b]).ok();
    cluster.task_submit(&[NULL[0], NULL[1], "--target", &b], &["true"]).fails(1, &[&b, "draining"]);
    let queued = cluster.script(&["--target", &b, "--queue"], "exit 0");
    assert_eq!(cluster.status(&queued).status, "pending");
    cluster.cli(&["client", "undrain", &b]).ok();
    cluster.await_status(&queued, "completed");
    latches.open("go");
    cluster.await_status(&holder, "completed");
    cluster.task_submit(&["--immediate", "--queue"], &["true"]).fails(2, &["--immediate"]);
}

#[test]
fn what_fits_nowhere_is_refused_with_every_reason() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let none = cluster.task_submit(&NULL, &["true"]);
    let waiting = ids(&none.out());
    let _small = FakeNode::obedient(&cluster, "small", &Hardware::cores("0-3", &[&[0, 1], &[2, 3]]));
    let _gpus = FakeNode::obedient(&cluster, "gpus", &Hardware { gpus: 2, ..Hardware::cores("0-7", &[]) });
    if let Some(id) = waiting.first() {
        // Before any node was there it waits, and is placed as soon as one is.
        cluster.await_status(id, "running");
        cluster.cli(&["task", "kill", id]).ok();
    }
    for (options, reasons) in [
        (vec!["--cores", "100"], vec!["small", "4 cores", "gpus", "8 cores"]),
        (vec!["--memory", "1T"], vec!["small", "gpus", "memory"]),
        (vec!["--gpus", "3"], vec!["small", "no GPUs", "gpus", "2 GPUs"]),
        (vec!["--target", "nowhere"], vec!["nowhere", "not registered", "small", "client nodes"]),
        (vec!["--target", "small", "--cores", "5"], vec!["small", "4 cores"]),
        (vec!["--target", "small:7"], vec!["small", "NUMA node 7"]),
        (vec!["--target", "small:1", "--cores", "3"], vec!["small", "NUMA node 1"]),
        (vec!["--target", "small", "--gpus", "1"], vec!["small", "GPU"]),
    ] {
        let mut all = NULL.to_vec();
        all.extend(&options);
        let output = cluster.task_submit(&all, &["true"]);
        // Each node has a line or a clause of its own, so the message may be long.
        assert_eq!(output.status, 1, "{options:?}: {output}");
        for reason in reasons {
            assert!(output.stderr.contains(reason), "{options:?} lacks {reason:?}: {output}");
        }
        assert_eq!(ids(&output.out()), [] as [String; 0], "{options:?} made nothing");
    }
}

#[test]
fn a_memory_limit_that_cannot_be_enforced_is_refused() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware { memory_limit: false, ..Hardware::cores("0-7", &[]) });
    wait::until("its conditions are known", SOON, || {
        let output = cluster.task_submit(&["--container", "NULL", "--memory", "1G"], &["true"]);
        if output.status == 1 && output.stderr.contains("memory limit") { Ok(()) } else { Err(output.to_string()) }
    });
    // In a container it can.
    let id = cluster.task(&["--memory", "1G"], &["true"]);
    cluster.await_status(&id, "running");
    let id = cluster.null_task(&[], &["true"]);
    cluster.await_status(&id, "running");
}

#[test]
fn several_targets_are_one_batch_and_each_refusal_is_told() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let eight = Hardware::cores("0-7", &[&[0, 1, 2, 3], &[4, 5, 6, 7]]);
    let _nodes = ["n1", "n2"].map(|name| FakeNode::obedient(&cluster, name, &eight));
    let output = cluster
        .task_submit(&["--container", "NULL", "--target", "n1", "--target", "n2:1", "--target", "nowhere"], &["true"]);
    let ids = ids(&output.out());
    assert_eq!(ids.len(), 2, "{output}");
    assert!(output.stderr.contains("nowhere") && output.stderr.contains("not registered"), "{output}");
    assert_eq!(output.status, 1, "not all of what was asked for was done: {output}");
    let records = [cluster.await_status(&ids[0], "running"), cluster.await_status(&ids[1], "running")];
    assert_eq!(records[0].batch_id, records[1].batch_id);
    assert_eq!((records[0].assigned_node.as_deref(), records[0].target_numa_node_id), (Some("n1"), None));
    assert_eq!((records[1].assigned_node.as_deref(), records[1].target_numa_node_id), (Some("n2"), Some(1)));
}

#[test]
fn the_oldest_goes_first_and_smaller_ones_use_what_it_cannot() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-3", &[]));
    let held = cluster.null_task(&["--cores", "3"], &["true"]);
    cluster.await_status(&held, "running");
    let large = cluster.null_task(&["--cores", "4"], &["true"]);
    let small = cluster.null_task(&["--cores", "1"], &["true"]);
    cluster.await_status(&small, "running");
    let next = cluster.null_task(&["--cores", "1"], &["true"]);
    assert_eq!((cluster.status(&large).status, cluster.status(&next).status), ("pending".into(), "pending".into()));
    cluster.cli(&["task", "kill", &small]).ok();
    cluster.await_status(&next, "running");
    cluster.cli(&["task", "kill", &next, &held]).ok();
    cluster.await_status(&large, "running");
}

/// Where short tasks end the next ones wait on the node itself. Behind long ones they do not stay there.
#[test]
fn short_tasks_line_up_on_their_node_and_come_back_from_behind_long_ones() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let latches = Latches::new(&cluster);
    let cores = usize::try_from(cluster.nodes()[0].total_cores).unwrap();
    let mut came_back = false;
    // On a machine that is busy a task may take too long to count as a short one.
    for round in 0..20 {
        let doors: Vec<String> = (0..cores).map(|at| format!("go{round}.{at}")).collect();
        let mut scripts = vec!["exit 0".to_owned(); 40 * cores];
        scripts.extend(doors.iter().map(|door| latches.wait(door)));
        scripts.extend(vec!["exit 5".to_owned(); 6]);
        let batch = cluster.scripts(1, None, &scripts);
        let (short, rest) = batch.split_at(40 * cores);
        let (long, last) = rest.split_at(cores);
        short.iter().for_each(|id| assert_eq!(cluster.await_end(id).status, "completed"));
        long.iter().for_each(|id| drop(cluster.await_status(id, "running")));
        // Whoever stood in line behind those that run now waits at the Host again.
        let back = wait::until("nobody stands in line", SOON, || {
            let records: Vec<_> = last.iter().map(|id| cluster.status(id)).collect();
            match records.iter().find(|record| record.status != "pending") {
                None => Ok(records.iter().filter(|record| record.attempt == 2).count()),
                Some(record) => Err(seen(record)),
            }
        });
        doors.iter().for_each(|door| latches.open(door));
        for id in last {
            let record = cluster.await_end(id);
            assert_eq!((record.status.as_str(), record.exit_code), ("failed", Some(5)), "{}", seen(&record));
        }
        long.iter().for_each(|id| drop(cluster.await_status(id, "completed")));
        if back > 0 {
            came_back = true;
            break;
        }
    }
    assert!(came_back, "nobody ever stood in line");
}

#[test]
fn who_is_next_in_line_takes_no_core_from_who_was_placed() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    let mut ids = Vec::new();
    for _ in 0..12 {
        let sets = vec![Vec::new(); 40];
        ids.extend(cluster.submit_body(&SubmitBody { argument_sets: Some(sets), ..null_body("/bin/true", &[]) }));
        let contained = SubmitBody { container_name: Some("bare".to_owned()), ..null_body("/bin/true", &[]) };
        ids.extend(cluster.submit_body(&contained));
    }
    for id in ids {
        let record = cluster.await_end(&id);
        assert_eq!(record.status, "completed", "{}", seen(&record));
    }
}

/// Each task is about as long as Linux takes, and together they are longer than any answer that a Runner takes (64 MiB): it gets them
/// all the same, and hears of what came with them.
#[test]
fn a_node_is_told_of_more_than_goes_into_one_answer() {
    let settings = Settings { no_environment: true, timeout_factor: 120, ..Settings::default() };
    let mut cluster = Cluster::host_and_runner(settings);
    // So it is known what the node has.
    let first = cluster.script(&[], "exit 0");
    cluster.await_status(&first, "completed");
    cluster.kill9("runner-a");
    let long = SubmitBody {
        required_cores: Some(0),
        env_vars: (0..45).map(|number| (format!("LONG{number}"), "x".repeat(130_000))).collect(),
        ..null_body("true", &[])
    };
    let mut all: Vec<String> = (0..13).flat_map(|_| cluster.submit_body(&long)).collect();
    let short = cluster.script(&["--cores", "0"], "exit 3");
    let killed = cluster.script(&["--cores", "0"], "exec sleep 1000");
    all.extend([short.clone(), killed.clone()]);
    assert!(all.iter().all(|id| cluster.status(id).status == "assigning"), "all of them are in the node's list");
    cluster.post(&format!("/kill/{killed}"), "");
    cluster.start_runner("a");
    for id in &all {
        let record = cluster.await_end(id);
        let expected = if *id == short { Some(3) } else { None };
        assert_eq!(record.exit_code, expected, "{}", seen(&record));
    }
    assert_eq!(cluster.status(&killed).status, "killed");
}
