//! Whose turn it is: first come, first served for each node, with a bound on how often a task is passed.
//!
//! The oldest task is asked first. One that cannot be placed waits, and a younger one may take what it cannot use. So a
//! stream of small tasks could keep a large one waiting for ever; therefore passes are counted, and after
//! [`PASSED_LIMIT`] of them the large one *reserves* a node: what it asks for is kept from everyone younger there, so
//! what its running tasks free adds up until it fits. A node is only worth this where command tasks alone stand in the
//! way, for they end: what VPS tasks hold counts as never freed.
//!
//! Tasks that ask for the same stand in one *class*, in the order of their ids. Within a round room only shrinks, so
//! when the first of a class does not fit, no other of it does: a round costs a look at the nodes for each class and for
//! each task that is placed, however many wait. `reference` (for the tests) says the same in the plainest way, task by
//! task.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::ids::TaskId;
use super::placement::{Held, NodeView, Nowhere, Placement};
use super::spec::{Container, GpuRequest, TaskKind, TaskSpec};
use super::target::Target;

mod round;

use round::Round;

/// After this many younger tasks have passed it, a waiting task reserves its node.
pub const PASSED_LIMIT: u32 = 100;

/// All tasks that wait.
#[derive(Debug, Default)]
pub struct Queue {
    classes: BTreeMap<ClassId, Class>,
    by_request: HashMap<Request, ClassId>,
    /// Every task that waits, and where.
    waiting: BTreeMap<TaskId, ClassId>,
    /// The class that took the last task: the next one of a batch asks for the same.
    last: Option<ClassId>,
    next_class: u64,
    /// Classes whose reason is another one since [`Queue::take_news`] was last called, or which are empty.
    news: BTreeSet<ClassId>,
}

/// Stands for all tasks that wait for the same; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u64);

/// What became of a task that waits no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Placed(Placement),
    /// The node that it names is no longer registered: a person has had it forgotten.
    Refused(String),
}

/// A class of which there is something new to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub class: ClassId,
    /// They are VPS tasks.
    pub vps: bool,
    /// What its tasks wait for, for the user; None: none waits any more.
    pub reason: Option<Arc<str>>,
}

/// What decides whether a task fits. Two tasks alike in this have the same fate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Request {
    cores: u32,
    memory: u64,
    gpus: GpuRequest,
    target: Option<Target>,
    contained: bool,
    vps: bool,
}

/// The tasks of one request.
#[derive(Debug)]
struct Class {
    /// Of one of them: alike in all that matters here.
    spec: Arc<TaskSpec>,
    members: BTreeSet<TaskId>,
    /// The youngest tasks that were placed where only command tasks stand in the way of these, while these waited; no
    /// more than [`PASSED_LIMIT`] of them. A member was passed by those among them that are younger than itself, and
    /// beyond the limit nobody asks how often. (One that comes back from a node that never started it may count some
    /// who passed it while it was away, or begin anew where its class had become empty.)
    passed_by: BTreeSet<TaskId>,
    reason: Option<Arc<str>>,
}

impl Request {
    fn of(spec: &TaskSpec) -> Self {
        Self {
            cores: spec.cores,
            memory: memory(spec),
            gpus: spec.gpus.clone(),
            target: spec.target.clone(),
            contained: is_contained(spec),
            vps: is_vps(spec),
        }
    }
}

/// Equal requests?
fn alike(a: &TaskSpec, b: &TaskSpec) -> bool {
    (a.cores, memory(a), &a.gpus, &a.target, is_contained(a), is_vps(a))
        == (b.cores, memory(b), &b.gpus, &b.target, is_contained(b), is_vps(b))
}

fn memory(spec: &TaskSpec) -> u64 {
    spec.memory.map_or(0, |memory| memory.0)
}

fn is_contained(spec: &TaskSpec) -> bool {
    match spec.container {
        Container::Environment { .. } => true,
        Container::Null => false,
    }
}

fn is_vps(spec: &TaskSpec) -> bool {
    match spec.kind {
        TaskKind::Vps { .. } => true,
        TaskKind::Command { .. } => false,
    }
}

impl Class {
    fn passes(&self, task: TaskId) -> u32 {
        let younger = self.passed_by.range((Bound::Excluded(task), Bound::Unbounded)).count();
        u32::try_from(younger).unwrap_or(PASSED_LIMIT)
    }

    /// It was passed so often that a node is kept for it.
    fn is_starved(&self, task: TaskId) -> bool {
        self.passed_by.len() >= PASSED_LIMIT as usize && self.passed_by.first().is_some_and(|oldest| *oldest > task)
    }

    fn count_pass(&mut self, by: TaskId) {
        self.passed_by.insert(by);
        if self.passed_by.len() > PASSED_LIMIT as usize {
            self.passed_by.pop_first();
        }
    }

    fn after(&self, task: TaskId) -> Option<TaskId> {
        self.members.range((Bound::Excluded(task), Bound::Unbounded)).next().copied()
    }

    fn next_after(&self, task: Option<TaskId>) -> Option<TaskId> {
        task.map_or_else(|| self.members.first().copied(), |task| self.after(task))
    }
}

impl Queue {
    /// Puts a task where its id says. (A task that waits already stays where it is.)
    pub fn insert(&mut self, id: TaskId, spec: &Arc<TaskSpec>) -> ClassId {
        if let Some(class) = self.waiting.get(&id) {
            return *class;
        }
        let key = self.class_of(spec);
        let class = self.classes.entry(key).or_insert_with(|| Class {
            spec: spec.clone(),
            members: BTreeSet::new(),
            passed_by: BTreeSet::new(),
            reason: None,
        });
        class.members.insert(id);
        self.waiting.insert(id, key);
        self.last = Some(key);
        key
    }

