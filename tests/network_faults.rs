//! Between a node and its Host calls are lost, late, torn and repeated, and connections stay half open: the end is the same.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::behind::Behind;
use crate::env::{Cluster, SOON, Settings, binary};
use crate::invariants::Witness;
use crate::namespace::Namespace;
use crate::network::Weather;
use crate::tasks::{Latches, descriptors, seen};
use crate::wait;

/// A report has 30 s, on the Runner's side, before it is sent again; and a busy machine some more.
const REPORT: Duration = Duration::from_secs(36);
/// The Host keeps a connection on which nothing comes for 75 s.
const IDLE: Duration = Duration::from_secs(80);

#[test]
fn whatever_the_network_does_to_calls_the_end_is_the_same() {
    let behind = Behind::new(20);
    let cluster = &behind.cluster;
    let witness = Witness::of(cluster);
    let latches = Latches::new(cluster);
    let weathers = [
        Weather::Slow(Duration::from_millis(150)),
        Weather::Silent,
        Weather::Cut,
        Weather::Reset,
        Weather::Mute,
        Weather::Deaf,
        Weather::Torn(0),
        Weather::Torn(100),
        Weather::Torn(700),
        Weather::PeerGone,
        Weather::HostGone,
    ];
    for (at, weather) in weathers.into_iter().enumerate() {
        // One that runs before, and ends in the middle; one that comes in the middle; one that is killed in the middle.
        let script = |name: String, code: i64| {
            let starts = latches.dir.join(format!("starts-{name}"));
            let text = format!("echo $$ >>{}; {}; echo {name}; exit {code}", starts.display(), latches.wait(&name));
            let id = cluster.script(&["--cores", "0"], &text);
            witness.acknowledged([&id]);
            witness.expect(&id, code, Some(starts));
            id
        };
        let (early, doomed) = (script(format!("early-{at}"), 3), script(format!("doomed-{at}"), 0));
        cluster.await_status(&early, "running");
        cluster.await_status(&doomed, "running");
        let before = behind.network.connections();
        behind.network.set(weather);
        latches.open(&format!("early-{at}"));
        let late = script(format!("late-{at}"), 4);
        cluster.cli(&["task", "kill", &doomed]).ok();
        witness.killed(&doomed);
        // Long enough for several calls, also for those that are tried again.
        thread::sleep(Duration::from_millis(2500));
        witness.check();
        behind.network.set(Weather::Clear);
        latches.open(&format!("late-{at}"));
        for (id, code) in [(&early, 3), (&late, 4)] {
            let record = cluster.await_status(id, "failed");
            assert_eq!((record.exit_code, record.attempt), (Some(code), 1), "{weather:?}: {}", seen(&record));
        }
        cluster.await_status(&doomed, "killed");
        for (name, id) in [("early", &early), ("late", &late)] {
            wait::until(&format!("its output is whole after {weather:?}"), SOON, || {
                let text = cluster.stdout(id);
                if text == format!("{name}-{at}\n") { Ok(()) } else { Err(text) }
            });
        }
        let is_broken = !matches!(weather, Weather::Slow(_) | Weather::Silent);
        assert!(!is_broken || behind.network.connections() > before, "{weather:?} has cost no connection");
    }
    witness.settles(cluster, SOON);
}

/// As after the power cut of a machine in between: neither side hears of the end of what was open.
#[test]
fn a_connection_that_one_side_alone_has_delays_a_report_and_costs_the_host_nothing() {
    let behind = Behind::new(25);
    let cluster = &behind.cluster;
    let witness = Witness::of(cluster);
    let latches = Latches::new(cluster);
    let open = || descriptors(cluster.pid("host")).len();
    let ended = |name: &str, weather: Weather, limit: Duration| {
        let text = format!("echo here; {}; exit 3", latches.wait(name));
        let id = cluster.script(&["--cores", "0"], &text);
        witness.acknowledged([&id]);
        cluster.await_lines(&id, 1);
        behind.network.set(weather);
        let begin = Instant::now();
        latches.open(name);
        wait::until(&format!("the Host hears of its end after {weather:?}"), limit, || {
            let (record, node) = (cluster.status(&id), cluster.nodes().remove(0));
            assert_eq!(node.status, "online", "after {:?} of {weather:?}: {}", begin.elapsed(), seen(&record));
            if record.status == "failed" { Ok(()) } else { Err(seen(&record)) }
        });
        assert_eq!(cluster.status(&id).exit_code, Some(3));
    };
    // All kinds of connections have been made.
    ended("before", Weather::Clear, SOON);
    let before = open();
    for round in 0..10 {
        ended(&format!("peer-{round}"), Weather::PeerGone, SOON);
    }
    let lost = open();
    assert!(lost >= before + 10, "the Host has {lost} descriptors after {before}, and was told of no end");
    ended("host", Weather::HostGone, REPORT);
    wait::until("the Host closes what nobody uses", IDLE, || {
        let now = open();
        // The Runner may have one more or less than before.
        if now <= before + 2 { Ok(()) } else { Err(format!("{now} descriptors, {before} before")) }
    });
    witness.settles(cluster, SOON);
}

