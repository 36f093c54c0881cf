//! One pass over the queue: what is left on each node, whom it is kept for, and who found no place.

use std::collections::HashMap;
use std::sync::Arc;

use super::{ClassId, is_vps};
use crate::domain::ids::{GpuId, NodeName, TaskId};
use crate::domain::placement::{
    Held, NodeView, Nowhere, Obstacle, Placement, find, fit, gpus_to_keep, may_go_to, shortfall, waiting_for_obstacles,
};
use crate::domain::spec::TaskSpec;

pub(super) struct Round<'n, 'v> {
    nodes: &'n [NodeView<'v>],
    vps_before: &'n [&'v Held],
    index: HashMap<&'v NodeName, usize>,
    /// What is held where something was placed in this round: in all, and the part that VPS tasks hold.
    held: Vec<Option<Held>>,
    vps: Vec<Option<Held>>,
    /// For whom the node is kept: at most one task, the oldest that asked.
    kept: Vec<Option<Kept>>,
    /// In the order in which they were asked.
    blocked: Vec<Blocked>,
    by_class: HashMap<ClassId, usize>,
}

/// A class whose tasks do not fit now.
struct Blocked {
    class: ClassId,
    spec: Arc<TaskSpec>,
    /// The youngest of it for which a node to keep was looked for.
    served: Option<TaskId>,
    /// Every node that could be reserved for it is reserved for someone older.
    nothing_to_reserve: bool,
    /// For each node, once somebody wants to know: do command tasks alone stand in the way there?
    commands_alone: Vec<Option<bool>>,
}

/// A node that is kept for a task which was passed too often.
struct Kept {
    task: TaskId,
    spec: Arc<TaskSpec>,
    /// What is held there, and what this task asks for on top: what younger ones see.
    taken: Held,
}

