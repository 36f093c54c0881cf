//! Starting a program that outlives the call: exec as given, in its own session, bound, limited and as another user.
//!
//! Everything that allocates happens before the fork; between fork and exec there are system calls alone, and each that fails is
//! told to the parent through a pipe which exec closes.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{affinity, process};
use crate::domain::cpuset::CpuSet;

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
    /// Clock ticks since the boot, which with the pid names it for good.
    pub start_time: u64,
}

/// Why nothing runs: which step failed, on what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchFault(pub String);

impl fmt::Display for LaunchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where programs are looked for when the task's environment has no PATH (as execvp(3) does).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the child does, in this order; the number of the one that failed comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session = 1,
    Groups,
    Cpus,
    Mems,
    Streams,
    User,
    Folder,
    Exec,
}

impl Step {
    const ALL: [Self; 8] = [
        Self::Session,
        Self::Groups,
        Self::Cpus,
        Self::Mems,
        Self::Streams,
        Self::User,
        Self::Folder,
        Self::Exec,
    ];
}

/// Starts it; returns when exec has succeeded or failed.
///
/// # Errors
/// See [`LaunchFault`]; the child is gone then.
pub fn launch(launch: Launch) -> Result<Launched, LaunchFault> {
    let plan = Plan::of(&launch)?;
    let (told, tell) = pipe().map_err(|fault| LaunchFault(format!("cannot make a pipe: {fault}")))?;
    // SAFETY: this process may have other threads, so the child does only what is safe after a fork of such a process
    // (`Plan::carry_out`: system calls on memory that was prepared), and ends in exec or _exit.
    let pid = match unsafe { libc::fork() } {
        -1 => {
            let fault = std::io::Error::last_os_error();
            return Err(LaunchFault(format!("cannot start another process: {fault}")));
        }
        0 => plan.carry_out(tell.as_raw_fd()),
        pid => pid,
    };
    drop(tell);
    let mut failed = [0; 5];
    let mut told = File::from(told);
    match told.read_exact(&mut failed) {
        Ok(()) => {
            let mut status = 0;
            // SAFETY: `pid` is our child, which is ending; `status` is a plain integer.
            while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1
                && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
            {}
            let step = Step::ALL.into_iter().find(|step| *step as u8 == failed[0]).unwrap_or(Step::Exec);
            let errno = i32::from_ne_bytes([failed[1], failed[2], failed[3], failed[4]]);
            Err(LaunchFault(sentence(&launch, step, errno)))
        }
        // The pipe was closed by exec: it runs.
        Err(_) => {
            let pid = u32::try_from(pid).expect("a child's process id is positive");
            // It is not reaped by anyone but us, so it has its place in /proc, ended or not.
            let start_time = process::start_time(Path::new("/"), pid).unwrap_or(0);
            Ok(Launched { pid, start_time })
        }
    }
}

/// For the user: what could not be done, and why.
fn sentence(launch: &Launch, step: Step, errno: i32) -> String {
    let fault = std::io::Error::from_raw_os_error(errno);
    let set = |set: &Option<CpuSet>| set.as_ref().map_or_else(String::new, ToString::to_string);
    let program = launch.argv.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned());
    match step {
        Step::Session => format!("cannot make a session of its own: {fault}"),
        Step::Groups => format!("cannot enter its control group: {fault}"),
        Step::Cpus if errno == 0 => format!("cannot bind to CPUs {}: some of them are offline now", set(&launch.cpus)),
        Step::Cpus => format!("cannot bind to CPUs {}: {fault}", set(&launch.cpus)),
        Step::Mems => format!("cannot take its memory from NUMA node {}: {fault}", set(&launch.mems)),
        Step::Streams => format!("cannot set its streams: {fault}"),
        Step::User => {
            let (uid, gid) = launch.user.unwrap_or_default();
            format!("cannot become user {uid} with group {gid}: {fault}")
        }
        Step::Folder => format!("cannot enter the working directory {}: {fault}", launch.workdir.display()),
        Step::Exec if errno == libc::ENOENT && !program.contains('/') => {
            format!("cannot run '{program}': there is no such program on the PATH of the task ({})", path_of(launch))
        }
        Step::Exec if errno == libc::ENOEXEC => {
            format!("cannot run '{program}': it is no program for this machine, and has no '#!' line")
        }
        Step::Exec => format!("cannot run '{program}': {fault}"),
    }
}

