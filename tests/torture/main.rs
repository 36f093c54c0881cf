//! A cluster under load to which every fault is done, again and again, for as long as asked: MINUTES (3 by default). What must
//! always hold is looked at after each; and when all is well again, everything has to come to its end.
//!
//! HAKURIVER_SEED repeats the order of faults of an earlier run (not its moments: the machine has a part in these). For who mends
//! something, `HAKURIVER_TORTURE='state lost,dockerd'` does only those with such words in their names.

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
mod harm;
mod load;
mod rng;
mod tally;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::env::{Cluster, Settings, image_file, write_script};
use crate::faults::{FAULTS, NODES, TIMEOUT_FACTOR, World};
use crate::harm::{Cost, Deed, Span};
use crate::invariants::{BLIND, Witness};
use crate::load::Load;
use crate::mount::Mount;
use crate::network::Network;
use crate::rng::Rng;
use crate::slow_runtime::SlowRuntime;
use crate::tally::Tally;
use crate::tasks::now_millis;

/// So many faults from one rest to the next.
const ROUND: usize = 12;
/// For so long nothing may come to its end, in a rest.
const END: Duration = Duration::from_secs(180);
/// In so many minutes every fault has its turn.
const LONG: f64 = 20.0;

fn main() {
    let minutes: f64 = std::env::var("MINUTES").map_or(3.0, |text| text.parse().expect("MINUTES is a number"));
    let seed: u64 = match std::env::var("HAKURIVER_SEED") {
        Ok(text) => text.parse().expect("HAKURIVER_SEED is a number"),
        Err(_) => u64::from(std::process::id()) ^ u64::try_from(tasks::now_millis()).unwrap(),
    };
    eprintln!("torture: {minutes} minutes, seed {seed}");
    let mut tally = Tally::new();
    let mut rng = Rng(seed);
    let mut world = World::new(&mut rng);
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    while Instant::now() < end && tally.wrong.is_empty() {
        // Somewhere in it is a wait that was in vain, say: what was done until then is told all the same.
        let round = catch_unwind(AssertUnwindSafe(|| world.round(&mut rng, end, &mut tally)));
        if let Err(panic) = round {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            tally.add(vec![format!("a panic: {}", text.unwrap_or_default())]);
        }
    }
    world.evidence(tally.wrong.iter().map(String::as_str));
    if minutes >= LONG && tally.wrong.is_empty() && narrowed().is_none() {
        tally.now = "the end";
        tally.add(tally.is_whole());
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

/// Words of the faults that are to be done, if not all are.
fn narrowed() -> Option<String> {
    std::env::var("HAKURIVER_TORTURE").ok()
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
            spans: Vec::new(),
            answered: now_millis(),
            locked_up: 0,
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
        for _ in 0..ROUND {
            if Instant::now() >= end {
                break;
            }
            self.harm(rng, tally);
        }
        tally.now = "a rest";
        self.await_nodes();
        self.load.quiesce();
        self.load.shared.close(&self.cluster);
        self.settle();
        let found = self.results(tally);
        tally.add(found);
        tally.add(std::mem::take(&mut *self.load.shared.wrong.lock().unwrap()));
        tally.rests += 1;
        eprintln!(
            "torture: everything has come to rest, {} tasks so far",
            self.load.shared.submitted.load(Ordering::Relaxed)
        );
        self.load.go_on();
    }

    /// One fault, and a look at what must hold.
    fn harm(&mut self, rng: &mut Rng, tally: &mut Tally) {
        let fault = self.deck.pop().unwrap_or_else(|| {
            self.deck = rng.shuffled(&FAULTS);
            if let Some(words) = narrowed() {
                self.deck.retain(|fault| words.split(',').any(|words| fault.name.contains(words)));
            }
            self.deck.pop().expect("no fault has such words in its name")
        });
        eprintln!("torture: {}", fault.name);
        tally.begin(fault.name);
        let begun = now_millis();
        let deed = (fault.act)(self, rng);
        tally.count(&deed);
        if !matches!(deed, Deed::Done(_)) {
            eprintln!("torture: '{}' found nothing to be done to, and comes again", fault.name);
            self.deck.insert(0, fault);
        }
        if let Some(struck) = deed.struck().filter(|_| fault.cost != Cost::Nothing) {
            // What it may cost ends here: with both nodes back.
            self.await_nodes();
            let span = Span { name: fault.name, cost: fault.cost, struck: struck.clone(), begun, over: now_millis() };
            self.spans.push(span);
        }
        // The next one comes sometimes while this one is still felt.
        thread::sleep(rng.millis(1, 2000));
        if rng.chance(60) {
            self.await_nodes();
        }
        let found = self.look();
        tally.add(found);
        tally.add(std::mem::take(&mut *self.load.shared.wrong.lock().unwrap()));
        self.load.shared.note_whole(&self.cluster);
    }

    /// What does not hold. A daemon that has locked itself up tells nothing, and is looked at again when it does.
    fn look(&mut self) -> Vec<String> {
        let (blind, mut found): (Vec<String>, Vec<String>) =
            self.witness.violations().into_iter().partition(|line| line.starts_with(BLIND));
        if blind.is_empty() || !self.rouse() {
            found.extend(blind);
            return found;
        }
        self.await_nodes();
        found.extend(self.witness.violations());
        found
    }

    /// Everything comes to its end; but not with such a daemon, after which all has its time once more.
    fn settle(&mut self) {
        let settles = |world: &Self| world.witness.settles(&world.cluster, END);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| settles(self))) {
            if !self.rouse() {
                resume_unwind(panic);
            }
            self.await_nodes();
            settles(self);
        }
    }
}
