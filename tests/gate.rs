//! A `docker` that can be held at a gate, so that a test sees the product in the middle of a step.

use std::fs;
use std::path::{Path, PathBuf};

use crate::env::{SOON, write_script};
use crate::wait;

/// The stand-in program and its gates. A gate is named after Docker's verb (`run`), or `after-run`: Docker has done it, and
/// the answer is held back.
pub struct Gate {
    dir: PathBuf,
}

const VERBS: [&str; 10] = ["run", "load", "commit", "save", "pause", "unpause", "stop", "kill", "rm", "update"];

impl Gate {
    pub fn new(dir: &Path) -> Self {
        let gate = Self { dir: dir.join("gates") };
        fs::create_dir_all(&gate.dir).unwrap();
        let text = format!(
            r#"#!/bin/sh
dir={dir}
verb=
for word in "$@"; do
    case $word in {verbs}) verb=$word; break ;; esac
done
wait_at() {{
    : >"$dir/at-$1"
    while [ -e "$dir/hold-$1" ]; do sleep 0.02; done
}}
[ -z "$verb" ] || [ ! -e "$dir/hold-$verb" ] || wait_at "$verb"
if [ -n "$verb" ] && [ -e "$dir/hold-after-$verb" ]; then
    answer=$(docker "$@")
    status=$?
    wait_at "after-$verb"
    echo "$answer"
    exit $status
fi
exec docker "$@"
"#,
            dir = gate.dir.display(),
            verbs = VERBS.join("|"),
        );
        write_script(&gate.program(), &text);
        gate
    }

    pub fn program(&self) -> PathBuf {
        self.dir.join("docker")
    }

    /// Calls of these verbs are held from now on.
    pub fn close(&self, names: &[&str]) {
        for name in names {
            fs::write(self.dir.join(format!("hold-{name}")), "").unwrap();
        }
    }

    /// Waits until a call stands at one of these gates.
    #[track_caller]
    pub fn await_one(&self, names: &[&str]) {
        wait::until_true(&format!("a call of docker {}", names.join(" or ")), SOON, || {
            let there = names.iter().any(|name| self.dir.join(format!("at-{name}")).exists());
            (there, "no such call".to_owned())
        });
    }

    /// Lets calls of this verb through.
    pub fn open_one(&self, name: &str) {
        fs::remove_file(self.dir.join(format!("hold-{name}"))).unwrap();
    }

    /// Lets everything through.
    pub fn open(&self) {
        for entry in fs::read_dir(&self.dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name() != Some("docker".as_ref()) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A held call would wait for ever; its directory may be gone already, which opens the gate as well.
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
}
