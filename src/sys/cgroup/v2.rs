//! What version 2 of control groups does its own way. Source: Documentation/admin-guide/cgroup-v2.rst of Linux.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::super::shutdown::poll;
use super::table::read_text;
use super::{cannot, counter, put};

/// A tenth of the usual 100.
const LOW_WEIGHT: &str = "10";
/// The group into which we move when we are in the way of our own.
const ASIDE: &str = "hakuriver-self";

pub(super) fn try_freezer(path: &Path) -> io::Result<()> {
    put(&path.join("cgroup.freeze"), "0")
}

/// No swap beyond it, where the kernel counts swap.
pub(super) fn limit_memory(path: &Path, bytes: u64) -> io::Result<()> {
    put(&path.join("memory.max"), &bytes.to_string())?;
    let swap = path.join("memory.swap.max");
    if swap.exists() { put(&swap, "0") } else { Ok(()) }
}

/// A fresh group has no limits; without the controller there are none either.
pub(super) fn unlimit(path: &Path) {
    for (file, value) in [("memory.max", "max"), ("memory.swap.max", "max")] {
        let _none = put(&path.join(file), value);
    }
}

pub(super) fn lower_weight(path: &Path) -> io::Result<()> {
    put(&path.join("cpu.weight"), LOW_WEIGHT)
}

/// Lets the groups below `parent` use what it may use itself.
pub(super) fn hand_down(parent: &Path) -> io::Result<()> {
    let available = read_text(&parent.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace().filter(|name| matches!(*name, "memory" | "cpu")) {
        put(&parent.join("cgroup.subtree_control"), &format!("+{controller}"))?;
    }
    Ok(())
}

/// Lets the groups below `base` use a controller. A group with processes of its own may not hand anything down, unless it is
/// the machine's top: where we are the only process in it, we move aside.
pub(super) fn hand_down_from(base: &Path, controller: &str) -> io::Result<()> {
    let file = base.join("cgroup.subtree_control");
    if read_text(&file)?.split_whitespace().any(|name| name == controller) {
        return Ok(());
    }
    match put(&file, &format!("+{controller}")) {
        Err(fault) if fault.kind() == ErrorKind::ResourceBusy => {
            let processes = read_text(&base.join("cgroup.procs"))?;
            let us = std::process::id().to_string();
            if processes.split_whitespace().any(|process| process != us) {
                return Err(fault);
            }
            super::make_group(&base.join(ASIDE))?;
            put(&base.join(ASIDE).join("cgroup.procs"), "0")?;
            put(&file, &format!("+{controller}"))
        }
        done => done,
    }
}

pub(super) fn is_frozen(path: &Path) -> io::Result<bool> {
    Ok(read_text(&path.join("cgroup.freeze"))?.trim() == "1")
}

/// Waits for the kernel to say that it is done: `cgroup.events` becomes readable out of band when it changes.
pub(super) fn freeze(path: &Path, frozen: bool, patience: Duration) -> io::Result<()> {
    let wanted = if frozen { "1" } else { "0" };
    let events = path.join("cgroup.events");
    let mut file = File::open(&events).map_err(|fault| cannot("open", &events, &fault))?;
    put(&path.join("cgroup.freeze"), wanted)?;
    let end = Instant::now() + patience;
    loop {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_string(&mut text))
            .map_err(|fault| cannot("read", &events, &fault))?;
        // What is empty is never frozen.
        let is_so = |line: &str| line.strip_prefix("frozen ") == Some(wanted) || frozen && line == "populated 0";
        if text.lines().any(is_so) {
            return Ok(());
        }
        if Instant::now() >= end {
            let text = format!("{} is not frozen {wanted} after {} ms", path.display(), patience.as_millis());
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], Some(end));
    }
}

/// All at once, also what is being forked; None where the kernel has no such file (before Linux 5.14).
pub(super) fn kill(path: &Path) -> Option<io::Result<()>> {
    let file = path.join("cgroup.kill");
    file.exists().then(|| put(&file, "1"))
}

pub(super) fn oom_kills(path: &Path) -> io::Result<u64> {
    let file = path.join("memory.events");
    match counter(&file, "oom_kill") {
        Ok(count) => Ok(count.unwrap_or(0)),
        // Without the controller nothing is counted.
        Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(0),
        Err(fault) => Err(fault),
    }
}