#[test]
fn a_silence_beyond_the_time_out_loses_tasks_and_gives_them_back() {
    for weather in [Weather::Silent, Weather::Cut, Weather::Mute, Weather::Deaf] {
        let behind = Behind::new(3);
        let cluster = &behind.cluster;
        let witness = Witness::of(cluster);
        let latches = Latches::new(cluster);
        let script = |at: i32| format!("echo $$; {}; exit {at}", latches.wait(&at.to_string()));
        let ids = cluster.scripts(1, None, &[script(3), script(4)]);
        witness.acknowledged(&ids);
        ids.iter().for_each(|id| drop(cluster.await_status(id, "running")));
        behind.network.set(weather);
        // Also where only answers vanish: the Runner waits for one before it calls again.
        cluster.await_node("a", "offline");
        for id in &ids {
            cluster.await_status(id, "lost");
        }
        assert_eq!(cluster.nodes()[0].cores_in_use, 2, "what is lost holds what it held");
        latches.open("3");
        witness.check();
        behind.network.set(Weather::Clear);
        cluster.await_node("a", "online");
        let record = cluster.await_status(&ids[0], "failed");
        assert_eq!((record.exit_code, record.attempt), (Some(3), 1), "{weather:?}: {}", seen(&record));
        cluster.await_status(&ids[1], "running");
        latches.open("4");
        assert_eq!(cluster.await_status(&ids[1], "failed").exit_code, Some(4));
        witness.settles(cluster, SOON);
    }
}

/// The Runner in a network of its own, and the line between it and the Host down: shorter than the time-out, and longer.
#[test]
fn a_true_partition_costs_nothing() {
    let mut cluster = Cluster::new(Settings { no_environment: true, timeout_factor: 6, ..Settings::default() });
    let space = Namespace::new(&cluster);
    Namespace::open_host(&cluster);
    cluster.start_host();
    let config = cluster.config("a");
    fs::write(&config, space.runner_config(&cluster, "a")).unwrap();
    let binary = binary();
    cluster.spawn_program(
        "runner-a",
        std::path::Path::new("ip"),
        &["netns", "exec", &space.name, binary.to_str().unwrap(), "runner", "--config", &config],
    );
    cluster.await_node("a", "online");
    let witness = Witness::of(&cluster);
    let latches = Latches::new(&cluster);
    let script = |at: i32| format!("echo $$; {}; exit {at}", latches.wait(&at.to_string()));
    let ids = cluster.scripts(0, None, &[script(3), script(4), script(5)]);
    witness.acknowledged(&ids);
    ids.iter().for_each(|id| drop(cluster.await_status(id, "running")));

    // Shorter: nobody notices.
    space.line("down");
    latches.open("3");
    wait::holds_for("it stays online", Duration::from_secs(3), || {
        let status = cluster.nodes()[0].status.clone();
        if status == "online" { Ok(()) } else { Err(status) }
    });
    space.line("up");
    assert_eq!(cluster.await_status(&ids[0], "failed").exit_code, Some(3));

    // Longer, with an end and a kill on the two sides of it.
    space.line("down");
    cluster.await_node("a", "offline");
    cluster.await_status(&ids[1], "lost");
    latches.open("4");
    cluster.cli(&["task", "kill", &ids[2]]).ok();
    witness.killed(&ids[2]);
    witness.check();
    space.line("up");
    cluster.await_node("a", "online");
    let record = cluster.await_status(&ids[1], "failed");
    assert_eq!((record.exit_code, record.attempt), (Some(4), 1), "{}", seen(&record));
    cluster.await_status(&ids[2], "killed");
    witness.settles(&cluster, SOON);
    cluster.stop("runner-a");
}
