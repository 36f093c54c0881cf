//! Random histories: reports late, twice and out of order, users who change their minds, a disk that is full now and
//! then. After each turn memory, database and what readers see are the same (see `Bench::check`); in the end the Host
//! knows what happened on the nodes.

use std::collections::BTreeSet;

use super::*;

/// Marsaglia's xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 33) % end as u64).expect("small")
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A task where it runs: what is true of it.
#[derive(Clone, Debug)]
struct Truth {
    attempt: Attempt,
    rev: u64,
    what: Observation,
    cores: u32,
}

impl Truth {
    fn ended(&self) -> bool {
        matches!(self.what, Observation::Exited { .. } | Observation::Stopped { .. })
    }

    fn report(&self, id: TaskId) -> Seen {
        // Every other one was short.
        let begun = id.get() >> 22;
        let completed_ms = self.ended().then_some(begun + 1 + 100 * (self.rev % 2));
        let seen = seen(id, self.rev, self.what.clone());
        Seen { attempt: self.attempt, started_ms: Some(begun), completed_ms, ..seen }
    }

    fn next(&mut self, what: Observation) {
        self.rev += 1;
        self.what = what;
    }
}

struct World {
    bench: Bench,
    random: Random,
    session: String,
    node: BTreeMap<TaskId, Truth>,
    /// How each task that ran has ended.
    ends: BTreeMap<TaskId, Observation>,
    /// Calls under way: they arrive in any order, some of them twice.
    wire: Vec<Vec<Seen>>,
    submitted: BTreeSet<TaskId>,
    /// How many were given back.
    returned: usize,
}

impl World {
    fn observe(&mut self, complete: bool, tasks: Vec<Seen>) -> Option<Vec<Acknowledged>> {
        let snapshot =
            Snapshot { session: self.session.clone(), complete, tasks, told: Default::default(), epoch: String::new() };
        let answer = self.bench.ask(|reply| Action::Observed("n1".parse().expect("name"), snapshot, reply));
        // Err: nothing of it was stored, so it will be said again.
        answer.map(|(receipts, _)| receipts).map_err(|fault| assert_eq!(fault.status, 503)).ok()
    }

    fn user(&mut self) {
        let known: Vec<TaskId> = self.submitted.iter().copied().collect();
        let cores = u32::try_from(self.random.below(4)).expect("small");
        if known.is_empty() || self.random.percent(50) {
            let bare = TaskSpec { container: Container::Null, ..command(cores) };
            let spec = if self.random.percent(60) { bare } else { command(cores) };
            match self.bench.submit(spec) {
                Ok(id) => assert!(self.submitted.insert(id), "an id is given once"),
                Err(fault) => assert_eq!(fault.status, 503, "{fault:?}"),
            }
            return;
        }
        let id = known[self.random.below(known.len())];
        // Refused or not: what must hold is checked after the turn.
        match self.random.below(3) {
            0 => drop(self.bench.kill(id)),
            1 => drop(self.bench.control(id, Control::Pause)),
            _ => drop(self.bench.control(id, Control::Resume)),
        }
    }

    /// The node does something about its list, and says so.
    fn work(&mut self) {
        let session = self.session.clone();
        let mut changed = Vec::new();
        for task in self.bench.desired("n1", &session).tasks {
            let id: TaskId = task.task_id.parse().expect("id");
            if !self.random.percent(60) {
                continue;
            }
            let stop = task.want == "stop";
            let is_here = self.node.contains_key(&id);
            if task.want == "return" && !is_here && !self.ends.contains_key(&id) {
                changed.push(Seen { attempt: Attempt(task.attempt), ..seen(id, 1, Observation::Returned) });
                self.returned += 1;
                continue;
            }
            if task.spec.in_line && !is_here && !stop && self.busy_cores() + task.spec.cores > 4 {
                continue;
            }
            let Some(truth) = self.node.get_mut(&id) else {
                if self.ends.contains_key(&id) {
                    continue;
                }
                let what = if stop { Observation::Gone } else { Observation::Running };
                let truth = Truth { attempt: Attempt(task.attempt), rev: 1, what, cores: task.spec.cores };
                changed.push(truth.report(id));
                if !stop {
                    self.node.insert(id, truth);
                }
                continue;
            };
            if truth.ended() {
                continue;
            }
            let code = i32::try_from(id.get() % 3).expect("small");
            match (stop, self.random.below(4)) {
                (true, _) => truth.next(Observation::Stopped { exit: Exit::signal(15), message: None }),
                (false, 0) => truth.next(Observation::Exited { exit: Exit::status(code), oom: false, message: None }),
                (false, 1) => truth.next(Observation::Paused),
                (false, _) => truth.next(Observation::Running),
            }
            if truth.ended() {
                self.ends.insert(id, truth.what.clone());
            }
            changed.push(truth.report(id));
        }
        if !changed.is_empty() {
            self.wire.push(changed);
        }
    }

