//! What must hold after every step, and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::sim::Sim;
use crate::domain::ids::TaskId;
use crate::domain::spec::TaskKind;
use crate::domain::state::{State, Want};
use crate::store::Task;

/// So soon the Host knows what has happened on a node, where nothing is in the way.
const REPORTED: Duration = Duration::from_secs(10);

/// What was seen of a task last.
#[derive(Clone, Copy, Debug)]
struct Last {
    state: State,
    want: Want,
    attempt: u32,
}

#[derive(Default)]
pub(super) struct Check {
    last: BTreeMap<TaskId, Last>,
    is_new_host: bool,
    /// How many runs of a task there were when the Host first said that it runs.
    ran: BTreeMap<TaskId, usize>,
    /// How many were placed a second time, because their node had not started them.
    pub(super) again: usize,
    pub(super) unknown: usize,
}

impl Check {
    /// What it shows is what it has read from its database.
    pub(super) fn host_restarted(&mut self) {
        self.is_new_host = true;
    }
}

impl Sim {
    pub(super) fn check(&self) {
        self.check_tasks();
        self.check_holdings();
        self.check_runs();
    }

    fn check_tasks(&self) {
        let host = self.host.borrow();
        let mut check = self.check.borrow_mut();
        if std::mem::take(&mut check.is_new_host) {
            for (id, last) in &check.last {
                let task = host.stored(*id);
                if task.is_none_or(|task| last.state.is_settled() && task.standing.state != last.state) {
                    self.violated(format!("task {id} was {last:?}, and is not after a restart of the Host"));
                }
            }
        }
        let mut again = 0;
        for task in host.live() {
            if let Some(last) = check.last.get(&task.id) {
                again += self.check_change(task, *last);
            }
            check.last.insert(task.id, last_of(task));
            if matches!(task.standing.state, State::Running | State::Paused) {
                let runs = self.truth.borrow().runs(task.id.get()).len();
                check.ran.entry(task.id).or_insert(runs);
            }
        }
        check.again += again;
        let gone: Vec<TaskId> = check
            .last
            .iter()
            .filter(|(id, last)| !last.state.is_settled() && host.live_task(**id).is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(task) = host.stored(id) else { self.violated(format!("task {id} is not there any more")) };
            let last = check.last[&id];
            self.check_change(&task, last);
            if !task.standing.state.is_settled() {
                self.violated(format!("task {id} is {:?} in the database, and nowhere else", task.standing.state));
            }
            self.tell(|| format!("task {id} is over: {:?}", task.standing));
            check.unknown += usize::from(self.check_result(&task));
            check.last.insert(id, last_of(&task));
        }
        let users = self.users.borrow();
        if let Some(id) = users.accepted.iter().find(|id| !check.last.contains_key(id)) {
            self.violated(format!("task {id} was accepted, and is nowhere"));
        }
        for id in &users.killed {
            let Some(last) = check.last.get(id) else {
                self.violated(format!("task {id} was to be killed, and is nowhere"))
            };
            if last.want != Want::Stop && !last.state.is_settled() {
                self.violated(format!("the kill of task {id} is forgotten"));
            }
        }
    }

    /// 1: it is another attempt.
    fn check_change(&self, task: &Task, last: Last) -> usize {
        let now = last_of(task);
        let id = task.id;
        if now.attempt < last.attempt {
            self.violated(format!("the attempt of task {id} shrinks: {last:?}, {now:?}"));
        }
        if last.state.is_settled() && now.state != last.state {
            self.violated(format!("task {id} has left a final state: {last:?}, {now:?}"));
        }
        let went_back = matches!(last.state, State::Running | State::Paused)
            && matches!(now.state, State::Pending | State::Assigning);
        if went_back {
            self.violated(format!("task {id} ran, and is said not to have: {last:?}, {now:?}"));
        }
        if now.state == State::Pending && last.state != State::Pending && now.attempt == last.attempt {
            self.violated(format!("task {id} waits again as the same attempt: {last:?}, {now:?}"));
        }
        if last.want == Want::Stop && now.want != Want::Stop {
            self.violated(format!("the kill of task {id} was taken back"));
        }
        usize::from(now.attempt > last.attempt)
    }

