//! Which tasks of a batch have ended, and how. Pure.

use std::collections::BTreeMap;

use crate::domain::ids::TaskId;
use crate::domain::state::State;

/// Where a task stands for someone who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It waits or runs.
    Living,
    /// In a final state. (One that is `lost` may live again.)
    Ended(State),
    /// The Host does not know it any more.
    Gone,
}

/// The tasks that are waited for.
#[derive(Debug)]
pub(super) struct Tally {
    tasks: BTreeMap<TaskId, Standing>,
    living: usize,
    completed: usize,
}

impl Tally {
    /// None has ended.
    pub(super) fn of(tasks: impl IntoIterator<Item = TaskId>) -> Self {
        let tasks: BTreeMap<TaskId, Standing> = tasks.into_iter().map(|id| (id, Standing::Living)).collect();
        Self { living: tasks.len(), tasks, completed: 0 }
    }

    /// Something was heard of a task, perhaps not for the first time, perhaps of another's.
    pub(super) fn note(&mut self, task: TaskId, standing: Standing) {
        let Some(known) = self.tasks.get_mut(&task) else { return };
        // What was heard late changes nothing that stays for ever.
        if matches!(*known, Standing::Ended(state) if state.is_settled()) {
            return;
        }
        let before = std::mem::replace(known, standing);
        self.living += usize::from(standing == Standing::Living);
        self.living -= usize::from(before == Standing::Living);
        self.completed += usize::from(standing == Standing::Ended(State::Completed));
    }

    /// A task is in this state.
    pub(super) fn note_state(&mut self, task: TaskId, state: State) {
        self.note(task, if state.is_final() { Standing::Ended(state) } else { Standing::Living });
    }

    /// The Host was asked for all of them, and told of `seen`: the others are not there any more.
    pub(super) fn note_missing(&mut self, seen: &std::collections::BTreeSet<TaskId>) {
        let missing: Vec<TaskId> = self.tasks.keys().copied().filter(|id| !seen.contains(id)).collect();
        missing.into_iter().for_each(|id| self.note(id, Standing::Gone));
    }

    /// The lowest and the highest id.
    pub(super) fn range(&self) -> Option<(TaskId, TaskId)> {
        Some((*self.tasks.first_key_value()?.0, *self.tasks.last_key_value()?.0))
    }

    pub(super) fn has(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Have all ended?
    pub(super) fn is_done(&self) -> bool {
        self.living == 0
    }

    /// `812 of 1000 ended, 3 did not complete`
    pub(super) fn progress(&self) -> String {
        let ended = self.tasks.len() - self.living;
        let text = format!("{ended} of {} ended", self.tasks.len());
        match ended - self.completed {
            0 => text,
            bad => format!("{text}, {bad} did not complete"),
        }
    }

    /// Those that have not ended, by id.
    pub(super) fn living(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.tasks.iter().filter(|(_, standing)| **standing == Standing::Living).map(|(id, _)| *id)
    }

    /// Those that ended otherwise than completed, by id.
    pub(super) fn bad(&self) -> impl Iterator<Item = (TaskId, Standing)> + '_ {
        let is_bad = |standing| !matches!(standing, Standing::Living | Standing::Ended(State::Completed));
        self.tasks.iter().map(|(id, standing)| (*id, *standing)).filter(move |(_, standing)| is_bad(*standing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> TaskId {
        TaskId::from_u64(number)
    }

    #[test]
    fn all_that_is_heard_late_twice_or_of_others_changes_nothing() {
        let mut tally = Tally::of((1..=5).map(id));
        assert_eq!((tally.range(), tally.len(), tally.has(id(6))), (Some((id(1), id(5))), 5, false));
        for (task, state, progress) in [
            (9, State::Failed, "0 of 5 ended"),
            (1, State::Running, "0 of 5 ended"),
            (1, State::Completed, "1 of 5 ended"),
            (1, State::Completed, "1 of 5 ended"),
            (1, State::Running, "1 of 5 ended"),
            (1, State::Failed, "1 of 5 ended"),
            (2, State::Failed, "2 of 5 ended, 1 did not complete"),
            (3, State::Lost, "3 of 5 ended, 2 did not complete"),
            (3, State::Lost, "3 of 5 ended, 2 did not complete"),
            (3, State::Running, "2 of 5 ended, 1 did not complete"),
            (3, State::Lost, "3 of 5 ended, 2 did not complete"),
            (3, State::Completed, "3 of 5 ended, 1 did not complete"),
            (4, State::KilledOom, "4 of 5 ended, 2 did not complete"),
            (5, State::Paused, "4 of 5 ended, 2 did not complete"),
        ] {
            tally.note_state(id(task), state);
            assert_eq!(tally.progress(), progress, "{task} {state:?}");
            assert!(!tally.is_done());
        }
        assert_eq!(tally.living().collect::<Vec<_>>(), [id(5)]);
        tally.note_missing(&[1, 2, 3].map(id).into());
        assert!(tally.is_done(), "the Host forgot the last one: {}", tally.progress());
        let bad: Vec<_> = tally.bad().collect();
        let (failed, oom) = (Standing::Ended(State::Failed), Standing::Ended(State::KilledOom));
        assert_eq!(bad, [(id(2), failed), (id(4), oom), (id(5), Standing::Gone)]);
        tally.note_state(id(5), State::Completed);
        assert_eq!(tally.progress(), "5 of 5 ended, 2 did not complete");
    }
}
