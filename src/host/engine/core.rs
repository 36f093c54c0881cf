//! The state in memory and the turn: act, time out, place, commit, publish, answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::ids::{NodeName, TaskId, TaskName};
use crate::domain::queue::Queue;
use crate::domain::state::State;
use crate::store::{EventRow, NewEvent, Store, StoreFault};
use crate::{error, info};

use super::super::recent::Happened;
use super::super::view::{Changes, LiveTask, NodeEntry, View};
use super::Now;
use super::Reply;
use super::action::{ActFault, Action, OnFault};
use super::desired::Parked;
use super::ids::Ids;
use super::node::Node;
use super::submit::Unanswered;
use super::timers::Deadlines;

/// What the engine is told at start and never changes.
#[derive(Clone, Debug)]
pub(in crate::host) struct Settings {
    pub(in crate::host) cluster_id: String,
    /// The file that bounds the ids.
    pub(in crate::host) ids: std::path::PathBuf,
    /// Random for each start of the Host.
    pub(in crate::host) epoch: String,
    /// How long a node may be silent.
    pub(in crate::host) node_timeout: Duration,
    /// How long tasks that ended are kept.
    pub(in crate::host) retention: Duration,
    /// How often is looked for what is older.
    pub(in crate::host) cleanup_interval: Duration,
    /// Nodes that may be registered: whoever has their token could else make up names without end.
    pub(in crate::host) most_nodes: usize,
    /// Told which tasks were removed, so that their files go too.
    pub(in crate::host) removed: std::sync::mpsc::Sender<Vec<TaskId>>,
}

/// Everything that the engine knows.
pub(super) struct Core {
    pub(super) store: Store,
    pub(super) settings: Settings,
    pub(super) view: Arc<View>,
    pub(super) ids: Ids,
    /// Tasks with this id, or an earlier one, stood in a database that was put back: what has become of them since is not known here.
    pub(super) restored_through: Option<TaskId>,
    /// Every task that is not settled.
    pub(super) tasks: BTreeMap<TaskId, Arc<LiveTask>>,
    /// Those of them that wait.
    pub(super) queue: Queue,
    pub(super) give_up: Deadlines,
    pub(super) names: HashMap<TaskName, TaskId>,
    pub(super) nodes: BTreeMap<NodeName, Node>,
    pub(super) turn: Turn,
    /// When this was loaded.
    pub(super) began: Now,
    /// When the database is looked through for what is older than the retention.
    pub(super) next_cleanup: Instant,
    /// After a turn that could not be stored: no time-outs before this.
    pub(super) pause_until: Option<Instant>,
    /// Nobody waits for news any longer: the Host stops.
    pub(super) letting_go: bool,
}

