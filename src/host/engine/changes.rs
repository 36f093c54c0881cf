//! Which lines of a node's list changed, so that a node which knows an older version is told the difference alone.

use std::collections::{BTreeSet, VecDeque};

use crate::domain::ids::TaskId;

/// The version of a node's list, and the changes up to it that are remembered.
#[derive(Debug)]
pub(super) struct Changes {
    version: u64,
    /// Every change after this version is remembered.
    complete_after: u64,
    /// With the version that it made; oldest first.
    log: VecDeque<(u64, TaskId)>,
}

/// More than this is more than any list that is still better told as a difference.
const REMEMBERED: usize = 8_192;

impl Changes {
    /// Version 1, about which nothing is known.
    pub(super) fn new() -> Self {
        Self { version: 1, complete_after: 1, log: VecDeque::new() }
    }

    /// The version now. It only grows.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// This task came, went, or is wanted otherwise.
    pub(super) fn add(&mut self, task: TaskId) {
        self.version += 1;
        self.log.push_back((self.version, task));
        if self.log.len() > REMEMBERED
            && let Some((version, _)) = self.log.pop_front()
        {
            self.complete_after = version;
        }
    }

    /// The list is another one as a whole: whatever version is known, it is of no use.
    pub(super) fn start_over(&mut self) {
        self.version += 1;
        self.complete_after = self.version;
        self.log.clear();
    }

    /// The tasks that changed after a version; None: that is not known.
    pub(super) fn since(&self, version: u64) -> Option<BTreeSet<TaskId>> {
        if !(self.complete_after..=self.version).contains(&version) {
            return None;
        }
        Some(self.log.iter().rev().take_while(|(made, _)| *made > version).map(|(_, task)| *task).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(found: Option<BTreeSet<TaskId>>) -> Option<Vec<u64>> {
        found.map(|tasks| tasks.iter().map(|task| task.get()).collect())
    }

    #[test]
    fn differences_are_whole_or_not_told() {
        let mut changes = Changes::new();
        let add = |changes: &mut Changes, task| changes.add(TaskId::from_u64(task));
        assert_eq!((numbers(changes.since(1)), numbers(changes.since(0))), (Some(vec![]), None));
        add(&mut changes, 7);
        add(&mut changes, 8);
        add(&mut changes, 7);
        assert_eq!(changes.version(), 4);
        assert_eq!(numbers(changes.since(1)), Some(vec![7, 8]), "each once");
        assert_eq!(numbers(changes.since(3)), Some(vec![7]));
        assert_eq!(numbers(changes.since(4)), Some(vec![]));
        assert_eq!(numbers(changes.since(5)), None, "no version of this list");
        changes.start_over();
        assert_eq!((numbers(changes.since(4)), numbers(changes.since(5))), (None, Some(vec![])));
        for task in 0..=REMEMBERED as u64 {
            add(&mut changes, task);
        }
        assert_eq!(numbers(changes.since(5)), None, "the first of them is forgotten");
        assert_eq!(changes.since(6).map(|tasks| tasks.len()), Some(REMEMBERED));
    }
}