impl<'n, 'v> Round<'n, 'v> {
    pub(super) fn new(nodes: &'n [NodeView<'v>], vps_before: &'n [&'v Held]) -> Self {
        Self {
            nodes,
            vps_before,
            index: nodes.iter().enumerate().map(|(at, node)| (node.name, at)).collect(),
            held: vec![None; nodes.len()],
            vps: vec![None; nodes.len()],
            kept: nodes.iter().map(|_| None).collect(),
            blocked: Vec::new(),
            by_class: HashMap::new(),
        }
    }

    fn held(&self, node: usize) -> &Held {
        self.held[node].as_ref().unwrap_or(self.nodes[node].held)
    }

    fn vps_held(&self, node: usize) -> &Held {
        self.vps[node].as_ref().unwrap_or(self.vps_before[node])
    }

    /// The node for a task of this class.
    pub(super) fn find<'a>(&self, spec: &'a TaskSpec) -> Result<(usize, Placement), Nowhere<'a>> {
        let ask = |node| self.ask(spec, node);
        let held = |node| self.held(node);
        match &spec.target {
            None => find(spec, self.nodes, 0..self.nodes.len(), ask, held),
            Some(target) => find(spec, self.nodes, self.index.get(&target.node).copied(), ask, held),
        }
    }

    /// Does it fit there, and leave alone what the node is kept for?
    fn ask(&self, spec: &TaskSpec, node: usize) -> Result<Vec<GpuId>, Obstacle> {
        let view = &self.nodes[node];
        let Some(kept) = &self.kept[node] else {
            return fit(spec, view, self.held(node));
        };
        let gpus = match fit(spec, view, &kept.taken) {
            Ok(gpus) => gpus,
            Err(obstacle) => {
                let has_room = fit(spec, view, self.held(node)).is_ok();
                return Err(if has_room { Obstacle::KeptFor(kept.task) } else { obstacle });
            }
        };
        // Sums alone do not say it: a task for any NUMA node can fill the one that is waited for.
        let mut after = self.held(node).clone();
        after.add_parts(spec, spec.numa(), &gpus);
        if shortfall(&kept.spec, view, &after) != shortfall(&kept.spec, view, self.held(node)) {
            return Err(Obstacle::KeptFor(kept.task));
        }
        Ok(gpus)
    }

    /// What was placed is held from now on.
    pub(super) fn add(&mut self, node: usize, spec: &TaskSpec, placement: &Placement) {
        self.held[node].get_or_insert_with(|| self.nodes[node].held.clone()).add(spec, placement);
        if let Some(kept) = &mut self.kept[node] {
            kept.taken.add(spec, placement);
        }
        if is_vps(spec) {
            self.vps[node].get_or_insert_with(|| self.vps_before[node].clone()).add(spec, placement);
            for blocked in &mut self.blocked {
                if let Some(known) = blocked.commands_alone.get_mut(node) {
                    *known = None;
                }
            }
        }
    }

    /// The first task of a class did not fit: no other will.
    pub(super) fn block(&mut self, class: ClassId, spec: &Arc<TaskSpec>) {
        self.by_class.insert(class, self.blocked.len());
        self.blocked.push(Blocked {
            class,
            spec: spec.clone(),
            served: None,
            nothing_to_reserve: false,
            commands_alone: Vec::new(),
        });
    }

    pub(super) fn is_blocked(&self, class: ClassId) -> bool {
        self.by_class.contains_key(&class)
    }

    fn of(&self, class: ClassId) -> Option<&Blocked> {
        self.by_class.get(&class).map(|at| &self.blocked[*at])
    }

    /// There may still be a node to keep for a task of this class.
    pub(super) fn may_reserve(&self, class: ClassId) -> bool {
        self.of(class).is_some_and(|blocked| !blocked.nothing_to_reserve)
    }

    /// The youngest of a blocked class for which a node to keep was looked for in this round.
    pub(super) fn last_served(&self, class: ClassId) -> Option<TaskId> {
        self.of(class).and_then(|blocked| blocked.served)
    }

    /// The blocked classes that are passed by what is placed on this node, in the order in which they were asked.
    pub(super) fn passed_on(&mut self, node: usize) -> Vec<ClassId> {
        let mut passed = Vec::new();
        for at in 0..self.blocked.len() {
            if self.commands_alone(at, node) {
                passed.push(self.blocked[at].class);
            }
        }
        passed
    }

    fn commands_alone(&mut self, blocked: usize, node: usize) -> bool {
        if let Some(Some(known)) = self.blocked[blocked].commands_alone.get(node) {
            return *known;
        }
        let spec = &self.blocked[blocked].spec;
        let view = &self.nodes[node];
        let alone = may_go_to(spec, view) && fit(spec, view, self.vps_held(node)).is_ok();
        let all = &mut self.blocked[blocked].commands_alone;
        all.resize(self.nodes.len(), None);
        all[node] = Some(alone);
        alone
    }

    /// Keeps a node for a task: of those not yet kept for another, the one where least is missing. While it is kept,
    /// what is missing there can only shrink, so going to another node in a later round is no step back.
    pub(super) fn reserve(&mut self, class: ClassId, task: TaskId) {
        let Some(at) = self.by_class.get(&class).copied() else { return };
        self.blocked[at].served = Some(task);
        if self.blocked[at].nothing_to_reserve {
            return;
        }
        let spec = self.blocked[at].spec.clone();
        let mut nearest = None;
        for (node, view) in self.nodes.iter().enumerate() {
            if self.kept[node].is_some() || !self.commands_alone(at, node) {
                continue;
            }
            let missing = (shortfall(&spec, view, self.held(node)), view.name, node);
            if nearest.is_none_or(|other| missing < other) {
                nearest = Some(missing);
            }
        }
        let Some((_, _, node)) = nearest else {
            self.blocked[at].nothing_to_reserve = true;
            return;
        };
        let gpus = gpus_to_keep(&spec, &self.nodes[node], self.held(node));
        let mut taken = self.held(node).clone();
        taken.add_parts(&spec, spec.numa(), &gpus);
        self.kept[node] = Some(Kept { task, spec, taken });
    }

    /// What stands in the way, for the user.
    pub(super) fn reason(&self, obstacles: &[(usize, Obstacle)]) -> String {
        waiting_for_obstacles(obstacles, self.nodes)
    }
}
