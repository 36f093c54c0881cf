//! Who a process and a machine are.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::procfs::read_as;

/// When a process started, in clock ticks since the machine did (field 22 of `<root>/proc/<pid>/stat`). A pid that was
/// kept in a file means nothing without it: pids are used again.
///
/// # Errors
/// There is no such process; or `/proc` is not as expected.
pub fn start_time(root: &Path, pid: u32) -> io::Result<u64> {
    read_as(&root.join(format!("proc/{pid}/stat")), parse_start_time)
}

/// The name of the program stands in brackets, and may itself hold blanks and brackets.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    // The first field after the name is the third.
    after_name.split_whitespace().nth(22 - 3)?.parse().ok()
}

/// Does this process have root's rights?
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The effective user and group of this process.
pub fn user_and_group() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Lets this process have as many open files and sockets as the system allows it, 65,536 at most. The usual limit, 1,024,
/// is there for programs that use select(2).
///
/// # Errors
/// The kernel refuses.
pub fn raise_file_limit() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536).max(soft), hard)?)
}

/// Random for each start of the machine (`<root>/proc/sys/kernel/random/boot_id`).
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id(root: &Path) -> io::Result<String> {
    read_as(&root.join("proc/sys/kernel/random/boot_id"), non_empty)
}

/// The machine's name (`<root>/proc/sys/kernel/hostname`).
///
/// # Errors
/// `/proc` is not mounted.
pub fn hostname(root: &Path) -> io::Result<String> {
    read_as(&root.join("proc/sys/kernel/hostname"), non_empty)
}

/// The machine's own id, from `<root>/etc/machine-id` or `<root>/var/lib/dbus/machine-id`: 32 hexadecimal digits.
/// None where there is none (a minimal system, or an image that has not booted yet), or one for this boot alone (machine-id(5): systemd
/// then keeps it in `/run`).
pub fn machine_id(root: &Path) -> Option<String> {
    if root.join("run/machine-id").exists() {
        return None;
    }
    let id = |path: &str| {
        let text = non_empty(&std::fs::read_to_string(root.join(path)).ok()?)?;
        (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())).then_some(text)
    };
    id("etc/machine-id").or_else(|| id("var/lib/dbus/machine-id"))
}

fn non_empty(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Makes this process one of its own: the caller goes on as a child without terminal, session or output (which goes to `log`, begun anew when it has grown),
/// while the process that was started waits for [`Detached::ready`] and ends. To be called before the first thread starts.
///
/// # Errors
/// The kernel refuses; the log cannot be written.
pub fn detach(log: &Path) -> io::Result<Detached> {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;
    // Another one may be writing it, which is the case when this one is not needed.
    let log = std::fs::OpenOptions::new().append(true).create(true).open(log)?;
    if log.metadata()?.len() > LARGEST_LOG {
        log.set_len(0)?;
    }
    let null = std::fs::File::open("/dev/null")?;
    let (mut told, tell) = std::io::pipe()?;
    // SAFETY: there is no other thread yet, so the child may do whatever this process may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { .. } => {
            drop(tell);
            let mut word = String::new();
            let _broken = told.read_to_string(&mut word);
            match word.as_str() {
                "ready" => std::process::exit(0),
                fault => {
                    eprintln!("{}", if fault.is_empty() { "it ended at once" } else { fault });
                    std::process::exit(1)
                }
            }
        }
        nix::unistd::ForkResult::Child => {
            nix::unistd::setsid()?;
            std::env::set_current_dir("/")?;
            for (from, to) in [(null.as_raw_fd(), 0), (log.as_raw_fd(), 1), (log.as_raw_fd(), 2)] {
                // SAFETY: dup2(2) of descriptors that are open; nobody holds the three that it replaces as their own.
                if unsafe { libc::dup2(from, to) } == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(Detached { tell })
        }
    }
}

/// Bytes of a log that are gone on with at a start.
const LARGEST_LOG: u64 = 1 << 20;

/// The line to the process that was started.
#[derive(Debug)]
pub struct Detached {
    tell: io::PipeWriter,
}

impl Detached {
    /// It may end well.
    pub fn ready(mut self) {
        use std::io::Write as _;
        // It may have been killed.
        let _gone = self.tell.write_all(b"ready");
    }

    /// It is to end with this for an error.
    pub fn failed(mut self, fault: &str) {
        use std::io::Write as _;
        let _gone = self.tell.write_all(fault.as_bytes());
    }
}

/// Tells a process that its terminal is gone.
pub const SIGHUP: i32 = libc::SIGHUP;
/// Ends a process that it lets end.
pub const SIGTERM: i32 = libc::SIGTERM;
/// Ends a process.
pub const SIGKILL: i32 = libc::SIGKILL;
/// Stops a process.
pub const SIGSTOP: i32 = libc::SIGSTOP;
/// Lets a stopped process go on.
pub const SIGCONT: i32 = libc::SIGCONT;

/// The living processes that carry `mark` (`NAME=VALUE`) in the environment they were started with, and process `main`: what a
/// task consists of where there are no control groups. (A program that clears its environment and leaves its parent hides from
/// this.)
///
/// # Errors
/// `/proc` is not mounted.
pub fn of_task(main: u32, mark: &str) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let is_marked = || {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|pair| pair == mark.as_bytes())
        };
        if (pid == main || is_marked()) && is_alive(pid) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// All living processes that these have started, and those that they have started, without themselves. (Whose parent has ended is
