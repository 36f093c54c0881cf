//! Whose turn it is: first come, first served for each node, with a bound on how often a task is passed.
//!
//! The oldest task is asked first. One that cannot be placed waits, and a younger one may take what it cannot use. So a
//! stream of small tasks could keep a large one waiting for ever; therefore passes are counted, and after
//! [`PASSED_LIMIT`] of them the large one *reserves* a node: what it asks for is kept from everyone younger there, so
//! what its running tasks free adds up until it fits. A node is only worth this where command tasks alone stand in the
//! way, for they end: what VPS tasks hold counts as never freed.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use super::ids::{GpuId, TaskId};
use super::placement::{
    Held, NodeView, Nowhere, Obstacle, Placement, find, fit, gpus_to_keep, may_go_to, shortfall, waiting_for,
};
use super::spec::{Container, GpuRequest, TaskKind, TaskSpec};
use super::target::Target;

/// One waiting task whose turn it is.
#[derive(Clone, Debug)]
struct Waiting<'a> {
    id: TaskId,
    spec: &'a TaskSpec,
    /// How many younger tasks were placed, since it waits, on a node where only command tasks stand in its way.
    passed: u32,
}

/// After this many younger tasks have passed it, a waiting task reserves its node.
pub const PASSED_LIMIT: u32 = 100;

/// How many tasks of one request are looked at in a round although the first of them does not fit. More would only be counted as
/// passed: a task that stands further back is not passed as long as so many of its kind are older.
const LOOKED_AT: usize = 64;

/// Everything that waits, sorted by what it asks for. A round costs a look at every node for each *different* request and for each
/// task that is placed, however many wait.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    classes: HashMap<Demand, Class>,
}

/// The tasks that ask for the same.
#[derive(Clone, Debug, Default)]
struct Class {
    /// Oldest first, with how often each was passed.
    members: BTreeMap<TaskId, (Arc<TaskSpec>, u32)>,
    /// What they wait for, since the last round.
    reason: Option<Arc<str>>,
}

/// What a round brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// In the order of the queue. They stay in it until they are taken out.
    pub placed: Vec<(TaskId, Placement)>,
    /// The node that they name is no longer registered: a person has had it forgotten.
    pub refused: Vec<(TaskId, String)>,
    /// Requests that wait for something else than after the last round.
    pub reasons: Vec<(Demand, Arc<str>)>,
}

impl Queue {
    /// Adds a task; one that is there already stays as it is.
    pub fn insert(&mut self, id: TaskId, spec: &Arc<TaskSpec>) {
        let class = self.classes.entry(Demand::of(spec)).or_default();
        class.members.entry(id).or_insert_with(|| (Arc::clone(spec), 0));
    }

    /// Takes a task out. The answer is its request, if it was the last one that asked for that.
    pub fn remove(&mut self, id: TaskId, spec: &TaskSpec) -> Option<Demand> {
        let demand = Demand::of(spec);
        let class = self.classes.get_mut(&demand)?;
        class.members.remove(&id);
        if class.members.is_empty() {
            self.classes.remove(&demand);
            return Some(demand);
        }
        None
    }

