//! All tasks that the agent knows, and which of them are to be compared with the list again: a node may have ten thousand,
//! of which a few change at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::task::Task;
use crate::domain::ids::TaskId;

/// Whoever changes a task here, or may have, has it compared again.
#[derive(Default)]
pub(super) struct Tasks {
    all: BTreeMap<TaskId, Task>,
    /// Those in containers. They have clocks and operations of their own, and are never many.
    contained: BTreeSet<TaskId>,
    touched: BTreeSet<TaskId>,
}

impl Tasks {
    pub(super) fn get(&self, id: TaskId) -> Option<&Task> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        let task = self.all.get_mut(&id)?;
        self.touched.insert(id);
        Some(task)
    }

    pub(super) fn contains(&self, id: TaskId) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn insert(&mut self, task: Task) {
        let id = task.record.task;
        if task.record.supervised {
            self.contained.remove(&id);
        } else {
            self.contained.insert(id);
        }
        self.touched.insert(id);
        self.all.insert(id, task);
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.contained.remove(&id);
        self.touched.insert(id);
        self.all.remove(&id)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Task> {
        self.all.values()
    }

    /// Those in containers.
    pub(super) fn contained(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.contained.iter().filter_map(|id| self.all.get(id).map(|task| (*id, task)))
    }

    pub(super) fn contained_ids(&self) -> Vec<TaskId> {
        self.contained.iter().copied().collect()
    }

    /// Those of the node's supervisor.
    pub(super) fn supervised_ids(&self) -> Vec<TaskId> {
        self.all.iter().filter(|(_, task)| task.record.supervised).map(|(id, _)| *id).collect()
    }

    /// Something else about it has changed; it need not be here.
    pub(super) fn touch(&mut self, id: TaskId) {
        self.touched.insert(id);
    }

    pub(super) fn touch_all(&mut self) {
        self.touched.extend(self.all.keys());
    }

    /// Those that were touched since.
    pub(super) fn take_touched(&mut self) -> BTreeSet<TaskId> {
        std::mem::take(&mut self.touched)
    }

    /// Those that were touched since, left as they are.
    pub(super) fn touched(&self) -> &BTreeSet<TaskId> {
        &self.touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Attempt;
    use crate::runner::record::{COMMAND, Record};

    #[test]
    fn whatever_may_have_changed_is_compared_again() {
        let id = TaskId::from_u64;
        let task = |number, supervised| {
            Task::new(Record { supervised, ..Record::new(id(number), Attempt(1), COMMAND, "boot") })
        };
        let mut tasks = Tasks::default();
        tasks.insert(task(1, true));
        tasks.insert(task(2, false));
        assert_eq!(tasks.take_touched(), BTreeSet::from([id(1), id(2)]));
        assert_eq!((tasks.contained_ids(), tasks.supervised_ids()), (vec![id(2)], vec![id(1)]));
        assert!(tasks.get(id(1)).is_some() && tasks.get(id(3)).is_none() && tasks.touched().is_empty());
        assert!(tasks.get_mut(id(1)).is_some() && tasks.get_mut(id(3)).is_none());
        tasks.touch(id(4));
        assert_eq!(tasks.take_touched(), BTreeSet::from([id(1), id(4)]));
        assert!(tasks.remove(id(2)).is_some() && !tasks.contains(id(2)) && tasks.contained().next().is_none());
        tasks.touch_all();
        assert_eq!(tasks.take_touched(), BTreeSet::from([id(1), id(2)]), "also what is here no longer");
    }
}