fn path_of(launch: &Launch) -> String {
    let path = launch.env.iter().rev().find(|(name, _)| name == "PATH");
    path.map_or_else(|| DEFAULT_PATH.to_owned(), |(_, path)| path.to_string_lossy().into_owned())
}

/// What the child needs, in the form that system calls take.
struct Plan {
    programs: Vec<CString>,
    argv: Pointers,
    env: Pointers,
    workdir: CString,
    null: File,
    streams: [RawFd; 2],
    user: Option<(u32, u32)>,
    drops_groups: bool,
    cpus: Option<Bitmap>,
    mems: Option<Bitmap>,
    groups: Vec<RawFd>,
    keep: Vec<RawFd>,
    highest_signal: i32,
}

/// Strings and the NULL-ended list of pointers to them.
struct Pointers {
    _strings: Vec<CString>,
    list: Vec<*const libc::c_char>,
}

struct Bitmap {
    wanted: Vec<u64>,
    /// What is read back.
    got: Vec<u64>,
}

impl Plan {
    fn of(launch: &Launch) -> Result<Self, LaunchFault> {
        let program = launch.argv.first().filter(|program| !program.is_empty());
        let program = program.ok_or_else(|| LaunchFault("the command line is empty".to_owned()))?;
        let programs = candidates(program, OsStr::new(&path_bytes(launch)))?;
        let env = launch.env.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        Ok(Self {
            programs,
            argv: Pointers::of(launch.argv.iter().map(|word| word.as_bytes().to_vec()))?,
            env: Pointers::of(env)?,
            workdir: text(launch.workdir.as_os_str().as_bytes().to_vec())?,
            null: File::open("/dev/null").map_err(|fault| LaunchFault(format!("cannot open /dev/null: {fault}")))?,
            streams: [launch.stdout.as_raw_fd(), launch.stderr.as_raw_fd()],
            user: launch.user,
            drops_groups: process::is_root(),
            cpus: launch.cpus.as_ref().map(Bitmap::of),
            mems: launch.mems.as_ref().map(Bitmap::of),
            groups: launch.groups.iter().map(File::as_raw_fd).collect(),
            keep: launch.keep.iter().map(File::as_raw_fd).collect(),
            highest_signal: libc::SIGRTMAX(),
        })
    }

    /// The child: ends in exec, or tells the step that failed and ends.
    fn carry_out(mut self, tell: RawFd) -> ! {
        let (step, errno) = self.steps(tell);
        let mut failed = [0; 5];
        failed[0] = step as u8;
        failed[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: write(2) of a local array to a descriptor that is open, and _exit(2), which runs nothing of ours. What
        // `self` owns is not dropped: nothing may be freed here.
        unsafe {
            libc::write(tell, failed.as_ptr().cast(), failed.len());
            libc::_exit(127)
        }
    }

    /// The step that failed, and its errno.
    fn steps(&mut self, tell: RawFd) -> (Step, i32) {
        // SAFETY: plain system calls, all of them safe after a fork, on memory that was prepared by the parent and that
        // lives until exec: `self` is not dropped before.
        unsafe {
            if libc::setsid() == -1 {
                return (Step::Session, errno());
            }
            for group in &self.groups {
                if libc::write(*group, c"0".as_ptr().cast(), 1) != 1 {
                    return (Step::Groups, errno());
                }
            }
            if let Some(cpus) = &mut self.cpus {
                if libc::syscall(libc::SYS_sched_setaffinity, 0, cpus.bytes(), cpus.wanted.as_ptr()) != 0 {
                    return (Step::Cpus, errno());
                }
                let got = libc::syscall(libc::SYS_sched_getaffinity, 0, cpus.bytes(), cpus.got.as_mut_ptr());
                // EINVAL: this kernel's sets are larger than ours; what was set is then right by the call's own word.
                if got >= 0 && cpus.got != cpus.wanted {
                    return (Step::Cpus, 0);
                }
            }
            if let Some(mems) = &self.mems {
                // The kernel takes one bit less than it is told (get_nodes() in mm/mempolicy.c).
                let bits = mems.bytes() * 8 + 1;
                if libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_BIND, mems.wanted.as_ptr(), bits) != 0 {
                    return (Step::Mems, errno());
                }
            }
            let [stdout, stderr] = self.streams;
            for (from, to) in [(self.null.as_raw_fd(), 0), (stdout, 1), (stderr, 2)] {
                if libc::dup2(from, to) == -1 {
                    return (Step::Streams, errno());
                }
            }
            close_others(tell, &self.keep);
            self.reset_signals();
            libc::umask(0o022);
            if let Some((uid, gid)) = self.user {
                if self.drops_groups && libc::setgroups(0, std::ptr::null()) != 0 {
                    return (Step::User, errno());
                }
                if libc::setresgid(gid, gid, gid) != 0 || libc::setresuid(uid, uid, uid) != 0 {
                    return (Step::User, errno());
                }
            }
            // As the user, so that nobody gets into a folder that is closed to him.
            if libc::chdir(self.workdir.as_ptr()) != 0 {
                return (Step::Folder, errno());
            }
            let mut fault = libc::ENOENT;
            for program in &self.programs {
                libc::execve(program.as_ptr(), self.argv.list.as_ptr(), self.env.list.as_ptr());
                match errno() {
                    // The next folder may have it.
                    libc::ENOENT | libc::ENOTDIR => {}
                    libc::EACCES => fault = libc::EACCES,
                    other => return (Step::Exec, other),
                }
            }
            (Step::Exec, fault)
        }
    }

