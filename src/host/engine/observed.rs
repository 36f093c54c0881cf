//! What a node saw of its tasks becomes what the Host knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::node::Acknowledged;
use crate::domain::ids::{NodeName, TaskId};
use crate::domain::state::{Event, Observation, Refusal, Report, State};
use crate::store::StoreFault;
use crate::warning;

use super::Now;
use super::action::{ActFault, Seen, Snapshot, What};
use super::apply::Facts;
use super::core::Core;

/// Unknown tasks that are listed of one node: more than any lab has, and no more than can be shown. A node could else fill the memory
/// with numbers that it makes up.
const MOST_UNKNOWN: usize = 10_000;

/// What is to be done about one report.
struct Outcome {
    /// The Host has stored it, or knows better: the node need not say it again.
    acknowledged: bool,
    /// The revision that the Host has, where that is later than the one reported.
    later: Option<u64>,
    /// It is there, and is not to be there for all that the Host knows.
    unknown: bool,
}

impl Core {
    /// Takes a snapshot: what is new becomes events, what the Host has is acknowledged.
    pub(super) fn observed(
        &mut self,
        name: &NodeName,
        snapshot: &Snapshot,
        now: Now,
    ) -> Result<Result<(Vec<Acknowledged>, String), ActFault>, StoreFault> {
        if let Err(fault) = self.touch(name, &snapshot.session, now)? {
            return Ok(Err(fault));
        }
        let mut receipts = Vec::new();
        let mut unknown = match self.nodes.get(name) {
            Some(node) if !snapshot.complete => (*node.unknown).clone(),
            Some(node) => node.unknown.intersection(&snapshot.told).copied().collect(),
            None => BTreeSet::new(),
        };
        for seen in &snapshot.tasks {
            let outcome = self.take(name, seen, now)?;
            if outcome.acknowledged {
                receipts.push(Acknowledged {
                    task_id: seen.id.to_string(),
                    attempt: seen.attempt.0,
                    rev: outcome.later.unwrap_or(seen.rev),
                });
            }
            if outcome.unknown {
                unknown.insert(seen.id);
            } else {
                unknown.remove(&seen.id);
            }
        }
        if snapshot.complete {
            self.take_absences(name, snapshot, now)?;
        }
        let Some(node) = self.nodes.get_mut(name) else { return Ok(Err(ActFault::new(404, "not registered"))) };
        while unknown.len() > MOST_UNKNOWN {
            unknown.pop_first();
        }
        if *node.unknown != unknown {
            node.unknown = Arc::new(unknown);
            self.turn.nodes.insert(name.clone());
        }
        Ok(Ok((receipts, node.epoch(&self.settings.epoch))))
    }

    fn take(&mut self, name: &NodeName, seen: &Seen, now: Now) -> Result<Outcome, StoreFault> {
        let Some(live) = self.tasks.get(&seen.id) else { return Ok(self.take_ended(seen, now)) };
        let here = live.task.placement.as_ref().is_some_and(|placement| placement.node == *name);
        let What::Report(observation) = &seen.what else {
            // What is on the list is not unknown: this was said before the list was read.
            return Ok(Outcome { acknowledged: false, later: None, unknown: !here });
        };
        if !here {
            // An older attempt, or a node that was given another's state: nothing is done about it there or here.
            let older = seen.attempt < live.task.standing.attempt;
            return Ok(Outcome { acknowledged: older, later: None, unknown: seen.is_alive() });
        }
        // A node that begins anew says so of what it has no record of. But one that ran, or whose story this database does not know, has
        // ended there.
        let may_have_run =
            live.task.started_ms.is_some() || self.restored_through.is_some_and(|restored| seen.id <= restored);
        let observation = match observation {
            Observation::Unbegun
                if may_have_run && is_news(live.task.standing.attempt.0, live.task.standing.rev, seen) =>
            {
                Observation::Gone
            }
            other => other.clone(),
        };
        let report = Report { attempt: seen.attempt, rev: seen.rev, observation };
        let facts = if is_news(live.task.standing.attempt.0, live.task.standing.rev, seen) {
            Facts {
                ssh_port: seen.ssh_port,
                host_keys: seen.host_keys.clone(),
                started_ms: seen.started_ms,
                completed_ms: seen.completed_ms,
                stdout_bytes: seen.stdout_bytes,
                stderr_bytes: seen.stderr_bytes,
                unit: seen.unit.clone(),
                ..Facts::default()
            }
        } else {
            Facts::default()
        };
        let result = self.apply(seen.id, &Event::Reported(report), facts, "reported by its node", now)?;
        Ok(match result {
            Ok(()) | Err(Refusal::Ended(_)) => Outcome { acknowledged: true, later: None, unknown: false },
            Err(Refusal::Stale) => {
                let older = self.attempt_is_older(seen);
                // A Runner that has lost its records may count from less than was told before: so it hears how far that was.
                let later = self.tasks.get(&seen.id).map(|live| live.task.standing.rev).filter(|_| !older);
                Outcome { acknowledged: true, later, unknown: seen.is_alive() && older }
            }
            Err(Refusal::NotYet | Refusal::OutOfPlace(_)) => {
                Outcome { acknowledged: false, later: None, unknown: seen.is_alive() }
            }
        })
    }

