//! A node's supervisor of the simulation's making, its journal, and the processes that it has started.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::container::how_it_ends;
use super::docker::Around;
use super::truth::{End as TrueEnd, Run, RunId};
use crate::runner::supervise::protocol::{Ask, End, Start, TaskState, Which};
use crate::sys::clock;

type Key = (u64, u32);

struct Process {
    /// In the journal.
    state: TaskState,
    start: Option<Box<Start>>,
    dies: Option<(Instant, i32, bool)>,
    kill_at: Option<(Instant, i32)>,
    run: Option<RunId>,
}

#[derive(Default)]
pub(super) struct Supervisor {
    machine: usize,
    /// The process of the supervisor itself.
    pub(super) is_up: bool,
    rebooted: bool,
    tasks: BTreeMap<Key, Process>,
    changed: BTreeSet<Key>,
}

impl Supervisor {
    pub(super) fn new(machine: usize) -> Self {
        Self { machine, ..Self::default() }
    }

    pub(super) fn has_anything(&self) -> bool {
        self.is_up || !self.tasks.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Starts it, if it does not run: it ends what an earlier one has left.
    pub(super) fn start(&mut self, around: &mut Around<'_>) {
        if std::mem::replace(&mut self.is_up, true) {
            return;
        }
        let fault = if std::mem::take(&mut self.rebooted) {
            "node restarted while it ran: result unknown"
        } else {
            "result unknown: the supervisor of this node's tasks was killed, and they were ended"
        };
        for process in self.tasks.values_mut().filter(|process| process.state.end.is_none()) {
            process.lose(around);
            let stopped = process.state.stopping;
            process.end(End { fault: Some(fault.to_owned()), stopped, ..End::default() });
        }
    }

    /// It is killed. What it has started goes on.
    pub(super) fn kill(&mut self, around: &mut Around<'_>) {
        self.is_up = false;
        self.changed.clear();
        for process in self.tasks.values_mut() {
            process.start = None;
            if let Some(run) = process.run.filter(|_| process.state.end.is_none()) {
                around.truth.of(run).excused = true;
            }
        }
    }

    pub(super) fn reboot(&mut self, around: &mut Around<'_>) {
        self.kill(around);
        self.rebooted = true;
        self.tasks.values_mut().for_each(|process| process.lose(around));
    }

    pub(super) fn ask(&mut self, ask: Ask, around: &mut Around<'_>) {
        match ask {
            Ask::Hello(_) => {}
            Ask::Start(start) => {
                let key = (start.task, start.attempt);
                if self.tasks.contains_key(&key) {
                    return;
                }
                let state = TaskState {
                    task: start.task,
                    attempt: start.attempt,
                    phase: "starting".to_owned(),
                    cpus: start.cpus.clone(),
                    exclusive: start.exclusive,
                    ..TaskState::default()
                };
                self.tasks.insert(key, Process { state, start: Some(start), dies: None, kill_at: None, run: None });
            }
            Ask::Stop(which) => {
                let grace = if around.random.percent(80) {
                    (around.random.ms(1, 300), 143)
                } else {
                    (Duration::from_secs(10), 137)
                };
                self.with(&which, |process| process.stop(around.now + grace.0, grace.1));
            }
            Ask::Pause(which) => self.with(&which, |process| process.freeze("running", "paused", around)),
            Ask::Resume(which) => self.with(&which, |process| process.freeze("paused", "running", around)),
            Ask::Forget(which) => {
                let key = (which.task, which.attempt);
                if self.tasks.get(&key).is_some_and(|process| process.state.end.is_some()) {
                    self.tasks.remove(&key);
                    self.changed.remove(&key);
                }
            }
        }
    }

    fn with(&mut self, which: &Which, act: impl FnOnce(&mut Process)) {
        let key = (which.task, which.attempt);
        let Some(process) = self.tasks.get_mut(&key) else { return };
        let before = process.state.clone();
        act(process);
        if process.state != before {
            self.changed.insert(key);
        }
    }

    /// What happens by itself until now.
    pub(super) fn pass(&mut self, around: &mut Around<'_>) {
        let (machine, is_up) = (self.machine, self.is_up);
        for (key, process) in &mut self.tasks {
            if is_up && process.start.is_some() {
                process.begin(machine, around);
                self.changed.insert(*key);
            }
            let Some(run) = process.run.filter(|run| around.truth.of(*run).alive) else { continue };
            let killed = process.kill_at.filter(|(then, _)| *then <= around.now && is_up);
            let died = process.dies.filter(|(then, ..)| *then <= around.now && process.state.phase != "paused");
            let (code, oom) = match (killed, died) {
                (Some((_, code)), _) => (code, false),
                (None, Some((_, code, oom))) => (code, oom),
                (None, None) => continue,
            };
            let end = TrueEnd { code: Some(code), oom, by_itself: killed.is_none() };
            let truth = around.truth.of(run);
            truth.alive = false;
            truth.end = Some(end);
            if is_up {
                let stopped = process.state.stopping;
                let signal = (code > 128).then_some(code - 128);
                process.end(End { code: Some(code), signal, oom, stopped, ..End::default() });
                self.changed.insert(*key);
            }
        }
    }

    pub(super) fn all(&mut self) -> Vec<TaskState> {
        self.changed.clear();
        self.tasks.values().map(|process| process.state.clone()).collect()
    }

    pub(super) fn changed(&mut self) -> Vec<TaskState> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().filter_map(|key| self.tasks.get(key)).map(|process| process.state.clone()).collect()
    }
}

