//! `hakuriver supervise --in-container`: process 1 of every container of ours.
//!
//! It must work in an image that has nothing: no shell, no libc, no `/etc/passwd`. What it has to say goes to stderr,
//! which Docker keeps for the Runner.

use std::path::Path;

use super::box_file::{BOX, BoxFile, FILE, UNUSABLE};
use super::{command, vps};
use crate::api::json;
use crate::sys::file;
use crate::sys::init::Init;

/// A submission has 16 MiB at most, and JSON may double it.
const LARGEST_BOX: usize = 32 << 20;

/// Does what `/.hakuriver/task/task.json` says; returns the exit status for the container.
pub fn main() -> i32 {
    // First of all: until its signals are taken over, process 1 loses a `docker stop`.
    let init = match Init::begin() {
        Ok(init) => init,
        Err(fault) => return unusable(&format!("cannot take over the signals: {fault}")),
    };
    match read_box(&Path::new(BOX).join(FILE)) {
        Ok(task) if task.kind == "vps" => vps::run(&init, &task).unwrap_or_else(|fault| unusable(&fault)),
        Ok(task) if task.kind == "command" => command::run(&init, &task),
        Ok(task) => unusable(&format!("this version of hakuriver knows no tasks of the kind '{}'", task.kind)),
        Err(fault) => unusable(&fault),
    }
}

fn read_box(path: &Path) -> Result<BoxFile, String> {
    let text = file::read_foreign(path, LARGEST_BOX).map_err(|fault| fault.to_string())?;
    json::decode(&text).map_err(|fault| format!("cannot understand {}: {fault}", path.display()))
}

fn unusable(reason: &str) -> i32 {
    eprintln!("hakuriver: {reason}");
    UNUSABLE
}
