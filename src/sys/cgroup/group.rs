//! One task's groups: who is in them, and what is done to all of them at once.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{Place, Version, cannot, folders_in, table::read_text, v1, v2};
use crate::sys::fault;

/// How long a freeze may take. Who waits for a disk that does not answer cannot be frozen.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same before a signal: what cannot be frozen is signalled all the same.
const SHORT_PATIENCE: Duration = Duration::from_millis(200);
/// How often the list of processes is read again when it cannot be held still.
const ROUNDS: usize = 200;

/// The group of one task, in every hierarchy that is of use.
#[derive(Debug, Default)]
pub struct Group {
    pub(super) freezer: Option<Place>,
    pub(super) memory: Option<Place>,
    pub(super) cpu: Option<Place>,
    /// Those of its folders that we have made, and are to remove.
    pub(super) ours: BTreeSet<PathBuf>,
    pub(super) anchor: Option<Anchor>,
}

/// A process that keeps a foreign group alive until its record was read. It ends when its line to us is closed.
#[derive(Debug)]
pub(super) struct Anchor {
    pid: u32,
    line: UnixStream,
}

impl Group {
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        [&self.freezer, &self.memory, &self.cpu].into_iter().flatten()
    }

    /// With a process that is in the group only to keep it: it is not listed, signalled, or waited for, and
    /// [`Group::remove`] lets it go.
    #[must_use]
    pub fn with_anchor(mut self, pid: u32, line: UnixStream) -> Self {
        for parent in self.ours.iter().filter_map(|path| path.parent()) {
            // Out of what we made ourselves, which could not be removed at once else. If that fails, it is removed later.
            let _stays = super::put(&parent.join("cgroup.procs"), &pid.to_string());
        }
        self.anchor = Some(Anchor { pid, line });
        self
    }

    /// The same, but freezing and ending only what is in the group `name` below it, on version 2 and if that is there.
    #[must_use]
    pub fn below(mut self, name: &str) -> Self {
        if let Some(place) = self.freezer.as_mut().filter(|place| place.version == Version::V2) {
            let inner = place.path.join(name);
            if inner.is_dir() {
                place.path = inner;
            }
        }
        self
    }

    /// Lets memory and swap together be no more than this, where the kernel counts swap, in a group whose memory systemd
    /// has limited: on version 1 it does not limit swap.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn limit_swap(&self, bytes: u64) -> io::Result<()> {
        match &self.memory {
            Some(Place { version: Version::V1, path }) => v1::limit_memory(path, bytes),
            _ => Ok(()),
        }
    }

    /// No hierarchy tells who is in it: [`Group::pids`] knows nobody.
    pub fn is_blind(&self) -> bool {
        self.places().next().is_none()
    }

    /// Files to which a child writes `0` before exec, to be in it from its first instruction.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn entries(&self) -> io::Result<Vec<File>> {
        let open = |path: &PathBuf| {
            let path = path.join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(|fault| cannot("open", &path, &fault))
        };
        self.ours.iter().map(open).collect()
    }

    /// Freezing is possible: else all that can be done is to stop its processes one by one.
    pub fn can_freeze(&self) -> bool {
        self.freezer.is_some()
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn enter(&self) -> io::Result<()> {
        self.ours.iter().try_for_each(|path| super::put(&path.join("cgroup.procs"), "0"))
    }

    /// Moves this process to where our parent group stands, and removes this group.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn leave(&self) -> io::Result<()> {
        for path in &self.ours {
            let above = path.ancestors().nth(2).unwrap_or(path);
            super::put(&above.join("cgroup.procs"), "0")?;
        }
        self.remove().map(drop)
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let Some(place) = self.places().next() else {
            return Ok(Vec::new());
        };
        let mut pids = pids_below(&place.path)?;
        if let Some(anchor) = &self.anchor {
            pids.remove(&anchor.pid);
        }
        Ok(pids.into_iter().collect())
    }

    /// Freezes or thaws all of it, and returns when that is done (for 5 s at most).
    ///
    /// # Errors
    /// The io error, with the path; [`ErrorKind::Unsupported`] where nothing can be frozen.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        self.freeze_within(frozen, PATIENCE)
    }

    fn freeze_within(&self, frozen: bool, patience: Duration) -> io::Result<()> {
        let _step = fault::step("group", || if frozen { "freeze" } else { "thaw" }.to_owned());
        match &self.freezer {
            Some(Place { version: Version::V1, path }) => v1::freeze(path, frozen, patience),
            Some(Place { version: Version::V2, path }) => v2::freeze(path, frozen, patience),
            None => Err(io::Error::new(ErrorKind::Unsupported, "this node has no control group that freezes")),
        }
    }

    fn is_frozen(&self) -> bool {
        let state = match &self.freezer {
            Some(Place { version: Version::V1, path }) => v1::is_frozen(path),
            Some(Place { version: Version::V2, path }) => v2::is_frozen(path),
            None => Ok(false),
        };
        state.unwrap_or(false)
    }

    /// A signal to every process in it, also to what is being forked meanwhile: all of it is held still for that, where it can
    /// be. What was frozen stays so and gets it when it is thawed (on version 2 what ends a process does so at once), but for
    /// SIGKILL, which thaws.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let _step = fault::step("group", || format!("signal {signal}"));
        let is_kill = signal == libc::SIGKILL;
        if let (true, Some(Place { version: Version::V2, path })) = (is_kill, &self.freezer)
            && let Some(done) = v2::kill(path)
        {
            return done;
        }
        let was_frozen = self.is_frozen();
        if self.freezer.is_some() && !was_frozen {
            // One that waits for a disk holds this up; the others are still then, and it cannot fork.
            let _late = self.freeze_within(true, SHORT_PATIENCE);
        }
        let told = self.tell_each(signal);
        if self.freezer.is_some() && (is_kill || !was_frozen) {
            match self.freeze_within(false, SHORT_PATIENCE) {
                // It was removed: then nothing is left that could be frozen.
                Err(fault) if fault.kind() == ErrorKind::NotFound => {}
                thawed => thawed?,
            }
        }
        told
    }

    /// Each process once, until a reading of the list shows nobody new.
    fn tell_each(&self, signal: i32) -> io::Result<()> {
        let mut told = BTreeSet::new();
        for _ in 0..ROUNDS {
            let fresh: Vec<u32> = match self.pids() {
                Ok(pids) => pids.into_iter().filter(|pid| !told.contains(pid)).collect(),
                Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(()),
                Err(fault) => return Err(fault),
            };
            if fresh.is_empty() {
                return Ok(());
            }
            for pid in fresh {
                send(pid, signal)?;
                told.insert(pid);
            }
        }
        Err(io::Error::other(format!("processes are started faster than signal {signal} reaches them")))
    }

    /// How many of its processes the kernel has killed for want of memory; 0 where it has no memory group.
    ///
    /// # Errors
    /// The io error, with the path; [`ErrorKind::Unsupported`] where the kernel keeps no count.
    pub fn oom_kills(&self) -> io::Result<u64> {
        match &self.memory {
            Some(Place { version: Version::V1, path }) => v1::oom_kills(path),
            Some(Place { version: Version::V2, path }) => v2::oom_kills(path),
            None => Ok(0),
        }
    }

    /// Removes it: true when nothing lives in it and it is gone.
    ///
    /// # Errors
    /// The io error, with the path. That something lives in it is no error.
    pub fn remove(&self) -> io::Result<bool> {
        match self.pids() {
            Ok(pids) if !pids.is_empty() => return Ok(false),
            Err(fault) if fault.kind() != ErrorKind::NotFound => return Err(fault),
            Ok(_) | Err(_) => {}
        }
        let _step = fault::step("group", || "remove".to_owned());
        if let Some(anchor) = &self.anchor {
            // It may have ended already.
            let _gone = anchor.line.shutdown(Shutdown::Both);
        }
        for path in &self.ours {
            if !remove_below(path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn send(pid: u32, signal: i32) -> io::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    let signal = nix::sys::signal::Signal::try_from(signal).map_err(io::Error::from)?;
    match kill(pid, signal) {
        // It has ended meanwhile.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(fault) => Err(io::Error::new(
            io::Error::from(fault).kind(),
            format!("cannot send {signal} to process {pid}: {}", fault.desc()),
        )),
    }
}

/// The processes of a group and of the groups below it. A group that goes meanwhile has none.
pub(super) fn pids_below(path: &Path) -> io::Result<BTreeSet<u32>> {
    let mut pids: BTreeSet<u32> =
        read_text(&path.join("cgroup.procs"))?.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    // 0 is a process of another PID namespace: it cannot be named.
    pids.remove(&0);
    for name in folders_in(path)? {
        match pids_below(&path.join(name)) {
            Ok(more) => pids.extend(more),
            Err(fault) if is_gone(&fault) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(pids)
}

/// A file of a removed group that is still open gives ENODEV.
fn is_gone(fault: &io::Error) -> bool {
    fault.kind() == ErrorKind::NotFound || fault.raw_os_error() == Some(libc::ENODEV)
}

/// Tasks of root may have made groups below theirs.
fn remove_below(path: &Path) -> io::Result<bool> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(true),
        Err(fault) if matches!(fault.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => {}
        Err(fault) => return Err(cannot("remove the control group", path, &fault)),
    }
    let below = folders_in(path)?;
    if below.is_empty() {
        return Ok(false);
    }
    for name in below {
        if !remove_below(&path.join(name))? {
            return Ok(false);
        }
    }
    Ok(fs::remove_dir(path).is_ok())
}
