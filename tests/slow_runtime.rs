//! A container runtime that can be held before it makes a container, and after it has started one: so that Docker does not come to hear
//! of it, or others get in between.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::env::write_script;

/// runc; but while `held` exists, one that has started a container does not say so, and while `unmade` does, none is made.
pub struct SlowRuntime {
    held: PathBuf,
    unmade: PathBuf,
    there: PathBuf,
}

impl SlowRuntime {
    /// The program is for [`crate::daemon::Daemon::with_runtime`].
    pub fn new(dir: &Path) -> (Self, PathBuf) {
        let program = dir.join("runtime");
        let runtime = Self { held: dir.join("held"), unmade: dir.join("unmade"), there: dir.join("there") };
        let text = format!(
            r#"#!/bin/sh
verb=
for word in "$@"; do case $word in create|start) verb=$word ;; esac; done
if [ "$verb" = create ] && [ -e {unmade} ]; then
    : >{there}
    while [ -e {unmade} ]; do sleep 0.02; done
fi
[ "$verb" = start ] && [ -e {held} ] || exec runc "$@"
runc "$@"
status=$?
: >{there}
while [ -e {held} ]; do sleep 0.02; done
exit $status
"#,
            held = runtime.held.display(),
            unmade = runtime.unmade.display(),
            there = runtime.there.display(),
        );
        write_script(&program, &text);
        (runtime, program)
    }

    /// From now on.
    pub fn hold(&self) {
        self.shut(&self.held);
    }

    /// From now on, before anything of a container is prepared.
    pub fn hold_creation(&self) {
        self.shut(&self.unmade);
    }

    fn shut(&self, gate: &Path) {
        // One that was held the last time may have come late.
        let _ = fs::remove_file(&self.there);
        fs::write(gate, "").unwrap();
    }

    /// A container was started, or is to be made, and is held.
    #[track_caller]
    pub fn await_one(&self, limit: Duration) {
        assert!(self.sees_one(limit), "no container is started within {limit:?}");
    }

    /// As [`Self::await_one`]; false if none was.
    pub fn sees_one(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.there.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.there.exists()
    }

    /// Lets all go on.
    pub fn release(&self) {
        for gate in [&self.held, &self.unmade] {
            let _open = fs::remove_file(gate);
        }
    }
}
