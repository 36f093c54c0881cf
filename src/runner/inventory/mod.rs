//! What this machine has and does now: CPUs, NUMA nodes, memory, GPUs, temperatures.
//!
//! It must not know tasks, nor the Host.

pub mod gpu;
pub mod usage;

use std::io;
use std::path::Path;

use crate::api::node::{GpuWire, InventoryWire};
use crate::api::public::NumaRow;
use crate::domain::cpuset::CpuSet;
use crate::domain::ids::{GpuId, NumaId};
use crate::domain::node::{Gpu, Inventory, NumaNode};
use crate::sys::{affinity, numa, procfs};
use gpu::Reading;

/// The machine's hardware, as far as this process may use it: CPUs that are online and in our affinity. `root` is `/`.
///
/// # Errors
/// `/proc` or `/sys` is not mounted, or has a form that we do not know.
pub fn read(root: &Path, gpus: &[Reading]) -> io::Result<Inventory> {
    let cpus = common(&numa::online_cpus(root)?, &affinity::allowed()?);
    if cpus.0.is_empty() {
        return Err(io::Error::other("none of the CPUs that are online may be used by this process"));
    }
    let nodes = numa::nodes(root)?;
    let siblings = numa::siblings(root, &cpus);
    let memory = procfs::memory(root)?.total;
    Ok(assemble(cpus, memory, nodes, siblings, gpus))
}

fn assemble(cpus: CpuSet, memory: u64, nodes: Vec<NumaNode>, siblings: Vec<CpuSet>, gpus: &[Reading]) -> Inventory {
    let numa: Vec<NumaNode> =
        nodes.into_iter().map(|node| NumaNode { cpus: common(&node.cpus, &cpus), ..node }).collect();
    // The kernel may name a node for a device that is not online (firmware tables are often wrong).
    let known = |id: NumaId| numa.iter().any(|node| node.id == id);
    let gpus = gpus
        .iter()
        .filter(|gpu| !gpu.gone)
        .map(|gpu| Gpu { id: GpuId(gpu.row.gpu_id), uuid: gpu.uuid.clone(), numa: gpu.numa.filter(|id| known(*id)) })
        .collect();
    Inventory { cpus, memory, numa, gpus, siblings }
}

fn common(a: &CpuSet, b: &CpuSet) -> CpuSet {
    CpuSet(a.0.intersection(&b.0).copied().collect())
}

/// The inventory as it is told to the Host.
pub fn to_wire(inventory: &Inventory) -> InventoryWire {
    InventoryWire {
        cpus: inventory.cpus.to_string(),
        memory_bytes: inventory.memory,
        siblings: inventory.siblings.iter().map(ToString::to_string).collect(),
        numa: inventory
            .numa
            .iter()
            .map(|node| NumaRow {
                id: node.id.0,
                cores: node.cpus.0.iter().copied().collect(),
                memory_bytes: node.memory,
            })
            .collect(),
        gpus: inventory
            .gpus
            .iter()
            .map(|gpu| GpuWire { id: gpu.id.0, uuid: gpu.uuid.clone(), numa: gpu.numa.map(|id| id.0) })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(list: &str) -> CpuSet {
        list.parse().expect(list)
    }

    #[test]
    fn only_cpus_of_ours_and_known_nodes_count() {
        let node = |id, list: &str| NumaNode { id: NumaId(id), cpus: cpus(list), memory: 1 << 30 };
        let gpu = |id, numa| Reading {
            numa,
            gone: id == 3,
            uuid: format!("GPU-{id}"),
            row: crate::api::public::GpuRow { gpu_id: id, ..Default::default() },
        };
        let gpus = [gpu(0, Some(NumaId(1))), gpu(1, Some(NumaId(7))), gpu(2, None), gpu(3, None)];
        let siblings = vec![cpus("0,4"), cpus("1,5")];
        let nodes = vec![node(0, "0-3"), node(1, "4-7"), node(2, "")];
        let inventory = assemble(cpus("0-1,4-5"), 3 << 30, nodes, siblings, &gpus);
        let wire = to_wire(&inventory);
        assert_eq!((wire.cpus.as_str(), wire.memory_bytes), ("0-1,4-5", 3 << 30));
        assert_eq!(wire.siblings, ["0,4", "1,5"]);
        let cores: Vec<_> = wire.numa.iter().map(|node| (node.id, node.cores.clone())).collect();
        assert_eq!(cores, [(0, vec![0, 1]), (1, vec![4, 5]), (2, vec![])]);
        let numa: Vec<_> = wire.gpus.iter().map(|gpu| gpu.numa).collect();
        assert_eq!(numa, [Some(1), None, None], "node 7 is not online, GPU 3 is gone");
    }

    #[test]
    fn this_machine_has_something() {
        let inventory = read(Path::new("/"), &[]).expect("the kernel tells");
        assert!(!inventory.cpus.0.is_empty() && inventory.memory > 0);
    }
}
