//! Where a task goes: a pure function of the request and a view of the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::ids::{GpuId, NodeName, NumaId};
use super::node::{Conditions, Inventory};
use super::spec::{GpuRequest, TaskSpec};

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

/// What the tasks on a node hold. Derived from the tasks (see [`Held::add`]), never counted up and down.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    pub cores: u32,
    pub memory: u64,
    pub gpus: BTreeSet<GpuId>,
    /// Cores held on each NUMA node by tasks that asked for one.
    pub numa_cores: BTreeMap<NumaId, u32>,
    /// Tasks without cores of their own.
    pub unpinned: u32,
}

impl Held {
    /// Adds what one placed task holds.
    pub fn add(&mut self, _spec: &TaskSpec, _placement: &Placement) {
        unimplemented!("domain")
    }
}

/// What was decided for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: NodeName,
    pub numa: Option<NumaId>,
    /// The GPUs it gets (indices on that node), in index order.
    pub gpus: Vec<GpuId>,
}

/// Why a node does not take a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// Never: larger than the node, no such NUMA node or GPU (with a sentence naming what the node has).
    Never(String),
    /// Not now: held by others (with a sentence naming what is short).
    Busy(String),
    Offline,
    Draining,
    /// Not before its first complete inventory.
    Joining,
    /// The node lacks a condition that the task needs now (Docker does not answer …).
    Condition(String),
}

impl fmt::Display for WhyNot {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!("domain")
    }
}

/// The outcome for one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Placed(Placement),
    /// It may fit later: every node's reason.
    Wait(Vec<(NodeName, WhyNot)>),
    /// It is refused: unknown node, or it can never fit, or (without `queue`) the named node is offline or draining,
    /// or (with `immediate`) it does not fit now. One sentence with every node's reason.
    Refused(String),
}

/// Places one task. `nodes` in name order; the order does not change the outcome.
pub fn place(_spec: &TaskSpec, _nodes: &[NodeView<'_>]) -> Verdict {
    unimplemented!("domain")
}

/// The reason shown for a waiting task: short, whole sentences, at most a few nodes by name.
pub fn waiting_for(_reasons: &[(NodeName, WhyNot)]) -> String {
    unimplemented!("domain")
}

/// Is a GPU request one that needs a device at all?
pub fn needs_gpu(request: &GpuRequest) -> bool {
    request.count() > 0
}
