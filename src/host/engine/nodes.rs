//! Nodes come, speak, are drained, and go.

use std::sync::Arc;

use crate::api::node::Registered;
use crate::domain::ids::{NodeName, TaskId};
use crate::domain::state::{Event, Exit, Observation, Report};
use crate::info;
use crate::store::{NewEvent, NodeRecord, StoreFault};
use crate::sys::random;

use super::Now;
use super::action::{ActFault, Beat, Registration};
use super::apply::Facts;
use super::core::Core;
use super::node::Node;

impl Core {
    /// A Runner wants to be a node. The same Runner may ask again and gets the same session; another one on the same
    /// machine takes over at once (a lock there keeps two apart); one on another machine only when the first is silent, and has no
    /// tasks.
    pub(super) fn register(
        &mut self,
        asked: Registration,
        now: Now,
    ) -> Result<Result<Registered, ActFault>, StoreFault> {
        let known = self.nodes.get(&asked.name);
        if let Some(node) = known.filter(|node| {
            node.record.instance != asked.instance
                && node.record.machine_id != asked.machine_id
                && !node.record.silent
                && node.heard + self.settings.node_timeout > now.instant
        }) {
            return Ok(Err(ActFault::new(
                409,
                format!(
                    "a node named '{}' is registered from another machine ({}) and was heard less than {} s ago: stop that Runner, or set network.runner_hostname here",
                    asked.name,
                    node.record.address,
                    self.settings.node_timeout.as_secs()
                ),
            )));
        }
        // What the machine before had of them may live there still: the new one could only tell that it has none of it.
        // (One without an id of its own is told by its boot, and is not known again after the next.)
        let is_other = |record: &NodeRecord| {
            let has_id = record.machine_id != record.boot_id && asked.machine_id != asked.boot_id;
            has_id && record.machine_id != asked.machine_id
        };
        if let Some(node) = known.filter(|node| is_other(&node.record) && !node.tasks.is_empty()) {
            let (name, count) = (&asked.name, node.tasks.len());
            return Ok(Err(ActFault::new(
                409,
                format!(
                    "node '{name}' is another machine ({}), and {count} of its tasks may still live there: bring that one back, or say that \
                     it is gone with 'hakuriver client forget {name}'; or set network.runner_hostname here",
                    node.record.address,
                ),
            )));
        }
        let most = self.settings.most_nodes;
        if known.is_none() && self.nodes.len() >= most {
            let why = format!("{most} nodes are registered, which is the most: forget those that are gone");
            return Ok(Err(ActFault::new(503, why)));
        }
        let same = known.map(|node| &node.record).filter(|record| record.instance == asked.instance);
        let record = NodeRecord {
            name: asked.name.clone(),
            address: asked.address.to_string(),
            machine_id: asked.machine_id,
            boot_id: asked.boot_id,
            instance: asked.instance,
            session: match (same, known) {
                (Some(record), _) => record.session.clone(),
                (None, known) => new_session(known.map_or("", |node| &node.record.session), now.unix_ms),
            },
            version: asked.version,
            inventory: asked.inventory,
            inventoried: same.is_some_and(|record| record.inventoried),
            draining: known.is_some_and(|node| node.record.draining),
            silent: false,
            registered_ms: now.unix_ms,
        };
        let before = known.map(|node| if node.record.silent { "offline" } else { "online" });
        let new_session = same.is_none();
        self.store.put_node(&record)?;
        let event = NewEvent {
            time_ms: now.unix_ms,
            task: None,
            node: Some(asked.name.as_str()),
            from: before,
            to: if record.draining { "draining" } else { "online" },
            cause: "registered",
        };
        self.record(&event, None)?;
        info!("node {} registered from {} (version {})", record.name, record.address, record.version);
        let node = match self.nodes.remove(&asked.name) {
            Some(mut node) => {
                node.record = Arc::new(record);
                node.heard = now.instant;
                node
            }
            None => Node::new(record, now),
        };
        let node = self.nodes.entry(asked.name.clone()).or_insert(node);
        if new_session {
            node.present = false;
            node.conditions = None;
            node.suspects.clear();
            node.unknown = Arc::default();
            // Wakes a poll of the session before, which then learns that it is over.
            node.changes.start_over();
        }
        let answer = Registered {
            session: node.record.session.clone(),
            cluster_id: self.settings.cluster_id.clone(),
            host_epoch: node.epoch(&self.settings.epoch),
            address: node.record.address.clone(),
            takes_parts: true,
            takes_unbegun: true,
        };
        self.turn.nodes.insert(asked.name);
        self.turn.schedule = true;
        Ok(Ok(answer))
    }

    /// A call from a node: is it the one that is registered? Then it was heard; and if it was offline, it is back.
    pub(super) fn touch(
        &mut self,
        name: &NodeName,
        session: &str,
        now: Now,
    ) -> Result<Result<(), ActFault>, StoreFault> {
        let Some(node) = self.nodes.get_mut(name) else {
            return Ok(Err(not_registered(name)));
        };
        if node.record.session != session {
            return Ok(Err(not_this_session(name, &node.record.session, session)));
        }
        node.heard = now.instant;
        if node.record.silent {
            info!("node {name} is heard again");
            // Its tasks are lost until it says what became of them. It does not know that it was silent, so the
            // epoch that it is told changes: that makes it send all that it has.
            node.calls_for_inventory += 1;
            node.present = false;
            self.change_node(name, "heard again", now, |record| record.silent = false)?;
            self.turn.schedule = true;
        }
        Ok(Ok(()))
    }

