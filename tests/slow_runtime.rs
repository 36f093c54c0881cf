//! A container runtime that can be held after it has started a container, so that Docker does not come to hear of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::env::write_script;

/// runc; but once `held` exists, one that has started a container does not say so until that is gone.
pub struct SlowRuntime {
    held: PathBuf,
    there: PathBuf,
}

impl SlowRuntime {
    /// The program is for [`crate::daemon::Daemon::with_runtime`].
    pub fn new(dir: &Path) -> (Self, PathBuf) {
        let (held, there, program) = (dir.join("held"), dir.join("there"), dir.join("runtime"));
        let text = format!(
            r#"#!/bin/sh
starts=
for word in "$@"; do [ "$word" != start ] || starts=yes; done
[ -n "$starts" ] && [ -e {held} ] || exec runc "$@"
runc "$@"
status=$?
: >{there}
while [ -e {held} ]; do sleep 0.02; done
exit $status
"#,
            held = held.display(),
            there = there.display(),
        );
        write_script(&program, &text);
        (Self { held, there }, program)
    }

    /// From now on.
    pub fn hold(&self) {
        // One that was held the last time may have come late.
        let _ = fs::remove_file(&self.there);
        fs::write(&self.held, "").unwrap();
    }

    /// A container was started, and is held.
    #[track_caller]
    pub fn await_start(&self, limit: Duration) {
        assert!(self.sees_start(limit), "no container is started within {limit:?}");
    }

    /// As [`Self::await_start`]; false if none was.
    pub fn sees_start(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.there.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.there.exists()
    }

    /// Lets all go on.
    pub fn release(&self) {
        fs::remove_file(&self.held).unwrap();
    }
}