    /// What tasks that ask for the same as this one wait for.
    pub fn reason(&self, spec: &TaskSpec) -> Option<&Arc<str>> {
        self.classes.get(&Demand::of(spec))?.reason.as_ref()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Places what can be placed, oldest first.
    ///
    /// `nodes` is what is held before; `vps_held` has one entry a node, in the same order: the part of `held` that VPS tasks
    /// hold.
    ///
    /// These tasks were accepted, so their `patience` plays no part here: one that does not fit waits, also when its node is
    /// offline, draining or has become too small. A new task is first asked of [`super::placement::place`], whose refusal is
    /// its answer; otherwise it is scheduled with all others, as the youngest, and with `immediate` it is refused if it still
    /// waits after the round. (To start it where `place` says would pass those for whom a node is kept.)
    ///
    /// How often a task was passed is counted here, in memory: to lose it costs a task no more than to be passed again.
    pub fn round(&mut self, nodes: &[NodeView<'_>], vps_held: &[Held]) -> Decided {
        debug_assert_eq!(nodes.len(), vps_held.len(), "one entry of VPS holdings a node");
        let mut decided = Decided::default();
        let mut waited = Vec::new();
        let mut reasons = Vec::new();
        {
            let mut round = Round::new(nodes, vps_held);
            let mut cursors: Vec<_> =
                self.classes.iter().map(|(demand, class)| (demand, class.members.iter(), 0_usize)).collect();
            let mut turns = BinaryHeap::with_capacity(cursors.len());
            for (index, (_, members, _)) in cursors.iter_mut().enumerate() {
                turns.extend(members.next().map(|(id, member)| Reverse(Next { id: *id, class: index, member })));
            }
            while let Some(Reverse(Next { id, class, member: (spec, passed) })) = turns.pop() {
                let (_, members, blocked) = &mut cursors[class];
                match round.turn(&Waiting { id, spec, passed: *passed }) {
                    Answer::Placed(placement) => decided.placed.push((id, placement)),
                    Answer::Refused(reason) => decided.refused.push((id, reason)),
                    Answer::Blocked { class: blocked_class, passed_before } => {
                        if *blocked == 0 {
                            reasons.push((class, blocked_class));
                        }
                        *blocked += 1;
                        waited.push((id, class, blocked_class, passed_before));
                    }
                }
                if *blocked < LOOKED_AT {
                    turns.extend(members.next().map(|(id, member)| Reverse(Next { id: *id, class, member })));
                }
            }
            let demands: Vec<Demand> = cursors.iter().map(|(demand, ..)| (*demand).clone()).collect();
            let reasons: Vec<(Demand, Arc<str>)> = reasons
                .into_iter()
                .map(|(class, blocked)| (demands[class].clone(), round.blocked[blocked].reason.clone()))
                .collect();
            let waited: Vec<(TaskId, Demand, u32)> = waited
                .into_iter()
                .map(|(id, class, blocked, before)| {
                    (id, demands[class].clone(), round.blocked[blocked].passed_after(before))
                })
                .collect();
            decided.reasons = reasons;
            drop(round);
            drop(cursors);
            self.note(waited, &mut decided);
        }
        decided
    }

    /// Keeps what the round has counted, and leaves in it only what is new.
    fn note(&mut self, waited: Vec<(TaskId, Demand, u32)>, decided: &mut Decided) {
        for (id, demand, passed) in waited {
            if let Some(member) = self.classes.get_mut(&demand).and_then(|class| class.members.get_mut(&id)) {
                member.1 = passed;
            }
        }
        decided.reasons.retain(|(demand, reason)| {
            let Some(class) = self.classes.get_mut(demand) else { return false };
            let is_news = class.reason.as_ref() != Some(reason);
            class.reason = Some(reason.clone());
            is_news
        });
    }
}

/// Whose turn is next: the oldest's.
struct Next<'a> {
    id: TaskId,
    class: usize,
    member: &'a (Arc<TaskSpec>, u32),
}

impl PartialEq for Next<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Next<'_> {}

impl PartialOrd for Next<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Next<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

/// What decides whether a task fits, and what it is then counted for: tasks alike in this wait in one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Demand {
    cores: u32,
    memory: u64,
    gpus: GpuRequest,
    target: Option<Target>,
    contained: bool,
    is_vps: bool,
}

impl Demand {
    /// VPS tasks ask for it.
    pub fn is_vps(&self) -> bool {
        self.is_vps
    }

    /// Of this specification.
    pub fn of(spec: &TaskSpec) -> Self {
        Self {
            cores: spec.cores,
            memory: spec.memory.map_or(0, |memory| memory.0),
            gpus: spec.gpus.clone(),
            target: spec.target.clone(),
            contained: match spec.container {
                Container::Environment { .. } => true,
                Container::Null => false,
            },
            is_vps: match spec.kind {
                TaskKind::Vps { .. } => true,
                TaskKind::Command { .. } => false,
            },
        }
    }
}

