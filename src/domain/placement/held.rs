//! What is taken on a node.

use std::collections::{BTreeMap, BTreeSet};

use super::Placement;
use crate::domain::ids::{GpuId, NumaId};
use crate::domain::spec::TaskSpec;

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
    pub fn add(&mut self, spec: &TaskSpec, placement: &Placement) {
        self.add_parts(spec, placement.numa, &placement.gpus);
    }

    /// As [`Held::add`], for a task that has no placement yet. Sums stop at their type's end: tasks that only wait can
    /// ask for more than a node has.
    pub(in crate::domain) fn add_parts(&mut self, spec: &TaskSpec, numa: Option<NumaId>, gpus: &[GpuId]) {
        self.memory = self.memory.saturating_add(spec.memory.map_or(0, |memory| memory.0));
        self.gpus.extend(gpus);
        if spec.cores == 0 {
            self.unpinned = self.unpinned.saturating_add(1);
            return;
        }
        self.cores = self.cores.saturating_add(spec.cores);
        if let Some(numa) = numa {
            let cores = self.numa_cores.entry(numa).or_default();
            *cores = cores.saturating_add(spec.cores);
        }
    }

    /// Cores of tasks that asked for no NUMA node. The Host does not know on which one they are.
    pub(super) fn roaming_cores(&self) -> u32 {
        self.numa_cores.values().fold(self.cores, |rest, cores| rest.saturating_sub(*cores))
    }
}
