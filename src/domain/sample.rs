//! Tasks, nodes and random numbers for the tests of this floor.

use super::ids::{GpuId, NodeName, NumaId};
use super::node::{Conditions, Gpu, Inventory, NumaNode};
use super::placement::{Held, NodeView, Readiness};
use super::size::Bytes;
use super::spec::{Container, GpuRequest, Patience, TaskKind, TaskSpec};
use super::target;

/// A gigabyte.
pub(super) const G: u64 = 1_000_000_000;

/// A command task in a container, with cores of its own.
pub(super) fn command(cores: u32) -> TaskSpec {
    TaskSpec {
        kind: TaskKind::Command { program: "true".to_owned(), arguments: Vec::new() },
        cores,
        memory: None,
        gpus: GpuRequest::None,
        target: None,
        container: Container::Environment {
            name: "base".parse().expect("a valid name"),
            privileged: false,
            mounts: Vec::new(),
        },
        name: None,
        env: [].into(),
        patience: Patience::default(),
        time_limit: None,
        workdir: None,
        user: None,
    }
}

/// A VPS. (Its keys play no part in placement.)
pub(super) fn vps(cores: u32) -> TaskSpec {
    TaskSpec { kind: TaskKind::Vps { keys: Vec::new() }, ..command(cores) }
}

impl TaskSpec {
    /// On this target, which may name GPUs.
    pub(super) fn on(mut self, text: &str) -> Self {
        let (target, gpus) = target::parse(text).unwrap_or_else(|fault| panic!("{fault}"));
        self.target = Some(target);
        if !gpus.is_empty() {
            self.gpus = GpuRequest::Ids(gpus);
        }
        self
    }

    pub(super) fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(Bytes(bytes));
        self
    }

    pub(super) fn any_gpus(mut self, count: u32) -> Self {
        self.gpus = GpuRequest::Any(count);
        self
    }

    pub(super) fn without_container(mut self) -> Self {
        self.container = Container::Null;
        self
    }

    pub(super) fn immediate(mut self) -> Self {
        self.patience.immediate = true;
        self
    }

    pub(super) fn queue(mut self) -> Self {
        self.patience.queue = true;
        self
    }
}

/// A node that owns what [`NodeView`] borrows.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) readiness: Readiness,
    pub(super) inventory: Inventory,
    pub(super) conditions: Conditions,
    pub(super) held: Held,
}

impl Node {
    /// A ready node that can do everything, with 64 GB.
    pub(super) fn new(name: &str, cores: u32) -> Self {
        Self {
            name: name.parse().expect("a valid name"),
            readiness: Readiness::Ready,
            inventory: Inventory { cpus: (0..cores).collect(), memory: 64 * G, ..Inventory::default() },
            conditions: Conditions { docker: true, systemd: true, memory_limit: true, freezer: true },
            held: Held::default(),
        }
    }

    pub(super) fn memory(mut self, bytes: u64) -> Self {
        self.inventory.memory = bytes;
        self
    }

    pub(super) fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// Its CPUs dealt out to this many NUMA nodes in equal blocks, its memory too.
    pub(super) fn numa(mut self, count: u32) -> Self {
        let cores = self.inventory.cpus.len() as u32 / count;
        let memory = self.inventory.memory / u64::from(count);
        self.inventory.numa = (0..count)
            .map(|id| NumaNode { id: NumaId(id), cpus: (id * cores..(id + 1) * cores).collect(), memory })
            .collect();
        self
    }

    /// A GPU for each entry, on that NUMA node.
    pub(super) fn gpus(mut self, numa: &[Option<u32>]) -> Self {
        self.inventory.gpus = (0..)
            .zip(numa)
            .map(|(id, numa)| Gpu { id: GpuId(id), uuid: format!("GPU-{id}"), numa: numa.map(NumaId) })
            .collect();
        self
    }

    pub(super) fn holds(mut self, cores: u32, memory: u64) -> Self {
        self.held.cores += cores;
        self.held.memory += memory;
        self
    }

    pub(super) fn holds_gpus(mut self, gpus: &[u32]) -> Self {
        self.held.gpus.extend(gpus.iter().map(|id| GpuId(*id)));
        self
    }

    pub(super) fn unpinned(mut self, count: u32) -> Self {
        self.held.unpinned = count;
        self
    }

    pub(super) fn view(&self) -> NodeView<'_> {
        NodeView {
            name: &self.name,
            readiness: self.readiness,
            inventory: &self.inventory,
            conditions: self.conditions,
            held: &self.held,
        }
    }
}

/// Marsaglia's xorshift: the same numbers in every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, which is above zero.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) % u64::from(end)) as u32
    }

    /// True in this many of a hundred cases.
    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
}