/// What a turn has changed so far.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) tasks: BTreeSet<TaskId>,
    pub(super) nodes: BTreeSet<NodeName>,
    /// Nodes whose tasks are others now: what is held there has to be derived anew.
    pub(super) held: BTreeSet<NodeName>,
    /// Something was added or freed, so waiting tasks may find a place.
    pub(super) schedule: bool,
    pub(super) happened: Vec<Happened>,
    pub(super) submissions: Vec<Unanswered>,
    /// Polls to be answered, of these nodes.
    pub(super) polls: Vec<(NodeName, Parked)>,
    /// Sent after the commit.
    pub(super) answers: Vec<Box<dyn FnOnce() + Send>>,
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
            ids: Ids::open(&settings.ids, store.newest_id()?, instance(&settings.cluster_id))?,
            restored_through: store.restored_through()?,
            store,
            settings,
            view: view.clone(),
            tasks: BTreeMap::new(),
            queue: Queue::default(),
            give_up: Deadlines::default(),
            names: HashMap::new(),
            nodes: BTreeMap::new(),
            turn: Turn::default(),
            began: now,
            next_cleanup: now.instant,
            pause_until: None,
            letting_go: false,
        };
        core.fill(now)?;
        core.take_in_backup(now)?;
        core.publish(true);
        Ok((core, view))
    }

    /// One turn. Whoever asked is answered when it returns: with what was stored, or all with the same fault.
    pub(super) fn turn(&mut self, actions: Vec<Action>, now: Now) {
        let on_fault: Vec<OnFault> = actions.iter().filter_map(Action::on_fault).collect();
        match self.work(actions, now) {
            Ok(()) => {
                self.publish(false);
                self.answer_polls();
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
            self.schedule(now)?;
        }
        self.answer_submissions(now)?;
        self.derive_held();
        self.store.commit()?;
        if !paused {
            self.clean_up(now);
        }
        Ok(())
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
            Action::Desired(node, poll, reply) => self.desired(&node, poll, reply, now)?,
            Action::AskShell(node, task, order) => self.ask_shell(&node, task, order),
            Action::EndShell(node, id) => self.end_shell(&node, &id),
            Action::LetGo => {
                self.letting_go = true;
                self.turn.nodes.extend(self.nodes.keys().cloned());
            }
            Action::Stop => {}
        }
        Ok(())
    }

    /// Stores a change of a task (of this batch) or node.
    pub(super) fn record(&mut self, event: &NewEvent<'_>, batch: Option<TaskId>) -> Result<(), StoreFault> {
        let seq = self.store.add_event(event)?;
        let row = EventRow {
            seq,
            time_ms: event.time_ms,
            task: event.task,
            node: event.node.map(str::to_owned),
            from: event.from.map(str::to_owned),
            to: event.to.to_owned(),
            cause: event.cause.to_owned(),
        };
        self.turn.happened.push(Happened { row, batch });
        Ok(())
    }

    /// Puts an answer by until the commit.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, ActFault>) {
        // Err: whoever asked has gone; what was asked is done all the same.
        self.turn.answers.push(Box::new(move || drop(reply.try_send(answer))));
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
        self.turn.nodes = self.nodes.keys().cloned().collect();
        self.answer_polls();
        self.turn.nodes.clear();
    }

    /// Fills memory from the database; what only memory knows of a node stays.
    fn fill(&mut self, now: Now) -> Result<(), StoreFault> {
        let mut before = std::mem::take(&mut self.nodes);
        self.tasks.clear();
        self.queue = Queue::default();
        self.give_up.start_over();
        self.names.clear();
        for record in self.store.nodes()? {
            let mut node = match before.remove(&record.name) {
                // The list is a new version in any case: nobody knows which part of the lost turn was shown.
                Some(old) => Node {
                    changes: {
                        let mut changes = old.changes;
                        changes.start_over();
                        changes
                    },
                    // An inventory that could not be stored was not heard.
                    present: old.present && old.record.session == record.session && record.inventoried,
                    record: Arc::new(record),
                    ..old
                },
                None => Node::new(record, now),
            };
            node.clear_tasks();
            self.nodes.insert(node.record.name.clone(), node);
        }
        for task in self.store.live_tasks()? {
            let id = task.id;
            if let Some(name) = &task.spec.name {
                self.names.insert(name.clone(), id);
            }
            if let Some(node) = task.placement.as_ref().and_then(|placement| self.nodes.get_mut(&placement.node)) {
                node.add_task(&task, now);
            }
            let waits = task.standing.state == State::Pending;
            let class = waits.then(|| self.queue.insert(id, &task.spec));
            self.tasks.insert(id, Arc::new(LiveTask { task, class }));
            if waits {
                self.watch_patience(id, now);
            }
        }
        self.turn.held = self.nodes.keys().cloned().collect();
        self.derive_held();
        self.turn.schedule = true;
        Ok(())
    }

    /// What tasks hold on nodes where they are others now, from the tasks themselves: once a turn and node, however many
    /// came or went.
    pub(super) fn derive_held(&mut self) {
        for name in std::mem::take(&mut self.turn.held) {
            if let Some(node) = self.nodes.get_mut(&name) {
                node.derive_held(&self.tasks);
            }
        }
    }

    /// Shows readers what this turn changed, and wakes who waits for it.
    fn publish(&mut self, afresh: bool) {
        let entry = |name: &NodeName| self.nodes.get(name).map(|node| Arc::new(self.entry(node)));
        let mut changes = Changes::default();
        if afresh {
            changes.tasks = self.tasks.iter().map(|(id, live)| (*id, Some(live.clone()))).collect();
            changes.nodes = self.nodes.keys().map(|name| (name.clone(), entry(name))).collect();
        } else {
            changes.tasks = self.turn.tasks.iter().map(|id| (*id, self.tasks.get(id).cloned())).collect();
            changes.nodes = self.turn.nodes.iter().map(|name| (name.clone(), entry(name))).collect();
        }
        changes.reasons = self.queue.take_news();
        self.view.publish(changes, afresh);
        let happened = std::mem::take(&mut self.turn.happened);
        // Whoever follows is woken once for all of it.
        if let Some(last) = happened.last().map(|happened| happened.row.seq) {
            self.view.recent.add(happened);
            self.view.events.set(last);
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
    use crate::domain::ids::IdSequence;

    #[test]
    fn clusters_give_different_ids_in_the_same_millisecond() {
        let id = |cluster: &str| IdSequence::after(0, instance(cluster)).next(1_000);
        assert_ne!(id("0123456789abcdef0123456789abcdef"), id("0123456789abcdef0123456789abcdee"));
    }
}
