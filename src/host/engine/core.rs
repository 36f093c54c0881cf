//! The state in memory and the turn: act, time out, place, commit, publish, answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::ids::{IdSequence, NodeName, TaskId, TaskName};
use crate::domain::node::Conditions;
use crate::domain::placement::{Held, NodeView, Readiness};
use crate::domain::queue::{Demand, Queue};
use crate::domain::spec::TaskKind;
use crate::domain::state::State;
use crate::store::{NodeRecord, Store, StoreFault};
use crate::{error, info};

use super::super::signal::Signal;
use super::super::view::{Changes, Figures, LiveTask, NodeEntry, View};
use super::Now;
use super::Reply;
use super::action::{ActFault, Action, OnFault};
use super::submit::Unanswered;

/// What the engine is told at start and never changes.
#[derive(Clone, Debug)]
pub(in crate::host) struct Settings {
    pub(in crate::host) cluster_id: String,
    /// Random for each start of the Host.
    pub(in crate::host) epoch: String,
    /// How long a node may be silent.
    pub(in crate::host) node_timeout: Duration,
    /// How long tasks that ended are kept.
    pub(in crate::host) retention: Duration,
    /// How often is looked for what is older.
    pub(in crate::host) cleanup_interval: Duration,
    /// Told which tasks were removed, so that their files go too.
    pub(in crate::host) removed: std::sync::mpsc::Sender<Vec<TaskId>>,
}

/// Everything that the engine knows.
pub(super) struct Core {
    pub(super) store: Store,
    pub(super) settings: Settings,
    pub(super) view: Arc<View>,
    pub(super) ids: IdSequence,
    /// Every task that is not settled.
    pub(super) tasks: BTreeMap<TaskId, Arc<LiveTask>>,
    /// Those of them that wait, in the order of submission.
    pub(super) pending: BTreeSet<TaskId>,
    /// The same, by what they ask for.
    pub(super) queue: Queue,
    /// Nodes of which it has to be derived anew what is held.
    pub(super) dirty: BTreeSet<NodeName>,
    /// When waiting tasks give up.
    pub(super) give_up: BTreeSet<(Instant, TaskId)>,
    pub(super) names: HashMap<TaskName, TaskId>,
    pub(super) nodes: BTreeMap<NodeName, Node>,
    pub(super) turn: Turn,
    /// When the database is looked through for what is older than the retention.
    pub(super) next_cleanup: Instant,
    /// After a turn that could not be stored: no time-outs before this.
    pub(super) pause_until: Option<Instant>,
}

/// What a turn has changed so far.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) tasks: BTreeSet<TaskId>,
    pub(super) nodes: BTreeSet<NodeName>,
    /// Something was added or freed, so waiting tasks may find a place.
    pub(super) schedule: bool,
    pub(super) last_event: Option<u64>,
    pub(super) submissions: Vec<Unanswered>,
    /// What tasks wait for, as far as that is new; None: nobody asks for that any more.
    pub(super) reasons: Vec<(Demand, Option<Arc<str>>)>,
    /// Sent after the commit.
    pub(super) answers: Vec<Box<dyn FnOnce() + Send>>,
}

/// A node in memory: what is stored of it, and what only the living Host knows.
pub(super) struct Node {
    pub(super) record: Arc<NodeRecord>,
    /// When it last called.
    pub(super) heard: Instant,
    /// It has sent a complete inventory since it registered, returned, or the Host started.
    pub(super) present: bool,
    pub(super) last_heartbeat_ms: Option<u64>,
    pub(super) figures: Arc<Figures>,
    pub(super) conditions: Option<Conditions>,
    pub(super) unknown: Arc<BTreeSet<TaskId>>,
    /// How often it was asked for a complete inventory since the Host started; part of the epoch it is told.
    pub(super) calls_for_inventory: u64,
    /// Tasks that its last complete inventory lacked although they were seen there: gone if the next one lacks them too.
    pub(super) suspects: BTreeSet<TaskId>,
    /// Grows whenever its list of tasks changes.
    pub(super) version: u64,
    pub(super) signal: Arc<Signal>,
    /// Tasks placed there that are not settled.
    pub(super) tasks: BTreeSet<TaskId>,
    /// Derived from them.
    pub(super) held: Held,
    /// The part of it that VPS tasks hold.
    pub(super) vps_held: Held,
}

impl Node {
    pub(super) fn new(record: NodeRecord, now: Now) -> Self {
        Self {
            record: Arc::new(record),
            heard: now.instant,
            present: false,
            last_heartbeat_ms: None,
            figures: Arc::default(),
            conditions: None,
            unknown: Arc::default(),
            calls_for_inventory: 0,
            suspects: BTreeSet::new(),
            version: 1,
            signal: Arc::new(Signal::starting_at(1)),
            tasks: BTreeSet::new(),
            held: Held::default(),
            vps_held: Held::default(),
        }
    }

