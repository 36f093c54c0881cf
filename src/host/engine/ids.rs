//! Where new ids come from: each is later than all that any Host of this state directory has ever given, whatever database it is
//! given, and whatever its clock shows.
//!
//! The database alone does not tell: one that was restored does not know the ids that were given after the backup was made, and
//! those of tasks that live on nodes must not be given again. So a file outside of it bounds the ids: none is given beyond what
//! stands there, and the next Host begins behind it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::domain::ids::{IdSequence, TaskId};
use crate::store::StoreFault;
use crate::sys::file;
use crate::warning;

/// How far the file is ahead, in milliseconds: it is written anew when half of that is used up, so about once in two seconds of
/// steady submissions. A Host that was killed leaves so much unused.
const AHEAD: u64 = 4_000;
/// What is beyond this was never written by us: ids end there.
const LARGEST: u64 = 1 << 41;

/// The sequence with its bound.
#[derive(Debug)]
pub(super) struct Ids {
    sequence: IdSequence,
    path: PathBuf,
    /// No id of this millisecond, or a later one, may be given.
    bound_ms: u64,
    last: u64,
}

impl Ids {
    /// Goes on behind `newest`, the highest id of the database, and behind the bound in the file at `path`.
    ///
    /// # Errors
    /// The file is there, and cannot be read.
    pub(super) fn open(path: &Path, newest: u64, instance: u16) -> Result<Self, StoreFault> {
        let bound_ms = match fs::read_to_string(path) {
            Ok(text) => text.trim().parse().ok().filter(|bound| *bound < LARGEST).unwrap_or_else(|| {
                warning!("{} is not what a Host writes: new ids follow the database and the clock", path.display());
                0
            }),
            Err(fault) if fault.kind() == ErrorKind::NotFound => 0,
            Err(fault) => return Err(StoreFault::Failed(format!("cannot read {}: {fault}", path.display()))),
        };
        let below_bound = bound_ms << 22;
        let last = newest.max(below_bound.saturating_sub(1));
        Ok(Self { sequence: IdSequence::after(last, instance), path: path.to_owned(), bound_ms, last })
    }

    /// Makes room for `count` more ids, for a clock that reads `unix_ms` milliseconds since 1970.
    ///
    /// # Errors
    /// The bound cannot be stored, and is needed: no id may be given.
    pub(super) fn reserve(&mut self, count: usize, unix_ms: u64) -> Result<(), StoreFault> {
        let needed = self.sequence.last_ms_of(count, unix_ms) + 1;
        if needed + AHEAD / 2 <= self.bound_ms {
            return Ok(());
        }
        match self.write(needed + AHEAD) {
            Ok(()) => Ok(()),
            // There is room for these; the next ones try again.
            Err(fault) if needed <= self.bound_ms => {
                warning!("{fault}");
                Ok(())
            }
            Err(fault) if fault.kind() == ErrorKind::StorageFull => Err(StoreFault::Full(fault.to_string())),
            Err(fault) => Err(StoreFault::Failed(fault.to_string())),
        }
    }

    /// The next id, of those that were reserved.
    pub(super) fn next(&mut self, unix_ms: u64) -> TaskId {
        let id = self.sequence.next(unix_ms);
        debug_assert!(id.get() >> 22 < self.bound_ms, "{id} was not reserved");
        self.last = id.get();
        id
    }

    /// A node has a task with an id that this database does not know: it was given before.
    pub(super) fn was_given(&mut self, id: TaskId, unix_ms: u64) {
        self.sequence.skip(id, unix_ms);
    }

    /// No more ids are given: the next Host need leave none out.
    pub(super) fn settle(&mut self) {
        let bound = (self.last >> 22) + 1;
        if bound < self.bound_ms
            && let Err(fault) = self.write(bound)
        {
            warning!("{fault}");
        }
    }

    fn write(&mut self, bound_ms: u64) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            file::make_dir(folder, 0o700)?;
        }
        file::write_atomic(&self.path, format!("{bound_ms}\n").as_bytes(), 0o600)?;
        self.bound_ms = bound_ms;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    fn give(ids: &mut Ids, count: usize, unix_ms: u64) -> Vec<u64> {
        ids.reserve(count, unix_ms).expect("there is room");
        (0..count).map(|_| ids.next(unix_ms).get()).collect()
    }

    #[test]
    fn ids_never_repeat_whatever_database_and_clock_a_host_is_given() {
        let scratch = Scratch::new();
        let path = scratch.path().join("host/ids");
        let mut last = 0;
        // The highest id of the database (0: it is restored from before any), the clock, whether the Host ends cleanly.
        for (knows_newest, unix_ms, cleanly) in [
            (true, 1_000_000, true),
            (true, 1_000_500, false),
            (false, 1_000_600, false),
            (false, 4_000, true),
            (false, 4_000, false),
            (true, 2_000_000, false),
            (false, 0, true),
        ] {
            let mut ids = Ids::open(&path, if knows_newest { last } else { 0 }, 3).expect("opened");
            for count in [1, 5_000, 2] {
                for id in give(&mut ids, count, unix_ms) {
                    assert!(id > last, "{id} after {last} at {unix_ms}");
                    last = id;
                }
            }
            if cleanly {
                ids.settle();
            }
        }
        assert!(last >> 22 < 2_000_000 + 60_000, "a few starts do not run far ahead of the clock: {}", last >> 22);
    }

    #[test]
    fn a_clean_end_leaves_out_nothing() {
        let scratch = Scratch::new();
        let path = scratch.path().join("ids");
        let mut ids = Ids::open(&path, 0, 3).expect("opened");
        let first = give(&mut ids, 1, 9_000)[0];
        ids.settle();
        let second = give(&mut Ids::open(&path, first, 3).expect("opened"), 1, 9_001)[0];
        assert_eq!((first >> 22, second >> 22), (9_000, 9_001));
    }

    #[test]
    fn where_the_bound_cannot_be_stored_no_id_is_given() {
        let scratch = Scratch::new();
        let path = scratch.path().join("ids");
        let mut ids = Ids::open(&path, 0, 3).expect("opened");
        give(&mut ids, 1, 9_000);
        fs::remove_file(&path).expect("it was written");
        fs::create_dir(&path).expect("something is in its place");
        give(&mut ids, 1, 9_000 + AHEAD - 100);
        assert!(ids.reserve(1, 9_000 + 2 * AHEAD).is_err());
        assert!(Ids::open(&path, 0, 3).is_err(), "a bound that cannot be read is no bound of zero");
    }

    #[test]
    fn an_odd_bound_is_none_and_one_that_a_node_knows_counts() {
        let scratch = Scratch::new();
        let path = scratch.path().join("ids");
        for odd in ["", "x", "-5", "99999999999999"] {
            fs::write(&path, odd).expect("written");
            let mut ids = Ids::open(&path, 0, 3).expect("opened");
            assert_eq!(give(&mut ids, 1, 9_000)[0] >> 22, 9_000, "{odd:?}");
        }
        let mut ids = Ids::open(&path, 0, 3).expect("opened");
        ids.was_given(TaskId::from_u64(50_000 << 22), 9_000);
        assert_eq!(give(&mut ids, 1, 9_000)[0] >> 22, 50_001);
    }
}
