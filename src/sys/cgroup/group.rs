//! One task's group: who is in it, freezing, ending, the record of what was killed for want of memory.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{at, write};

/// The group of one task, in every hierarchy that is of use.
#[derive(Debug, Default)]
pub struct Group {
    /// Made by us, and to be removed by us.
    pub(super) ours: bool,
    pub(super) freezer: Option<PathBuf>,
    pub(super) memory: Option<PathBuf>,
    pub(super) cpu: Option<PathBuf>,
    pub(super) unified: Option<PathBuf>,
}

/// How long freezing may take: a process in an uninterruptible call (a dead file server) cannot be frozen.
const FREEZE_TIME: Duration = Duration::from_secs(5);

impl Group {
    /// Files to which a child writes `0` before exec, to be in it from its first instruction.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn entries(&self) -> io::Result<Vec<File>> {
        let open = |folder: &PathBuf| {
            let path = folder.join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(|fault| at("open", &path, &fault))
        };
        self.folders().map(open).collect()
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn enter(&self) -> io::Result<()> {
        self.folders().try_for_each(|folder| write(&folder.join("cgroup.procs"), "0"))
    }

    /// Moves this process to the group above all of ours, and removes this one.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn leave(&self) -> io::Result<()> {
        for folder in self.folders() {
            let above = folder.ancestors().nth(2).unwrap_or(folder);
            write(&above.join("cgroup.procs"), "0")?;
        }
        self.remove().map(drop)
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let Some(folder) = self.members() else { return Ok(Vec::new()) };
        let mut pids = Vec::new();
        collect(folder, &mut pids)?;
        Ok(pids)
    }

    /// It has a freezer.
    pub fn can_freeze(&self) -> bool {
        self.freezer.is_some() || self.unified.as_ref().is_some_and(|folder| folder.join("cgroup.freeze").exists())
    }

    /// Freezes or thaws all of it, and returns when that is done (for 5 s at most).
    ///
    /// # Errors
    /// The io error, with the path; that the time was up.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let end = Instant::now() + FREEZE_TIME;
        let mut wait = Duration::from_micros(100);
        loop {
            let done = match (&self.freezer, &self.unified) {
                (Some(folder), _) => {
                    let (state, word) = (folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
                    // Written again each time: what came to be while the kernel froze the others is then frozen too.
                    write(&state, word)?;
                    read(&state)?.trim() == word
                }
                (None, Some(folder)) => {
                    write(&folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
                    let events = read(&folder.join("cgroup.events"))?;
                    field(&events, "frozen") == Some(u64::from(frozen)) || (frozen && field(&events, "populated") == Some(0))
                }
                (None, None) => return Err(io::Error::new(io::ErrorKind::Unsupported, "this node has no freezer")),
            };
            if done {
                return Ok(());
            }
            if Instant::now() > end {
                let what = if frozen { "frozen" } else { "thawed" };
                let fault = format!("the task could not be {what} within {} s: one of its processes hangs in the kernel", FREEZE_TIME.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, fault));
            }
            // The kernel tells nobody when it has done.
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_millis(20));
        }
    }

    /// A signal to every process in it, also to those that are being born meanwhile.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL
            && let Some(folder) = self.unified.as_ref().filter(|_| self.freezer.is_none())
            && write(&folder.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        let mut told = BTreeSet::new();
        // A process that is born before its parent hears the signal is found in the next round. Who forks faster than we
        // read is stopped by the freezer, where it matters.
        let frozen = signal == libc::SIGKILL && self.freezer.is_some() && self.freeze(true).is_ok();
        for _ in 0..20 {
            let new: Vec<u32> = self.pids()?.into_iter().filter(|pid| told.insert(*pid)).collect();
            if new.is_empty() {
                break;
            }
            for pid in new {
                send(pid, signal);
            }
        }
        if frozen { self.freeze(false) } else { Ok(()) }
    }

    /// How many of its processes the kernel has killed for want of memory; 0 where it keeps no count for this group.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn oom_kills(&self) -> io::Result<u64> {
        let file = match (&self.memory, &self.unified) {
            (Some(folder), _) => folder.join("memory.oom_control"),
            (None, Some(folder)) => folder.join("memory.events"),
            (None, None) => return Ok(0),
        };
        match read(&file) {
            // Kernels before 4.13 keep no count.
            Ok(text) => Ok(field(&text, "oom_kill").unwrap_or(0)),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(fault) => Err(fault),
        }
    }

    /// Removes it: true when nothing lives in it and it is gone.
    ///
    /// # Errors
    /// The io error, with the path. That something lives in it is no error.
    pub fn remove(&self) -> io::Result<bool> {
        if !self.ours {
            return Ok(self.pids()?.is_empty());
        }
        for folder in self.folders() {
            match remove(folder) {
                Err(fault) if fault.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(at("remove the control group", folder, &fault)),
                _ => {}
            }
        }
        Ok(true)
    }

    /// This group with what is known of another one of the same task: a systemd scope's.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { memory: self.memory.or(other.memory), unified: self.unified.or(other.unified), ..self }
    }

    /// It is in no hierarchy: this node has none that is of use.
    pub fn is_empty(&self) -> bool {
        self.folders().next().is_none()
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        // Who lives is asked of the first.
        [&self.freezer, &self.unified, &self.memory, &self.cpu].into_iter().flatten()
    }

    fn members(&self) -> Option<&PathBuf> {
        self.folders().next()
    }
}

fn send(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill(2) touches no memory. Between the kernel's list and this call the number cannot have passed to a
        // process outside the group unless it ended meanwhile, and numbers are not used again at once.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Also of groups that the task has made below its own.
fn collect(folder: &Path, pids: &mut Vec<u32>) -> io::Result<()> {
    let procs = folder.join("cgroup.procs");
    match fs::read_to_string(&procs) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid > 0)),
        // Removed (systemd does that with an empty scope's), or of a kind that lists none.
        Err(fault) if fault.kind() == io::ErrorKind::NotFound || fault.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(fault) => return Err(at("read", &procs, &fault)),
    }
    for below in below(folder)? {
        collect(&below, pids)?;
    }
    Ok(())
}

fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(fault) => return Err(at("list", folder, &fault)),
    };
    let folders = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).collect())
}

/// rmdir(2), after those below it. The files in it go by themselves.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(fault) if fault.raw_os_error() == Some(libc::EBUSY) => {
            let below = below(folder)?;
            if below.is_empty() {
                return Err(fault);
            }
            below.iter().try_for_each(|folder| remove(folder))?;
            fs::remove_dir(folder)
        }
        other => other,
    }
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|fault| at("read", path, &fault))
}

/// The number after a word of its own line: `oom_kill 3`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
