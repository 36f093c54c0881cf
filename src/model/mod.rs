//! The model test: the real Host's engine and the real Runners' agents, operations and conversations, in a simulated cluster, through
//! random histories with every fault that there is. After each step everything that must hold is looked at; in the end, when
//! the faults have stopped, all comes to its end.
//!
//! `HAKURIVER_SEED=17 cargo test --lib model` plays one seed and shows its history; `HAKURIVER_MODEL_SEEDS=50` plays so many, and
//! `HAKURIVER_MODEL_MINUTES=30` goes on with new ones for that long. It sees Host and Runner, so it stands beside `up`.

mod calls;
mod check;
mod container;
mod docker;
mod machine;
mod network;
mod random;
mod runner;
mod sim;
mod steps;
mod supervisor;
mod talks;
mod truth;
mod users;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::sim::{Sim, Violation};
use crate::sys::simulated;

/// Seeds in a run of all tests.
const SEEDS: u64 = 1_500;
/// Steps with faults, of one seed.
const STEPS: usize = 120;
/// So many seeds are played at once, each by a thread of its own.
const AT_ONCE: u64 = 2;

/// What a seed has come to.
struct Played {
    violation: Option<String>,
    history: Vec<String>,
    steps: usize,
    /// Tasks; those placed again; those whose result is unknown.
    tasks: [usize; 3],
}

/// What all seeds have come to.
#[derive(Default)]
struct Done {
    /// The first one that failed.
    failed: Option<u64>,
    seeds: usize,
    steps: usize,
    tasks: [usize; 3],
}

impl Done {
    fn add(&mut self, seed: u64, played: &Played) {
        if played.violation.is_some() {
            self.failed = Some(self.failed.map_or(seed, |first| first.min(seed)));
        }
        self.seeds += 1;
        self.steps += played.steps;
        self.tasks.iter_mut().zip(played.tasks).for_each(|(sum, count)| *sum += count);
    }
}

/// Folders in memory, where there is one: nothing in them has to last.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    folder.join(format!("hakuriver-model-{}", crate::sys::random::hex(8)))
}

fn play(seed: u64, steps: usize, tells: bool) -> Played {
    let folder = scratch();
    std::fs::create_dir(&folder).expect("a folder can be made");
    let sim = Rc::new(Sim::new(seed, steps, &folder, tells));
    let entered = simulated::enter(Rc::clone(&sim) as Rc<dyn simulated::World>);
    let done = catch_unwind(AssertUnwindSafe(|| sim.run()));
    // What Runners leave is dropped in their own world.
    sim.machines.iter().for_each(|machine| drop(machine.runner.take()));
    sim.machines.iter().for_each(|machine| drop(machine.threads.take()));
    drop(entered);
    let _gone = std::fs::remove_dir_all(&folder);
    let violation = done.err().map(|reason| match reason.downcast::<Violation>() {
        Ok(violation) => violation.0,
        Err(reason) => {
            let text = reason.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| reason.downcast_ref::<String>().cloned());
            format!("a panic: {}", text.unwrap_or_default())
        }
    });
    let check = sim.check.borrow();
    let tasks = [sim.users.borrow().accepted.len(), check.again, check.unknown];
    Played { violation, history: sim.history(), steps: sim.steps.get(), tasks }
}

/// Plays a seed that fails with ever fewer steps, and tells the shortest history that fails.
fn explain(seed: u64, steps: usize) -> String {
    let fails = |steps: usize| play(seed, steps, false).violation.is_some();
    let (mut least, mut most) = (0, steps);
    // Not every shorter history fails; one that does is all that is wanted.
    while least < most {
        let middle = (least + most) / 2;
        if fails(middle) { most = middle } else { least = middle + 1 }
    }
    let played = play(seed, most, true);
    let mut text = String::new();
    let violation = played.violation.unwrap_or_else(|| "(not with fewer steps)".to_owned());
    for line in &played.history {
        writeln!(text, "{line}").expect("a String takes every text");
    }
    write!(text, "seed {seed}, {most} steps with faults: {violation}\nHAKURIVER_SEED={seed} cargo test --lib model shows this again")
        .expect("a String takes every text");
    text
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

#[test]
fn whatever_happens_nothing_is_lost_nothing_runs_twice_and_all_comes_to_its_end() {
    if let Some(seed) = number("HAKURIVER_SEED") {
        let played = play(seed, STEPS, false);
        assert!(played.violation.is_none(), "{}", explain(seed, STEPS));
        return;
    }
    let began = Instant::now();
    let minutes = number("HAKURIVER_MODEL_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let first = if minutes.is_some() { u64::from(std::process::id()) << 32 } else { 1 };
    let seeds = number("HAKURIVER_MODEL_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let done = Mutex::new(Done::default());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_enough = minutes.map_or(seed >= seeds, |limit| began.elapsed() >= limit);
                    if is_enough || done.lock().expect("nobody panicked").failed.is_some() {
                        return;
                    }
                    let played = play(first + seed, STEPS, false);
                    done.lock().expect("nobody panicked").add(first + seed, &played);
                }
            });
        }
    });
    let Done { failed, seeds, steps, tasks: [tasks, again, unknown] } = done.into_inner().expect("nobody panicked");
    println!(
        "{seeds} seeds, {steps} steps, {tasks} tasks, {again} placed again, {unknown} with a result that nobody knows, in {:?}",
        began.elapsed()
    );
    if let Some(seed) = failed {
        panic!("{}", explain(seed, STEPS));
    }
    assert!(tasks > 100 && again > 0, "too little happened");
}
