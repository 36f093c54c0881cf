//! Commands without a container, in the agent's eyes: asked of the node's supervisor at once, without a thread or a record of our
//! own. The truth about them is the supervisor's.

use std::collections::{BTreeMap, BTreeSet};

use super::Agent;
use super::task::{Asked, Task};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::state::Want;
use crate::runner::holdings::Cannot;
use crate::runner::observed::{first_revision, row};
use crate::runner::on_node;
use crate::runner::order::{CommandOrder, Order, Wanted};
use crate::runner::outcome;
use crate::runner::output::Totals;
use crate::runner::record::{COMMAND, Outcome, Phase, Record};
use crate::runner::supervise::protocol::{TaskState, Which};
use crate::sys::clock;
use crate::{info, warning};

fn waiting(reason: &str) -> String {
    format!("waiting for the supervisor of this node's tasks: {reason}")
}

fn which(record: &Record) -> Which {
    Which { task: record.task.get(), attempt: record.attempt.0 }
}

impl Agent {
    /// A command without a container is to be started: [`Agent::ask_again`] asks for it.
    pub(super) fn begin_supervised(&mut self, id: TaskId, attempt: Attempt, exclusive: bool) {
        let mut record = self.supervised_record(id, attempt);
        record.exclusive = exclusive;
        record.phase = Phase::Starting { progress: self.unsupervised.as_deref().map(waiting) };
        match &record.phase {
            Phase::Starting { progress: None } => self.show_soon(&record),
            _ => self.show(&record),
        }
        self.tasks.insert(Task::new(record));
    }

    fn supervised_record(&self, id: TaskId, attempt: Attempt) -> Record {
        Record { supervised: true, rev: first_revision(), ..Record::new(id, attempt, COMMAND, &self.node.boot_id) }
    }

    /// The supervisor cannot be had: what is to be started waits, and says for what.
    pub(super) fn unsupervised(&mut self, reason: String) {
        if self.unsupervised.as_ref() == Some(&reason) {
            return;
        }
        let text = waiting(&reason);
        for id in self.tasks.supervised_ids() {
            let Some(task) = self.tasks.get_mut(id) else { continue };
            if let Phase::Starting { progress } = &mut task.record.phase {
                *progress = Some(text.clone());
                task.record.rev += 1;
                task.acknowledged = false;
                let row = row(&task.record, self.unknown.contains(&id));
                self.outbox.put(id, row);
            }
        }
        self.unsupervised = Some(reason);
    }

    /// False: there is no room for it yet, and it stands in line.
    fn send_start(&mut self, id: TaskId, order: &CommandOrder) -> bool {
        let Some(task) = self.tasks.get_mut(id) else { return true };
        match on_node::start(&self.node, &task.record, order) {
            Ok(start) => {
                task.record.cpus = start.cpus.parse().unwrap_or_default();
                task.record.launched = true;
                task.asked = Some(Asked::Start);
                let place = self.node.records.supervised_output(id, task.record.attempt);
                self.outputs.watch(id, task.record.attempt, place);
                self.supervisor.start(start);
            }
            // Who was placed as well: the Host has given it cores that this node still has to find free.
            Err(Cannot::Now(why)) => {
                let progress = match order.in_line {
                    true => format!("next in line on its node: {why}"),
                    false => format!("waiting for cores on its node: {why}"),
                };
                let phase = Phase::Starting { progress: Some(progress) };
                if task.record.phase != phase {
                    task.record.phase = phase;
                    task.record.rev += 1;
                    task.acknowledged = false;
                    let record = task.record.clone();
                    self.show_soon(&record);
                }
                return false;
            }
            Err(Cannot::Ever(fault)) => self.end_supervised(id, Outcome::failed(fault), None),
        }
        true
    }