/// nobody's descendant any more.)
pub fn descendants(pids: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // `pid (name) state parent …`, where the name may hold any bytes.
        let stat = stat(pid);
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut left = pids.to_vec();
    while let Some(parent) = left.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        found.extend(&below);
        left.extend(below);
    }
    found
}

/// Neither gone nor a zombie.
fn is_alive(pid: u32) -> bool {
    stat(pid).rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Its line; empty if it is gone.
fn stat(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default()).into_owned()
}

/// The processes that hold a terminal as the leader of their session, and were given it from outside: they carry `mark` in their
/// environment, and their parent does not. (A terminal that a marked program has made for others is not meant.)
///
/// # Errors
/// `/proc` is not mounted.
pub fn terminal_leaders(mark: &str) -> io::Result<Vec<u32>> {
    let marked = of_task(0, mark)?;
    Ok(marked
        .iter()
        .copied()
        .filter(|pid| leads_terminal(*pid, &stat(*pid)).is_some_and(|parent| !marked.contains(&parent)))
        .collect())
}

/// The parent of a process that leads the session of a terminal; None: it does not.
fn leads_terminal(pid: u32, stat: &str) -> Option<u32> {
    // `pid (name) state parent group session terminal …`, where the name may hold any bytes.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(1);
    let parent = fields.next()?.parse().ok()?;
    let _group = fields.next()?;
    let session: u32 = fields.next()?.parse().ok()?;
    let terminal: i32 = fields.next()?.parse().ok()?;
    (session == pid && terminal != 0).then_some(parent)
}

/// A signal to one process; that it is gone is no fault.
pub fn signal(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill(2) touches no memory.
        unsafe { libc::kill(pid, signal) };
    }
}

/// A signal to all of [`of_task`], again and again until it finds nobody new.
///
/// # Errors
/// `/proc` is not mounted.
pub fn signal_task(main: u32, mark: &str, signal: i32) -> io::Result<()> {
    let _step = super::fault::step("task", || format!("signal {signal}"));
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let new: Vec<u32> = of_task(main, mark)?.into_iter().filter(|pid| told.insert(*pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new.into_iter().filter_map(|pid| libc::pid_t::try_from(pid).ok()) {
            // SAFETY: kill(2) touches no memory.
            unsafe { libc::kill(pid, signal) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_limit_is_raised() {
        use nix::sys::resource::{Resource, getrlimit};
        raise_file_limit().expect("the kernel takes it");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is one");
        assert!(soft >= hard.min(65_536), "{soft} of {hard}");
    }

    #[test]
    fn start_time_is_read_past_a_nasty_name() {
        let stat =
            "42 (a ) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 10 18446744073709551615";
        assert_eq!(parse_start_time(stat), Some(987_654));
        assert_eq!(parse_start_time("42 (sh) S 1"), None);
    }

    #[test]
    fn who_leads_a_terminal_is_read_past_a_nasty_name() {
        for (stat, parent) in [
            ("42 (bash) S 7 42 42 34816 42 0", Some(7)),
            ("42 (a) S 1 42 42 0 -1) R 7 42 42 34816 42 0", Some(7)),
            ("42 (daemon) S 7 42 42 0 -1 0", None),
            ("42 (child) S 7 42 41 34816 42 0", None),
            ("42 (short) S 7", None),
        ] {
            assert_eq!(leads_terminal(42, stat), parent, "{stat}");
        }
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_process() {
        use std::os::unix::ffi::OsStrExt as _;
        let scratch = crate::sys::file::Scratch::new();
        let program = scratch.path().join(std::ffi::OsStr::from_bytes(b"\xffname"));
        // The kernel names a process after the file that it runs; copied, so that it is no link's target.
        std::fs::copy("/bin/sleep", &program).expect("sleep is there");
        let mut child = std::process::Command::new(&program).arg("1000").spawn().expect("it can be started");
        let found = descendants(&[std::process::id()]);
        let started = start_time(Path::new("/"), child.id());
        let lives = is_alive(child.id());
        child.kill().expect("it lives");
        child.wait().expect("it is ours");
        assert!(found.contains(&child.id()) && lives, "{found:?}");
        assert!(started.is_ok_and(|ticks| ticks > 0));
    }

    #[test]
    fn this_process_and_machine_are_known() {
        let root = Path::new("/");
        assert!(start_time(root, std::process::id()).expect("we live") > 0);
        assert!(start_time(root, u32::MAX).is_err());
        assert_eq!(boot_id(root).expect("/proc is mounted").len(), 36);
        assert!(!hostname(root).expect("/proc is mounted").is_empty());
    }

    #[test]
    fn a_machine_without_an_id_has_none() {
        let scratch = crate::sys::file::Scratch::new();
        let root = scratch.path();
        assert_eq!(machine_id(root), None);
        std::fs::create_dir_all(root.join("var/lib/dbus")).expect("a temporary folder can be made");
        std::fs::create_dir_all(root.join("etc")).expect("a temporary folder can be made");
        std::fs::write(root.join("etc/machine-id"), "uninitialized\n").expect("it can be written");
        assert_eq!(machine_id(root), None);
        let id = "0123456789abcdef0123456789abcdef";
        std::fs::write(root.join("var/lib/dbus/machine-id"), format!("{id}\n")).expect("it can be written");
        assert_eq!(machine_id(root).as_deref(), Some(id));
        std::fs::create_dir(root.join("run")).expect("a temporary folder can be made");
        std::fs::write(root.join("run/machine-id"), format!("{id}\n")).expect("it can be written");
        assert_eq!(machine_id(root), None, "it is for this boot alone");
    }
}
