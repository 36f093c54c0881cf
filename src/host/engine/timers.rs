//! What happens by itself: silent nodes, tasks that waited too long, rows that are too old.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::domain::ids::{NodeName, TaskId};
use crate::domain::state::Event;
use crate::store::{NewEvent, StoreFault};
use crate::{error, warning};

use super::Now;
use super::apply::Facts;
use super::core::Core;
use super::node::Node;

/// How many rows a clean-up removes in one turn, so that no request waits long behind it.
const CLEANED: u32 = 1_000;

/// After a clean-up that failed.
const AFTER_FAULT: Duration = Duration::from_secs(60);

/// When waiting tasks give up. Holds those that wait now, and nobody else.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_time: BTreeSet<(Instant, TaskId)>,
    of: HashMap<TaskId, Instant>,
    /// Also of those that do not wait now, and may wait again: the clock may have been set meanwhile, and must not be asked again.
    once_set: HashMap<TaskId, Instant>,
}

impl Deadlines {
    fn set(&mut self, id: TaskId, at: Instant) {
        self.remove(id);
        self.once_set.insert(id, at);
        self.of.insert(id, at);
        self.by_time.insert((at, id));
    }

    /// It waits no longer.
    pub(super) fn remove(&mut self, id: TaskId) {
        if let Some(at) = self.of.remove(&id) {
            self.by_time.remove(&(at, id));
        }
    }

    /// It never waits again.
    pub(super) fn forget(&mut self, id: TaskId) {
        self.remove(id);
        self.once_set.remove(&id);
    }

    /// Nobody waits, until it is said who does.
    pub(super) fn start_over(&mut self) {
        self.by_time.clear();
        self.of.clear();
    }

    fn first(&self) -> Option<(Instant, TaskId)> {
        self.by_time.first().copied()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.by_time.len(), self.of.len());
        self.of.len()
    }
}

impl Core {
    /// When the engine has to wake by itself at the latest.
    pub(super) fn next_deadline(&self) -> Instant {
        if let Some(until) = self.pause_until {
            return until;
        }
        let silent = self.nodes.values().filter(|node| !node.record.silent).map(|node| node.heard).min();
        let silent = silent.map(|heard| heard + self.settings.node_timeout);
        let patience = self.give_up.first().map(|(at, _)| at);
        let recall = self.nodes.values().filter_map(Node::next_recall).min();
        [silent, patience, recall].into_iter().flatten().fold(self.next_cleanup, Instant::min)
    }

    /// Everything whose time is up.
    pub(super) fn time_out(&mut self, now: Now) -> Result<(), StoreFault> {
        self.find_silent(now)?;
        self.end_patience(now)?;
        self.recall(now);
        Ok(())
    }

    /// Removes what is older than it is kept, if it is time for that: in a transaction of its own, so that what nobody asked for
    /// (and may meet what cannot be read) never stands in the way of what is asked.
    pub(super) fn clean_up(&mut self, now: Now) {
        if self.next_cleanup > now.instant {
            return;
        }
        let age = u64::try_from(self.settings.retention.as_millis()).unwrap_or(u64::MAX);
        // A clock that was set far ahead since must not cost all that ended in the last days: no more time has passed than was measured.
        let passed = now.instant.saturating_duration_since(self.began.instant).as_millis();
        let measured_ms = self.began.unix_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        let gone = self.store.clean_up(now.unix_ms.min(measured_ms).saturating_sub(age), CLEANED);
        let wait = match gone.and_then(|gone| self.store.commit().map(|()| gone)) {
            Ok(gone) => {
                let wait = if gone.rows > 0 { Duration::from_millis(100) } else { self.settings.cleanup_interval };
                // Their files go too. Err: the Host stops, and the next one looks for what is left.
                let _ended = if gone.tasks.is_empty() { Ok(()) } else { self.settings.removed.send(gone.tasks) };
                wait
            }
            Err(fault) => {
                self.store.rollback();
                error!("what is too old stays for another while: {fault}");
                AFTER_FAULT
            }
        };
        self.next_cleanup = now.instant + wait;
    }

    /// Nodes that were silent for longer than the time-out are offline, their tasks lost, what they hold stays held.
    fn find_silent(&mut self, now: Now) -> Result<(), StoreFault> {
        let timeout = self.settings.node_timeout;
        let silent: Vec<NodeName> = self
            .nodes
            .values()
            .filter(|node| !node.record.silent && node.heard + timeout <= now.instant)
            .map(|node| node.record.name.clone())
            .collect();
        for name in silent {
            warning!("node {name} was silent for {} s: it is offline", timeout.as_secs());
            self.change_node(&name, "silent longer than the time-out", now, |record| record.silent = true)?;
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            node.present = false;
            let tasks: Vec<TaskId> = node.tasks.iter().copied().collect();
            for id in tasks {
                // Refused only where it is lost already.
                let _ = self.apply(id, &Event::NodeSilent, Facts::default(), "node silent", now)?;
            }
            self.turn.schedule = true;
        }
        Ok(())
    }

    /// Notes when a waiting task gives up. The wait counts from its submission, also across a restart of the Host: what has passed
    /// until then is known by the clock alone; from then on it is measured.
    pub(super) fn watch_patience(&mut self, id: TaskId, now: Now) {
        let Some(live) = self.tasks.get(&id) else { return };
        if let Some(patience) = live.task.spec.patience.max_wait {
            let at = self.give_up.once_set.get(&id).copied().unwrap_or_else(|| {
                let waited = Duration::from_millis(now.unix_ms.saturating_sub(live.task.submitted_ms));
                now.instant + patience.saturating_sub(waited)
            });
            self.give_up.set(id, at);
        }
    }

    fn end_patience(&mut self, now: Now) -> Result<(), StoreFault> {
        while let Some((at, id)) = self.give_up.first() {
            if at > now.instant {
                break;
            }
            self.give_up.remove(id);
            let Some(live) = self.tasks.get(&id).filter(|_| self.queue.contains(id)) else { continue };
            let why = self.queue.reason(live.task.id);
            let why = why.as_deref().unwrap_or("no node had room");
            let reason = format!("waited longer than it was to (max_wait): {why}");
            // Refused only where it is no longer waiting.
            let _ = self.apply(id, &Event::GivenUp { reason }, Facts::default(), "waited too long", now)?;
        }
        Ok(())
    }

    /// Stores a change of a node, with its event.
    pub(super) fn change_node(
        &mut self,
        name: &NodeName,
        cause: &str,
        now: Now,
        change: impl FnOnce(&mut crate::store::NodeRecord),
    ) -> Result<(), StoreFault> {
        let Some(node) = self.nodes.get_mut(name) else { return Ok(()) };
        let mut record = (*node.record).clone();
        let status = |record: &crate::store::NodeRecord| match (record.silent, record.draining) {
            (true, _) => "offline",
            (false, true) => "draining",
            (false, false) => "online",
        };
        let from = status(&record);
        change(&mut record);
        let to = status(&record);
        self.store.put_node(&record)?;
        node.record = std::sync::Arc::new(record);
        let event =
            NewEvent { time_ms: now.unix_ms, task: None, node: Some(name.as_str()), from: Some(from), to, cause };
        self.record(&event, None)?;
        self.turn.nodes.insert(name.clone());
        Ok(())
    }
}