    /// The `host_epoch` that this node is told.
    pub(super) fn epoch(&self, host: &str) -> String {
        format!("{host}-{}", self.calls_for_inventory)
    }

    pub(super) fn readiness(&self) -> Readiness {
        match (self.record.silent, self.record.draining, self.present) {
            (true, _, _) => Readiness::Offline,
            (false, true, _) => Readiness::Draining,
            (false, false, false) => Readiness::Joining,
            (false, false, true) => Readiness::Ready,
        }
    }

    pub(super) fn view(&self) -> NodeView<'_> {
        NodeView {
            name: &self.record.name,
            readiness: self.readiness(),
            inventory: &self.record.inventory,
            conditions: self.conditions.unwrap_or_default(),
            held: &self.held,
        }
    }
}

/// The instance in this cluster's ids: two clusters that share a Docker daemon would else give the same id to what is
/// submitted in the same millisecond, and containers are named after it.
fn instance(cluster_id: &str) -> u16 {
    cluster_id.bytes().fold(0, |sum: u16, byte| sum.wrapping_mul(31).wrapping_add(u16::from(byte)))
}

impl Core {
    /// Reads everything that lives from the database.
    pub(super) fn load(store: Store, settings: Settings, now: Now) -> Result<(Self, Arc<View>), StoreFault> {
        let view = Arc::new(View::new(store.last_event()?));
        let mut core = Self {
            ids: IdSequence::after(store.newest_id()?, instance(&settings.cluster_id)),
            store,
            settings,
            view: view.clone(),
            tasks: BTreeMap::new(),
            pending: BTreeSet::new(),
            queue: Queue::default(),
            dirty: BTreeSet::new(),
            give_up: BTreeSet::new(),
            names: HashMap::new(),
            nodes: BTreeMap::new(),
            turn: Turn::default(),
            next_cleanup: now.instant,
            pause_until: None,
        };
        core.fill(now)?;
        core.publish(true);
        Ok((core, view))
    }

    /// One turn. Whoever asked is answered when it returns: with what was stored, or all with the same fault.
    pub(super) fn turn(&mut self, actions: Vec<Action>, now: Now) {
        let on_fault: Vec<OnFault> = actions.iter().filter_map(Action::on_fault).collect();
        match self.work(actions, now) {
            Ok(()) => {
                self.publish(false);
                let turn = std::mem::take(&mut self.turn);
                self.turn.schedule = turn.schedule;
                turn.answers.into_iter().for_each(|answer| answer());
            }
            Err(fault) => {
                error!("nothing of the last requests was stored: {fault}");
                self.start_over(now);
                let fault = ActFault::new(503, format!("the Host could not store this, and has not done it: {fault}"));
                on_fault.into_iter().for_each(|tell| tell(&fault));
            }
        }
    }

    fn work(&mut self, actions: Vec<Action>, now: Now) -> Result<(), StoreFault> {
        for action in actions {
            self.act(action, now)?;
        }
        // While the disk is full, what nobody asked for waits: so calls that write nothing (heartbeats) still succeed.
        let paused = self.pause_until.is_some_and(|until| until > now.instant);
        if !paused {
            self.pause_until = None;
            self.time_out(now)?;
        }
        if self.turn.schedule && (!paused || !self.turn.submissions.is_empty()) {
            self.turn.schedule = false;
            self.derive_dirty();
            self.schedule(now)?;
        }
        self.answer_submissions(now)?;
        self.derive_dirty();
        self.store.commit()
    }

    fn act(&mut self, action: Action, now: Now) -> Result<(), StoreFault> {
        match action {
            Action::Submit(submission, reply) => self.submit(*submission, reply, now)?,
            Action::Kill(id, reply) => {
                let answer = self.kill(id, now)?;
                self.answer(reply, answer);
            }
            Action::Control(id, control, reply) => {
                let answer = self.control(id, control, now)?;
                self.answer(reply, answer);
            }
            Action::Drain(node, draining, reply) => {
                let answer = self.drain(&node, draining, now)?;
                self.answer(reply, answer);
            }
            Action::Forget(node, reply) => {
                let answer = self.forget(&node, now)?;
                self.answer(reply, answer);
            }
            Action::Register(registration, reply) => {
                let answer = self.register(*registration, now)?;
                self.answer(reply, answer);
            }
            Action::Heartbeat(node, beat, reply) => {
                let answer = self.heartbeat(&node, *beat, now)?;
                self.answer(reply, answer);
            }
            Action::Observed(node, snapshot, reply) => {
                let answer = self.observed(&node, &snapshot, now)?;
                self.answer(reply, answer);
            }
            Action::Desired(node, session, reply) => {
                let answer = self.desired(&node, &session, now)?;
                self.answer(reply, answer);
            }
            Action::Stop => {}
        }
        Ok(())
    }

