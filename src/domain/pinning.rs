//! Which cores of a node a task gets: whole NUMA node and whole physical cores first, near its GPUs.

use super::cpuset::CpuSet;
use super::ids::NumaId;
use super::node::Inventory;

/// The cores a task is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub cpus: CpuSet,
    /// NUMA nodes whose memory it may use; empty = all.
    pub mems: CpuSet,
}

/// What is asked of [`pin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRequest {
    /// 0 = not exclusive: all CPUs of `numa`, or None if no NUMA node was asked for.
    pub cores: u32,
    pub numa: Option<NumaId>,
    /// NUMA nodes of its GPUs, preferred.
    pub near: Vec<NumaId>,
}

/// Picks the cores. Ok(None): it is not pinned at all. `held` are the CPUs bound exclusively to other tasks.
///
/// # Errors
/// One sentence: how many cores were asked for, and how many are free where.
pub fn pin(_request: &PinRequest, _node: &Inventory, _held: &CpuSet) -> Result<Option<Pinned>, String> {
    unimplemented!("domain")
}