    fn attempt_is_older(&self, seen: &Seen) -> bool {
        self.tasks.get(&seen.id).is_some_and(|live| seen.attempt < live.task.standing.attempt)
    }

    /// A report about a task that is settled here, or that this database never had.
    fn take_ended(&mut self, seen: &Seen, now: Now) -> Outcome {
        let known = match self.store.has_task(seen.id) {
            Ok(known) => known,
            // This one is told again later; the node's other tasks do not wait for it.
            Err(fault) => {
                warning!("a report of task {} is passed over: {fault}", seen.id);
                return Outcome { acknowledged: false, later: None, unknown: seen.is_alive() };
            }
        };
        if !known {
            // A later database, which this one was restored in the place of, has given its id.
            self.ids.was_given(seen.id, now.unix_ms);
        }
        // A late copy of what was said before it ended says nothing of what is there now.
        let is_old = known
            && self
                .store
                .task(seen.id)
                .ok()
                .flatten()
                .is_some_and(|task| (seen.attempt, seen.rev) < (task.standing.attempt, task.standing.rev));
        match &seen.what {
            // A receipt lets the node remove what ended. What the Host does not know is left alone until a user decides.
            What::Report(_) => {
                let unknown = if known { seen.is_alive() && !is_old } else { !seen.nothing_left };
                Outcome { acknowledged: known, later: None, unknown }
            }
            What::Unknown => Outcome { acknowledged: false, later: None, unknown: !is_old },
        }
    }

    /// What a complete inventory lacks.
    ///
    /// A task that was seen there before is gone only when two inventories in a row lack it, the second one asked for
    /// after the first: a single one may be a late copy of a call that its sender has given up, older than what it has
    /// reported since. And so may two (found by the model): what was made for another epoch than the present one says of nothing that it
    /// is not there.
    fn take_absences(&mut self, name: &NodeName, snapshot: &Snapshot, now: Now) -> Result<(), StoreFault> {
        let Some(node) = self.nodes.get_mut(name) else { return Ok(()) };
        let seen: BTreeSet<TaskId> =
            snapshot.tasks.iter().map(|seen| seen.id).chain(snapshot.told.iter().copied()).collect();
        let absent: Vec<TaskId> = node.tasks.difference(&seen).copied().collect();
        let is_late = !snapshot.epoch.is_empty() && snapshot.epoch != node.epoch(&self.settings.epoch);
        let suspected = if is_late { node.suspects.clone() } else { std::mem::take(&mut node.suspects) };
        let first_of_session = !node.record.inventoried;
        let mut suspects = BTreeSet::new();
        for id in absent {
            let Some(live) = self.tasks.get(&id) else { continue };
            let standing = &live.task.standing;
            let (event, cause) = match standing.state {
                // Nothing was in flight to it: the session got none of these before this inventory.
                State::Assigning if first_of_session => (Event::NeverStarted, "not started on its node"),
                // One that was lost before it ran is none of those: its node tells of it.
                State::Running | State::Paused | State::Lost if is_late => continue,
                State::Running | State::Paused | State::Lost if standing.rev > 0 && live.task.started_ms.is_some() => {
                    if !suspected.contains(&id) {
                        suspects.insert(id);
                        continue;
                    }
                    (Event::Missing, "missing on its node")
                }
                // Not seen there yet: the list still has it.
                _ => continue,
            };
            // Refused by no state that was matched above.
            let _ = self.apply(id, &event, Facts::default(), cause, now)?;
        }
        let Some(node) = self.nodes.get_mut(name) else { return Ok(()) };
        if first_of_session {
            let mut record = (*node.record).clone();
            record.inventoried = true;
            self.store.put_node(&record)?;
            node.record = Arc::new(record);
            // The list was held back until now.
            node.changes.start_over();
        }
        if !suspects.is_empty() {
            // Another epoch makes the node send everything once more.
            node.calls_for_inventory += 1;
            node.suspects = suspects;
        }
        if !node.present {
            node.present = true;
            self.turn.schedule = true;
        }
        self.turn.nodes.insert(name.clone());
        Ok(())
    }
}

/// Facts beside the state are taken from nothing older than is known.
fn is_news(attempt: u32, rev: u64, seen: &Seen) -> bool {
    (seen.attempt.0, seen.rev) >= (attempt, rev)
}