    /// A task that is over: does that agree with what happened? True: its result is called unknown.
    fn check_result(&self, task: &Task) -> bool {
        let truth = self.truth.borrow();
        let runs = truth.runs(task.id.get());
        let (id, standing) = (task.id, &task.standing);
        if runs.iter().any(|run| run.alive) {
            self.violated(format!("task {id} is over, and lives: {standing:?}, {runs:?}"));
        }
        if standing.state == State::Killed && standing.want != Want::Stop {
            self.violated(format!("task {id} is killed, and nobody asked for that"));
        }
        if matches!(task.spec.kind, TaskKind::Vps { .. }) {
            return false;
        }
        let end = runs.last().and_then(|run| run.end);
        // Where the machine was started anew and the record lost, Docker's word is all that there is: its code, and never a success.
        let is_hearsay = runs.last().is_some_and(|run| run.excused && run.forgotten);
        if let Some(code) = standing.exit.code
            && standing.state != State::Killed
            && !(is_hearsay && code != 0)
            && end.and_then(|end| end.code) != Some(code)
        {
            self.violated(format!("task {id} has ended with {end:?}, and is recorded with {code}: {standing:?}"));
        }
        let is_true = match standing.state {
            State::Completed => end.is_some_and(|end| end.code == Some(0)),
            State::KilledOom => end.is_some_and(|end| end.oom && end.code != Some(0)),
            _ => true,
        };
        if !is_true {
            self.violated(format!("task {id} has ended with {end:?}, and is recorded as {standing:?}"));
        }
        let last = runs.last().map(|run| run.attempt);
        if standing.exit.code.is_some() && last != Some(standing.attempt.0) {
            self.violated(format!("task {id} is recorded as {standing:?}, and was run as the attempt {last:?}"));
        }
        let is_unknown = standing.state == State::Failed && standing.exit.code.is_none();
        let is_certain = runs.last().is_some_and(|run| !run.excused && run.end.is_some_and(|end| end.by_itself));
        if is_unknown && is_certain {
            self.violated(format!(
                "task {id} has ended with {end:?}, and nothing kept that from being known: {standing:?}"
            ));
        }
        is_unknown
    }

    /// Nothing is promised twice, nor more than there is.
    fn check_holdings(&self) {
        let host = self.host.borrow();
        for node in host.nodes() {
            let name = &node.record.name;
            let (mut cores, mut memory, mut gpus) = (0, 0, BTreeSet::new());
            for task in host.live().filter(|task| task.standing.state.holds_resources()) {
                let placed = task.placement.as_ref().filter(|at| at.node == *name && !node.in_line.contains(&task.id));
                let Some(placed) = placed else { continue };
                cores += task.spec.cores as usize;
                memory += task.spec.memory.map_or(0, |bytes| bytes.0);
                for gpu in &placed.gpus {
                    if !gpus.insert(*gpu) {
                        self.violated(format!("GPU {gpu} of {name} is held twice"));
                    }
                }
            }
            if cores > node.record.inventory.cpus.len() || memory > node.record.inventory.memory {
                self.violated(format!("{cores} cores and {memory} bytes of {name} are held: more than it has"));
            }
            if (node.held.cores as usize) < cores {
                self.violated(format!("{cores} cores of {name} are held, and {} are said to be", node.held.cores));
            }
        }
    }

