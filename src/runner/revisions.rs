//! Revisions for tasks of which no record on disk remembers what was told before: each is later than all that this node has ever
//! told, also where its clock was set back while no Runner ran.
//!
//! They are milliseconds since 1970, so that those of a Runner that has lost its state directory are later too; and a file remembers
//! how far they have come.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::sys::{clock, file};
use crate::warning;

/// In the Runner's folder.
const FILE: &str = "revision";
/// The file is ahead by so many milliseconds, and no less than half of that: a record counts on from its first revision.
const AHEAD: u64 = 60_000;
/// What is beyond this was never written by us.
const LARGEST: u64 = 1 << 60;

/// Where they come from: one a process.
#[derive(Debug)]
pub struct Revisions {
    path: PathBuf,
    first: u64,
    began: Instant,
    /// What stands in the file.
    kept: u64,
}

impl Revisions {
    /// Goes on where the last Runner with this `folder` has ended.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let kept = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let kept = kept.filter(|kept| *kept < LARGEST).unwrap_or(0);
        Self { path, first: kept.max(clock::unix_ms()), began: Instant::now(), kept }
    }

    /// The revision of now.
    pub fn now(&mut self) -> u64 {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = self.first.saturating_add(passed);
        if now.saturating_add(AHEAD / 2) > self.kept {
            self.kept = now.saturating_add(AHEAD);
            if let Err(fault) = file::write_atomic(&self.path, self.kept.to_string().as_bytes(), 0o600) {
                warning!("what the next Runner tells may be taken for old if the clock is set back: {fault}");
            }
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn a_clock_that_was_set_back_makes_no_revision_earlier() {
        let scratch = Scratch::new();
        let path = scratch.path().join(FILE);
        let before = clock::unix_ms();
        let mut first = Revisions::open(scratch.path());
        let told = first.now();
        assert!(told >= before && first.now() >= told);
        let next = Revisions::open(scratch.path()).now();
        assert!(next >= told + AHEAD / 2, "it has counted on from {told}, and the next begins with {next}");
        // The last one ran an hour ahead.
        let ahead = before + 3_600_000;
        fs::write(&path, ahead.to_string()).expect("it can be written");
        assert!(Revisions::open(scratch.path()).now() >= ahead);
        for odd in ["", "x", "-5", "18446744073709551615"] {
            fs::write(&path, odd).expect("it can be written");
            let now = Revisions::open(scratch.path()).now();
            assert!((before..ahead).contains(&now), "{odd:?}: {now}");
        }
    }
}
