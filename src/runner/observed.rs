//! What the Host has still to hear: the latest of each task, repeated until the Host has stored it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::node::{Acknowledged, Observed, ObservedTask, OutputChunk, Registered};
use crate::domain::ids::{Attempt, TaskId};

use super::link::Session;
use super::record::{Phase, Record};
use crate::sys::clock;

/// How long to leave a Host alone with a row that it took and did not acknowledge (it does not know the task).
const UNANSWERED: Duration = Duration::from_secs(30);

/// So long the Host may be left without news of a command's start: one that ends within that time is told of once, not three
/// times.
const LINGER: Duration = Duration::from_millis(20);

/// A report that has come to this size, in bytes, is sent, and what is left goes with the next one. With the output beside it, it is
/// below the 16 MiB that the Host takes, also where each byte is escaped. (In tests two tasks are more than one call holds.)
const PART: usize = if cfg!(test) { 512 } else { 1 << 20 };
/// What a task takes beside its texts.
const LINE: usize = 512;

/// The row of a task. `unknown`: the Host's list does not have it.
pub fn row(record: &Record, unknown: bool) -> ObservedTask {
    let (state, progress) = match &record.phase {
        // Its end is worth telling also to a Host that does not list it.
        Phase::Ended(outcome) => (outcome.state.word(), None),
        _ if unknown => ("unknown", None),
        Phase::Starting { progress } => ("starting", progress.clone()),
        // It ran, and does not answer now: the Host keeps its state, and shows what it waits for.
        Phase::Running { note: Some(note) } => ("starting", Some(note.clone())),
        Phase::Running { note: None } => ("running", None),
        Phase::Paused => ("paused", None),
    };
    let outcome = record.outcome();
    ObservedTask {
        task_id: record.task.to_string(),
        attempt: record.attempt.0,
        rev: record.rev,
        state: state.to_owned(),
        reason: outcome.and_then(|outcome| outcome.reason.clone()),
        exit_code: outcome.and_then(|outcome| outcome.exit_code),
        exit_signal: outcome.and_then(|outcome| outcome.exit_signal),
        ssh_port: record.port.filter(|_| outcome.is_none()),
        host_keys: record.host_keys.clone(),
        started_at: record.started_at.clone(),
        completed_at: record.completed_at.clone(),
        progress,
        stdout_bytes: outcome.and(record.totals.stdout),
        stderr_bytes: outcome.and(record.totals.stderr),
        unit: record.unit.clone(),
        nothing_left: outcome.is_some_and(|outcome| !outcome.kept) && !record.writes(),
    }
}

/// The first revision of what no record on disk remembers: later than what was told before, or else the Host says how late it has
/// to be.
pub fn first_revision() -> u64 {
    clock::unix_ms()
}

/// The state of such a task; a Host that does not know it hears that it is gone.
const UNBEGUN: &str = "unbegun";

/// Why a task of the Host's list is not here, and will not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It was to be stopped, or was here before.
    Gone,
    /// It was to be given back, and was not started.
    Returned,
    /// It was here, as far as the Host knows, and was not started: an earlier Runner came to its end before.
    Unbegun,
}

/// The row of a task that is not here. `rev` is later than any that was ever sent for it.
pub fn absent(task: TaskId, attempt: Attempt, rev: u64, why: Absent) -> ObservedTask {
    let state = match why {
        Absent::Gone => "gone",
        Absent::Returned => "returned",
        Absent::Unbegun => UNBEGUN,
    };
    ObservedTask {
        task_id: task.to_string(),
        attempt: attempt.0,
        rev,
        state: state.to_owned(),
        ..ObservedTask::default()
    }
}

/// What to send next.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The end of an inventory.
    pub complete: bool,
    pub tasks: Vec<ObservedTask>,
    /// What the batches before it have told of the same inventory.
    pub told: BTreeSet<TaskId>,
    /// The Host takes such reports.
    takes_unbegun: bool,
    /// What the Host's epoch was when the inventory was found to be needed.
    epoch: String,
    rows: Vec<(TaskId, u64)>,
    /// The inventory of which it is a part.
    inventory: Option<u64>,
}

impl Batch {
    /// As it goes to the Host.
    pub fn body(&self, session: &Session, outputs: Vec<OutputChunk>) -> Observed {
        let mut tasks = self.tasks.clone();
        for task in tasks.iter_mut().filter(|task| task.state == UNBEGUN && !self.takes_unbegun) {
            "gone".clone_into(&mut task.state);
        }
        Observed {
            session: session.id.clone(),
            complete: self.complete,
            tasks,
            told: self.told.iter().map(ToString::to_string).collect(),
            epoch: self.epoch.clone(),
            outputs,
        }
    }

