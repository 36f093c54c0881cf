//! Reasons in words, for users.

use std::fmt;

use super::NodeView;
use super::fit::Obstacle;
use crate::domain::ids::NodeName;

/// Why a node does not take a task. Its text continues a sentence that begins with the node's name.
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never(text) | Self::Busy(text) | Self::Condition(text) => text,
            Self::Offline => "is offline",
            Self::Draining => "is draining",
            Self::Joining => "has not yet reported which tasks it has",
        })
    }
}

/// How many nodes the reason of a waiting task names.
const NAMED_NODES: usize = 3;

/// How many nodes a refusal names that only lists what is registered.
const LISTED_NODES: usize = 20;

/// The reason shown for a waiting task: short, whole sentences, at most a few nodes by name, the most hopeful first.
pub(in crate::domain) fn waiting_for_obstacles(obstacles: &[(usize, Obstacle)], nodes: &[NodeView<'_>]) -> String {
    if obstacles.is_empty() {
        return "no node is registered yet".to_owned();
    }
    // It does not wait for a node that will never fit, unless there is no other.
    let hopeful = obstacles.iter().filter(|(_, obstacle)| obstacle.rank() < Obstacle::NEVER).count();
    let (awaited, ranks) = if hopeful > 0 {
        (hopeful, 0..Obstacle::NEVER)
    } else {
        (obstacles.len(), Obstacle::NEVER..Obstacle::NEVER + 1)
    };
    // Only the few that are named are put into words: there may be thousands.
    let named = ranks.flat_map(|rank| obstacles.iter().filter(move |(_, obstacle)| obstacle.rank() == rank));
    let mut parts: Vec<String> = named
        .take(NAMED_NODES)
        .map(|(node, obstacle)| format!("node '{}' {}", nodes[*node].name, obstacle.why(&nodes[*node])))
        .collect();
    match awaited.saturating_sub(NAMED_NODES) {
        0 => {}
        1 => parts.push("1 more node does not fit now".to_owned()),
        more => parts.push(format!("{more} more nodes do not fit now")),
    }
    parts.join("; ")
}

/// The refusal of a task that names a node which is not there.
pub(super) fn not_registered(name: &NodeName, nodes: &[NodeView<'_>]) -> String {
    let mut names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    let registered = match names.len() {
        0 => "none is".to_owned(),
        n if n <= LISTED_NODES => format!("registered: {}", names.join(", ")),
        n => format!("registered: {} and {} more", names[..LISTED_NODES].join(", "), n - LISTED_NODES),
    };
    format!("node '{name}' is not registered ({registered}); see 'hakuriver client nodes'")
}

/// The refusal of a task that no node takes: `named` if it asked for one node, `hopeless` if waiting would not help.
pub(super) fn refusal(named: bool, hopeless: bool, reasons: &[(NodeName, WhyNot)]) -> String {
    let every: Vec<String> = reasons
        .iter()
        .map(|(name, why)| {
            let hint = if named && hopeless && matches!(why, WhyNot::Offline | WhyNot::Draining) {
                " (--queue waits for it)"
            } else {
                ""
            };
            format!("node '{name}' {why}{hint}")
        })
        .collect();
    if every.is_empty() {
        "no node is registered; start 'hakuriver runner' on one".to_owned()
    } else if named {
        every.join("; ")
    } else if hopeless {
        format!("no node is large enough or has what is asked for: {}", every.join("; "))
    } else {
        format!("no node can take it now: {}", every.join("; "))
    }
}

impl Obstacle {
    /// The rank of what never goes away.
    const NEVER: u8 = 5;

    /// How hopeful it is to wait for its end: the lower, the sooner it may go away by itself.
    const fn rank(self) -> u8 {
        match self {
            Self::CoresHeld { .. }
            | Self::NumaCoresHeld { .. }
            | Self::MemoryHeld { .. }
            | Self::KeptFor(_)
            | Self::GpuHeld(_)
            | Self::GpusHeld { .. } => 0,
            Self::NoDocker => 1,
            Self::Joining => 2,
            Self::Draining => 3,
            Self::Offline => 4,
            Self::TooFewCores { .. }
            | Self::TooLittleMemory { .. }
            | Self::NoSuchNuma(_)
            | Self::NumaWithoutCpus(_)
            | Self::NumaTooFewCores { .. }
            | Self::NumaTooLittleMemory { .. }
            | Self::NoSuchGpu(_)
            | Self::TooFewGpus { .. }
            | Self::NoMemoryLimit => Self::NEVER,
        }
    }

    /// It never goes away by itself: the node is not made for this.
    pub(super) const fn is_for_ever(self) -> bool {
        self.rank() == Self::NEVER
    }

    /// In words.
    pub(in crate::domain) fn why(self, node: &NodeView<'_>) -> WhyNot {
        match self {
            Self::TooFewCores { has, asked } => WhyNot::Never(format!("has {} ({asked} asked for)", cores(has))),
            Self::TooLittleMemory { has, asked } => {
                WhyNot::Never(format!("has {} of memory ({} asked for)", memory(has), memory(asked)))
            }
            Self::NoSuchNuma(numa) => WhyNot::Never(format!("has no NUMA node {numa} ({})", numa_nodes(node))),
            Self::NumaWithoutCpus(numa) => {
                WhyNot::Never(format!("has no CPUs on NUMA node {numa} that tasks may use ({})", numa_nodes(node)))
            }
            Self::NumaTooFewCores { numa, has, asked } => {
                WhyNot::Never(format!("has {} on NUMA node {numa} ({asked} asked for)", cores(has)))
            }
            Self::NumaTooLittleMemory { numa, has, asked } => WhyNot::Never(format!(
                "has {} of memory on NUMA node {numa} ({} asked for)",
                memory(has),
                memory(asked)
            )),
            Self::NoSuchGpu(id) => WhyNot::Never(format!("has no GPU {id} ({})", gpus(node))),
            Self::TooFewGpus { has: 0, asked } => WhyNot::Never(format!("has no GPUs ({asked} asked for)")),
            Self::TooFewGpus { has, asked } => {
                WhyNot::Never(format!("has {has} GPU{} ({asked} asked for)", if has == 1 { "" } else { "s" }))
            }
            Self::NoMemoryLimit => WhyNot::Never(
                "cannot enforce a memory limit without a container (its Runner has no memory controller to use)"
                    .to_owned(),
            ),
            Self::Offline => WhyNot::Offline,
            Self::Draining => WhyNot::Draining,
            Self::Joining => WhyNot::Joining,
            Self::NoDocker => WhyNot::Condition("has no Docker daemon that answers".to_owned()),
            Self::CoresHeld { free, total, asked } => {
                WhyNot::Busy(format!("has {free} of {} free ({asked} asked for)", cores(total)))
            }
            Self::NumaCoresHeld { numa, free, total, roaming, asked } => {
                let note = if roaming == 0 {
                    String::new()
                } else {
                    format!(" ({roaming} held by tasks for any NUMA node may stand there)")
                };
                WhyNot::Busy(format!(
                    "has {free} of {} free on NUMA node {numa}{note} ({asked} asked for)",
                    cores(total)
                ))
            }
            Self::MemoryHeld { free, total, asked } => WhyNot::Busy(format!(
                "has {} of {} of memory free ({} asked for)",
                memory(free),
                memory(total),
                memory(asked)
            )),
            Self::KeptFor(task) => WhyNot::Busy(format!("is kept free for task {task}, which has waited longer")),
            Self::GpuHeld(id) => WhyNot::Busy(format!("has GPU {id} held by another task")),
            Self::GpusHeld { free, total, asked } => {
                WhyNot::Busy(format!("has {free} of {total} GPUs free ({asked} asked for)"))
            }
        }
    }
}

fn cores(count: u32) -> String {
    format!("{count} core{}", if count == 1 { "" } else { "s" })
}

/// A size for reading: one decimal, rounded down, so that nothing looks free that is not.
fn memory(bytes: u64) -> String {
    let (factor, unit) = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "K")]
        .into_iter()
        .find(|(factor, _)| bytes >= *factor)
        .unwrap_or((1, ""));
    match bytes / (factor / 10).max(1) % 10 {
        tenths if tenths > 0 && factor > 1 => format!("{}.{tenths}{unit}", bytes / factor),
        _ => format!("{}{unit}", bytes / factor),
    }
}

fn numa_nodes(node: &NodeView<'_>) -> String {
    list("NUMA node", node.inventory.numa.iter().map(|numa| numa.id.to_string()).collect())
}

fn gpus(node: &NodeView<'_>) -> String {
    list("GPU", node.inventory.gpus.iter().map(|gpu| gpu.id.to_string()).collect())
}

fn list(what: &str, ids: Vec<String>) -> String {
    match ids.as_slice() {
        [] => format!("it has no {what}s"),
        [one] => format!("it has {what} {one}"),
        ids => format!("it has {what}s {}", ids.join(", ")),
    }
}
