//! The queue in the plainest way, task by task and without anything kept between rounds but the passes: what
//! [`super::Queue`] is compared with.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::PASSED_LIMIT;
use crate::domain::ids::{GpuId, TaskId};
use crate::domain::placement::{
    Held, NodeView, Nowhere, Obstacle, Placement, find, fit, gpus_to_keep, may_go_to, shortfall, waiting_for_obstacles,
};
use crate::domain::spec::{Container, GpuRequest, TaskKind, TaskSpec};
use crate::domain::target::Target;

/// One waiting task, oldest first in the list given to [`schedule`].
#[derive(Clone, Debug)]
pub(super) struct Waiting<'a> {
    pub(super) id: TaskId,
    pub(super) spec: &'a TaskSpec,
    /// How many younger tasks were placed, since it waits, on a node where only command tasks stand in its way.
    pub(super) passed: u32,
}

/// What became of one waiting task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Placed(Placement),
    /// Still waiting, `passed` so often by now (to be kept, and given back with the next call; to lose it costs a task
    /// no more than to be passed again).
    Waits {
        /// What it waits for, for the user. Shared by all tasks that ask for the same.
        reason: Arc<str>,
        passed: u32,
    },
    /// The node that it names is no longer registered: a person has had it forgotten.
    Refused(String),
}

/// Places what can be placed, oldest first, and answers for every waiting task, in the order given.
pub(super) fn schedule(waiting: &[Waiting<'_>], nodes: &[NodeView<'_>], vps_held: &[Held]) -> Vec<(TaskId, Turn)> {
    debug_assert_eq!(nodes.len(), vps_held.len(), "one entry of VPS holdings a node");
    if waiting.is_empty() {
        return Vec::new();
    }
    let mut round = Round::new(nodes, vps_held);
    let answers: Vec<Answer> = waiting.iter().map(|task| round.turn(task)).collect();
    let turns = answers.into_iter().map(|answer| match answer {
        Answer::Ready(turn) => turn,
        Answer::Blocked { class, passed_before } => {
            let class = &round.blocked[class];
            Turn::Waits { reason: class.reason.clone(), passed: class.passed_after(passed_before) }
        }
    });
    waiting.iter().map(|task| task.id).zip(turns).collect()
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
    vps: bool,
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
            vps: matches!(spec.kind, TaskKind::Vps { .. }),
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
    Ready(Turn),
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
        match find(
            task.spec,
            self.nodes,
            0..self.nodes.len(),
            |node| self.ask(task.spec, node),
            |node| &self.held[node],
        ) {
            Ok((node, placement)) => {
                self.take(node, task.spec, &placement);
                Answer::Ready(Turn::Placed(placement))
            }
            Err(Nowhere::NotRegistered(name)) => {
                Answer::Ready(Turn::Refused(format!("node '{name}' is no longer registered")))
            }
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
        waiting_for_obstacles(obstacles, self.nodes).into()
    }
}
