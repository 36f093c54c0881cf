//! What happens between the making of the child and its exec: system calls on what was prepared, nothing else. It runs in
//! memory that it shares with a parent that waits, possibly beside other threads of that parent: no allocation, no lock, and
//! no function of glibc that tells other threads (its setuid does).

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd as _, RawFd};

/// What a child does, as the kernel takes it. Lists of pointers end with a null pointer.
pub(super) struct Plan<'a> {
    pub(super) argv: &'a [*const libc::c_char],
    pub(super) env: &'a [*const libc::c_char],
    pub(super) programs: &'a [*const libc::c_char],
    pub(super) workdir: &'a CStr,
    pub(super) streams: [RawFd; 2],
    pub(super) user: Option<(u32, u32)>,
    pub(super) cpus: Option<&'a [u64]>,
    pub(super) mems: Option<&'a [u64]>,
    pub(super) joins: &'a [File],
    pub(super) keep: &'a [File],
    pub(super) drop_shield: bool,
    /// The highest descriptor that was open: for kernels that cannot close all at once.
    pub(super) highest_fd: RawFd,
    pub(super) groups: Groups,
}

/// Session and control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    /// A session of its own, in the control groups of the plan.
    Join,
    /// Both are right already.
    Stay,
}

/// What a child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Clone,
    Session,
    JoinGroup,
    Affinity,
    /// The kernel has bound it to other CPUs than were asked for.
    AffinityDiffers,
    Memory,
    MemoryDiffers,
    Groups,
    Gid,
    Uid,
    Workdir,
    Null,
    Streams,
    Descriptors,
    Exec,
}

/// The step and its errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) step: Step,
    pub(super) errno: i32,
}

impl Failed {
    fn now(step: Step) -> Self {
        // SAFETY: errno of this thread; the child has the parent's, which waits.
        Self { step, errno: unsafe { *libc::__errno_location() } }
    }
}

/// What the child gets, and where it leaves its fault.
struct Shared<'a> {
    plan: &'a Plan<'a>,
    failed: UnsafeCell<Option<Failed>>,
}

/// Words of 16 bytes: 64 KiB, of which the child uses a few.
const STACK: usize = 4096;

/// Makes the child; returns its pid when it has become the program (or was killed on the way).
pub(super) fn spawn(plan: &Plan<'_>) -> Result<u32, Failed> {
    let mut stack = vec![0_u128; STACK];
    let shared = Shared { plan, failed: UnsafeCell::new(None) };
    // No handler of ours may run in the child, in our memory.
    // SAFETY: both sets are ours; the mask of this thread is put back below.
    let old = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        old
    };
    // SAFETY: the stack is 64 KiB, aligned to 16, grows down from its end, and lives until the child has left it: with
    // CLONE_VFORK this thread goes on only when the child has called exec or has ended. `shared` lives as long, and nobody
    // else looks at it. The child makes system calls alone (see the module).
    let pid = unsafe {
        libc::clone(
            child_main,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw const shared).cast_mut().cast(),
        )
    };
    let cloned = if pid < 0 { Err(Failed::now(Step::Clone)) } else { Ok(pid) };
    // SAFETY: the mask that was there before.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
    let pid = cloned?;
    if let Some(failed) = shared.failed.into_inner() {
        // SAFETY: our own child, which is ending; nobody else knows its pid.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0 {
            if Failed::now(Step::Clone).errno != libc::EINTR {
                break;
            }
        }
        return Err(failed);
    }
    Ok(u32::try_from(pid).expect("a process id is positive"))
}

extern "C" fn child_main(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the pointer is that of `spawn`, which waits.
    let shared = unsafe { &*shared.cast::<Shared<'_>>() };
    let failed = enter(shared.plan);
    // SAFETY: the parent reads it only when this process has ended.
    unsafe { *shared.failed.get() = Some(failed) };
    // SAFETY: ends this process alone, without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

/// Does what the plan says, to this process. Returns only when a step failed.
pub(super) fn enter(plan: &Plan<'_>) -> Failed {
    match steps(plan) {
        Ok(never) => match never {},
        Err(failed) => failed,
    }
}

fn steps(plan: &Plan<'_>) -> Result<std::convert::Infallible, Failed> {
    reset_signals();
    if plan.groups == Groups::Join {
        // SAFETY: no pointers. The child of a clone leads no group, so this cannot fail for that.
        check(unsafe { libc::setsid() }.into(), Step::Session)?;
        for file in plan.joins {
            // SAFETY: one byte of a static string; the file is open.
            check(unsafe { libc::write(file.as_raw_fd(), b"0".as_ptr().cast(), 1) } as i64, Step::JoinGroup)?;
        }
    }
    if plan.drop_shield {
        unshield();
    }
    cap_open_files();
    if let Some(cpus) = plan.cpus {
        bind_cpus(cpus)?;
    }
    if let Some(mems) = plan.mems {
        bind_memory(mems)?;
    }
    // SAFETY: a plain number; it cannot fail.
    unsafe { libc::umask(0o022) };
    if let Some((uid, gid)) = plan.user {
        become_user(uid, gid)?;
    }
    // As the user: root may not be allowed into a folder on a network file system.
    // SAFETY: a string that ends with NUL.
    check(unsafe { libc::chdir(plan.workdir.as_ptr()) }.into(), Step::Workdir)?;
    streams(plan.streams)?;
    descriptors(plan)?;
    exec(plan)
}

fn check(result: i64, step: Step) -> Result<i64, Failed> {
    if result < 0 { Err(Failed::now(step)) } else { Ok(result) }
}

/// Default dispositions and an empty mask: we ignore some signals and block others, and both are inherited through exec.
/// First the one, then the other, so that no handler runs here.
fn reset_signals() {
    // The kernel's own structure (handler, flags, restorer, mask), all zero: the default. glibc's function refuses the two
    // signals that it keeps for itself, which may have come ignored from whoever started us.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: a structure of the size that the kernel reads. KILL and STOP are refused, and are default anyway.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8_usize)
        };
    }
    // SAFETY: a set that is made here.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// To be killed more readily than before needs no rights; a failure harms nobody but the machine's choice of victims.
fn unshield() {
    // SAFETY: static strings; the descriptor is closed again.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, b"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// We may have raised our own limit; programs that use select(2) must not get a descriptor beyond 1,023 unasked.
fn cap_open_files() {
    // SAFETY: a structure of our own. A failure leaves the limit as it is.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur > 1024 {
            limit.rlim_cur = 1024;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Larger than the bitmaps of any kernel: 64 Ki CPUs.
const READ_BACK: usize = 1024;

fn bind_cpus(cpus: &[u64]) -> Result<(), Failed> {
    let mut got = [0_u64; READ_BACK];
    // SAFETY: pointers and lengths in bytes describe these bitmaps.
    let length = unsafe {
        check(libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()), Step::Affinity)?;
        libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&got), got.as_mut_ptr())
    };
    check(length, Step::Affinity)?;
    // CPUs that are offline, or that our cpuset does not have, are left out by the kernel without a word.
    if is_same(cpus, &got) { Ok(()) } else { Err(Failed { step: Step::AffinityDiffers, errno: 0 }) }
}

