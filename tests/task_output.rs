//! Output comes out as the task wrote it: byte for byte, while it runs and afterwards, through restarts, whatever its size.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::env::{Cluster, SOON, Settings, rss};
use crate::tasks::{Latches, now_millis};
use crate::{program, wait};

/// Without a container, and in one of the default environment (Debian).
const EXECUTORS: [&[&str]; 2] = [&["--container", "NULL"], &[]];

/// `hakuriver task stdout …` that runs on its own.
fn reader(cluster: &Cluster, args: &[&str]) -> Child {
    let mut all = vec!["task", "stdout"];
    all.extend(args);
    cluster.cli_command(&all).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn finish(child: &mut Child) {
    let status = wait::until("the client ends", SOON, || child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()));
    assert!(status.success(), "{status}");
}

#[test]
fn every_byte_of_both_streams() {
    let cluster = Cluster::host_and_runner(Settings::default());
    let all: Vec<u8> = (0..=255u8).collect();
    for executor in EXECUTORS {
        let mut options = vec!["--wait"];
        options.extend(executor);
        let code = "binmode STDOUT; binmode STDERR; print STDOUT pack('C*', 0..255) x 20_000; print STDERR pack('C*', reverse 0..255)";
        let id = cluster.task(&options, &["perl", "-e", code]);
        let out = cluster.cli(&["task", "stdout", &id]);
        assert_eq!(out.status, 0, "{}", out.stderr);
        assert!(out.stdout == all.repeat(20_000), "{executor:?}: {} bytes, not the same ones", out.stdout.len());
        let err = cluster.cli(&["task", "stderr", &id]);
        assert_eq!(err.stdout, all.iter().rev().copied().collect::<Vec<u8>>(), "{executor:?}");
        let silent = cluster.task(&options, &["true"]);
        assert_eq!(cluster.cli(&["task", "stdout", &silent]).ok(), "");
        assert_eq!(cluster.cli(&["task", "stderr", &silent]).ok(), "");
    }
    cluster.cli(&["task", "stdout", "1"]).fails(1, &["1"]);
}

#[test]
fn while_it_runs_and_followed_to_its_end() {
    let cluster = Cluster::host_and_runner(Settings::default());
    let latches = Latches::new(&cluster);
    let mount = format!("{0}:{0}", latches.dir.display());
    for (at, executor) in EXECUTORS.iter().enumerate() {
        let (one, two) = (format!("one-{at}"), format!("two-{at}"));
        let script = format!(
            "printf 'first '; {}; echo second; echo aside >&2; {}; printf third; exit 3",
            latches.wait(&one),
            latches.wait(&two)
        );
        let mut options: Vec<&str> = executor.to_vec();
        if executor.is_empty() {
            options.extend(["--mount", &mount]);
        }
        let id = cluster.task(&options, &["sh", "-c", &script]);
        let mut follower = reader(&cluster, &["--follow", &id]);
        let mut stream = follower.stdout.take().unwrap();
        let mut bytes = [0; 6];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"first ", "without the end of a line");
        assert_eq!(cluster.cli(&["task", "stdout", &id]).ok(), "first ");
        latches.open(&one);
        let mut bytes = [0; 7];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"second\n");
        assert_eq!(follower.try_wait().unwrap(), None, "it follows until the task ends");
        latches.open(&two);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "third", "{executor:?}");
        finish(&mut follower);
        assert_eq!(cluster.await_status(&id, "failed").exit_code, Some(3));
        assert_eq!(cluster.cli(&["task", "stdout", "--follow", &id]).ok(), "first second\nthird", "afterwards too");
        assert_eq!(cluster.cli(&["task", "stderr", &id]).ok(), "aside\n");
    }
}

#[test]
fn a_line_is_seen_soon_after_it_was_written() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let id = cluster.script(&[], "while :; do date +%s%3N; sleep 0.2; done");
    let mut follower = reader(&cluster, &["--follow", &id]);
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut delays: Vec<i64> =
        lines.take(10).map(|line| now_millis() - line.unwrap().trim().parse::<i64>().unwrap()).collect();
    cluster.cli(&["task", "kill", &id]).ok();
    cluster.await_status(&id, "killed");
    finish(&mut follower);
    delays.sort_unstable();
    assert!(delays[5] < 1000, "milliseconds from writing to reading: {delays:?}");
}

