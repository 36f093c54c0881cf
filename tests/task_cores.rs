//! Cores are held by one task at a time, from placement to proof of death.

use std::collections::BTreeSet;
use std::time::Duration;

use hakuriver::api::public::SubmitBody;

use crate::env::{Cluster, Settings, image_file};
use crate::tasks::{Latches, cpu_list, null_body};
use crate::wait;

/// Prints its CPUs and the nanoseconds between which it has run.
const PROBE: &str = "grep Cpus_allowed_list /proc/self/status; date +%s%N; sleep 0.15; date +%s%N";

/// What a probe printed.
#[derive(Debug)]
struct Stay {
    cpus: BTreeSet<u32>,
    from: u128,
    to: u128,
}

fn stay(text: &str) -> Stay {
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text:?}");
    let cpus = cpu_list(lines[0].strip_prefix("Cpus_allowed_list:").unwrap());
    Stay { cpus, from: lines[1].parse().unwrap(), to: lines[2].parse().unwrap() }
}

#[test]
fn two_batches_that_compete_never_share_a_core() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let total = cluster.nodes()[0].total_cores;
    let ones = cluster.scripts(1, None, &vec![PROBE.to_owned(); 16]);
    let alls = cluster.scripts(total, None, &vec![PROBE.to_owned(); 4]);
    let more = cluster.scripts(1, None, &vec![PROBE.to_owned(); 8]);
    let mut stays = Vec::new();
    for (ids, wanted) in [(&ones, 1), (&alls, total), (&more, 1)] {
        for id in ids {
            cluster.await_status(id, "completed");
            let stay = stay(&cluster.stdout(id));
            assert_eq!(stay.cpus.len(), wanted as usize, "as many as asked for: {stay:?}");
            stays.push(stay);
        }
    }
    for (at, one) in stays.iter().enumerate() {
        for other in &stays[at + 1..] {
            let together = one.from < other.to && other.from < one.to;
            assert!(!together || one.cpus.is_disjoint(&other.cpus), "on one core at once: {one:?} and {other:?}");
        }
        let sum: usize = stays.iter().filter(|s| s.from <= one.from && one.from < s.to).map(|s| s.cpus.len()).sum();
        assert!(sum <= total as usize, "{sum} cores of {total} in use at {}", one.from);
    }
    let used: BTreeSet<u32> = stays.iter().flat_map(|stay| stay.cpus.iter().copied()).collect();
    assert_eq!(used.len(), total as usize, "all of them are made use of");
}

#[test]
fn containers_and_processes_hold_the_same_cores() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    let total = cluster.nodes()[0].total_cores;
    let latches = Latches::new(&cluster);
    let mut ids = Vec::new();
    for at in 0..total as usize {
        // The shell alone: grep is not in every image.
        let script = format!(
            "while read -r name list; do [ $name = Cpus_allowed_list: ] && echo $list; done </proc/self/status; {}",
            latches.wait(&at.to_string())
        );
        let mount = format!("{0}:{0}", latches.dir.display());
        let options: &[&str] =
            if at % 2 == 0 { &["--container", "NULL"] } else { &["--container", "bare", "--mount", &mount] };
        ids.push(cluster.task(options, &["sh", "-c", &script]));
    }
    let mut held = BTreeSet::new();
    for id in &ids {
        let cpus = cpu_list(&cluster.await_lines(id, 1)[0]);
        assert_eq!(cpus.len(), 1, "one core: {cpus:?}");
        assert!(held.is_disjoint(&cpus), "{cpus:?} is held already: {held:?}");
        held.extend(cpus);
    }
    let waiting = cluster.script(&[], "exit 0");
    assert_eq!(cluster.status(&waiting).status, "pending");
    for at in 0..total {
        latches.open(&at.to_string());
    }
    cluster.await_status(&waiting, "completed");
}

#[test]
fn paused_tasks_keep_their_cores() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let total = cluster.nodes()[0].total_cores;
    let latches = Latches::new(&cluster);
    let scripts: Vec<String> = (0..total).map(|at| latches.wait(&at.to_string())).collect();
    let ids = cluster.scripts(1, None, &scripts);
    for id in &ids {
        cluster.await_status(id, "running");
        cluster.cli(&["task", "command", id, "pause"]).ok();
        cluster.await_status(id, "paused");
    }
    assert_eq!((cluster.nodes()[0].available_cores, cluster.nodes()[0].cores_in_use), (0, total));
    let waiting = cluster.script(&[], "exit 0");
    wait::holds_for("it waits for a core", Duration::from_secs(1), || {
        let record = cluster.status(&waiting);
        if record.status == "pending" { Ok(()) } else { Err(record.status) }
    });
    assert!(cluster.status(&waiting).reason.is_some_and(|reason| reason.contains("core")));
    // The kill of a paused one gives its core to the next, when nothing of it lives.
    cluster.cli(&["task", "kill", &ids[0]]).ok();
    cluster.await_status(&ids[0], "killed");
    cluster.await_status(&waiting, "completed");
    for (at, id) in ids.iter().enumerate().skip(1) {
        cluster.cli(&["task", "command", id, "resume"]).ok();
        latches.open(&at.to_string());
        cluster.await_status(id, "completed");
    }
}

#[test]
fn tasks_without_cores_share_and_wait_for_nobody() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let total = cluster.nodes()[0].total_cores;
    let latches = Latches::new(&cluster);
    let ids = cluster
        .submit_body(&SubmitBody { required_cores: Some(total), ..null_body("sh", &["-c", &latches.wait("all")]) });
    cluster.await_status(&ids[0], "running");
    let shares = cluster.scripts(0, None, &vec!["grep Cpus_allowed_list /proc/self/status".to_owned(); 5]);
    for id in &shares {
        cluster.await_status(id, "completed");
        let text = cluster.stdout(id);
        let cpus = cpu_list(text.strip_prefix("Cpus_allowed_list:").unwrap());
        assert_eq!(cpus.len(), total as usize, "not bound: {text}");
    }
    latches.open("all");
    cluster.await_status(&ids[0], "completed");
}

#[test]
fn a_numa_node_binds_cpus_and_memory() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let node = cluster.nodes().remove(0);
    let Some(topology) = node.numa_topology else {
        // A kernel without NUMA: such a target is refused, naming that.
        let target = format!("{}:0", node.hostname);
        cluster.task_submit(&["--container", "NULL", "--target", &target], &["true"]).fails(1, &["NUMA"]);
        return;
    };
    for (id, share) in topology.iter().filter(|(_, share)| !share.cores.is_empty()) {
        let target = format!("{}:{id}", node.hostname);
        let script = "grep Cpus_allowed_list /proc/self/status; echo $HAKURIVER_TARGET_NUMA_NODE; grep -c bind: /proc/self/numa_maps";
        let task = cluster.script(&["--target", &target], script);
        let record = cluster.await_status(&task, "completed");
        assert_eq!(record.target_numa_node_id.map(|numa| numa.to_string()).as_ref(), Some(id));
        let lines = cluster.await_lines(&task, 3);
        let cpus = cpu_list(lines[0].strip_prefix("Cpus_allowed_list:").unwrap());
        assert!(cpus.len() == 1 && cpus.iter().all(|cpu| share.cores.contains(cpu)), "{cpus:?} of {share:?}");
        assert_eq!(&lines[1], id);
        assert!(lines[2].parse::<u32>().unwrap() > 0, "its memory policy binds: {lines:?}");
    }
}
