//! A cluster under load to which every fault is done, again and again, for as long as asked: MINUTES (3 by default). What must
//! always hold is looked at after each; and when all is well again, everything has to come to its end.
//!
//! HAKURIVER_SEED repeats the order of faults of an earlier run (not its moments: the machine has a part in these).

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(unreachable_pub, reason = "no library: whatever a module shows, it shows to this crate")]

// The harness is the tests' own; this uses less of it.
#[allow(dead_code)]
#[path = "../daemon.rs"]
mod daemon;
#[allow(dead_code)]
#[path = "../env/mod.rs"]
mod env;
#[allow(dead_code)]
#[path = "../http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../invariants/mod.rs"]
mod invariants;
#[allow(dead_code)]
#[path = "../mount.rs"]
mod mount;
#[allow(dead_code)]
#[path = "../network.rs"]
mod network;
#[allow(dead_code)]
#[path = "../program.rs"]
mod program;
#[allow(dead_code)]
#[path = "../slow_runtime.rs"]
mod slow_runtime;
#[allow(dead_code)]
#[path = "../tasks.rs"]
mod tasks;
#[allow(dead_code)]
#[path = "../wait.rs"]
mod wait;

mod faults;
mod load;
mod rng;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::env::{Cluster, Settings, image_file, write_script};
use crate::faults::{FAULTS, NODES, TIMEOUT_FACTOR, World};
use crate::invariants::Witness;
use crate::load::Load;
use crate::mount::Mount;
use crate::network::Network;
use crate::rng::Rng;
use crate::slow_runtime::SlowRuntime;
use crate::tasks::seen;

/// So many faults from one rest to the next.
const ROUND: usize = 12;
/// As long as everything that was begun may take to its end.
const END: Duration = Duration::from_secs(180);

fn main() {
    let minutes: f64 = std::env::var("MINUTES").map_or(3.0, |text| text.parse().expect("MINUTES is a number"));
    let seed: u64 = match std::env::var("HAKURIVER_SEED") {
        Ok(text) => text.parse().expect("HAKURIVER_SEED is a number"),
        Err(_) => u64::from(std::process::id()) ^ u64::try_from(tasks::now_millis()).unwrap(),
    };
    eprintln!("torture: {minutes} minutes, seed {seed}");
    let mut tally = Tally::default();
    let mut rng = Rng(seed);
    let mut world = World::new(&mut rng);
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    while Instant::now() < end && tally.wrong.is_empty() {
        world.round(&mut rng, end, &mut tally);
    }
    tally.print(&world);
    assert!(
        tally.wrong.is_empty(),
        "what must hold did not:\n{}",
        tally.wrong.into_iter().collect::<Vec<_>>().join("\n")
    );
    let World { load, .. } = world;
    load.end();
}

/// What was done, and what came of it.
#[derive(Default)]
struct Tally {
    injected: BTreeMap<&'static str, (usize, usize)>,
    wrong: BTreeSet<String>,
    rests: usize,
    ended: BTreeMap<String, usize>,
    unknown: usize,
    looks: usize,
}

impl Tally {
    /// Lines that were not there before, with what was done last.
    fn add(&mut self, name: &'static str, found: Vec<String>) {
        let new: Vec<String> = found.into_iter().filter(|line| self.wrong.insert(line.clone())).collect();
        self.looks += 1;
        self.injected.entry(name).or_default().1 += new.len();
        for line in new {
            eprintln!("torture: WRONG after '{name}': {line}");
        }
    }

