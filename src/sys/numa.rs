//! CPUs, NUMA nodes and physical cores, from sysfs.

use std::io;
use std::path::Path;

use super::procfs::read_as;
use crate::domain::cpuset::CpuSet;
use crate::domain::ids::NumaId;
use crate::domain::node::NumaNode;

/// The CPUs that are online (`<root>/sys/devices/system/cpu/online`).
///
/// # Errors
/// `/sys` is not mounted.
pub fn online_cpus(root: &Path) -> io::Result<CpuSet> {
    read_as(&root.join("sys/devices/system/cpu/online"), |text| text.parse().ok())
}

/// The NUMA nodes that are online, also those with memory alone, by number (numbers need not be dense). Empty where the
/// kernel was built without NUMA.
///
/// # Errors
/// sysfs has a form that we do not know.
pub fn nodes(root: &Path) -> io::Result<Vec<NumaNode>> {
    let folder = root.join("sys/devices/system/node");
    // A list of node numbers has the form of a list of CPUs.
    let online = match read_as(&folder.join("online"), |text| text.parse::<CpuSet>().ok()) {
        Ok(online) => online,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(fault) => return Err(fault),
    };
    let node = |id: &u32| {
        let folder = folder.join(format!("node{id}"));
        Ok(NumaNode {
            id: NumaId(*id),
            cpus: read_as(&folder.join("cpulist"), |text| text.parse().ok())?,
            memory: read_as(&folder.join("meminfo"), parse_memory)?,
        })
    };
    online.0.iter().map(node).collect()
}

/// `Node 0 MemTotal:       16315256 kB`, in bytes.
fn parse_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The sets of hardware threads that share a physical core, of these CPUs; a core with a single thread is a set of one.
/// A CPU whose topology the kernel does not tell is left out.
pub fn siblings(root: &Path, cpus: &CpuSet) -> Vec<CpuSet> {
    let mut cores: Vec<CpuSet> = Vec::new();
    for cpu in &cpus.0 {
        if cores.iter().any(|core| core.0.contains(cpu)) {
            continue;
        }
        let path = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        if let Ok(core) = read_as(&path, |text| text.parse::<CpuSet>().ok()) {
            let ours = CpuSet(core.0.intersection(&cpus.0).copied().collect());
            if ours.0.contains(cpu) {
                cores.push(ours);
            }
        }
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;
    use std::fs;

    /// A root with these files.
    fn tree(files: &[(&str, &str)]) -> Scratch {
        let scratch = Scratch::new();
        for (path, text) in files {
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().expect("it stands in a folder")).expect("it can be made");
            fs::write(path, text).expect("it can be written");
        }
        scratch
    }

    fn cpus(list: &str) -> CpuSet {
        list.parse().expect(list)
    }

    #[test]
    fn nodes_with_gaps_and_without_cpus_are_found() {
        let tree = tree(&[
            ("sys/devices/system/node/online", "0,2-3\n"),
            ("sys/devices/system/node/node0/cpulist", "0-3,8-11\n"),
            ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       1024 kB\nNode 0 MemFree: 1 kB\n"),
            ("sys/devices/system/node/node2/cpulist", "4-7\n"),
            ("sys/devices/system/node/node2/meminfo", "Node 2 MemTotal:       0 kB\n"),
            ("sys/devices/system/node/node3/cpulist", "\n"),
            ("sys/devices/system/node/node3/meminfo", "Node 3 MemTotal:    4096 kB\n"),
        ]);
        let node = |id, list: &str, memory| NumaNode { id: NumaId(id), cpus: cpus(list), memory };
        assert_eq!(
            nodes(tree.path()).expect("the tree is whole"),
            [node(0, "0-3,8-11", 1 << 20), node(2, "4-7", 0), node(3, "", 4 << 20)]
        );
    }

    #[test]
    fn a_kernel_without_numa_has_no_nodes() {
        assert_eq!(nodes(tree(&[("sys/x", "")]).path()).expect("no node is an answer"), []);
    }

    #[test]
    fn threads_of_a_core_stand_together_and_strangers_are_left_out() {
        let tree = tree(&[
            ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,4\n"),
            ("sys/devices/system/cpu/cpu4/topology/thread_siblings_list", "0,4\n"),
            ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,5\n"),
            ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2\n"),
        ]);
        // CPU 5 is not ours, and CPU 3 tells nothing.
        assert_eq!(siblings(tree.path(), &cpus("0-4")), [cpus("0,4"), cpus("1"), cpus("2")]);
    }
}
