//! One task, one node: does it fit, and if not, what stands in the way.

use std::collections::{BTreeMap, BTreeSet};

use super::{Held, NodeView, Readiness};
use crate::domain::ids::{GpuId, NumaId, TaskId};
use crate::domain::node::{Gpu, NumaNode};
use crate::domain::spec::{Container, GpuRequest, TaskSpec};

/// Why one node cannot take a task: in numbers, so that thousands of nodes can be asked without building sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::domain) enum Obstacle {
    TooFewCores { has: u32, asked: u32 },
    TooLittleMemory { has: u64, asked: u64 },
    NoSuchNuma(NumaId),
    NumaWithoutCpus(NumaId),
    NumaTooFewCores { numa: NumaId, has: u32, asked: u32 },
    NumaTooLittleMemory { numa: NumaId, has: u64, asked: u64 },
    NoSuchGpu(GpuId),
    TooFewGpus { has: u32, asked: u32 },
    NoMemoryLimit,
    Offline,
    Draining,
    Joining,
    NoDocker,
    CoresHeld { free: u32, total: u32, asked: u32 },
    NumaCoresHeld { numa: NumaId, free: u32, total: u32, roaming: u32, asked: u32 },
    MemoryHeld { free: u64, total: u64, asked: u64 },
    GpuHeld(GpuId),
    GpusHeld { free: u32, total: u32, asked: u32 },
    KeptFor(TaskId),
}

/// The GPUs that a task gets on this node (none if it asks for none), or the first obstacle: what can never be, then
/// what the node cannot do now, then what others hold.
pub(in crate::domain) fn fit(spec: &TaskSpec, node: &NodeView<'_>, held: &Held) -> Result<Vec<GpuId>, Obstacle> {
    fits_at_all(spec, node)?;
    is_ready(spec, node)?;
    has_room(spec, node, held)
}

fn fits_at_all(spec: &TaskSpec, node: &NodeView<'_>) -> Result<(), Obstacle> {
    let asked = spec.cores;
    let has = total_cores(node);
    if asked > has {
        return Err(Obstacle::TooFewCores { has, asked });
    }
    let memory = spec.memory.map_or(0, |memory| memory.0);
    if memory > node.inventory.memory {
        return Err(Obstacle::TooLittleMemory { has: node.inventory.memory, asked: memory });
    }
    if let Some(id) = spec.numa() {
        let numa = numa_node(node, id).ok_or(Obstacle::NoSuchNuma(id))?;
        let has = numa_cores(node, numa);
        if has == 0 {
            return Err(Obstacle::NumaWithoutCpus(id));
        }
        if asked > has {
            return Err(Obstacle::NumaTooFewCores { numa: id, has, asked });
        }
        // It is bound to that memory; a NUMA node without memory of its own borrows from the others.
        if numa.memory > 0 && memory > numa.memory {
            return Err(Obstacle::NumaTooLittleMemory { numa: id, has: numa.memory, asked: memory });
        }
    }
    let gpus = &node.inventory.gpus;
    match &spec.gpus {
        GpuRequest::None => Ok(()),
        GpuRequest::Ids(ids) => match ids.iter().find(|id| gpus.iter().all(|gpu| gpu.id != **id)) {
            Some(id) => Err(Obstacle::NoSuchGpu(*id)),
            None => Ok(()),
        },
        GpuRequest::Any(asked) if *asked as usize > gpus.len() => {
            Err(Obstacle::TooFewGpus { has: gpus.len() as u32, asked: *asked })
        }
        GpuRequest::Any(_) => Ok(()),
    }
}

fn is_ready(spec: &TaskSpec, node: &NodeView<'_>) -> Result<(), Obstacle> {
    // Conditions come with heartbeats: of a node that sends none they say nothing.
    match node.readiness {
        Readiness::Ready => {}
        Readiness::Joining => return Err(Obstacle::Joining),
        Readiness::Offline => return Err(Obstacle::Offline),
        Readiness::Draining => return Err(Obstacle::Draining),
    }
    match &spec.container {
        Container::Environment { .. } if !node.conditions.docker => Err(Obstacle::NoDocker),
        Container::Null if spec.memory.is_some() && !node.conditions.memory_limit => Err(Obstacle::NoMemoryLimit),
        Container::Environment { .. } | Container::Null => Ok(()),
    }
}

fn has_room(spec: &TaskSpec, node: &NodeView<'_>, held: &Held) -> Result<Vec<GpuId>, Obstacle> {
    let asked = spec.cores;
    let free = free_cores(node, held);
    if asked > free {
        return Err(Obstacle::CoresHeld { free, total: total_cores(node), asked });
    }
    let numa = spec.numa();
    if let Some(numa) = numa.and_then(|id| numa_node(node, id)) {
        let (free, total) = (free_numa_cores(node, numa, held), numa_cores(node, numa));
        if asked > free {
            return Err(Obstacle::NumaCoresHeld { numa: numa.id, free, total, roaming: held.roaming_cores(), asked });
        }
    }
    let asked = spec.memory.map_or(0, |memory| memory.0);
    let free = free_memory(node, held);
    if asked > free {
        return Err(Obstacle::MemoryHeld { free, total: node.inventory.memory, asked });
    }
    match &spec.gpus {
        GpuRequest::None => Ok(Vec::new()),
        GpuRequest::Ids(ids) => match ids.iter().find(|id| held.gpus.contains(id)) {
            Some(id) => Err(Obstacle::GpuHeld(*id)),
            None => Ok(ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()),
        },
        GpuRequest::Any(asked) => {
            let free = free_gpus(node, held);
            let (count, total) = (free.len() as u32, node.inventory.gpus.len() as u32);
            choose(&free, *asked as usize, numa).ok_or(Obstacle::GpusHeld { free: count, total, asked: *asked })
        }
    }
}