    pub(super) fn heartbeat(
        &mut self,
        name: &NodeName,
        beat: Beat,
        now: Now,
    ) -> Result<Result<String, ActFault>, StoreFault> {
        if let Err(fault) = self.touch(name, &beat.session, now)? {
            return Ok(Err(fault));
        }
        let Some(node) = self.nodes.get_mut(name) else { return Ok(Err(ActFault::new(404, "not registered"))) };
        node.last_heartbeat_ms = Some(now.unix_ms);
        node.figures = Arc::new(beat.figures);
        self.turn.schedule |= node.conditions != Some(beat.conditions);
        node.conditions = Some(beat.conditions);
        if node.gpus_gone != beat.gpus_gone {
            node.gpus_gone = beat.gpus_gone;
            self.turn.held.insert(name.clone());
            self.turn.schedule = true;
        }
        self.turn.nodes.insert(name.clone());
        Ok(Ok(node.epoch(&self.settings.epoch)))
    }

    pub(super) fn drain(
        &mut self,
        name: &NodeName,
        draining: bool,
        now: Now,
    ) -> Result<Result<String, ActFault>, StoreFault> {
        let Some(node) = self.nodes.get(name) else { return Ok(Err(self.unknown_node(name))) };
        let running = node.tasks.len();
        if node.record.draining != draining {
            let cause = if draining { "drain" } else { "undrain" };
            self.change_node(name, cause, now, |record| record.draining = draining)?;
            self.turn.schedule = true;
        }
        Ok(Ok(match (draining, running) {
            (true, 0) => format!("Node '{name}' is draining: it gets no new tasks, and has none."),
            (true, n) => format!("Node '{name}' is draining: it gets no new tasks; {n} on it go on."),
            (false, _) => format!("Node '{name}' takes tasks again."),
        }))
    }

    /// Forgets a node that is offline. Nobody will report its tasks any more, so their result is unknown from now on.
    pub(super) fn forget(&mut self, name: &NodeName, now: Now) -> Result<Result<String, ActFault>, StoreFault> {
        let Some(node) = self.nodes.get(name) else { return Ok(Err(self.unknown_node(name))) };
        if !node.record.silent {
            return Ok(Err(ActFault::new(
                409,
                format!("node '{name}' is online: stop its Runner first, and wait until it is offline"),
            )));
        }
        let tasks: Vec<TaskId> = node.tasks.iter().copied().collect();
        for id in &tasks {
            let Some(live) = self.tasks.get(id) else { continue };
            let report = Report {
                attempt: live.task.standing.attempt,
                rev: live.task.standing.rev,
                observation: Observation::Failed {
                    exit: Exit::default(),
                    message: format!("result unknown: its node '{name}' was forgotten while it was offline"),
                },
            };
            // Never refused: tasks of a node that is offline are lost, and take what is reported.
            let _ = self.apply(*id, &Event::Reported(report), Facts::default(), "node forgotten", now)?;
        }
        self.store.delete_node(name)?;
        let event = NewEvent {
            time_ms: now.unix_ms,
            task: None,
            node: Some(name.as_str()),
            from: Some("offline"),
            to: "forgotten",
            cause: "forget",
        };
        self.record(&event, None)?;
        let parked = self.nodes.remove(name).and_then(|node| node.parked);
        self.turn.polls.extend(parked.map(|parked| (name.clone(), parked)));
        self.turn.nodes.insert(name.clone());
        self.turn.schedule = true;
        Ok(Ok(match tasks.len() {
            0 => format!("Node '{name}' is forgotten."),
            n => format!("Node '{name}' is forgotten; {n} tasks on it are 'failed', their results unknown."),
        }))
    }

    /// 404 for a node, with those that there are.
    fn unknown_node(&self, name: &NodeName) -> ActFault {
        let known: Vec<&str> = self.nodes.keys().map(NodeName::as_str).take(20).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        ActFault::new(404, format!("node '{name}' is not registered (registered: {known})"))
    }
}

/// 404 for a call from a node that has to register first.
pub(super) fn not_registered(name: &NodeName) -> ActFault {
    ActFault::new(404, format!("node '{name}' is not registered: it has to register first"))
}

/// A session's id: a number, and what nobody can guess. Later sessions have higher numbers, also where they were given by Hosts with
/// different databases: so it is the time.
fn new_session(before: &str, unix_ms: u64) -> String {
    format!("{}-{}", number_of(before).saturating_add(1).max(unix_ms), random::hex(16))
}

fn number_of(session: &str) -> u64 {
    session.split_once('-').and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
}

/// For a call of another session than `ours`: 410 where that is over. A later one was given by a Host with a later database, and
/// this one was restored since: 404, so that the Runner registers again by itself.
pub(in crate::host) fn not_this_session(name: &NodeName, ours: &str, theirs: &str) -> ActFault {
    if number_of(theirs) > number_of(ours) {
        let why = "the database, which is older than its session, was restored: it has to register again";
        return ActFault::new(404, format!("node '{name}': {why}"));
    }
    ActFault::new(410, format!("another Runner has registered as node '{name}' since: this session is over"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_over_or_not_known_yet() {
        let name = "n1".parse().expect("a name");
        let first = new_session("", 700);
        let second = new_session(&first, 3);
        assert!(first.starts_with("700-") && second.starts_with("701-") && first.len() == 36, "{first} {second}");
        assert!(new_session(&second, 900).starts_with("900-"));
        for (ours, theirs, status) in [
            (&*second, &*first, 410),
            (&*first, &*second, 404),
            (&*first, "700-0", 410),
            (&*first, "", 410),
            // As they were before they had numbers.
            ("0123456789abcdef", "fedcba9876543210", 410),
            ("0123456789abcdef", &*first, 404),
        ] {
            assert_eq!(not_this_session(&name, ours, theirs).status, status, "{theirs} where {ours} is the session");
        }
    }
}
