//! Which cores of a node a task gets: whole NUMA node and whole physical cores first, near its GPUs.

use super::cpuset::CpuSet;
use super::ids::NumaId;
use super::node::{Inventory, NumaNode};

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
/// Memory is bound only where a NUMA node was asked for. Elsewhere the kernel's own rule (the node of the CPU that
/// touches a page first, another one if that is full) gives the same nearness without the risk of running out of memory
/// beside gigabytes that are free.
///
/// # Errors
/// One sentence: how many cores were asked for, and how many are free where.
pub fn pin(request: &PinRequest, node: &Inventory, held: &CpuSet) -> Result<Option<Pinned>, String> {
    let Some(id) = request.numa else {
        if request.cores == 0 {
            return Ok(None);
        }
        let free = node.cpus.without(held);
        enough(request.cores, &free, node.cpus.len(), "")?;
        let cpus = spread(request, node, &free);
        return Ok(Some(Pinned { cpus, mems: CpuSet::default() }));
    };
    let numa = node.numa.iter().find(|numa| numa.id == id).ok_or_else(|| format!("this node has no NUMA node {id}"))?;
    let usable = numa.cpus.and(&node.cpus);
    if usable.is_empty() {
        return Err(format!("NUMA node {id} has no CPUs that tasks may use"));
    }
    let mems = memory_of(numa);
    if request.cores == 0 {
        return Ok(Some(Pinned { cpus: usable, mems }));
    }
    let free = usable.without(held);
    enough(request.cores, &free, usable.len(), &format!(" on NUMA node {id}"))?;
    Ok(Some(Pinned { cpus: pick(node, &free, request.cores as usize).cpus, mems }))
}

fn enough(asked: u32, free: &CpuSet, total: usize, place: &str) -> Result<(), String> {
    if asked as usize <= free.len() {
        return Ok(());
    }
    let cores = if asked == 1 { "core is" } else { "cores are" };
    Err(format!("{asked} {cores} asked for{place}, {} of {total} are free there", free.len()))
}

/// A NUMA node without memory of its own cannot be the only one to take memory from.
fn memory_of(numa: &NumaNode) -> CpuSet {
    if numa.memory > 0 { [numa.id.0].into_iter().collect() } else { CpuSet::default() }
}

/// CPUs for a task that asked for no NUMA node: of one, if any has enough free; else of as few as can be. There are
/// enough in all.
fn spread(request: &PinRequest, node: &Inventory, free: &CpuSet) -> CpuSet {
    let mut groups = groups(request, node, free);
    let mut chosen = CpuSet::default();
    loop {
        let missing = request.cores as usize - chosen.len();
        if missing == 0 {
            return chosen;
        }
        // The group that suits best: near the GPUs, then without tearing physical cores apart, then leaving the
        // fewest CPUs over (so that the others stay whole), then the first.
        let best = groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.free.len() >= missing)
            .map(|(index, group)| {
                let picked = pick(node, &group.free, missing);
                ((!group.near, picked.torn, group.free.len(), index), picked.cpus)
            })
            .min_by_key(|(score, _)| *score);
        if let Some((_, cpus)) = best {
            return chosen.or(&cpus);
        }
        let largest = groups
            .iter()
            .enumerate()
            .min_by_key(|(index, group)| (!group.near, usize::MAX - group.free.len(), *index))
            .map(|(index, _)| index)
            .expect("the groups together have as many CPUs as are asked for");
        chosen = chosen.or(&groups.remove(largest).free);
    }
}

/// The free CPUs of one NUMA node; those that stand in none are a group too.
struct Group {
    near: bool,
    free: CpuSet,
}

fn groups(request: &PinRequest, node: &Inventory, free: &CpuSet) -> Vec<Group> {
    let mut rest = free.clone();
    let mut groups = Vec::new();
    let mut numa: Vec<&NumaNode> = node.numa.iter().collect();
    numa.sort_by_key(|numa| numa.id);
    for numa in numa {
        let free = rest.and(&numa.cpus);
        rest = rest.without(&numa.cpus);
        groups.push(Group { near: request.near.contains(&numa.id), free });
    }
    groups.push(Group { near: false, free: rest });
    groups.retain(|group| !group.free.is_empty());
    groups
}

/// CPUs taken, and how many physical cores they share with what is not taken.
struct Picked {
    cpus: CpuSet,
    torn: usize,
}

/// `count` of these free CPUs (there are as many): whole physical cores first, then threads of cores that others
/// already use, and only then is a whole core taken apart.
fn pick(node: &Inventory, free: &CpuSet, count: usize) -> Picked {
    let (mut whole, mut partial) = physical_cores(node, free);
    let mut cpus = CpuSet::default();
    whole.retain(|core| {
        let fits = cpus.len() + core.len() <= count;
        if fits {
            cpus.0.extend(core.iter());
        }
        !fits
    });
    // The fullest core first. (Stable: equal ones by their lowest CPU.)
    partial.sort_by_key(CpuSet::len);
    let mut torn = 0;
    for core in partial.iter().chain(&whole) {
        let missing = count - cpus.len();
        if missing == 0 {
            break;
        }
        cpus.0.extend(core.iter().take(missing));
        torn += 1;
    }
    Picked { cpus, torn }
}

/// The physical cores with free CPUs, by their lowest CPU: those that are free as a whole, and of the others what is
/// free. Threads that are offline, or not for tasks, do not count.
fn physical_cores(node: &Inventory, free: &CpuSet) -> (Vec<CpuSet>, Vec<CpuSet>) {
    let mut alone = free.clone();
    let mut whole = Vec::new();
    let mut partial = Vec::new();
    for siblings in &node.siblings {
        // One CPU after another: sets as large as the node, made anew for each core, would take milliseconds on a large one.
        let free: CpuSet = siblings.iter().filter(|cpu| alone.0.remove(cpu)).collect();
        if free.is_empty() {
            continue;
        }
        let usable = siblings.iter().filter(|cpu| node.cpus.contains(*cpu)).count();
        if free.len() == usable { whole.push(free) } else { partial.push(free) }
    }
    whole.extend(alone.iter().map(|cpu| [cpu].into_iter().collect::<CpuSet>()));
    let first = |core: &CpuSet| core.iter().next();
    whole.sort_by_key(first);
    partial.sort_by_key(first);
    (whole, partial)
}

#[cfg(test)]
mod tests;
