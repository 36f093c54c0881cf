//! A thousand tasks as one span: one batch, in order, every exit status right, and `--wait` says so at once.

use crate::env::{Cluster, Settings};
use crate::program;
use crate::tasks::{ids, millis, now_millis};
use std::time::Duration;

const COUNT: usize = 1000;

#[test]
fn a_thousand_tasks_of_one_span_run_in_order_and_wait_ends_with_the_last() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let span = format!("span:{{1..{COUNT}}}");
    let mut delays = Vec::new();
    // The machine is shared with other tests, which may hold up one run's last step: the best of some runs counts.
    while delays.len() < 6 && delays.last().is_none_or(|delay| *delay > 100) {
        let script = "test $(($1 % 7)) != 0 || exit 3";
        let args =
            ["task", "submit", "--container", "NULL", "--wait", "--span", "--", "sh", "-c", script, "task", &span];
        let output = program::run(&mut cluster.cli_command(&args), Duration::from_secs(180));
        let returned = now_millis();
        assert_eq!(output.status, 1, "some did not complete: {}", output.stderr);
        let ids = ids(&output.out());
        cluster.remember(&ids);
        assert_eq!(ids.len(), COUNT, "each id once, in order of the span");
        delays.push(returned - check(&cluster, &ids));
        // Of those that failed the first twenty are listed, with a count of all, and no others.
        let said = format!("{}{}", &output.stderr, output.out().split_at(listing_end(&output.out(), &ids)).1);
        for (at, id) in ids.iter().enumerate() {
            let is_listed = (at + 1) % 7 == 0 && (at + 1) / 7 <= 20;
            assert_eq!(said.contains(id.as_str()), is_listed, "task {id} ({}) in the list:\n{said}", at + 1);
        }
        assert!(said.contains("142 of 1000"), "{said}");
    }
    assert!(delays.iter().any(|delay| *delay <= 100), "from the end of the last task to that of --wait: {delays:?} ms");
}

/// Where the ids that are printed first end in the text.
fn listing_end(text: &str, ids: &[String]) -> usize {
    let last = ids.last().unwrap();
    text.find(last.as_str()).unwrap() + last.len()
}

/// Checks every record; answers when the last one ended.
fn check(cluster: &Cluster, ids: &[String]) -> i64 {
    let mut rows = cluster.task_rows(&format!("?limit={COUNT}"));
    rows.sort_by_key(|row| row.task_id.parse::<u64>().unwrap());
    assert_eq!(rows.iter().map(|row| &row.task_id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    let batch = &rows[0].batch_id;
    let (mut last_start, mut last_end) = (0, 0);
    for (at, row) in rows.iter().enumerate() {
        let number = at + 1;
        assert_eq!(row.arguments.last().unwrap(), &number.to_string());
        let (status, code) = if number % 7 == 0 { ("failed", 3) } else { ("completed", 0) };
        assert_eq!((row.status.as_str(), row.exit_code), (status, Some(code)), "{row:?}");
        assert_eq!(&row.batch_id, batch, "one batch");
        assert_eq!(row.assigned_node.as_deref(), Some(cluster.node("a").as_str()));
        let started = millis(row.started_at.as_ref().unwrap());
        // Where a start takes the node's supervisor longer than a quarter of a second, another thread makes the next one.
        assert!(started + 1_000 >= last_start, "task {number} began before the one before it: {row:?}");
        last_start = last_start.max(started);
        last_end = last_end.max(millis(row.completed_at.as_ref().unwrap()));
    }
    last_end
}

#[test]
fn a_span_that_completes_is_status_0_and_the_last_argument_runs_fastest() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let output = cluster
        .task_submit(&["--container", "NULL", "--wait", "--span"], &["echo", "span:[a,b]", "fixed", "span:{1..3}"]);
    let ids = ids(&output.ok());
    cluster.remember(&ids);
    let said: Vec<String> = ids.iter().map(|id| cluster.stdout(id)).collect();
    assert_eq!(said, ["a fixed 1\n", "a fixed 2\n", "a fixed 3\n", "b fixed 1\n", "b fixed 2\n", "b fixed 3\n"]);
    // Without --span the words go through as they are.
    let id = cluster.null_task(&[], &["echo", "span:{1..3}"]);
    cluster.await_status(&id, "completed");
    assert_eq!(cluster.stdout(&id), "span:{1..3}\n");
}
