//! What really happened to the tasks: known to the simulation alone.

use std::collections::BTreeMap;

use crate::domain::cpuset::CpuSet;

/// One run of a task: of a process, or of a container from its making to its removal.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) machine: usize,
    pub(super) attempt: u32,
    pub(super) is_vps: bool,
    /// What it has for itself alone.
    pub(super) cpus: Option<CpuSet>,
    pub(super) gpus: Vec<String>,
    /// Something of it lives.
    pub(super) alive: bool,
    pub(super) frozen: bool,
    pub(super) end: Option<End>,
    /// Something has befallen it that may take its result with it.
    pub(super) excused: bool,
    /// What its Runner remembered of it was lost.
    pub(super) forgotten: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// None: nobody can know it.
    pub(super) code: Option<i32>,
    pub(super) oom: bool,
    /// By itself.
    pub(super) by_itself: bool,
}

/// All runs, by task, in their order.
#[derive(Default)]
pub(super) struct Truth(pub(super) BTreeMap<u64, Vec<Run>>);

/// Which run of which task.
pub(super) type RunId = (u64, usize);

impl Truth {
    pub(super) fn begin(&mut self, task: u64, run: Run) -> RunId {
        let runs = self.0.entry(task).or_default();
        runs.push(run);
        (task, runs.len() - 1)
    }

    pub(super) fn of(&mut self, run: RunId) -> &mut Run {
        &mut self.0.get_mut(&run.0).expect("it was begun")[run.1]
    }

    pub(super) fn runs(&self, task: u64) -> &[Run] {
        self.0.get(&task).map_or(&[], Vec::as_slice)
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = (u64, &Run)> {
        self.0.iter().flat_map(|(task, runs)| runs.iter().filter(|run| run.alive).map(|run| (*task, run)))
    }

    /// A state directory was lost.
    pub(super) fn forget(&mut self, machine: usize) {
        self.0.values_mut().flatten().filter(|run| run.machine == machine).for_each(|run| run.forgotten = true);
    }

    /// Something befell all that runs there.
    pub(super) fn excuse(&mut self, machine: usize) {
        self.0.values_mut().flatten().filter(|run| run.machine == machine).for_each(|run| run.excused = true);
    }
}
