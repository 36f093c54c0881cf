//! Starting a program that outlives the call: exec as given, in its own session, bound, limited and as another user.
//!
//! Everything is prepared here, before the child is made; [`child`] then makes system calls alone, and says which of them
//! failed; [`fault`] turns that into a sentence.
//!
//! The child shares our memory until its exec (as in posix_spawn(3)), while this thread waits: copying the page tables of a
//! process for each task costs more than all else here. So a fault needs no pipe: it is left in memory.

pub mod anchor;
mod child;
mod fault;
#[cfg(test)]
mod tests;

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::domain::cpuset::CpuSet;
use crate::sys::{affinity, process};
use child::{Groups, Plan};

/// What to start. All of it is prepared before the fork.
#[derive(Debug)]
pub struct Launch {
    /// Program (looked up on the PATH of `env` if it has no slash) and arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    pub workdir: PathBuf,
    pub stdout: File,
    pub stderr: File,
    /// User and group; supplementary groups are dropped.
    pub user: Option<(u32, u32)>,
    /// Read back after it was set.
    pub cpus: Option<CpuSet>,
    /// NUMA nodes that memory comes from (`MPOL_BIND`).
    pub mems: Option<CpuSet>,
    /// Files to which the child writes `0`: see [`Group::entries`](super::cgroup::Group::entries).
    pub groups: Vec<File>,
    /// Descriptors that the program is to inherit, at the numbers that they have.
    pub keep: Vec<File>,
}

/// A child of this process. It has to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    pub pid: u32,
}

/// Why nothing runs: which step failed, on what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchFault(pub String);

impl fmt::Display for LaunchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Starts it; returns when exec has succeeded or failed. Signals are as at the start of a process, umask is 022, at most 1,024
/// files may be open (its hard limit is ours), and what protects us from the kernel's out-of-memory killer does not protect it.
///
/// # Errors
/// See [`LaunchFault`]; the child is gone then.
pub fn launch(launch: Launch) -> Result<Launched, LaunchFault> {
    let prepared = Prepared::of(launch, Groups::Join)?;
    let pid = child::spawn(&prepared.plan()).map_err(|failed| prepared.fault(failed))?;
    Ok(Launched { pid })
}

/// Turns this process itself into the program; the session and the control groups stay as they are. Returns only when that
/// fails: this process is good for nothing then but to tell it.
pub fn become_it(launch: Launch) -> LaunchFault {
    match Prepared::of(launch, Groups::Stay) {
        Ok(prepared) => prepared.fault(child::enter(&prepared.plan())),
        Err(fault) => fault,
    }
}

/// A descriptor that whoever started us has left open for us, by its number. It is ours now: to be called once for each.
///
/// # Errors
/// It is not open.
pub fn inherited(fd: i32) -> std::io::Result<File> {
    // SAFETY: plain numbers.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        let fault = std::io::Error::last_os_error();
        return Err(std::io::Error::new(fault.kind(), format!("descriptor {fd} was not handed to us: {fault}")));
    }
    // SAFETY: it is open, and by the agreement with whoever started us it is for us alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Ends a child that has come to nothing (if it has not ended by itself), waits for it, and says how it ended.
pub fn reap(launched: Launched) -> String {
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    let pid = nix::unistd::Pid::from_raw(launched.pid.cast_signed());
    // Whose streams are closed is about to end: it gets the time for that.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return format!("exit status {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => return format!("killed by {signal}"),
            Ok(_) if std::time::Instant::now() < end => std::thread::sleep(std::time::Duration::from_millis(1)),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {
                let _gone = kill(pid, Signal::SIGKILL);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(fault) => return format!("status unknown: {fault}"),
        }
    }
}

/// A [`Launch`] in the form in which the kernel takes it.
struct Prepared {
    launch: Launch,
    argv: Vec<CString>,
    env: Vec<CString>,
    /// The files to try.
    programs: Vec<CString>,
    workdir: CString,
    /// Where PATH led us, for the sentence.
    path: Option<OsString>,
    cpus: Option<Vec<u64>>,
    mems: Option<Vec<u64>>,
    /// stdout and stderr, above 2.
    streams: [RawFd; 2],
    _moved: Vec<File>,
    drop_shield: bool,
    highest_fd: RawFd,
    groups: Groups,
    pointers: [Vec<*const libc::c_char>; 3],
}

