//! A node in memory: its tasks, what they hold, and what only the living Host knows of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::api::node::ShellOrder;
use crate::domain::ids::{GpuId, TaskId};
use crate::domain::node::Conditions;
use crate::domain::placement::{Held, NodeView, Readiness};
use crate::domain::spec::TaskKind;
use crate::store::{NodeRecord, Task};

use super::super::view::{Figures, LiveTask};
use super::Now;
use super::apply::is_in_line;
use super::changes::Changes;
use super::desired::Parked;

/// A node in memory: what is stored of it, and what only the living Host knows.
pub(super) struct Node {
    pub(super) record: Arc<NodeRecord>,
    /// When it last called.
    pub(super) heard: Instant,
    /// It has sent a complete inventory since it registered, returned, or the Host started.
    pub(super) present: bool,
    pub(super) last_heartbeat_ms: Option<u64>,
    pub(super) figures: Arc<Figures>,
    pub(super) conditions: Option<Conditions>,
    /// GPUs that its driver no longer names.
    pub(super) gpus_gone: BTreeSet<GpuId>,
    pub(super) unknown: Arc<BTreeSet<TaskId>>,
    /// How often it was asked for a complete inventory since the Host started; part of the epoch it is told.
    pub(super) calls_for_inventory: u64,
    /// Tasks that its last complete inventory lacked although they were seen there: gone if the next one lacks them too.
    pub(super) suspects: BTreeSet<TaskId>,
    /// The version of its list of tasks.
    pub(super) changes: Changes,
    /// Its long poll.
    pub(super) parked: Option<Parked>,
    /// Shells that users wait for, by their ids.
    pub(super) shells: BTreeMap<String, ShellOrder>,
    /// Tasks placed there that are not settled.
    pub(super) tasks: BTreeSet<TaskId>,
    /// Those of them that are next in line there, and since when.
    pub(super) in_line: BTreeMap<TaskId, Instant>,
    /// Those of these that were asked back.
    pub(super) recalled: BTreeSet<TaskId>,
    /// When short tasks ended there, lately.
    pub(super) short_ends: VecDeque<Instant>,
    /// Those of them that hold more than a place among the tasks without cores: never many, as each holds some of the
    /// node's cores, memory or GPUs.
    pub(super) holders: BTreeSet<TaskId>,
    /// Derived from them.
    pub(super) held: Held,
    /// The part of it that VPS tasks hold (without counting those that hold nothing).
    pub(super) vps_held: Held,
}

impl Node {
    pub(super) fn new(record: NodeRecord, now: Now) -> Self {
        Self {
            record: Arc::new(record),
            heard: now.instant,
            present: false,
            last_heartbeat_ms: None,
            figures: Arc::default(),
            conditions: None,
            gpus_gone: BTreeSet::new(),
            unknown: Arc::default(),
            calls_for_inventory: 0,
            suspects: BTreeSet::new(),
            changes: Changes::new(),
            parked: None,
            shells: BTreeMap::new(),
            tasks: BTreeSet::new(),
            in_line: BTreeMap::new(),
            recalled: BTreeSet::new(),
            short_ends: VecDeque::new(),
            holders: BTreeSet::new(),
            held: Held::default(),
            vps_held: Held::default(),
        }
    }

    /// The `host_epoch` that this node is told.
    pub(super) fn epoch(&self, host: &str) -> String {
        format!("{host}-{}", self.calls_for_inventory)
    }

    pub(super) fn readiness(&self) -> Readiness {
        match (self.record.silent, self.record.draining, self.present) {
            (true, _, _) => Readiness::Offline,
            (false, true, _) => Readiness::Draining,
            (false, false, false) => Readiness::Joining,
            (false, false, true) => Readiness::Ready,
        }
    }

    pub(super) fn view(&self) -> NodeView<'_> {
        NodeView {
            name: &self.record.name,
            readiness: self.readiness(),
            inventory: &self.record.inventory,
            conditions: self.conditions.unwrap_or_default(),
            held: &self.held,
        }
    }

    /// A task was placed there.
    pub(super) fn add_task(&mut self, task: &Task, now: Now) {
        let (id, spec) = (task.id, &task.spec);
        self.tasks.insert(id);
        if is_in_line(task) {
            self.in_line.insert(id, now.instant);
        }
        if spec.cores > 0 || spec.memory.is_some() || spec.gpus.count() > 0 {
            self.holders.insert(id);
        }
    }

    /// Nothing of a task is there any more.
    pub(super) fn remove_task(&mut self, id: TaskId) {
        self.tasks.remove(&id);
        self.holders.remove(&id);
        self.left_line(id);
    }

    /// A task has started, or is not there any more.
    pub(super) fn left_line(&mut self, id: TaskId) {
        self.in_line.remove(&id);
        if self.recalled.remove(&id) {
            // What is wanted of it is another thing again.
            self.changes.add(id);
        }
    }

    pub(super) fn clear_tasks(&mut self) {
        self.tasks.clear();
        self.holders.clear();
        self.in_line.clear();
        self.recalled.clear();
    }

    /// What its tasks hold, from the tasks themselves. Ten thousand that hold nothing cost nothing.
    pub(super) fn derive_held(&mut self, tasks: &BTreeMap<TaskId, Arc<LiveTask>>) {
        let (mut held, mut vps_held) = (Held::default(), Held::default());
        for live in self.holders.iter().filter(|id| !self.in_line.contains_key(id)).filter_map(|id| tasks.get(id)) {
            let Some(placement) = &live.task.placement else { continue };
            held.add(&live.task.spec, placement);
            if matches!(live.task.spec.kind, TaskKind::Vps { .. }) {
                vps_held.add(&live.task.spec, placement);
            }
        }
        self.add_line(&mut held, tasks);
        let others = self.tasks.len() - self.holders.len();
        held.unpinned = held.unpinned.saturating_add(u32::try_from(others).unwrap_or(u32::MAX));
        // As good as held, by something that never ends.
        held.gpus.extend(&self.gpus_gone);
        vps_held.gpus.extend(&self.gpus_gone);
        self.held = held;
        self.vps_held = vps_held;
    }

    /// Those next in line hold what has become free for them, in their order: the node starts them in the same one. While one
    /// of them still waits, nobody else is to take what it waits for.
    fn add_line(&self, held: &mut Held, tasks: &BTreeMap<TaskId, Arc<LiveTask>>) {
        let total = u32::try_from(self.record.inventory.cpus.len()).unwrap_or(u32::MAX);
        for live in self.in_line.keys().filter_map(|id| tasks.get(id)) {
            let Some(placement) = &live.task.placement else { continue };
            if held.cores.saturating_add(live.task.spec.cores) > total {
                held.cores = held.cores.max(total);
                return;
            }
            held.add(&live.task.spec, placement);
        }
    }
}
