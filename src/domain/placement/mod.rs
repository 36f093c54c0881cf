//! Where a task goes: a pure function of the request and a view of the nodes.
//!
//! `fit` asks one node, `held` says what is taken there, `reason` puts answers into words; this file asks all nodes and
//! chooses. It must not know who else is waiting: that is [`super::queue`].

use std::cmp::Ordering;

use super::ids::{GpuId, NodeName, NumaId};
use super::node::{Conditions, Inventory};
use super::spec::{GpuRequest, TaskSpec};

mod fit;
mod held;
mod reason;

pub use held::Held;
pub use reason::WhyNot;

pub(super) use fit::{Obstacle, fit, gpus_to_keep, shortfall};
pub(super) use reason::waiting_for_obstacles;

/// One node as placement sees it.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    pub name: &'a NodeName,
    pub readiness: Readiness,
    pub inventory: &'a Inventory,
    pub conditions: Conditions,
    pub held: &'a Held,
}

/// Whether a node takes new tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Registered, its first complete inventory is still to come: tasks wait for it, it is not refused.
    Joining,
    Offline,
    Draining,
}

/// What was decided for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: NodeName,
    pub numa: Option<NumaId>,
    /// The GPUs it gets (indices on that node), in index order.
    pub gpus: Vec<GpuId>,
    /// It is next in line there: it starts when a task that runs there ends, and holds nothing before there is room for it.
    pub in_line: bool,
}

/// The outcome for one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Placed(Placement),
    /// It may fit later: what it waits for, in a few words.
    Wait(String),
    /// It is refused: unknown node, or it can never fit, or (without `queue`) the named node is offline or draining,
    /// or (with `immediate`) it does not fit now. One sentence with every node's reason.
    Refused(String),
}

/// Places one new task, as if nobody else waited. `nodes` in name order; the order does not change the outcome.
///
/// Only its refusals are final for a new task: whether one that fits gets its turn, [`super::queue::Queue`] says.
///
/// A task without a container needs no Docker, one with a container needs nothing else; a memory limit without a
/// container needs a controller of the node's kernel that its Runner can use. Whether the Runner may start processes as
/// another user (`--user`, where it is not root itself) is not known here: there the task fails with that reason.
pub fn place(spec: &TaskSpec, nodes: &[NodeView<'_>]) -> Verdict {
    let ask = |node: usize| fit(spec, &nodes[node], nodes[node].held);
    let obstacles = match find(spec, nodes, 0..nodes.len(), ask, |node| nodes[node].held) {
        Ok((_, placement)) => return Verdict::Placed(placement),
        Err(Nowhere::NotRegistered(name)) => return Verdict::Refused(reason::not_registered(name, nodes)),
        Err(Nowhere::Obstacles(obstacles)) => obstacles,
    };
    let named = spec.target.is_some();
    // Without a named node, one that is offline or draining may be back before the task's turn: only a node that was
    // asked for by name is worth a refusal.
    let hopeless = obstacles.iter().all(|(_, obstacle)| match obstacle {
        Obstacle::Offline | Obstacle::Draining => named && !spec.patience.queue,
        other => other.is_for_ever(),
    });
    if !spec.patience.immediate && (!hopeless || obstacles.is_empty()) {
        return Verdict::Wait(waiting_for_obstacles(&obstacles, nodes));
    }
    let reasons: Vec<_> =
        obstacles.iter().map(|(node, obstacle)| (nodes[*node].name.clone(), obstacle.why(&nodes[*node]))).collect();
    Verdict::Refused(reason::refusal(named, hopeless, &reasons))
}

/// Why no node takes a task.
pub(super) enum Nowhere<'a> {
    /// It names a node that does not exist.
    NotRegistered(&'a NodeName),
    /// For each node that may be asked (its index): what stands in the way.
    Obstacles(Vec<(usize, Obstacle)>),
}

/// The node (its index) for one task, among those that may be asked: `ask` tells whether it can go there and which GPUs
/// it gets, `held` what is held.
pub(super) fn find<'a, 'h>(
    spec: &'a TaskSpec,
    nodes: &[NodeView<'_>],
    may_be_asked: impl IntoIterator<Item = usize>,
    ask: impl Fn(usize) -> Result<Vec<GpuId>, Obstacle>,
    held: impl Fn(usize) -> &'h Held,
) -> Result<(usize, Placement), Nowhere<'a>> {
    let mut best: Option<(usize, Vec<GpuId>)> = None;
    let mut obstacles = Vec::new();
    let mut asked = false;
    for index in may_be_asked {
        let node = &nodes[index];
        if !may_go_to(spec, node) {
            continue;
        }
        asked = true;
        match ask(index) {
            Err(obstacle) => obstacles.push((index, obstacle)),
            Ok(gpus) => {
                let better = best.as_ref().is_none_or(|(other, _)| {
                    preference(spec, (node, held(index)), (&nodes[*other], held(*other))) == Ordering::Less
                });
                if better {
                    best = Some((index, gpus));
                }
            }
        }
    }
    match (best, &spec.target) {
        (Some((index, gpus)), _) => {
            Ok((index, Placement { node: nodes[index].name.clone(), numa: spec.numa(), gpus, in_line: false }))
        }
        (None, Some(target)) if !asked => Err(Nowhere::NotRegistered(&target.node)),
        (None, _) => Err(Nowhere::Obstacles(obstacles)),
    }
}

/// The task names this node, or none.
pub(super) fn may_go_to(spec: &TaskSpec, node: &NodeView<'_>) -> bool {
    spec.target.as_ref().is_none_or(|target| target.node == *node.name)
}

/// Which of two nodes that both fit is taken (`Less`: the first).
fn preference(spec: &TaskSpec, (a, a_held): (&NodeView<'_>, &Held), (b, b_held): (&NodeView<'_>, &Held)) -> Ordering {
    let order = if spec.cores > 0 {
        // The fullest node that still fits, so that large tasks find the others empty.
        fit::free_cores(a, a_held).cmp(&fit::free_cores(b, b_held))
    } else {
        // The fewest unpinned tasks per core, compared without fractions; then the most free memory.
        let load = |held: &Held, other: &NodeView<'_>| u64::from(held.unpinned) * other.inventory.cpus.len() as u64;
        load(a_held, b)
            .cmp(&load(b_held, a))
            .then_with(|| fit::free_memory(b, b_held).cmp(&fit::free_memory(a, a_held)))
    };
    order.then_with(|| a.name.cmp(b.name))
}

/// Is a GPU request one that needs a device at all?
pub fn needs_gpu(request: &GpuRequest) -> bool {
    request.count() > 0
}

#[cfg(test)]
mod tests;