    /// Puts an answer by until the commit.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, ActFault>) {
        // Err: whoever asked has gone; what was asked is done all the same.
        self.turn.answers.push(Box::new(move || drop(reply.send(answer))));
    }

    /// After a turn that could not be stored, memory is made anew from what is stored.
    fn start_over(&mut self, now: Now) {
        self.store.rollback();
        self.turn = Turn::default();
        self.pause_until = Some(now.instant + Duration::from_secs(1));
        if let Err(fault) = self.fill(now) {
            // Without memory or database there is nothing true to say: systemd starts the Host again.
            panic!("the database can be neither written nor read: {fault}");
        }
        self.publish(true);
    }

    /// Fills memory from the database; what only memory knows of a node stays.
    fn fill(&mut self, now: Now) -> Result<(), StoreFault> {
        let mut before = std::mem::take(&mut self.nodes);
        self.tasks.clear();
        self.pending.clear();
        self.queue = Queue::default();
        self.dirty.clear();
        self.give_up.clear();
        self.names.clear();
        for record in self.store.nodes()? {
            let mut node = match before.remove(&record.name) {
                // The list is a new version in any case: nobody knows which part of the lost turn was shown.
                Some(old) => Node {
                    version: old.version + 1,
                    present: old.present && old.record.session == record.session,
                    record: Arc::new(record),
                    ..old
                },
                None => Node::new(record, now),
            };
            node.tasks.clear();
            self.nodes.insert(node.record.name.clone(), node);
        }
        for task in self.store.live_tasks()? {
            let id = task.id;
            if let Some(name) = &task.spec.name {
                self.names.insert(name.clone(), id);
            }
            if let Some(node) = task.placement.as_ref().and_then(|placement| self.nodes.get_mut(&placement.node)) {
                node.tasks.insert(id);
            }
            if task.standing.state == State::Pending {
                self.pending.insert(id);
                self.queue.insert(id, &task.spec);
            }
            self.tasks.insert(id, Arc::new(LiveTask { task }));
            self.watch_patience(id, now);
        }
        let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
        names.iter().for_each(|name| self.derive_held(name));
        self.turn.schedule = true;
        Ok(())
    }

    /// Once for all tasks that came to a node or left it.
    pub(super) fn derive_dirty(&mut self) {
        for name in std::mem::take(&mut self.dirty) {
            self.derive_held(&name);
        }
    }

    /// What a node's tasks hold, from the tasks themselves.
    fn derive_held(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let (mut held, mut vps_held) = (Held::default(), Held::default());
        for live in node.tasks.iter().filter_map(|id| self.tasks.get(id)) {
            let Some(placement) = &live.task.placement else { continue };
            held.add(&live.task.spec, placement);
            if matches!(live.task.spec.kind, TaskKind::Vps { .. }) {
                vps_held.add(&live.task.spec, placement);
            }
        }
        node.held = held;
        node.vps_held = vps_held;
    }

    /// Shows readers what this turn changed, and wakes who waits for it.
    fn publish(&mut self, afresh: bool) {
        let reasons = std::mem::take(&mut self.turn.reasons);
        let entry = |name: &NodeName| self.nodes.get(name).map(|node| Arc::new(self.entry(node)));
        let mut changes = Changes { reasons, ..Changes::default() };
        if afresh {
            changes.tasks = self.tasks.iter().map(|(id, live)| (*id, Some(live.clone()))).collect();
            changes.nodes = self.nodes.keys().map(|name| (name.clone(), entry(name))).collect();
        } else {
            changes.tasks = self.turn.tasks.iter().map(|id| (*id, self.tasks.get(id).cloned())).collect();
            changes.nodes = self.turn.nodes.iter().map(|name| (name.clone(), entry(name))).collect();
        }
        let wake: Vec<_> = changes.nodes.iter().filter_map(|(name, _)| self.nodes.get(name)).collect();
        self.view.publish(changes, afresh);
        for node in wake {
            node.signal.set(node.version);
        }
        if let Some(seq) = self.turn.last_event {
            self.view.events.set(seq);
        }
    }

    fn entry(&self, node: &Node) -> NodeEntry {
        NodeEntry {
            record: node.record.clone(),
            cores_in_use: node.held.cores,
            last_heartbeat_ms: node.last_heartbeat_ms,
            figures: node.figures.clone(),
            conditions: node.conditions,
            unknown: node.unknown.clone(),
            epoch: node.epoch(&self.settings.epoch),
            signal: node.signal.clone(),
        }
    }

    /// Gives every node a full time-out from now on.
    pub(super) fn excuse_silence(&mut self, now: Now) {
        info!("this process did not run for a while: every node gets a full time-out from now on");
        for node in self.nodes.values_mut() {
            node.heard = now.instant;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_give_different_ids_in_the_same_millisecond() {
        let id = |cluster: &str| IdSequence::after(0, instance(cluster)).next(1_000);
        assert_ne!(id("0123456789abcdef0123456789abcdef"), id("0123456789abcdef0123456789abcdee"));
    }
}
