//! A clock that is set while everything runs: no time-out comes sooner or later, ids go on, and nothing ends before it began.
//! (Test builds alone have such a clock: `cargo test --features fault-points`.)

use std::fs;
use std::path::Path;
use std::time::Duration;

use hakuriver::api::public::TaskRecord;
use hakuriver::sys::clock::parse_rfc3339;

use crate::env::{Cluster, SOON, Settings, binary};
use crate::fake_node::{FakeNode, Hardware, observed};
use crate::tasks::{Latches, null_body, seen};
use crate::{http, wait};

const DAY_MS: i64 = 86_400_000;

/// Sets the clock of what was started with [`start`], by so much.
fn set(cluster: &Cluster, ms: i64) {
    let new = cluster.dir.join("clock.new");
    fs::write(&new, ms.to_string()).unwrap();
    fs::rename(new, cluster.dir.join("clock")).unwrap();
}

/// Starts a part of the program with a clock of its own.
fn start(cluster: &mut Cluster, name: &str, role: &str, config: &str) {
    let variable = format!("HAKURIVER_TEST_CLOCK={}", cluster.dir.join("clock").display());
    let (program, config) = (binary(), cluster.config(config));
    let args = [&variable, program.to_str().unwrap(), role, "--config", &config];
    cluster.spawn_program(name, Path::new("/usr/bin/env"), &args);
}

fn start_host(cluster: &mut Cluster) {
    start(cluster, "host", "host", "config");
    let (api, token) = (cluster.api, cluster.dir.join("token"));
    wait::until("the Host is ready", SOON, || {
        let reply = http::try_call(api, "GET", "/healthz", None, None).map_err(|e| e.to_string())?;
        if reply.status == 200 && token.exists() { Ok(()) } else { Err(format!("{reply:?}")) }
    });
}

fn ms(time: &Option<String>) -> u64 {
    parse_rfc3339(time.as_deref().expect("a time")).expect("a time")
}

#[test]
fn time_outs_of_the_host_are_measured_and_ids_grow_whatever_its_clock_shows() {
    let mut cluster = Cluster::new(Settings { no_environment: true, timeout_factor: 5, ..Settings::default() });
    set(&cluster, 0);
    start_host(&mut cluster);
    let node = FakeNode::silent(&cluster, "n", &Hardware::cores("0-3", &[]));
    let submit = |cluster: &Cluster| {
        cluster
            .submit_body(&hakuriver::api::public::SubmitBody { required_cores: Some(4), ..null_body("true", &[]) })
            .remove(0)
    };
    let runs = submit(&cluster);
    node.observe(false, vec![observed(&runs, 1, 1, "running", None)]);
    cluster.await_status(&runs, "running");
    let patient = cluster.submit_body(&hakuriver::api::public::SubmitBody {
        required_cores: Some(4),
        max_wait_seconds: Some(3_600),
        ..null_body("true", &[])
    });
    let mut last = 0_u64;
    for step in [DAY_MS, -2 * DAY_MS, 20_000 * DAY_MS, 0, -1_000, 1_000] {
        set(&cluster, step);
        for _ in 0..3 {
            let id: u64 = submit(&cluster).parse().unwrap();
            assert!(id > last && i64::try_from(id).is_ok(), "{id} after {last}, with the clock set by {step} ms");
            last = id;
        }
        let shown =
            ms(&Some(cluster.status(&last.to_string()).submitted_at)).abs_diff(hakuriver::sys::clock::unix_ms());
        assert!(shown.abs_diff(step.unsigned_abs()) < 60_000, "the clock is set by {step} ms, and shows {shown}");
        wait::holds_for("nothing times out", Duration::from_secs(1), || {
            let (node, task, waits) =
                (cluster.nodes()[0].status.clone(), cluster.status(&runs), cluster.status(&patient[0]));
            match (node.as_str(), task.status.as_str(), waits.status.as_str()) {
                ("online", "running", "pending") => Ok(()),
                _ => Err(format!("clock {step}: node {node}, {}, {}", seen(&task), seen(&waits))),
            }
        });
    }
    // A Host that is killed and comes back with another clock.
    for step in [-DAY_MS, DAY_MS, -3 * DAY_MS] {
        cluster.kill9("host");
        set(&cluster, step);
        start_host(&mut cluster);
        let id: u64 = submit(&cluster).parse().unwrap();
        assert!(id > last, "{id} after {last}, with the clock set by {step} ms");
        last = id;
    }
    // And one that is really silent is found so, in its time.
    drop(node);
    wait::until("the node is offline", SOON, || match cluster.nodes()[0].status.as_str() {
        "offline" => Ok(()),
        other => Err(other.to_owned()),
    });
    cluster.stop("host");
}

/// As the node's clock shows it, which is set by `step`: when the task began there and ended.
#[track_caller]
fn assert_times(record: &TaskRecord, begun_at: i64, ended_at: i64) {
    let (began, ended) = (ms(&record.started_at), ms(&record.completed_at));
    assert!(began <= ended, "{record:?}");
    let now = i64::try_from(hakuriver::sys::clock::unix_ms()).unwrap();
    // Where the clock went back meanwhile, it ended at its beginning.
    let ended_at = ended_at.max(begun_at);
    for (time, step) in [(began, begun_at), (ended, ended_at)] {
        let off = (i64::try_from(time).unwrap() - now - step).abs();
        assert!(off < 60_000, "the clock was set by {step} ms, and this is {off} ms from what it showed: {record:?}");
    }
}

#[test]
fn on_a_node_whose_clock_is_set_tasks_run_as_long_as_they_may_and_end_after_they_began() {
    const TIMEOUT: u32 = 6;
    let mut cluster = Cluster::new(Settings { no_environment: true, timeout_factor: TIMEOUT, ..Settings::default() });
    cluster.start_host();
    cluster.write_runner_config("a");
    set(&cluster, 0);
    start(&mut cluster, "runner-a", "runner", "a");
    cluster.await_node("a", "online");
    let latches = Latches::new(&cluster);
    let mut before = 0;
    for (name, step) in [("ahead", DAY_MS), ("back", -DAY_MS), ("again", 2 * DAY_MS)] {
        let options = ["--cores", "0", "--time-limit", "1h"];
        let id = cluster.script(&options, &format!("echo here; {}; exit 3", latches.wait(name)));
        cluster.await_lines(&id, 1);
        // Which is told a moment after its output.
        cluster.await_status(&id, "running");
        set(&cluster, step);
        // Longer than a silent node has.
        wait::holds_for("it goes on, and its node is heard", Duration::from_secs(u64::from(TIMEOUT) + 2), || {
            let (record, node) = (cluster.status(&id), cluster.nodes().remove(0));
            let is_fine = record.status == "running" && node.status == "online";
            if is_fine { Ok(()) } else { Err(format!("node {}, {}", node.status, seen(&record))) }
        });
        latches.open(name);
        let record = cluster.await_end(&id);
        assert_eq!(record.exit_code, Some(3), "{}", seen(&record));
        assert_times(&record, before, step);
        before = step;
    }
    let limited = cluster.script(&["--cores", "0", "--time-limit", "2s"], "sleep 600");
    cluster.await_status(&limited, "running");
    set(&cluster, -5 * DAY_MS);
    let record = cluster.await_end(&limited);
    assert!(
        record.status == "failed" && record.error_message.as_ref().is_some_and(|why| why.contains("limit")),
        "{}",
        seen(&record)
    );
    assert_times(&record, before, -5 * DAY_MS);
}
