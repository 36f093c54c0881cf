//! The newest changes in memory, for those who follow them: many clients that wait cost no reading of the database.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use crate::domain::ids::TaskId;
use crate::store::{EventFilter, EventRow};

/// How many are kept. Who is further behind reads the database.
const KEPT: usize = 1_024;

/// One change, with the batch of its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) row: EventRow,
    pub(super) batch: Option<TaskId>,
}

/// The newest changes that were stored, oldest first and without gaps.
#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: RwLock<VecDeque<Happened>>,
}

impl Recent {
    /// Adds what a turn has stored.
    pub(super) fn add(&self, happened: Vec<Happened>) {
        if happened.is_empty() {
            return;
        }
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        // Without gaps: after a turn that could not be stored numbers go on where they were, so this is for caution.
        if kept.back().zip(happened.first()).is_some_and(|(last, next)| last.row.seq + 1 != next.row.seq) {
            kept.clear();
        }
        let surplus = happened.len().saturating_sub(KEPT);
        kept.extend(happened.into_iter().skip(surplus));
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }

    /// Those after number `since` that pass the filter, `most` of them, and the number of the last one that was looked at; None: some
    /// of them are no longer here.
    pub(super) fn after(&self, since: u64, filter: &EventFilter, most: usize) -> Option<(Vec<EventRow>, u64)> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (kept.front()?.row.seq, kept.back()?.row.seq);
        if since + 1 < first {
            return None;
        }
        if since >= last {
            return Some((Vec::new(), since));
        }
        let new = kept.iter().skip(usize::try_from(since + 1 - first).unwrap_or(usize::MAX));
        let rows: Vec<EventRow> = new
            .filter(|happened| {
                filter.task.is_none_or(|task| happened.row.task == Some(task))
                    && filter.batch.is_none_or(|batch| happened.batch == Some(batch))
            })
            .map(|happened| happened.row.clone())
            .take(most)
            .collect();
        let last = rows.last().filter(|_| rows.len() == most).map_or(last, |row| row.seq);
        Some((rows, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(seq: u64) -> Happened {
        let task = TaskId::from_u64(seq % 10);
        let row = EventRow {
            seq,
            time_ms: 0,
            task: Some(task),
            node: None,
            from: None,
            to: "pending".to_owned(),
            cause: "submitted".to_owned(),
        };
        Happened { row, batch: Some(TaskId::from_u64(seq % 2)) }
    }

    fn numbers(found: Option<(Vec<EventRow>, u64)>) -> Option<(Vec<u64>, u64)> {
        found.map(|(rows, last)| (rows.iter().map(|row| row.seq).collect(), last))
    }

    #[test]
    fn what_is_kept_is_found_and_what_is_gone_is_told() {
        let (recent, all) = (Recent::default(), EventFilter::default());
        assert_eq!(recent.after(0, &all, KEPT), None, "nothing is known: the database says what there is");
        recent.add((5..=8).map(happened).collect());
        assert_eq!(numbers(recent.after(4, &all, KEPT)), Some((vec![5, 6, 7, 8], 8)));
        assert_eq!(numbers(recent.after(6, &all, KEPT)), Some((vec![7, 8], 8)));
        assert_eq!(numbers(recent.after(4, &all, 2)), Some((vec![5, 6], 6)), "the others are asked for next");
        assert_eq!(numbers(recent.after(6, &all, 2)), Some((vec![7, 8], 8)));
        assert_eq!(numbers(recent.after(8, &all, KEPT)), Some((vec![], 8)));
        assert_eq!(recent.after(3, &all, KEPT), None, "4 is not here");
        let of_task = EventFilter { task: Some(TaskId::from_u64(6)), ..all };
        assert_eq!(numbers(recent.after(4, &of_task, KEPT)), Some((vec![6], 8)));
        let of_batch = EventFilter { batch: Some(TaskId::from_u64(1)), ..all };
        assert_eq!(numbers(recent.after(4, &of_batch, KEPT)), Some((vec![5, 7], 8)));
        recent.add((9..=2_000).map(happened).collect());
        assert_eq!(recent.after(2_000 - KEPT as u64 - 1, &all, KEPT), None);
        let (rows, last) = recent.after(2_000 - KEPT as u64, &all, KEPT).expect("kept");
        assert_eq!((rows.len(), last), (KEPT, 2_000));
        recent.add(vec![happened(3_000)]);
        assert_eq!(recent.after(2_000, &all, KEPT), None, "a gap is never passed over");
        assert_eq!(numbers(recent.after(2_999, &all, KEPT)), Some((vec![3_000], 3_000)));
    }
}