    /// Brings the supervised tasks nearer to what is wanted. What was asked and is not answered yet is not asked again.
    pub(super) fn want_supervised(&mut self, id: TaskId, wanted: Asked) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        if task.asked == Some(wanted) {
            return;
        }
        if wanted == Asked::Stop && task.asked.is_none() && matches!(task.record.phase, Phase::Starting { .. }) {
            // The supervisor does not have it; or has not told yet what it has, and then that decides.
            task.record.stopping = true;
            if self.supervisor_heard {
                self.end_supervised(id, Outcome::killed(), None);
            }
            return;
        }
        let which = which(&task.record);
        match wanted {
            Asked::Pause => self.supervisor.pause(which),
            Asked::Resume => self.supervisor.resume(which),
            Asked::Stop => return self.send_stop(id),
            Asked::Start => {}
        }
        task.asked = Some(wanted);
    }

    fn send_stop(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.record.stopping = true;
        task.asked = Some(Asked::Stop);
        self.supervisor.stop(which(&task.record));
    }

    /// What the supervisor has.
    pub(super) fn supervised(&mut self, states: Vec<TaskState>, complete: Option<u64>) {
        if let Some(time) = complete {
            self.supervisor.heard(time);
        }
        let told: BTreeSet<(TaskId, Attempt)> =
            states.iter().map(|state| (TaskId::from_u64(state.task), Attempt(state.attempt))).collect();
        states.into_iter().for_each(|state| self.supervised_state(state));
        if complete.is_none() {
            return;
        }
        self.unsupervised = None;
        // It has heard nothing else of what was asked.
        for id in self.tasks.supervised_ids() {
            let Some(task) = self.tasks.get_mut(id) else { continue };
            let is_there = told.contains(&(id, task.record.attempt));
            let starts = matches!(task.record.phase, Phase::Starting { .. }) && !task.record.stopping;
            task.asked = (is_there && starts).then_some(Asked::Start);
            if is_there || task.record.outcome().is_some() {
                continue;
            }
            match task.record.phase {
                Phase::Starting { .. } if task.record.stopping => self.end_supervised(id, Outcome::killed(), None),
                // To be asked again, if it is still wanted.
                Phase::Starting { .. } => {}
                Phase::Running { .. } | Phase::Paused | Phase::Ended(_) => {
                    let reason = "result unknown: the supervisor of this node's tasks was lost with its journal";
                    self.end_supervised(id, Outcome::failed(reason), None);
                }
            }
        }
        if !self.supervisor_heard {
            self.supervisor_heard = true;
            self.tasks.touch_all();
            if let Err(fault) = self.node.records.tidy_outputs(&|id| self.tasks.contains(id)) {
                warning!("{fault}");
            }
            self.allow_complete();
        }
    }

    fn supervised_state(&mut self, state: TaskState) {
        let (id, attempt) = (TaskId::from_u64(state.task), Attempt(state.attempt));
        match self.tasks.get(id).map(|task| task.record.attempt) {
            None => self.adopt_supervised(&state),
            Some(ours) if attempt < ours => {
                // An earlier attempt: it must not run beside the one that is wanted now.
                let which = Which { task: state.task, attempt: state.attempt };
                return if state.end.is_some() { self.supervisor.forget(which) } else { self.supervisor.stop(which) };
            }
            Some(ours) if attempt > ours => {
                return warning!(
                    "task {id}: the supervisor has its attempt {attempt}, later than ours: it is left alone"
                );
            }
            Some(_) => {}
        }
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.record.outcome().is_none()) else { return };
        let record = &mut task.record;
        if let Some(end) = &state.end {
            let limit = self.wanted.as_ref().and_then(|wanted| match &wanted.get(&id)?.order {
                Ok(Order::OnNode(order)) => order.time_limit_seconds,
                _ => None,
            });
            let outcome = outcome::of(end, limit);
            record.unit = state.unit;
            record.started_at = state.started_ms.map(clock::rfc3339);
            return self.end_supervised(id, outcome, state.ended_ms);
        }
        let phase = match state.phase.as_str() {
            "running" => Phase::Running { note: None },
            "paused" => Phase::Paused,
            _ => return,
        };
        // It has answered: something else, or the same once more, may be asked.
        if task.asked.is_some_and(|asked| asked.is_answered(&phase)) {
            task.asked = None;
        }
        record.stopping |= state.stopping;
        // Where it was asked for twice, the first one counts, and that may have had other cores.
        let cpus = state.cpus.parse().unwrap_or_default();
        let is_bound_otherwise = record.cpus != cpus;
        record.cpus = cpus;
        record.exclusive = state.exclusive;
        let has_changed = record.phase != phase;
        if has_changed {
            record.phase = phase;
            record.unit = state.unit;
            record.started_at = state.started_ms.map(clock::rfc3339);
            record.rev += 1;
            task.acknowledged = false;
        }
        let Some(record) = self.tasks.get(id).map(|task| &task.record) else { return };
        if is_bound_otherwise {
            self.hold(record);
        }
        if has_changed {
            match record.phase {
                Phase::Running { .. } => self.show_soon(record),
                _ => self.show(record),
            }
        }
    }

    /// One that an earlier Runner has asked for.
    fn adopt_supervised(&mut self, state: &TaskState) {
        let (id, attempt) = (TaskId::from_u64(state.task), Attempt(state.attempt));
        let record = Record {
            cpus: state.cpus.parse().unwrap_or_default(),
            exclusive: state.exclusive,
            stopping: state.stopping,
            launched: true,
            ..self.supervised_record(id, attempt)
        };
        info!("task {id} is found again: {}", state.phase);
        if state.end.is_none() {
            self.hold(&record);
        }
        self.show(&record);
        self.outputs.watch(id, attempt, self.node.records.supervised_output(id, attempt));
        self.tasks.insert(Task { asked: Some(Asked::Start), ..Task::new(record) });
    }

    /// Nothing of it lives.
    fn end_supervised(&mut self, id: TaskId, outcome: Outcome, ended_ms: Option<u64>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let record = &mut task.record;
        self.node.holdings.release(id);
        record.completed_at = Some(clock::rfc3339(ended_ms.unwrap_or_else(clock::unix_ms)));
        let place = self.node.records.supervised_output(id, record.attempt);
        if record.started_at.is_none() && !place.is_there() {
            // It was not even begun: nothing of what it wrote is missing.
            record.launched = false;
            self.outputs.forget(id, record.attempt);
        }
        if record.writes() {
            self.outputs.watch(id, record.attempt, place);
            record.totals = self.outputs.ended(id, record.attempt);
        } else {
            record.totals = Totals { stdout: Some(0), stderr: Some(0) };
        }
        record.phase = Phase::Ended(outcome);
        record.rev += 1;
        let record = record.clone();
        task.acknowledged = false;
        if self.line.is_empty() {
            self.show(&record);
        } else {
            // The next one is here already: nothing waits for the Host to hear of this end.
            self.show_soon(&record);
        }
    }

    /// The Host has its end and its output.
    pub(super) fn forget_supervised(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(id) else { return };
        self.supervisor.forget(which(&task.record));
        self.outputs.forget(id, task.record.attempt);
        self.outbox.remove(id);
        self.node.holdings.release(id);
        if let Err(fault) = self.node.records.supervised_output(id, task.record.attempt).remove() {
            warning!("task {id}: {fault}");
        }
    }

    /// Asks for what was not asked yet, or of a supervisor that is gone. Not before it has told what it has: that may be one of
    /// these, or hold cores.
    pub(super) fn ask_again(&mut self, touched: &BTreeSet<TaskId>) {
        if !self.supervisor_heard {
            return;
        }
        let Some(wanted) = self.wanted.take() else { return };
        let mut returned = Vec::new();
        for id in touched {
            let Some(task) = self.tasks.get(*id).filter(|task| task.record.supervised && task.asked.is_none()) else {
                continue;
            };
            if task.record.outcome().is_some() {
                continue;
            }
            if task.record.stopping {
                self.send_stop(*id);
            } else if let Some((order, recalled)) = self.to_start(*id, &wanted) {
                if recalled {
                    self.give_back(*id);
                    returned.push(*id);
                } else if order.in_line || !self.send_start(*id, order) {
                    self.line.insert(*id);
                }
            }
        }
        // The first of the line goes first, or nobody.
        let had_line = !self.line.is_empty();
        while let Some(id) = self.line.first().copied() {
            if let Some((order, _)) = self.to_start(id, &wanted)
                && !self.send_start(id, order)
            {
                break;
            }
            self.line.remove(&id);
        }
        if had_line && self.line.is_empty() {
            self.outbox.hurry();
        }
        self.wanted = Some(wanted);
        returned.into_iter().for_each(|id| self.compare(id));
    }

    /// What the supervisor is to be asked to start, if that is what comes next for this task; and whether it is to be given back.
    fn to_start<'w>(&self, id: TaskId, wanted: &'w BTreeMap<TaskId, Wanted>) -> Option<(&'w CommandOrder, bool)> {
        let task = self.tasks.get(id)?;
        let is_unasked =
            task.asked.is_none() && !task.record.stopping && matches!(task.record.phase, Phase::Starting { .. });
        let wanted =
            wanted.get(&id).filter(|wanted| wanted.attempt == task.record.attempt && wanted.want != Want::Stop)?;
        match &wanted.order {
            Ok(Order::OnNode(order)) if is_unasked && (self.whole || !task.record.exclusive) => {
                Some((order, wanted.recalled))
            }
            _ => None,
        }
    }

    /// It was not started, and the Host asks for it: the next comparison reports that it is not here.
    fn give_back(&mut self, id: TaskId) {
        self.tasks.remove(id);
        self.line.remove(&id);
        self.outbox.remove(id);
    }
}