    fn busy_cores(&self) -> u32 {
        let live = self.node.iter().filter(|(_, truth)| !truth.ended());
        live.map(|(_, truth)| truth.cores).sum()
    }

    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let at = self.random.below(self.wire.len());
        let call = if self.random.percent(30) { self.wire[at].clone() } else { self.wire.swap_remove(at) };
        self.observe(false, call);
    }

    /// The Runner goes on saying what is not acknowledged, and forgets what is.
    fn repeat(&mut self) {
        let all: Vec<Seen> = self.node.iter().map(|(id, truth)| truth.report(*id)).collect();
        let Some(receipts) = self.observe(true, all) else { return };
        let session = self.session.clone();
        let listed: BTreeSet<String> =
            self.bench.desired("n1", &session).tasks.into_iter().map(|task| task.task_id).collect();
        for receipt in receipts {
            let id: TaskId = receipt.task_id.parse().expect("id");
            let settled = self.node.get(&id).is_some_and(|truth| truth.ended() && truth.rev == receipt.rev);
            if settled && !listed.contains(&receipt.task_id) {
                self.node.remove(&id);
            }
        }
    }
}

#[test]
fn whatever_comes_late_twice_or_not_at_all_the_host_knows_the_truth_in_the_end() {
    let (mut completed, mut returned) = (0, 0);
    for seed in 1..=12_u64 {
        let mut bench = Bench::new();
        let session = bench.node("n1");
        let mut world = World {
            bench,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            session,
            node: BTreeMap::new(),
            ends: BTreeMap::new(),
            wire: Vec::new(),
            submitted: BTreeSet::new(),
            returned: 0,
        };
        for _ in 0..250 {
            match world.random.below(12) {
                0..=3 => world.user(),
                4..=6 => world.work(),
                7..=9 => world.deliver(),
                10 => world.repeat(),
                _ => {
                    let pages = if world.random.percent(60) { 0 } else { 100_000 };
                    world.bench.core().store.limit_growth(pages);
                }
            }
            world.bench.pass(Duration::from_millis(400));
            if world.random.percent(10) {
                let session = world.session.clone();
                world.bench.beat("n1", &session).expect("a heartbeat writes nothing");
            }
        }
        // The disk has room again, users wait, and the node goes on.
        world.bench.core().store.limit_growth(1_000_000);
        for round in 0.. {
            assert!(round < 500, "seed {seed}: it does not come to an end: {:?}", world.bench.core().tasks.keys());
            world.bench.pass(Duration::from_secs(1));
            while !world.wire.is_empty() {
                world.deliver();
            }
            world.work();
            world.repeat();
            if world.bench.core().tasks.is_empty() && world.wire.is_empty() {
                break;
            }
        }
        returned += world.returned;
        for id in world.submitted.clone() {
            let standing = world.bench.task(id).standing;
            match world.ends.get(&id) {
                Some(Observation::Exited { exit, .. }) => {
                    assert_eq!(standing.exit, *exit, "seed {seed}: {standing:?}");
                    let expected = if exit.code == Some(0) { State::Completed } else { State::Failed };
                    assert_eq!(standing.state, expected, "seed {seed}: {standing:?}");
                    completed += usize::from(exit.code == Some(0));
                }
                Some(_) | None => assert_eq!(standing.state, State::Killed, "seed {seed}: {standing:?}"),
            }
        }
    }
    assert!(completed > 20 && returned > 5, "too little happened: {completed}, {returned}");
}
