//! What version 1 of control groups does its own way. Source: Documentation/admin-guide/cgroup-v1 of Linux.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{counter, put, table::read_text};

/// A tenth of the usual 1,024.
const LOW_SHARES: &str = "102";

pub(super) fn try_freezer(path: &Path) -> io::Result<()> {
    put(&path.join("freezer.state"), "THAWED")
}

/// Also memory and swap together, where the kernel counts swap: else a task would swap instead of ending.
pub(super) fn limit_memory(path: &Path, bytes: u64) -> io::Result<()> {
    let both = path.join("memory.memsw.limit_in_bytes");
    let memory = path.join("memory.limit_in_bytes");
    if !both.exists() {
        return put(&memory, &bytes.to_string());
    }
    // The kernel never lets the first exceed the second, so the order depends on what was there.
    if put(&memory, &bytes.to_string()).is_ok() {
        return put(&both, &bytes.to_string());
    }
    put(&both, &bytes.to_string())?;
    put(&memory, &bytes.to_string())
}

pub(super) fn lower_weight(path: &Path) -> io::Result<()> {
    put(&path.join("cpu.shares"), LOW_SHARES)
}

pub(super) fn is_frozen(path: &Path) -> io::Result<bool> {
    Ok(read_text(&path.join("freezer.state"))?.trim() != "THAWED")
}

/// The kernel tells nobody when the last process has stopped, so its state has to be read again; and one that was forked
/// meanwhile may have slipped through until the state is written again.
pub(super) fn freeze(path: &Path, frozen: bool, patience: Duration) -> io::Result<()> {
    let file = path.join("freezer.state");
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let end = Instant::now() + patience;
    let mut pause = Duration::from_micros(100);
    loop {
        put(&file, wanted)?;
        let state = read_text(&file)?;
        if state.trim() == wanted {
            return Ok(());
        }
        if Instant::now() >= end {
            let text = format!("{} is still {} after {} ms", file.display(), state.trim(), patience.as_millis());
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// `oom_kill N` is there since Linux 4.13.
pub(super) fn oom_kills(path: &Path) -> io::Result<u64> {
    let file = path.join("memory.oom_control");
    counter(&file, "oom_kill")?.ok_or_else(|| {
        let text = format!("{} has no count of kills: this needs Linux 4.13", file.display());
        io::Error::new(ErrorKind::Unsupported, text)
    })
}