impl Prepared {
    fn of(launch: Launch, groups: Groups) -> Result<Self, LaunchFault> {
        let Some(program) = launch.argv.first().filter(|program| !program.is_empty()) else {
            return Err(LaunchFault("the command line is empty".to_owned()));
        };
        let path = launch.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        let programs = candidates(program, path.as_deref())?;
        let argv =
            launch.argv.iter().map(|word| c_string(word.as_bytes(), "an argument")).collect::<Result<Vec<_>, _>>()?;
        let env = launch.env.iter().map(variable).collect::<Result<Vec<_>, _>>()?;
        let workdir = c_string(launch.workdir.as_os_str().as_bytes(), "the working directory")?;
        let mut moved = Vec::new();
        let mut above = |file: &File| match file.as_raw_fd() {
            fd @ 3.. => Ok(fd),
            low => {
                let fd = move_up(low)?;
                let raw = fd.as_raw_fd();
                moved.push(fd);
                Ok(raw)
            }
        };
        let streams = [above(&launch.stdout)?, above(&launch.stderr)?];
        let pointers = [&argv, &env, &programs].map(|strings| pointers(strings));
        Ok(Self {
            argv,
            env,
            workdir,
            cpus: launch.cpus.as_ref().map(affinity::bitmap_of),
            mems: launch.mems.as_ref().map(affinity::bitmap_of),
            streams,
            _moved: moved,
            drop_shield: is_shielded(),
            highest_fd: child::highest_descriptor(),
            path: if program.as_bytes().contains(&b'/') {
                None
            } else {
                Some(path.unwrap_or_else(|| DEFAULT_PATH.into()))
            },
            programs,
            groups,
            pointers,
            launch,
        })
    }

    fn plan(&self) -> Plan<'_> {
        // The pointers lead into strings on the heap that `self` owns and nobody changes.
        debug_assert_eq!(self.pointers[0].len(), self.argv.len() + 1);
        debug_assert_eq!(self.pointers[1].len(), self.env.len() + 1);
        Plan {
            argv: &self.pointers[0],
            env: &self.pointers[1],
            programs: &self.pointers[2],
            workdir: &self.workdir,
            streams: self.streams,
            user: self.launch.user.filter(|user| *user != process::user_and_group() || process::is_root()),
            cpus: self.cpus.as_deref(),
            mems: self.mems.as_deref(),
            joins: &self.launch.groups,
            keep: &self.launch.keep,
            drop_shield: self.drop_shield,
            highest_fd: self.highest_fd,
            groups: self.groups,
        }
    }
}

/// Where programs are looked for without a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An empty part of PATH is the working directory, as in execvp(3).
fn candidates(program: &OsStr, path: Option<&OsStr>) -> Result<Vec<CString>, LaunchFault> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return Ok(vec![c_string(name, "the program's name")?]);
    }
    let path = path.map_or(DEFAULT_PATH.as_bytes(), OsStr::as_bytes);
    let in_folder = |folder: &[u8]| match folder {
        [] => [b"./", name].concat(),
        folder => [folder, b"/", name].concat(),
    };
    path.split(|byte| *byte == b':').map(|folder| c_string(&in_folder(folder), "the program's name")).collect()
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, LaunchFault> {
    CString::new(bytes).map_err(|_nul| {
        let shown = String::from_utf8_lossy(bytes);
        LaunchFault(format!("{what} has a NUL byte, which no program can be given: {:?}", shown))
    })
}

fn variable((name, value): &(OsString, OsString)) -> Result<CString, LaunchFault> {
    let shown = name.to_string_lossy();
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(LaunchFault(format!("{shown:?} cannot be the name of an environment variable")));
    }
    let mut bytes = name.clone().into_vec();
    bytes.push(b'=');
    bytes.extend_from_slice(value.as_bytes());
    // The value may be secret: it is not shown.
    CString::new(bytes).map_err(|_nul| LaunchFault(format!("the environment variable {shown:?} has a NUL byte")))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A copy of a descriptor beyond the standard streams, which would overwrite it.
fn move_up(fd: RawFd) -> Result<File, LaunchFault> {
    // SAFETY: plain numbers.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(LaunchFault(format!("cannot copy descriptor {fd}: {}", std::io::Error::last_os_error())));
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(copy) })
}

/// We are spared by the out-of-memory killer, which children inherit.
fn is_shielded() -> bool {
    std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|text| text.trim_ascii().starts_with('-'))
}
