//! What a node has, as its Runner read it from the machine.

use super::cpuset::CpuSet;
use super::ids::{GpuId, NumaId};

/// A node's hardware: read once at registration, and again when it changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// The CPUs that tasks may run on (online, and allowed to the Runner).
    pub cpus: CpuSet,
    /// Physical memory, in bytes.
    pub memory: u64,
    /// Online NUMA nodes, also those without CPUs; empty where the kernel tells none.
    pub numa: Vec<NumaNode>,
    /// GPUs in index order.
    pub gpus: Vec<Gpu>,
    /// Sets of hardware threads that share a physical core; CPUs that stand in none are alone.
    pub siblings: Vec<CpuSet>,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq)]
pub struct NumaNode {
    pub id: NumaId,
    pub cpus: CpuSet,
    /// Its memory, in bytes; 0 is possible.
    pub memory: u64,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    pub id: GpuId,
    /// What Docker is told: indices move at reboot, the UUID does not.
    pub uuid: String,
    pub numa: Option<NumaId>,
}

/// What the node can do now, from the last heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Conditions {
    /// The Docker daemon answers.
    pub docker: bool,
    /// A systemd that takes scopes answers.
    pub systemd: bool,
    /// A memory limit can be enforced without a container.
    pub memory_limit: bool,
    /// The cgroup freezer can be used without a container.
    pub freezer: bool,
}