/// How far a task is from fitting: GPUs, cores and bytes that are still missing. All zero where it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::domain) struct Shortfall {
    gpus: u32,
    cores: i64,
    memory: u64,
}

/// The shortfall of a task on a node that is large enough for it.
pub(in crate::domain) fn shortfall(spec: &TaskSpec, node: &NodeView<'_>, held: &Held) -> Shortfall {
    let numa = spec.numa().and_then(|id| numa_node(node, id));
    // Below zero where tasks for any NUMA node may fill this one several times: each that ends counts, and each that
    // comes.
    let on_numa = numa.map_or(i64::MAX, |numa| {
        let bound = held.numa_cores.get(&numa.id).copied().unwrap_or(0);
        i64::from(numa_cores(node, numa)) - i64::from(bound) - i64::from(held.roaming_cores())
    });
    let gpus = match &spec.gpus {
        GpuRequest::None => 0,
        GpuRequest::Ids(ids) => ids.iter().filter(|id| held.gpus.contains(id)).count() as u32,
        GpuRequest::Any(asked) => asked.saturating_sub(free_gpus(node, held).len() as u32),
    };
    Shortfall {
        gpus,
        cores: (i64::from(spec.cores) - on_numa.min(i64::from(free_cores(node, held)))).max(0),
        memory: spec.memory.map_or(0, |memory| memory.0).saturating_sub(free_memory(node, held)),
    }
}

/// The GPUs to keep from others for a task that does not fit yet: those it will get, or all that are free so far.
pub(in crate::domain) fn gpus_to_keep(spec: &TaskSpec, node: &NodeView<'_>, held: &Held) -> Vec<GpuId> {
    match &spec.gpus {
        GpuRequest::None => Vec::new(),
        GpuRequest::Ids(ids) => ids.clone(),
        GpuRequest::Any(asked) => {
            let free = free_gpus(node, held);
            let numa = spec.numa();
            choose(&free, *asked as usize, numa).unwrap_or_else(|| free.iter().map(|gpu| gpu.id).collect())
        }
    }
}

pub(super) fn total_cores(node: &NodeView<'_>) -> u32 {
    node.inventory.cpus.len() as u32
}

pub(super) fn free_cores(node: &NodeView<'_>, held: &Held) -> u32 {
    total_cores(node).saturating_sub(held.cores)
}

pub(super) fn free_memory(node: &NodeView<'_>, held: &Held) -> u64 {
    node.inventory.memory.saturating_sub(held.memory)
}

fn numa_node<'a>(node: &NodeView<'a>, id: NumaId) -> Option<&'a NumaNode> {
    node.inventory.numa.iter().find(|numa| numa.id == id)
}

fn numa_cores(node: &NodeView<'_>, numa: &NumaNode) -> u32 {
    numa.cpus.iter().filter(|cpu| node.inventory.cpus.contains(*cpu)).count() as u32
}

/// Cores of a NUMA node that are free for certain. The node, not the Host, picks the cores of tasks that asked for no
/// NUMA node: each of these may stand here. Counting them elsewhere would place tasks that then cannot be pinned.
fn free_numa_cores(node: &NodeView<'_>, numa: &NumaNode, held: &Held) -> u32 {
    let bound = held.numa_cores.get(&numa.id).copied().unwrap_or(0);
    numa_cores(node, numa).saturating_sub(bound).saturating_sub(held.roaming_cores())
}

fn free_gpus<'a>(node: &NodeView<'a>, held: &Held) -> Vec<&'a Gpu> {
    node.inventory.gpus.iter().filter(|gpu| !held.gpus.contains(&gpu.id)).collect()
}

/// `count` of these GPUs, in index order: of the NUMA node asked for, else of the one with the fewest free that still
/// has enough, else of as few NUMA nodes as can be. None if there are not enough.
fn choose(free: &[&Gpu], count: usize, numa: Option<NumaId>) -> Option<Vec<GpuId>> {
    if free.len() < count {
        return None;
    }
    let mut groups: BTreeMap<Option<NumaId>, Vec<GpuId>> = BTreeMap::new();
    for gpu in free {
        groups.entry(gpu.numa).or_default().push(gpu.id);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    let wanted = |id: &Option<NumaId>| numa.is_some() && *id == numa;
    groups.sort_by_key(|(id, gpus)| {
        let enough = gpus.len() >= count;
        // Of those with enough the smallest, of those without the largest.
        (!wanted(id), !enough, if enough { gpus.len() } else { usize::MAX - gpus.len() })
    });
    let mut chosen: Vec<GpuId> = groups
        .into_iter()
        .flat_map(|(_, mut gpus)| {
            gpus.sort_unstable();
            gpus
        })
        .take(count)
        .collect();
    chosen.sort_unstable();
    Some(chosen)
}