    /// What really runs.
    fn check_runs(&self) {
        let truth = self.truth.borrow();
        let mut held: Vec<(usize, u64, &crate::domain::cpuset::CpuSet)> = Vec::new();
        let mut gpus = BTreeSet::new();
        let check = self.check.borrow();
        for (task, runs) in truth.0.iter().filter(|(_, runs)| runs.len() > 1) {
            let ran = check.ran.get(&TaskId::from_u64(*task)).copied();
            // Where both its record and its container are lost, and the Host never heard of its start, nobody can know of it.
            let nobody_knows =
                |at: usize| runs[at].excused && runs[at].forgotten && ran.is_none_or(|runs_then| runs_then > at + 1);
            let is_again = (0..runs.len() - 1).any(|at| !nobody_knows(at));
            if is_again && !runs[0].is_vps {
                self.violated(format!("the command {task} was run twice: {runs:?}"));
            }
            if ran.is_some_and(|runs_then| runs_then < runs.len()) && runs[0].is_vps {
                self.violated(format!("the VPS {task} ran, and was made again: {runs:?}"));
            }
        }
        let mut alive = BTreeSet::new();
        for (task, run) in truth.alive() {
            if !alive.insert(task) {
                self.violated(format!("task {task} lives twice: {:?}", truth.runs(task)));
            }
            if let Some(cpus) = &run.cpus {
                for (machine, other, taken) in &held {
                    if *machine == run.machine && cpus.0.iter().any(|cpu| taken.0.contains(cpu)) {
                        self.violated(format!("tasks {task} and {other} share a core of node {machine}"));
                    }
                }
                held.push((run.machine, task, cpus));
            }
            for gpu in &run.gpus {
                if !gpus.insert(gpu) {
                    self.violated(format!("task {task} shares the GPU {gpu}"));
                }
            }
        }
    }

    /// There have been no faults for long: so what the Host shows is what there is, but for the moments that a report takes.
    pub(super) fn check_shown(&self) {
        let (host, truth) = (self.host.borrow(), self.truth.borrow());
        let mut odd = self.odd.borrow_mut();
        let before = std::mem::take(&mut *odd);
        for task in host.live().filter(|task| task.standing.want != Want::Stop) {
            let run = truth.runs(task.id.get()).iter().find(|run| run.alive);
            let is = run.map(|run| if run.frozen { State::Paused } else { State::Running });
            let shown = matches!(task.standing.state, State::Running | State::Paused).then_some(task.standing.state);
            if is == shown {
                continue;
            }
            let since = before.get(&task.id).copied().unwrap_or_else(|| self.now());
            if self.now() > since + REPORTED {
                self.violated(format!("task {} is shown as {:?}, and is {is:?}", task.id, task.standing));
            }
            odd.insert(task.id, since);
        }
    }

    /// All is over: and nothing is left.
    pub(super) fn check_end(&self) {
        let host = self.host.borrow();
        let check = self.check.borrow();
        for id in &self.users.borrow().accepted {
            let Some(task) = host.stored(*id) else { self.violated(format!("task {id} was accepted, and is nowhere")) };
            if !task.standing.state.is_settled() || !check.last.contains_key(id) {
                self.violated(format!("task {id} does not come to an end: {:?}", task.standing));
            }
        }
        if !host.stored_live().is_empty() {
            self.violated("the database has live tasks, and memory has none".to_owned());
        }
        for node in host.nodes() {
            if *node.held != crate::domain::placement::Held::default() {
                self.violated(format!("{} holds {:?} for nobody", node.record.name, node.held));
            }
        }
    }

    /// Why it is not over.
    pub(super) fn what_is_left(&self) -> String {
        let host = self.host.borrow();
        let mut left: Vec<String> =
            host.live().map(|task| format!("{} {:?} {:?}", task.id, task.standing, host.reason(task.id))).collect();
        for machine in &self.machines {
            let docker = machine.docker.borrow();
            left.extend(docker.containers.iter().map(|at| format!("{:?} of {} is {:?}", at.id, at.task(), at.state)));
            left.push(format!(
                "{}: {} of the supervisor's, {} calls of Docker, {} operations that wait and {} under way",
                machine.name,
                machine.supervisor.borrow().count(),
                docker.orders.len(),
                machine.threads.borrow().len(),
                machine.under_way.get()
            ));
        }
        for node in host.nodes() {
            left.push(format!("{} unknown to the Host: {:?}", node.record.name, node.unknown));
        }
        left.join("; ")
    }
}

fn last_of(task: &Task) -> Last {
    let standing = &task.standing;
    Last { state: standing.state, want: standing.want, attempt: standing.attempt.0 }
}
