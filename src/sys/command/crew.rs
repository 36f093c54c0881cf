//! Programs in the foreground, several at once if wanted: with our own streams, in our own process group, so that they own the
//! terminal as if the user's shell had started them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::drive::{TICK, open_pidfd};
use super::{CommandFault, cannot_start};
use crate::domain::raw_text;
use crate::sys::{process, shutdown};

/// Those that run now. One a process; dropping it leaves them running.
#[derive(Debug)]
pub struct Crew {
    signals: SignalFd,
    /// What was blocked before: that, and no more, is blocked in the programs.
    mask: SigSet,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    key: u64,
    child: Child,
    /// Readable when it has ended; None where the kernel has none.
    pidfd: Option<OwnedFd>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// What happened while one waited.
#[derive(Debug, Default)]
pub struct News {
    /// The keys of those that have ended.
    pub ended: Vec<(u64, End)>,
    /// SIGINT, SIGTERM or SIGHUP.
    pub interrupt: Option<Interrupt>,
}

/// We are asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    pub signal: i32,
    /// By a key of the terminal, which sends it to all of the process group: the programs have it too.
    pub is_from_terminal: bool,
}

impl Crew {
    /// Takes over the signals of this process: to be called before the first thread starts.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub fn begin() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        // SAFETY: the default disposition runs no code of ours. (Whoever started us may ignore it, and then the kernel keeps no exit
        // status for us.)
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let mask = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { signals, mask, members: Vec::new() })
    }

    /// Starts a program (looked up on PATH). `argv` may hold bytes that are no text, as [`raw_text`] writes them; `key` is what its end
    /// will be told with. It inherits everything: streams, further descriptors, directory, environment.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(&mut self, key: u64, argv: &[String]) -> Result<(), CommandFault> {
        let Some((program, arguments)) = argv.split_first() else {
            let reason = "the command line is empty".to_owned();
            return Err(CommandFault::CannotStart { argv: Vec::new(), reason, is_too_long: false });
        };
        let mut command = Command::new(OsStr::from_bytes(&raw_text::decode(program)));
        for argument in arguments {
            command.arg(OsStr::from_bytes(&raw_text::decode(argument)));
        }
        let mask = self.mask;
        // SAFETY: between fork and exec one plain system call is made on a set that the closure owns. (std leaves the child what we
        // block, and Ctrl-C would not end it.)
        unsafe { command.pre_exec(move || Ok(mask.thread_set_mask()?)) };
        let child = command.spawn().map_err(|fault| cannot_start(argv, &fault))?;
        let pidfd = open_pidfd(&child);
        self.members.push(Member { key, child, pidfd });
        Ok(())
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Does none run?
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Waits until one has ended, a signal has come, or it is `until`.
    ///
    /// # Errors
    /// The kernel tells nothing of our children.
    pub fn wait(&mut self, until: Option<Instant>) -> io::Result<News> {
        let mut news = News::default();
        loop {
            // Before the children: a key of the terminal reaches us no later than them.
            while let Some(interrupt) = self.heard()? {
                news.interrupt = Some(interrupt);
            }
            let mut at = 0;
            while let Some(member) = self.members.get_mut(at) {
                match member.child.try_wait()? {
                    None => at += 1,
                    Some(status) => {
                        let end = status.signal().map_or_else(|| End::Exit(status.code().unwrap_or(255)), End::Signal);
                        news.ended.push((member.key, end));
                        self.members.swap_remove(at);
                    }
                }
            }
            if !news.ended.is_empty() || news.interrupt.is_some() || until.is_some_and(|until| Instant::now() >= until)
            {
                return Ok(news);
            }
            let pidfds = self.members.iter().filter_map(|member| member.pidfd.as_ref()).map(AsFd::as_fd);
            let mut fds: Vec<PollFd<'_>> =
                pidfds.chain([self.signals.as_fd()]).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let has_all = fds.len() > self.members.len();
            let tick = || Some(until.map_or(Instant::now() + TICK, |until| until.min(Instant::now() + TICK)));
            shutdown::poll(&mut fds, if has_all { until } else { tick() });
        }
    }

    fn heard(&self) -> io::Result<Option<Interrupt>> {
        loop {
            match self.signals.read_signal() {
                Ok(info) => {
                    // Of the kernel's own making, like a key's: not by kill(2).
                    return Ok(info.map(|info| {
                        let signal = i32::try_from(info.ssi_signo).expect("signal numbers are below 65");
                        Interrupt { signal, is_from_terminal: info.ssi_code == libc::SI_KERNEL }
                    }));
                }
                Err(Errno::EINTR) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    /// Sends a signal to all of them and to everything below them.
    pub fn signal(&self, signal: i32) {
        let mut told = BTreeSet::new();
        // Those that are told first may start others before they hear it: again, until there is nobody new.
        for _ in 0..20 {
            let mut pids: Vec<u32> = self.members.iter().map(|member| member.child.id()).collect();
            pids.extend(process::descendants(&pids));
            pids.retain(|pid| told.insert(*pid));
            if pids.is_empty() {
                return;
            }
            for pid in pids.into_iter().filter_map(|pid| libc::pid_t::try_from(pid).ok()) {
                // SAFETY: kill(2) touches no memory. Our own children keep their numbers until `wait` has seen their end.
                unsafe { libc::kill(pid, signal) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// In a thread of its own: what is blocked there is blocked for no other test.
    fn in_thread(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(test);
        assert!(thread.join().is_ok(), "it panicked");
    }

    fn ends(crew: &mut Crew, count: usize) -> Vec<(u64, End)> {
        let mut ended = Vec::new();
        let begin = Instant::now();
        while ended.len() < count {
            assert!(begin.elapsed() < Duration::from_secs(20), "{ended:?}");
            let news = crew.wait(Some(Instant::now() + Duration::from_millis(50))).expect("it can be waited for");
            ended.extend(news.ended);
        }
        ended.sort_by_key(|(key, _)| *key);
        ended
    }

    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").expect("procfs is there");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("it is told").trim();
        u64::from_str_radix(mask, 16).expect("hexadecimal") & (1 << (signal - 1)) != 0
    }

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn ends_come_with_their_keys_and_bytes_arrive_as_they_were() {
        in_thread(|| {
            let mut crew = Crew::begin().expect("signals can be blocked");
            let raw = raw_text::encode(b"a\xff$(id)").into_owned();
            let script = r#"test "$1" = "$(printf 'a\377$(id)')" || exit 9; exit 3"#;
            crew.start(7, &argv(&["sh", "-c", script, "sh", &raw])).expect("sh is there");
            crew.start(8, &argv(&["sh", "-c", "kill -9 $$"])).expect("sh is there");
            crew.start(9, &argv(&["true"])).expect("true is there");
            assert_eq!(crew.len(), 3);
            assert_eq!(ends(&mut crew, 3), [(7, End::Exit(3)), (8, End::Signal(9)), (9, End::Exit(0))]);
            assert!(crew.is_empty());
            let fault = crew.start(1, &argv(&["/no/such/program", "x"])).expect_err("there is none").to_string();
            assert_eq!(fault, "cannot start '/no/such/program x': there is no such file, or what it is a script for");
            let fault = crew.start(1, &argv(&["no-such-program"])).expect_err("there is none").to_string();
            assert_eq!(fault, "cannot start 'no-such-program': there is no such program on the PATH");
        });
    }

    #[test]
    fn what_we_block_they_do_not() {
        in_thread(|| {
            let mut crew = Crew::begin().expect("signals can be blocked");
            for (key, signal) in [(0, libc::SIGINT), (1, libc::SIGTERM), (2, libc::SIGHUP)] {
                // What was ignored when we were begun (as by nohup) is ignored by them as well, as with any shell.
                if is_ignored(signal) {
                    eprintln!("signal {signal} is ignored here, and not tried");
                    continue;
                }
                crew.start(key, &argv(&["sleep", "1000"])).expect("sleep is there");
                crew.signal(signal);
                assert_eq!(ends(&mut crew, 1), [(key, End::Signal(signal))]);
            }
        });
    }

    #[test]
    fn a_signal_reaches_what_they_have_started() {
        in_thread(|| {
            let mut crew = Crew::begin().expect("signals can be blocked");
            let (mut told, tell) = std::io::pipe().expect("a pipe");
            let fd = std::os::fd::AsRawFd::as_raw_fd(&tell);
            // The inner one holds the pipe open for as long as it lives.
            let script =
                format!("trap '' INT; (trap '' INT; sleep 1000 >&/proc/{}/fd/{fd}) & wait", std::process::id());
            crew.start(1, &argv(&["bash", "-c", &script])).expect("bash is there");
            let sleeps = || process::descendants(&[crew.members[0].child.id()]).len() >= 2;
            let begin = Instant::now();
            while !sleeps() {
                assert!(begin.elapsed() < Duration::from_secs(20), "it never began to sleep");
                std::thread::yield_now();
            }
            drop(tell);
            crew.signal(libc::SIGKILL);
            assert_eq!(ends(&mut crew, 1), [(1, End::Signal(9))]);
            let mut rest = Vec::new();
            std::io::Read::read_to_end(&mut told, &mut rest).expect("all have closed it");
            assert_eq!(rest, b"");
        });
    }
}