    /// The tasks in it that have ended.
    pub fn ended(&self) -> impl Iterator<Item = TaskId> {
        let ended = self.tasks.iter().map(|task| task.completed_at.is_some());
        self.rows.iter().zip(ended).filter(|(_, ended)| *ended).map(|((task, _), _)| *task)
    }
}

/// Filled by the agent, emptied by the thread that reports.
#[derive(Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    filled: Condvar,
}

#[derive(Default)]
struct Inner {
    rows: BTreeMap<TaskId, Row>,
    /// When which row is due: of ten thousand that are acknowledged, nothing is looked at.
    due: BTreeSet<(Instant, TaskId)>,
    /// The Host needs the whole inventory.
    complete_due: bool,
    /// It takes that in several calls.
    takes_parts: bool,
    /// It knows the state of what was never begun.
    takes_unbegun: bool,
    /// Counts how often it was found to need one: what was told before that is of no use.
    inventory: u64,
    /// The Host's, as of then.
    epoch: String,
    /// It was told of the one that is due as far as this change.
    told: u64,
    /// The inventory is known to be whole.
    complete_allowed: bool,
    /// Counts changes of rows, to tell a later one from that which was sent.
    changes: u64,
    closed: bool,
}

struct Row {
    task: ObservedTask,
    /// `Inner::changes` when it was put here.
    change: u64,
    /// Not before then; None: it is acknowledged.
    due: Option<Instant>,
}

impl Outbox {
    /// The latest of a task, which is told at once.
    pub fn put(&self, task: TaskId, row: ObservedTask) {
        self.put_at(task, row, clock::now());
    }

    /// The same for what may be overtaken by something that matters more: it is told after a moment, if it is still the latest.
    pub fn put_soon(&self, task: TaskId, row: ObservedTask) {
        self.put_at(task, row, clock::now() + LINGER);
    }

    /// What was to wait a moment is told now.
    pub fn hurry(&self) {
        let mut inner = self.lock();
        let now = clock::now();
        let waiting: Vec<TaskId> =
            inner.due.iter().take_while(|(due, _)| *due <= now + LINGER).map(|(_, task)| *task).collect();
        for task in waiting {
            if inner.rows.get(&task).is_some_and(|row| row.task.completed_at.is_some()) {
                inner.is_due(task, Some(now));
            }
        }
        drop(inner);
        self.filled.notify_all();
    }

    fn put_at(&self, task: TaskId, row: ObservedTask, at: Instant) {
        let mut inner = self.lock();
        if inner.rows.get(&task).is_some_and(|old| same(&old.task, &row)) {
            return;
        }
        inner.changes += 1;
        let change = inner.changes;
        inner.is_due(task, None);
        inner.rows.insert(task, Row { task: row, change, due: None });
        inner.is_due(task, Some(at));
        drop(inner);
        self.filled.notify_all();
    }

    /// Nothing is to be said of it any more.
    pub fn remove(&self, task: TaskId) {
        let mut inner = self.lock();
        inner.is_due(task, None);
        inner.rows.remove(&task);
    }

    /// It is registered with a Host, which needs an inventory now.
    pub fn registered(&self, answer: &Registered) {
        let mut inner = self.lock();
        inner.takes_parts = answer.takes_parts;
        inner.takes_unbegun = answer.takes_unbegun;
        inner.epoch.clone_from(&answer.host_epoch);
        inner.complete_due();
        drop(inner);
        self.filled.notify_all();
    }

    /// The Host's epoch in an answer. With another one it needs the whole inventory: it was started anew, or asks for one.
    pub fn heard(&self, epoch: &str) {
        let mut inner = self.lock();
        if inner.epoch == epoch {
            return;
        }
        epoch.clone_into(&mut inner.epoch);
        inner.complete_due();
        drop(inner);
        self.filled.notify_all();
    }

    /// The Host needs the whole inventory: a call has failed.
    pub fn complete_due(&self) {
        self.lock().complete_due();
        self.filled.notify_all();
    }

    /// Everything that is on this node is in the outbox; before that no inventory is called complete.
    pub fn complete_allowed(&self) {
        self.lock().complete_allowed = true;
        self.filled.notify_all();
    }