impl Process {
    fn begin(&mut self, machine: usize, around: &mut Around<'_>) {
        let Some(start) = self.start.take() else { return };
        let devices =
            start.env.iter().find(|(name, _)| name == "CUDA_VISIBLE_DEVICES").map(|(_, value)| value.as_str());
        let gpus = devices.unwrap_or("").split(',').filter(|gpu| !gpu.is_empty()).map(ToOwned::to_owned).collect();
        // What it writes: a word, or nothing.
        let words = if around.random.percent(50) { "x" } else { "" };
        let _lost = std::fs::write(format!("{}.stdout", start.output), words);
        let _lost = std::fs::write(format!("{}.stderr", start.output), "");
        let run = Run {
            machine,
            attempt: start.attempt,
            is_vps: false,
            cpus: start.exclusive.then(|| start.cpus.parse().expect("a list")),
            gpus,
            alive: true,
            frozen: false,
            end: None,
            excused: false,
            forgotten: false,
        };
        self.run = Some(around.truth.begin(start.task, run));
        let (code, oom) = how_it_ends(around.random);
        let longest = if around.random.percent(60) { 40 } else { 3_000 };
        self.dies = Some((around.now + around.random.ms(1, longest), code, oom));
        "running".clone_into(&mut self.state.phase);
        self.state.pid = Some(1);
        self.state.started_ms = Some(clock::unix_ms());
    }

    fn stop(&mut self, at: Instant, code: i32) {
        if self.state.stopping || self.state.end.is_some() {
            return;
        }
        self.state.stopping = true;
        if self.start.take().is_some() {
            return self.end(End { stopped: true, ..End::default() });
        }
        if self.state.phase == "paused" {
            "running".clone_into(&mut self.state.phase);
        }
        self.kill_at = Some((at, code));
    }

    fn freeze(&mut self, from: &str, to: &str, around: &mut Around<'_>) {
        if self.state.phase != from || self.state.stopping {
            return;
        }
        to.clone_into(&mut self.state.phase);
        self.run.iter().for_each(|run| around.truth.of(*run).frozen = to == "paused");
        if let Some((then, ..)) = &mut self.dies {
            *then = (*then).max(around.now + Duration::from_millis(20));
        }
    }

    /// It is killed, and nobody sees how it ends.
    fn lose(&mut self, around: &mut Around<'_>) {
        if let Some(run) = self.run {
            let run = around.truth.of(run);
            if std::mem::take(&mut run.alive) {
                run.end = Some(TrueEnd { code: None, oom: false, by_itself: false });
            }
        }
    }

    fn end(&mut self, end: End) {
        "ended".clone_into(&mut self.state.phase);
        self.state.ended_ms = Some(clock::unix_ms());
        self.state.end = Some(end);
        self.start = None;
    }
}