    /// Every signal does again what it does by default, and none is blocked.
    ///
    /// # Safety
    /// Only between fork and exec: the parent's handlers would be gone.
    unsafe fn reset_signals(&self) {
        // SAFETY: sets that are made here, and dispositions of this process, which is about to be another program.
        unsafe {
            for signal in 1..=self.highest_signal {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
    }
}

/// All but the three streams, what is to be kept, and the pipe (which exec closes).
///
/// # Safety
/// Only between fork and exec: the parent's own descriptors are marked to be closed, and must not be used any more.
unsafe fn close_others(tell: RawFd, keep: &[RawFd]) {
    // SAFETY: system calls on numbers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            // Kernels before 5.11: one by one, as many as are likely to be open.
            for fd in 3..1024 {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
        for fd in keep {
            libc::fcntl(*fd, libc::F_SETFD, 0);
        }
        libc::fcntl(tell, libc::F_SETFD, libc::FD_CLOEXEC);
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors into an array of two.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: both were opened just now, and nobody else knows them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn path_bytes(launch: &Launch) -> OsString {
    let path = launch.env.iter().rev().find(|(name, _)| name == "PATH");
    path.map_or_else(|| OsString::from(DEFAULT_PATH), |(_, path)| path.clone())
}

/// Where the program may be, in the order of the PATH. An empty part of the PATH, which others take for the working directory,
/// is passed over.
fn candidates(program: &OsStr, path: &OsStr) -> Result<Vec<CString>, LaunchFault> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![text(program.as_bytes().to_vec())?]);
    }
    let folders = path.as_bytes().split(|byte| *byte == b':').filter(|folder| !folder.is_empty());
    folders.map(|folder| text([folder, b"/", program.as_bytes()].concat())).collect()
}

fn text(bytes: Vec<u8>) -> Result<CString, LaunchFault> {
    CString::new(bytes).map_err(|fault| {
        let shown = String::from_utf8_lossy(&fault.into_vec()).replace('\0', "\\0");
        LaunchFault(format!("cannot pass on {shown:?}: it has a NUL byte"))
    })
}

impl Pointers {
    fn of(strings: impl Iterator<Item = Vec<u8>>) -> Result<Self, LaunchFault> {
        let strings = strings.map(text).collect::<Result<Vec<_>, _>>()?;
        // The strings' bytes stay where they are when the list of them moves.
        let list = strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { _strings: strings, list })
    }
}

impl Bitmap {
    fn of(set: &CpuSet) -> Self {
        let wanted = affinity::bitmap(set);
        Self { got: vec![0; wanted.len()], wanted }
    }

    fn bytes(&self) -> usize {
        self.wanted.len() * 8
    }
}
