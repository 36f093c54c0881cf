//! Whose turn it is: first come, first served for each node, with a bound on how often a task is passed.

use std::sync::Arc;

use super::ids::TaskId;
use super::placement::{NodeView, Placement};
use super::spec::TaskSpec;

/// One waiting task, oldest first in the list given to [`schedule`].
#[derive(Clone, Debug)]
pub struct Waiting<'a> {
    pub id: TaskId,
    pub spec: &'a TaskSpec,
    /// How many younger tasks were placed, since it waits, on a node where only command tasks stand in its way.
    pub passed: u32,
}

/// What became of one waiting task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Placed(Placement),
    /// Still waiting, `passed` so often by now (to be kept, and given back with the next call).
    Waits {
        /// What it waits for, for the user. Shared by all tasks that ask for the same.
        reason: Arc<str>,
        passed: u32,
    },
    /// The node that it names is no longer registered: a person has had it forgotten.
    Refused(String),
}

/// After this many younger tasks have passed it, a waiting task reserves its node.
pub const PASSED_LIMIT: u32 = 100;

/// Places what can be placed, oldest first. `nodes` is what is held before; `vps_held` tells which part of it is held
/// by VPS tasks (counted as never freed).
pub fn schedule(
    _waiting: &[Waiting<'_>],
    _nodes: &[NodeView<'_>],
    _vps_held: &[super::placement::Held],
) -> Vec<(TaskId, Turn)> {
    unimplemented!("domain")
}
