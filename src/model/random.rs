//! Numbers that are the same in every run with the same seed.

use std::cell::Cell;
use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Random(Cell<u64>);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(super) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `end` - 1.
    pub(super) fn below(&self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below `end`")
    }

    pub(super) fn percent(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn ms(&self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to - from + 1)) as u64)
    }

    pub(super) fn pick<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }
}