    /// No more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Waits for something to send; None: closed.
    pub fn next(&self) -> Option<Batch> {
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return None;
            }
            let now = clock::now();
            if let Some(batch) = inner.batch(now) {
                return Some(batch);
            }
            inner = match inner.due.first().map(|(due, _)| *due) {
                None => self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let wait = due.saturating_duration_since(now);
                    self.filled.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// What is to be sent now, if anything is.
    #[cfg(test)]
    pub(crate) fn now(&self) -> Option<Batch> {
        self.lock().batch(clock::now())
    }

    /// The Host took a batch, and has stored what it acknowledges. The answer is what that was, as far as it is still the
    /// latest, with the revision that the Host has: a later one than was sent is of a Runner before this one.
    pub fn taken(&self, batch: &Batch, acknowledged: &[Acknowledged]) -> Vec<(TaskId, Attempt, u64)> {
        let receipts: HashMap<(&str, u32), u64> =
            acknowledged.iter().map(|receipt| ((receipt.task_id.as_str(), receipt.attempt), receipt.rev)).collect();
        let mut inner = self.lock();
        if !batch.complete && batch.inventory == Some(inner.inventory) {
            inner.told = batch.rows.iter().map(|(_, change)| *change).fold(inner.told, u64::max);
        }
        let mut stored = Vec::new();
        for (task, change) in &batch.rows {
            let Some(row) = inner.rows.get(task).filter(|row| row.change == *change) else { continue };
            let receipt = receipts.get(&(row.task.task_id.as_str(), row.task.attempt));
            if let Some(rev) = receipt.filter(|rev| **rev >= row.task.rev) {
                stored.push((*task, Attempt(row.task.attempt), *rev));
                inner.is_due(*task, None);
            } else {
                inner.is_due(*task, Some(clock::now() + UNANSWERED));
            }
        }
        stored
    }

    /// What is said of a task is said once more, as later than `rev`.
    pub fn surpass(&self, task: TaskId, rev: u64) {
        let row = self.lock().rows.get(&task).filter(|row| row.task.rev <= rev).map(|row| row.task.clone());
        if let Some(row) = row {
            self.put(task, ObservedTask { rev: rev + 1, ..row });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn complete_due(&mut self) {
        self.complete_due = true;
        self.inventory += 1;
        self.told = 0;
    }

    /// What is to be sent at this moment: everything, where the Host needs an inventory, or what is due; or as much of that as goes
    /// into one call, in the order in which it happened. So the Host never hears that a task has begun before it hears of the end
    /// that made room for it.
    fn batch(&mut self, now: Instant) -> Option<Batch> {
        let is_inventory = self.complete_due && self.complete_allowed;
        if !is_inventory && self.due.first().is_none_or(|(due, _)| *due > now) {
            return None;
        }
        let changed = |task: &TaskId| self.rows.get(task).map(|row| (row.change, *task));
        let mut wanted: Vec<(u64, TaskId)> = if is_inventory {
            self.rows.keys().filter_map(changed).filter(|(change, _)| *change > self.told).collect()
        } else {
            // Ends that were to wait a moment go with what goes now.
            let rides = |task: &TaskId| self.rows.get(task).is_some_and(|row| row.task.completed_at.is_some());
            let due = self.due.iter().take_while(|(due, _)| *due <= now + LINGER);
            due.filter(|(due, task)| *due <= now || rides(task)).filter_map(|(_, task)| changed(task)).collect()
        };
        wanted.sort_unstable();
        let (mut tasks, mut rows, mut size) = (Vec::new(), Vec::new(), 0);
        for (change, id) in &wanted {
            let Some(row) = self.rows.get(id) else { continue };
            if size >= PART && (self.takes_parts || !is_inventory) {
                break;
            }
            size += size_of_row(&row.task);
            tasks.push(row.task.clone());
            rows.push((*id, *change));
        }
        let complete = is_inventory && rows.len() == wanted.len();
        let mut told = BTreeSet::new();
        if complete {
            self.complete_due = false;
            told = self.rows.iter().filter(|(_, row)| row.change <= self.told).map(|(task, _)| *task).collect();
        }
        let epoch = self.epoch.clone();
        let inventory = is_inventory.then_some(self.inventory);
        Some(Batch { complete, tasks, told, takes_unbegun: self.takes_unbegun, epoch, rows, inventory })
    }

    fn is_due(&mut self, task: TaskId, at: Option<Instant>) {
        let Some(row) = self.rows.get_mut(&task) else { return };
        if let Some(before) = std::mem::replace(&mut row.due, at) {
            self.due.remove(&(before, task));
        }
        if let Some(at) = at {
            self.due.insert((at, task));
        }
    }
}

/// About how many bytes it takes on the way.
fn size_of_row(row: &ObservedTask) -> usize {
    let texts = [&row.reason, &row.progress, &row.unit].into_iter().flatten().chain(row.host_keys.iter().flatten());
    LINE + texts.map(String::len).sum::<usize>()
}

/// Whether the Host would learn nothing from the second that the first has not told. (The wire types have no equality.)
fn same(a: &ObservedTask, b: &ObservedTask) -> bool {
    (a.attempt, a.rev, &a.state, a.nothing_left) == (b.attempt, b.rev, &b.state, b.nothing_left)
}

#[cfg(test)]
mod tests;