fn bind_memory(mems: &[u64]) -> Result<(), Failed> {
    const MPOL_BIND: libc::c_long = 2;
    // Twice the nodes of any kernel. It refuses to fill more than a page.
    let mut got = [0_u64; 32];
    let mut mode: libc::c_int = 0;
    // The kernel counts bits, and reads one fewer than it is told.
    let bits = mems.len() * 64 + 1;
    // SAFETY: pointers and lengths in bits describe these bitmaps; no address is asked about.
    unsafe {
        check(libc::syscall(libc::SYS_set_mempolicy, MPOL_BIND, mems.as_ptr(), bits), Step::Memory)?;
        let most = got.len() * 64;
        let got = libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, got.as_mut_ptr(), most, 0_usize, 0);
        check(got, Step::Memory)?;
    }
    let is_bound = libc::c_long::from(mode) == MPOL_BIND && is_same(mems, &got);
    if is_bound { Ok(()) } else { Err(Failed { step: Step::MemoryDiffers, errno: 0 }) }
}

/// Bitmaps of different lengths with the same bits.
fn is_same(wanted: &[u64], got: &[u64]) -> bool {
    let length = wanted.len().max(got.len());
    (0..length).all(|at| wanted.get(at).copied().unwrap_or(0) == got.get(at).copied().unwrap_or(0))
}

/// Raw calls: glibc's functions make every thread of the process do the same, and the threads of our parent's memory are not
/// ours.
fn become_user(uid: u32, gid: u32) -> Result<(), Failed> {
    // SAFETY: numbers, and an empty list.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0_usize, std::ptr::null::<u32>()), Step::Groups)?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid), Step::Gid)?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), Step::Uid)?;
    }
    Ok(())
}

fn streams([stdout, stderr]: [RawFd; 2]) -> Result<(), Failed> {
    // SAFETY: a static string and numbers of open descriptors, those of the streams above 2.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
        check(null.into(), Step::Null)?;
        check(libc::dup2(null, 0).into(), Step::Streams)?;
        if null > 2 {
            libc::close(null);
        }
        check(libc::dup2(stdout, 1).into(), Step::Streams)?;
        check(libc::dup2(stderr, 2).into(), Step::Streams)?;
    }
    Ok(())
}

/// All but the standard streams and what is to be kept close at exec.
fn descriptors(plan: &Plan<'_>) -> Result<(), Failed> {
    // SAFETY: plain numbers. Linux has it since 5.11.
    let all = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if all < 0 {
        for fd in 3..=plan.highest_fd {
            // SAFETY: plain numbers; one that is not open gives an error, which is as good.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    for file in plan.keep {
        // SAFETY: the file is open.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }.into(), Step::Descriptors)?;
    }
    Ok(())
}

/// As execvp(3) looks along PATH, but what has no format that the kernel knows is not given to a shell.
fn exec(plan: &Plan<'_>) -> Result<std::convert::Infallible, Failed> {
    let mut worst = Failed { step: Step::Exec, errno: libc::ENOENT };
    for program in plan.programs.iter().take_while(|program| !program.is_null()) {
        // SAFETY: strings that end with NUL, in lists that end with a null pointer.
        unsafe { libc::execve(*program, plan.argv.as_ptr(), plan.env.as_ptr()) };
        let failed = Failed::now(Step::Exec);
        match failed.errno {
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            // One that we may not run does not hide one later on the PATH.
            libc::EACCES => worst = failed,
            _ => return Err(failed),
        }
    }
    Err(worst)
}

/// For kernels without close_range; only they pay for it.
pub(super) fn highest_descriptor() -> RawFd {
    // An empty range far above all: it changes nothing, and tells whether the call is there.
    // SAFETY: plain numbers.
    let there = unsafe {
        libc::syscall(libc::SYS_close_range, libc::c_uint::MAX, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if there == 0 {
        return 2;
    }
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let highest = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max();
    highest.unwrap_or(65_536)
}
