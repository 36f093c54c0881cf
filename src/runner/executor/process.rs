//! Tasks straight on the node: as a plain process in a control group of ours, or inside a systemd scope. Used by the node's
//! supervisor, whose children they are.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::domain::cpuset::CpuSet;
use crate::domain::raw_text;
use crate::runner::supervise::protocol::{STDERR, STDOUT, Start};
use crate::sys::cgroup::{Cgroups, Group, Limits};
use crate::sys::file;
use crate::sys::launch::{Launch, Launched, launch};

/// A task that was started.
#[derive(Debug)]
pub struct Running {
    pub process: Launched,
    /// None: this node has no control groups that we may use.
    pub group: Option<Group>,
    /// The systemd scope.
    pub unit: Option<String>,
}

/// The name of a task's control group.
pub fn group_name(task: u64, attempt: u32) -> String {
    format!("{task}.{attempt}")
}

/// The task and attempt of a control group's name.
pub fn of_group_name(name: &str) -> Option<(u64, u32)> {
    let (task, attempt) = name.split_once('.')?;
    Some((task.parse().ok()?, attempt.parse().ok()?))
}

/// Starts what `start` says, with its output in `out/stdout` and `out/stderr` of its folder (made here if need be).
///
/// # Errors
/// For the user: which step failed, on what, and why.
pub fn start(start: &Start, cgroups: &Cgroups) -> Result<Running, String> {
    let folder = Path::new(&start.folder);
    // Not synced: what the machine forgets with its power are the last seconds of output, and the journal knows the task.
    let out = folder.join("out");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&out);
    made.map_err(|fault| format!("cannot make the folder {}: {fault}", out.display()))?;
    // Appended to: what the task opens once more by /dev/stdout then overwrites nothing.
    let stdout = file::append_to(&folder.join(STDOUT)).map_err(|fault| fault.to_string())?;
    let stderr = file::append_to(&folder.join(STDERR)).map_err(|fault| fault.to_string())?;
    let limits = Limits { memory: start.memory, low_weight: !start.exclusive };
    let group = cgroups.make(&group_name(start.task, start.attempt), &limits).map_err(|fault| fault.to_string())?;
    let groups = group.entries().map_err(|fault| fault.to_string());
    let started = groups.and_then(|groups| {
        let launched = launch(Launch {
            argv: start.argv.iter().map(|word| bytes(word)).collect(),
            env: start.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
            workdir: start.workdir.as_ref().map_or_else(|| folder.to_owned(), |path| PathBuf::from(bytes(path))),
            stdout,
            stderr,
            user: start.uid.map(|uid| (uid, start.gid.unwrap_or(uid))),
            cpus: cpus(&start.cpus)?,
            mems: cpus(&start.mems)?,
            groups,
            keep: Vec::new(),
        });
        launched.map_err(|fault| fault.0)
    });
    match started {
        Ok(process) => Ok(Running { process, group: Some(group).filter(|group| !group.is_blind()), unit: None }),
        Err(fault) => {
            // Nobody is in it.
            let _left = group.remove();
            Err(fault)
        }
    }
}

fn bytes(text: &str) -> OsString {
    OsString::from_vec(raw_text::decode(text).into_owned())
}

fn cpus(list: &str) -> Result<Option<CpuSet>, String> {
    if list.is_empty() { Ok(None) } else { list.parse().map(Some) }
}