#[test]
fn the_tail() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let id = cluster.script(&["--wait"], "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); echo line $i; done; printf open");
    let tail = |count: &str| cluster.cli(&["task", "stdout", "--tail", count, &id]).ok();
    assert_eq!(tail("1"), "open");
    assert_eq!(tail("3"), "line 9999\nline 10000\nopen");
    assert_eq!(tail("0"), "");
    assert_eq!(tail("99999").lines().count(), 10_001);
    // With --follow: the last lines, and then what comes.
    let latches = Latches::new(&cluster);
    let script = format!("echo a; echo b; echo c; {}; echo d", latches.wait("go"));
    let id = cluster.script(&[], &script);
    cluster.await_lines(&id, 3);
    let mut follower = reader(&cluster, &["--follow", "--tail", "2", &id]);
    let mut stream = follower.stdout.take().unwrap();
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"b\nc\n");
    latches.open("go");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "d\n");
    finish(&mut follower);
}

#[test]
fn no_gap_through_restarts_of_host_and_runner() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let code = "$| = 1; for my $i (1..2_000_000) { print qq($i\\n); select undef, undef, undef, 0.002; last if -e $ARGV[0] } print qq(end\\n)";
    let flag = cluster.dir.join("latches");
    std::fs::create_dir(&flag).unwrap();
    let stop = flag.join("stop");
    let mount = format!("{0}:{0}", flag.display());
    let ids: Vec<String> = EXECUTORS
        .iter()
        .map(|executor| {
            let mut options: Vec<&str> = executor.to_vec();
            options.extend(["--cores", "0"]);
            if executor.is_empty() {
                options.extend(["--mount", &mount]);
            }
            cluster.task(&options, &["perl", "-e", code, stop.to_str().unwrap()])
        })
        .collect();
    let mut follower = reader(&cluster, &["--follow", &ids[0]]);
    let mut stream = follower.stdout.take().unwrap();
    let following = std::thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let grows = |cluster: &Cluster| {
        for id in &ids {
            let before = cluster.output(id, "stdout").len();
            wait::until(&format!("the output of {id} grows"), SOON, || {
                let now = cluster.output(id, "stdout").len();
                if now > before + 200 { Ok(()) } else { Err(format!("{before} bytes, then {now}")) }
            });
        }
    };
    grows(&cluster);
    for _ in 0..2 {
        cluster.kill9("runner-a");
        cluster.start_runner("a");
        grows(&cluster);
        cluster.kill9("host");
        cluster.start_host();
        grows(&cluster);
    }
    std::fs::write(&stop, "").unwrap();
    for id in &ids {
        cluster.await_status(id, "completed");
        let text = cluster.stdout(id);
        check_count(&text);
    }
    let followed = following.join().unwrap();
    finish(&mut follower);
    assert_eq!(followed, cluster.stdout(&ids[0]), "the follower missed nothing, and saw nothing twice");
}

/// 1, 2, 3 … in lines of their own, and `end`.
fn check_count(text: &str) {
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.pop(), Some("end"), "{} bytes", text.len());
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(*line, (at + 1).to_string(), "line {}", at + 1);
    }
}

#[test]
fn a_gigabyte_flows_in_constant_memory_and_holds_up_no_heartbeat() {
    const SIZE: u64 = 1 << 30;
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let id = cluster.null_task(&[], &["perl", "-e", "my $x = 'x' x 1048575 . qq(\\n); print $x for 1..1024"]);
    let mut follower = reader(&cluster, &["--follow", &id]);
    let client = follower.id();
    let mut stream = follower.stdout.take().unwrap();
    let over = AtomicBool::new(false);
    let (most, oldest) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut most, mut oldest) = ([0; 3], 0);
            while !over.load(Ordering::Relaxed) {
                let now = [cluster.rss("host"), cluster.rss("runner-a"), rss(client)];
                most = [0, 1, 2].map(|at| now[at].max(most[at]));
                let Some(beat) = cluster.nodes()[0].last_heartbeat.clone() else { continue };
                oldest = oldest.max(now_millis() - crate::tasks::millis(&beat));
                std::thread::sleep(Duration::from_millis(50));
            }
            (most, oldest)
        });
        let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
        let start = Instant::now();
        while count < SIZE && start.elapsed() < Duration::from_secs(150) {
            let got = stream.read(&mut buffer).unwrap();
            assert!(got > 0, "the stream ended after {count} bytes");
            count += got as u64;
        }
        over.store(true, Ordering::Relaxed);
        let seen = watch.join().unwrap();
        assert_eq!(count, SIZE, "in {:?}", start.elapsed());
        seen
    });
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing after it");
    finish(&mut follower);
    cluster.await_status(&id, "completed");
    for (name, bytes) in ["host", "runner", "client"].iter().zip(most) {
        assert!(bytes < 64_000_000, "{name} used {bytes} bytes of memory");
    }
    // Every second one is due.
    assert!(oldest < 5000, "{oldest} ms without a heartbeat");
    let tail = program::run(&mut cluster.cli_command(&["task", "stdout", "--tail", "1", &id]), SOON);
    assert_eq!(tail.stdout.len(), 1 << 20);
    assert!(cluster.rss("host") < 64_000_000);
}