    fn print(&self, world: &World) {
        println!("{:44} {:>8} {:>10}", "fault", "injected", "violations");
        for fault in &FAULTS {
            let (count, wrong) = self.injected.get(fault.name).copied().unwrap_or_default();
            println!("{:44} {count:>8} {wrong:>10}", fault.name);
        }
        let (count, wrong) = self.injected.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        println!("{:44} {count:>8} {wrong:>10}", "all");
        let load = &world.load.shared;
        println!(
            "{} tasks submitted, {} killed, {} calls repeated; {} looks at what must hold, {} times everything came to rest",
            load.submitted.load(Ordering::Relaxed),
            load.kills.load(Ordering::Relaxed),
            load.repeated.load(Ordering::Relaxed),
            self.looks,
            self.rests
        );
        let ended: Vec<String> = self.ended.iter().map(|(state, count)| format!("{count} {state}")).collect();
        println!("ended: {}; {} of them without a result, where a fault explains it", ended.join(", "), self.unknown);
    }
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        let (runtime, program) = SlowRuntime::new(&scratch.dir);
        let mut daemon = Daemon::new(&scratch).with_runtime(program);
        daemon.start();
        let (host_folder, node_folder) = (scratch.dir.join("host-disk"), scratch.dir.join("node-disk"));
        for folder in [&host_folder, &node_folder] {
            fs::create_dir_all(folder).unwrap();
        }
        let host_disk = Mount::tmpfs(&host_folder, "64m");
        // Room for many copies of the program: whoever is left over from before a Runner lost its state keeps one.
        let node_disk = Mount::tmpfs(&node_folder, "1g");
        let wrapper = scratch.dir.join("docker");
        write_script(&wrapper, &format!("#!/bin/sh\nexec docker -H {} \"$@\"\n", daemon.socket()));
        let mut cluster = Cluster::new(Settings {
            timeout_factor: TIMEOUT_FACTOR,
            docker_command: Some(wrapper),
            database: Some(host_folder.join("cluster.db")),
            ..Settings::default()
        });
        cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
        // The nodes' folders are on their disk.
        std::os::unix::fs::symlink(&node_folder, cluster.dir.join("runner")).unwrap();
        let starts = cluster.dir.join("starts");
        fs::create_dir_all(&starts).unwrap();
        cluster.start_host();
        let lines = [Network::to(cluster.api), Network::to(cluster.api)];
        let users = Arc::new(Network::to(cluster.api));
        let witness = Witness::of(&cluster).with_docker(&["docker", "-H", &daemon.socket()]);
        let witness = Arc::new(witness);
        let key = fs::read_to_string(cluster.dir.join("key.pub")).unwrap();
        let load = Load::start(users.port, cluster.token(), key, starts, witness.clone(), rng);
        let mut world = Self {
            load,
            witness,
            cluster,
            lines,
            users,
            daemon,
            runtime,
            _disks: [host_disk, node_disk],
            host_folder,
            node_folder,
            deck: Vec::new(),
            _scratch: scratch,
        };
        for node in NODES {
            world.start_runner(node);
        }
        world.await_nodes();
        world
    }

    /// Faults under load, then a rest in which everything has to end.
    fn round(&mut self, rng: &mut Rng, end: Instant, tally: &mut Tally) {
        let (mut costs_results, mut costs_output) = (false, false);
        for _ in 0..ROUND {
            if Instant::now() >= end {
                break;
            }
            let fault = self.deck.pop().unwrap_or_else(|| {
                self.deck = rng.shuffled(&FAULTS);
                self.deck.pop().expect("there are faults")
            });
            eprintln!("torture: {}", fault.name);
            costs_results |= fault.costs_results;
            costs_output |= fault.costs_output;
            tally.injected.entry(fault.name).or_default().0 += 1;
            (fault.act)(self, rng);
            // The next one comes sometimes while this one is still felt.
            thread::sleep(rng.millis(1, 2000));
            if rng.chance(60) {
                self.await_nodes();
            }
            tally.add(fault.name, self.witness.violations());
            let wrong = std::mem::take(&mut *self.load.shared.wrong.lock().unwrap());
            tally.add(fault.name, wrong);
        }
        self.await_nodes();
        self.load.quiesce();
        self.load.shared.close();
        self.witness.settles(&self.cluster, END);
        let found = self.results(costs_results, costs_output, tally);
        tally.add("at rest", found);
        let wrong = std::mem::take(&mut *self.load.shared.wrong.lock().unwrap());
        tally.add("at rest", wrong);
        tally.rests += 1;
        eprintln!(
            "torture: everything has come to rest, {} tasks so far",
            self.load.shared.submitted.load(Ordering::Relaxed)
        );
        self.load.go_on();
    }

    /// What became of each task of this round.
    fn results(&mut self, costs_results: bool, costs_output: bool, tally: &mut Tally) -> Vec<String> {
        let mut found = Vec::new();
        for (id, made) in std::mem::take(&mut *self.load.shared.open.lock().unwrap()) {
            let record = self.cluster.status(&id);
            *tally.ended.entry(record.status.clone()).or_default() += 1;
            let starts = self.load.shared.starts(&made);
            let say =
                |what: &str| format!("{what}: task {id} of number {}, {starts} starts: {}", made.number, seen(&record));
            match record.status.as_str() {
                "completed" | "failed" if record.exit_code == Some(i32::try_from(made.code).unwrap()) && !made.vps => {
                    if starts != 1 {
                        found.push(say("it has ended, and did not begin once"));
                    }
                    let whole = format!("begin {0}\nend {0}\n", made.number);
                    let text = self.cluster.stdout(&id);
                    if text != whole && !costs_output {
                        found.push(format!("{}; output {text:?}", say("its output is not whole")));
                    }
                }
                "killed" => {}
                "failed" if costs_results => tally.unknown += 1,
                _ => found.push(say("no fault explains this end")),
            }
        }
        found
    }
}