/// What decides whether a task fits. Two tasks alike in this have the same fate: within a round room only shrinks, so
/// what did not fit for the older one is not asked again for the younger.
#[derive(PartialEq, Eq, Hash)]
struct Request<'a> {
    cores: u32,
    memory: u64,
    gpus: &'a GpuRequest,
    target: Option<&'a Target>,
    contained: bool,
}

impl<'a> Request<'a> {
    fn of(spec: &'a TaskSpec) -> Self {
        Self {
            cores: spec.cores,
            memory: spec.memory.map_or(0, |memory| memory.0),
            gpus: &spec.gpus,
            target: spec.target.as_ref(),
            contained: match spec.container {
                Container::Environment { .. } => true,
                Container::Null => false,
            },
        }
    }
}

/// The tasks of one request that does not fit now.
struct Blocked<'a> {
    spec: &'a TaskSpec,
    reason: Arc<str>,
    /// Younger tasks placed in this round, since the first of these was asked, where these could have been.
    passed: u32,
    /// Those who have reserved nothing yet, oldest first, with their passes before this round (less what `passed` was
    /// when they were asked).
    members: VecDeque<(TaskId, i64)>,
    /// Every node that could be reserved for it is reserved for someone older.
    nothing_to_reserve: bool,
}

impl Blocked<'_> {
    /// Counted no further than the limit, beyond which it says nothing: a long queue would only be rewritten for it.
    fn passed_after(&self, before: i64) -> u32 {
        u32::try_from(before + i64::from(self.passed)).unwrap_or(PASSED_LIMIT).min(PASSED_LIMIT)
    }
}

/// A node that is kept for a task which was passed too often.
struct Kept<'a> {
    task: TaskId,
    spec: &'a TaskSpec,
    /// What is held there, and what this task asks for on top: what younger ones see.
    taken: Held,
}

enum Answer {
    Placed(Placement),
    Refused(String),
    /// Waits with this class; see [`Blocked::members`] for the number.
    Blocked {
        class: usize,
        passed_before: i64,
    },
}

/// One pass over the queue.
struct Round<'a, 'n> {
    nodes: &'n [NodeView<'n>],
    /// What is held: before, and by what was placed in this round.
    held: Vec<Held>,
    /// The part of it that VPS tasks hold.
    vps: Vec<Held>,
    /// For whom the node is kept: at most one task, the oldest that asked.
    kept: Vec<Option<Kept<'a>>>,
    classes: HashMap<Request<'a>, usize>,
    blocked: Vec<Blocked<'a>>,
}