    fn class_of(&mut self, spec: &TaskSpec) -> ClassId {
        if let Some(last) = self.last
            && self.classes.get(&last).is_some_and(|class| alike(&class.spec, spec))
        {
            return last;
        }
        *self.by_request.entry(Request::of(spec)).or_insert_with(|| {
            self.next_class += 1;
            ClassId(self.next_class)
        })
    }

    /// Takes a task out: true if it waited.
    pub fn remove(&mut self, id: TaskId) -> bool {
        let Some(key) = self.waiting.remove(&id) else { return false };
        let Some(class) = self.classes.get_mut(&key) else { return true };
        class.members.remove(&id);
        if class.members.is_empty() {
            self.by_request.remove(&Request::of(&class.spec));
            self.classes.remove(&key);
            self.news.insert(key);
        }
        true
    }

    /// The one that has waited longest, and what it asks for.
    pub fn oldest(&self) -> Option<(TaskId, &Arc<TaskSpec>)> {
        let (id, class) = self.waiting.first_key_value()?;
        self.classes.get(class).map(|class| (*id, &class.spec))
    }

    /// Does it wait?
    pub fn contains(&self, id: TaskId) -> bool {
        self.waiting.contains_key(&id)
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What this task waits for, for the user; None before its first round.
    pub fn reason(&self, id: TaskId) -> Option<Arc<str>> {
        self.waiting.get(&id).and_then(|class| self.classes.get(class)).and_then(|class| class.reason.clone())
    }

    /// How many younger tasks were placed, since it waits, on a node where only command tasks stand in its way; counted
    /// no further than [`PASSED_LIMIT`].
    pub fn passes(&self, id: TaskId) -> u32 {
        self.waiting.get(&id).and_then(|class| self.classes.get(class)).map_or(0, |class| class.passes(id))
    }

    /// What is new to tell since the last time.
    pub fn take_news(&mut self) -> Vec<News> {
        let news = std::mem::take(&mut self.news);
        news.into_iter()
            .map(|key| {
                let class = self.classes.get(&key);
                News {
                    class: key,
                    vps: class.is_none_or(|class| is_vps(&class.spec)),
                    reason: class.and_then(|class| class.reason.clone()),
                }
            })
            .collect()
    }

    /// Places what can be placed, oldest first: those whose wait is over, in that order. They are out of the queue.
    ///
    /// `nodes` is what is held before; `vps_held` has one entry a node, in the same order: the part of `held` that VPS
    /// tasks hold.
    ///
    /// These tasks were accepted, so their `patience` plays no part here: one that does not fit waits, also when its
    /// node is offline, draining or has become too small. A new task is first asked of [`super::placement::place`],
    /// whose refusal is its answer; otherwise it has its turn with all others, as the youngest, and with `immediate` it
    /// is refused if it waits after that. (To start it where `place` says would pass those for whom a node is kept.)
    pub fn round(&mut self, nodes: &[NodeView<'_>], vps_held: &[&Held]) -> Vec<(TaskId, Turn)> {
        debug_assert_eq!(nodes.len(), vps_held.len(), "one entry of VPS holdings a node");
        let mut turns = Vec::new();
        let mut round = Round::new(nodes, vps_held);
        let mut next: BinaryHeap<Reverse<(TaskId, ClassId)>> =
            self.classes.iter().filter_map(|(key, class)| Some(Reverse((*class.members.first()?, *key)))).collect();
        while let Some(Reverse((id, key))) = next.pop() {
            let Some(class) = self.classes.get_mut(&key) else { continue };
            let following = if round.is_blocked(key) {
                // It is here only because it was passed too often.
                round.reserve(key, id);
                class.after(id).filter(|after| round.may_reserve(key) && class.is_starved(*after))
            } else {
                let following = class.after(id);
                let spec = class.spec.clone();
                match round.find(&spec) {
                    Ok((node, placement)) => {
                        self.remove(id);
                        self.take(&mut round, node, id, &spec, &placement);
                        turns.push((id, Turn::Placed(placement)));
                        following
                    }
                    Err(Nowhere::NotRegistered(name)) => {
                        let why = format!("node '{name}' is no longer registered");
                        self.remove(id);
                        turns.push((id, Turn::Refused(why)));
                        following
                    }
                    Err(Nowhere::Obstacles(obstacles)) => {
                        let reason = round.reason(&obstacles);
                        if class.reason.as_deref() != Some(&*reason) {
                            class.reason = Some(reason.into());
                            self.news.insert(key);
                        }
                        round.block(key, &spec);
                        if class.is_starved(id) {
                            round.reserve(key, id);
                        }
                        following.filter(|after| round.may_reserve(key) && class.is_starved(*after))
                    }
                }
            };
            if let Some(following) = following {
                next.push(Reverse((following, key)));
            }
        }
        turns
    }

    /// Gives a task its place, and counts the pass for those older ones that could have been there but for command
    /// tasks.
    fn take(&mut self, round: &mut Round<'_, '_>, node: usize, id: TaskId, spec: &Arc<TaskSpec>, at: &Placement) {
        round.add(node, spec, at);
        for key in round.passed_on(node) {
            let Some(class) = self.classes.get_mut(&key) else { continue };
            class.count_pass(id);
            // Those older ones for whom this was one too many.
            while let Some(starved) = class.next_after(round.last_served(key))
                && starved < id
                && class.is_starved(starved)
                && round.may_reserve(key)
            {
                round.reserve(key, starved);
            }
        }
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
