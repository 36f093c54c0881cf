//! What is known of one task's output, and what follows from it. Pure.

use std::time::Instant;

use super::Totals;
use super::place::{Place, Size};
use crate::api::node::OUTPUT_NOT_WANTED;
use crate::domain::ids::Attempt;
use crate::domain::output::Stream;
use crate::sys::inotify::WatchId;

/// What is shipped at once.
pub(super) const PART: usize = 512 << 10;

/// One attempt at a task.
pub(super) struct Flow {
    pub(super) attempt: Attempt,
    pub(super) place: Place,
    lanes: [Lane; 2],
    /// When the shipper looks at it.
    pub(super) due: Option<Instant>,
    /// When it last did.
    pub(super) looked: Option<Instant>,
    /// The next write to any of these wakes the shipper.
    pub(super) watches: Vec<WatchId>,
    pub(super) ended: bool,
    /// It was said that it is settled.
    pub(super) told: bool,
    /// It was said that the Host cannot keep it.
    pub(super) complained: bool,
}

/// One stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lane {
    /// How much of it the Host has, as far as is known here.
    have: u64,
    end: End,
}

/// What is known of a stream's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// So many bytes in all.
    At(u64),
    /// What the Host has not will never come.
    Lost,
    /// The same, noticed only after its length was told.
    LostAt(u64),
}

/// What is to be shipped next of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) stream: Stream,
    pub(super) offset: u64,
    /// At most; less where the file is shorter.
    pub(super) length: usize,
}

impl Lane {
    /// The Host has that much: a late answer takes nothing back.
    pub(super) fn received(&mut self, have: u64) {
        self.have = self.have.max(have);
    }

    /// The Host has that much, and says so in answer to a chunk: less than was thought if it has lost some.
    pub(super) fn answered(&mut self, have: u64) {
        self.have = have;
    }

    /// It has ended, with that much in its file.
    fn end(&mut self, size: Size) {
        self.end = match size {
            // A task that truncates takes nothing back.
            Size::Known(length) if self.have == OUTPUT_NOT_WANTED => End::At(length),
            Size::Known(length) => End::At(length.max(self.have)),
            // A task that was never started has no file.
            Size::Absent if self.have == 0 => End::At(0),
            Size::Absent | Size::Removed | Size::Foreign => End::Lost,
        };
    }

    /// What is not there by now will never come.
    pub(super) fn lose(&mut self) {
        self.end = match self.end {
            End::At(total) | End::LostAt(total) => End::LostAt(total),
            End::Open | End::Lost => End::Lost,
        };
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.end, End::Lost | End::LostAt(_))
    }

    fn is_settled(&self) -> bool {
        match self.end {
            End::Open => false,
            End::At(total) => self.have >= total,
            End::Lost | End::LostAt(_) => true,
        }
    }

    fn total(&self) -> Option<u64> {
        match self.end {
            End::At(total) | End::LostAt(total) => Some(total),
            End::Open | End::Lost => None,
        }
    }

    /// How much the Host still lacks; None: nobody knows yet.
    fn rest(&self) -> Option<u64> {
        match self.end {
            End::Open => None,
            End::At(total) => Some(total.saturating_sub(self.have)),
            End::Lost | End::LostAt(_) => Some(0),
        }
    }
}

impl Flow {
    pub(super) fn new(attempt: Attempt, place: Place) -> Self {
        Self {
            attempt,
            place,
            lanes: [Lane::default(); 2],
            due: None,
            looked: None,
            watches: Vec::new(),
            ended: false,
            told: false,
            complained: false,
        }
    }

    pub(super) fn lane(&self, stream: Stream) -> &Lane {
        &self.lanes[stream.index()]
    }

    pub(super) fn lane_mut(&mut self, stream: Stream) -> &mut Lane {
        &mut self.lanes[stream.index()]
    }

    pub(super) fn end(&mut self, sizes: [Size; 2]) {
        self.ended = true;
        self.lanes.iter_mut().zip(sizes).for_each(|(lane, size)| lane.end(size));
    }

    pub(super) fn totals(&self) -> Totals {
        let [stdout, stderr] = self.lanes.map(|lane| lane.total());
        Totals { stdout, stderr }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.lanes.iter().all(Lane::is_settled)
    }

    /// Of both streams together.
    pub(super) fn rest(&self) -> u64 {
        self.lanes.iter().filter_map(Lane::rest).fold(0, u64::saturating_add)
    }

    /// What comes next of each stream of which something can come.
    pub(super) fn parts(&self) -> Vec<Part> {
        let part = |stream: Stream| {
            let lane = self.lane(stream);
            let length = lane.rest().map_or(PART, |rest| usize::try_from(rest).map_or(PART, |rest| rest.min(PART)));
            // Nothing is wanted of it: it would be read for nothing.
            let wanted = length > 0 && lane.have != OUTPUT_NOT_WANTED;
            wanted.then_some(Part { stream, offset: lane.have, length })
        };
        Stream::ALL.into_iter().filter_map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(have: [u64; 2]) -> Flow {
        let mut flow = Flow::new(Attempt::FIRST, Place::folder("/record".into()));
        for (stream, have) in Stream::ALL.into_iter().zip(have) {
            flow.lane_mut(stream).answered(have);
        }
        flow
    }

    #[test]
    fn an_end_is_settled_when_the_host_has_all_or_will_never() {
        use Size::{Absent, Foreign, Known, Removed};
        const NO: u64 = OUTPUT_NOT_WANTED;
        for (have, size, total, settled) in [
            (0, Known(0), Some(0), true),
            (0, Known(5), Some(5), false),
            (5, Known(5), Some(5), true),
            // Truncated by the task.
            (5, Known(2), Some(5), true),
            (0, Absent, Some(0), true),
            (5, Absent, None, true),
            (5, Removed, None, true),
            (0, Removed, None, true),
            (0, Foreign, None, true),
            (NO, Known(5), Some(5), true),
        ] {
            let mut flow = flow([have, 0]);
            flow.end([size, Known(0)]);
            let case = format!("{have} of {size:?}");
            assert_eq!(flow.totals(), Totals { stdout: total, stderr: Some(0) }, "{case}");
            assert_eq!(flow.is_settled(), settled, "{case}");
        }
    }

    #[test]
    fn parts_are_what_the_host_lacks() {
        let part = |stream, offset, length| Part { stream, offset, length };
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        assert_eq!(flow([0, 7]).parts(), [part(out, 0, PART), part(err, 7, PART)], "nobody knows how much there is");
        assert_eq!(flow([OUTPUT_NOT_WANTED, 7]).parts(), [part(err, 7, PART)]);
        let mut ended = flow([10, 7]);
        ended.end([Size::Known(12), Size::Known(7)]);
        assert_eq!((ended.parts(), ended.rest()), (vec![part(out, 10, 2)], 2));
        ended.lane_mut(out).received(3);
        assert_eq!(ended.rest(), 2, "a late answer takes nothing back");
        ended.lane_mut(out).answered(3);
        assert_eq!(ended.parts(), [part(out, 3, 9)], "a Host that has lost some gets it again");
        ended.lane_mut(out).lose();
        assert!(ended.is_settled() && ended.parts().is_empty());
        assert_eq!(ended.totals().stdout, Some(12), "what was reported stays");
    }
}