impl<'a, 'n> Round<'a, 'n> {
    fn new(nodes: &'n [NodeView<'n>], vps_held: &[Held]) -> Self {
        Self {
            nodes,
            held: nodes.iter().map(|node| node.held.clone()).collect(),
            vps: vps_held.to_vec(),
            kept: nodes.iter().map(|_| None).collect(),
            classes: HashMap::new(),
            blocked: Vec::new(),
        }
    }

    fn turn(&mut self, task: &Waiting<'a>) -> Answer {
        let request = Request::of(task.spec);
        if let Some(class) = self.classes.get(&request) {
            return self.wait(task, *class);
        }
        match find(task.spec, self.nodes, |node| self.ask(task.spec, node), |node| &self.held[node]) {
            Ok((node, placement)) => {
                self.take(node, task.spec, &placement);
                Answer::Placed(placement)
            }
            Err(Nowhere::NotRegistered(name)) => Answer::Refused(format!("node '{name}' is no longer registered")),
            Err(Nowhere::Obstacles(obstacles)) => {
                let class = self.blocked.len();
                self.blocked.push(Blocked {
                    spec: task.spec,
                    reason: self.reason(&obstacles),
                    passed: 0,
                    members: VecDeque::new(),
                    nothing_to_reserve: false,
                });
                self.classes.insert(request, class);
                self.wait(task, class)
            }
        }
    }

    /// Does it fit there, and leave alone what the node is kept for?
    fn ask(&self, spec: &TaskSpec, node: usize) -> Result<Vec<GpuId>, Obstacle> {
        let view = &self.nodes[node];
        let Some(kept) = &self.kept[node] else {
            return fit(spec, view, &self.held[node]);
        };
        let gpus = match fit(spec, view, &kept.taken) {
            Ok(gpus) => gpus,
            Err(obstacle) => {
                let has_room = fit(spec, view, &self.held[node]).is_ok();
                return Err(if has_room { Obstacle::KeptFor(kept.task) } else { obstacle });
            }
        };
        // Sums alone do not say it: a task for any NUMA node can fill the one that is waited for.
        let mut after = self.held[node].clone();
        after.add_parts(spec, spec.numa(), &gpus);
        if shortfall(kept.spec, view, &after) != shortfall(kept.spec, view, &self.held[node]) {
            return Err(Obstacle::KeptFor(kept.task));
        }
        Ok(gpus)
    }

    fn wait(&mut self, task: &Waiting<'a>, class: usize) -> Answer {
        let passed_before = i64::from(task.passed) - i64::from(self.blocked[class].passed);
        if task.passed < PASSED_LIMIT {
            self.blocked[class].members.push_back((task.id, passed_before));
        } else {
            self.reserve(task.id, class);
        }
        Answer::Blocked { class, passed_before }
    }

    /// Gives a task its place, and counts the pass for those older ones that could have been there but for command
    /// tasks.
    fn take(&mut self, node: usize, spec: &TaskSpec, placement: &Placement) {
        self.held[node].add(spec, placement);
        if let Some(kept) = &mut self.kept[node] {
            kept.taken.add(spec, placement);
        }
        if let TaskKind::Vps { .. } = spec.kind {
            self.vps[node].add(spec, placement);
        }
        for class in 0..self.blocked.len() {
            let spec = self.blocked[class].spec;
            if !self.only_commands_stand_in_the_way(spec, node) {
                continue;
            }
            let blocked = &mut self.blocked[class];
            blocked.passed = blocked.passed.saturating_add(1);
            while let Some((task, before)) = self.blocked[class].members.front().copied() {
                if self.blocked[class].passed_after(before) < PASSED_LIMIT {
                    break;
                }
                self.blocked[class].members.pop_front();
                self.reserve(task, class);
            }
        }
    }

    fn only_commands_stand_in_the_way(&self, spec: &TaskSpec, node: usize) -> bool {
        may_go_to(spec, &self.nodes[node]) && fit(spec, &self.nodes[node], &self.vps[node]).is_ok()
    }

    /// Keeps a node for a task: of those not yet kept for another, the one where least is missing. While it is kept,
    /// what is missing there can only shrink, so going to another node in a later round is no step back.
    fn reserve(&mut self, task: TaskId, class: usize) {
        let spec = self.blocked[class].spec;
        if self.blocked[class].nothing_to_reserve {
            return;
        }
        let nearest = (0..self.nodes.len())
            .filter(|node| self.kept[*node].is_none() && self.only_commands_stand_in_the_way(spec, *node))
            .min_by_key(|node| (shortfall(spec, &self.nodes[*node], &self.held[*node]), self.nodes[*node].name));
        let Some(node) = nearest else {
            self.blocked[class].nothing_to_reserve = true;
            return;
        };
        let gpus = gpus_to_keep(spec, &self.nodes[node], &self.held[node]);
        let mut taken = self.held[node].clone();
        taken.add_parts(spec, spec.numa(), &gpus);
        self.kept[node] = Some(Kept { task, spec, taken });
    }

    fn reason(&self, obstacles: &[(usize, Obstacle)]) -> Arc<str> {
        let reasons: Vec<_> = obstacles
            .iter()
            .map(|(node, obstacle)| (self.nodes[*node].name.clone(), obstacle.why(&self.nodes[*node])))
            .collect();
        waiting_for(&reasons).into()
    }
}

#[cfg(test)]
mod tests;
