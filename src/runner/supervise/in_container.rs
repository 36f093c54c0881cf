//! `hakuriver supervise --in-container`: process 1 of every container of ours.
//!
//! It must work in an image that has nothing: no shell, no libc, no `/etc/passwd`. What it has to say goes to stderr,
//! which Docker keeps for the Runner.

use std::fs::File;
use std::io;
use std::path::Path;

use super::box_file::{BOX, BoxFile, FILE, RECALL, RECALL_LIMIT, UNUSABLE, WORD};
use super::{command, sshd, vps};
use crate::api::json;
use crate::sys::init::Init;
use crate::sys::{file, recall};

/// A submission has 16 MiB at most, and JSON may double it.
const LARGEST_BOX: usize = 32 << 20;

/// Does what `/.hakuriver/task/task.json` says; returns the exit status for the container.
pub fn main() -> i32 {
    // First of all: until its signals are taken over, process 1 loses a `docker stop`.
    let mut init = match Init::begin() {
        Ok(init) => init,
        Err(fault) => return unusable(&format!("cannot take over the signals: {fault}")),
    };
    match succeed(&Path::new(BOX).join(RECALL)) {
        Ok(pipe) => init.heed(pipe),
        // Of an older version; or the node has lost its records.
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
        Err(fault) if fault.kind() == io::ErrorKind::TimedOut => {
            return unusable("an earlier container of this task does not end, and Docker has lost sight of it");
        }
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

/// The one container of this task: another that Docker has lost sight of is ended. The answer is where we are told the same.
fn succeed(pipe: &Path) -> io::Result<File> {
    if recall::end(pipe, RECALL_LIMIT)? {
        eprintln!("hakuriver: an earlier container of this task, of which Docker had lost sight, was ended");
    }
    recall::listen(pipe)
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
