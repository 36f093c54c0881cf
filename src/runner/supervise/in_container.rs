//! `hakuriver supervise --in-container`: process 1 of every container of ours.
//!
//! It must work in an image that has nothing: no shell, no libc, no `/etc/passwd`. What it has to say goes to stderr,
//! which Docker keeps for the Runner.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::box_file::{BOX, BoxFile, FILE, RECALL, UNUSABLE, WORD};
use super::{command, sshd, vps};
use crate::api::json;
use crate::sys::init::Init;
use crate::sys::{file, process, recall};

/// A submission has 16 MiB at most, and JSON may double it.
const LARGEST_BOX: usize = 32 << 20;
/// How long an earlier container is waited for until we look whether we are asked to end.
const AGAIN: Duration = Duration::from_secs(1);
/// 128+n, for the signal that asks for it.
const ASKED_TO_END: i32 = 128 + process::SIGTERM;

/// Does what `/.hakuriver/task/task.json` says; returns the exit status for the container.
pub fn main() -> i32 {
    // First of all: until its signals are taken over, process 1 loses a `docker stop`.
    let mut init = match Init::begin() {
        Ok(init) => init,
        Err(fault) => return unusable(&format!("cannot take over the signals: {fault}")),
    };
    match succeed(&init, &Path::new(BOX).join(RECALL)) {
        Ok(Some(pipe)) => init.heed(pipe),
        Ok(None) => return ASKED_TO_END,
        // Of an older version; or the node has lost its records.
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
        Err(fault) => eprintln!("hakuriver: cannot be recalled: {fault}"),
    }
    match read_box(&Path::new(BOX).join(FILE)).or_else(kept) {
        Ok(task) if task.kind == "vps" => {
            keep(&task);
            vps::run(&init, &task).unwrap_or_else(|fault| unusable(&fault))
        }
        Ok(task) if task.kind == "command" => command::run(&init, &task),
        Ok(task) => unusable(&format!("this version of hakuriver knows no tasks of the kind '{}'", task.kind)),
        Err(fault) => unusable(&fault),
    }
}

/// The one container of this task: another that Docker has lost sight of is ended, however long that takes. The answer is where we are
/// told the same; None: we were asked to end meanwhile.
fn succeed(init: &Init, pipe: &Path) -> io::Result<Option<File>> {
    loop {
        match recall::end(pipe, AGAIN) {
            Ok(false) => return recall::listen(pipe).map(Some),
            // There is none now; nor shall there be one that has come meanwhile.
            Ok(true) => {
                eprintln!("hakuriver: an earlier container of this task, of which Docker had lost sight, was ended")
            }
            Err(fault) if fault.kind() == io::ErrorKind::TimedOut => {
                if init.is_asked_to_end() {
                    return Ok(None);
                }
            }
            Err(fault) => return Err(fault),
        }
    }
}

fn read_box(path: &Path) -> Result<BoxFile, String> {
    let text = file::read_foreign(path, LARGEST_BOX).map_err(|fault| fault.to_string())?;
    json::decode(&text).map_err(|fault| format!("cannot understand {}: {fault}", path.display()))
}

/// A VPS is started again and again, and the node may have lost what it is to be told: so it remembers.
fn keep(task: &BoxFile) {
    let kept = vps::own_folder(Path::new("/")).and_then(|folder| {
        let file = folder.join(FILE);
        file::replace(&file, json::encode(task).as_bytes(), 0o600).map_err(|fault| fault.to_string())
    });
    if let Err(fault) = kept {
        eprintln!("hakuriver: a start without the node's own record of this task would fail: {fault}");
    }
}

/// What was kept; the first fault if there is nothing. A command's container runs once.
fn kept(missing: String) -> Result<BoxFile, String> {
    read_box(&Path::new(sshd::FOLDER).join(FILE)).ok().filter(|task| task.kind == "vps").ok_or(missing)
}

fn unusable(reason: &str) -> i32 {
    eprintln!("{WORD}{reason}");
    UNUSABLE
}
