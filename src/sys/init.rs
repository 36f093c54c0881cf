//! Process 1 of a container: starts one program at a time, passes signals on, and buries every orphan.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid};

use super::children::{Gone, reap};
use super::command::{CommandFault, cannot_start, prepare};
use super::fault;
use super::recall;
use super::shutdown::poll;

/// What is left when the main program has ended by itself gets TERM and this long to end well.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long who was killed takes to be gone, before it is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// Our exit status when the container was recalled: that of one that is killed.
pub const RECALLED: i32 = 128 + libc::SIGKILL;

/// The role of process 1. One a process.
#[derive(Debug)]
pub struct Init {
    signals: SignalFd,
    /// Where we are [told](recall) that all that is here has to go at once, and we after it.
    recall: Option<File>,
    /// False under an init of Docker's: then all that is not our child is none of our business.
    first: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status (128+n for signal n).
    Itself(i32),
    /// We were asked to end, and all have obeyed; this was its status.
    Stopped(i32),
    /// Its time was up: all were killed.
    TimedOut,
}

/// How a container's program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attended {
    /// None: it had not ended by then, and was [ended](recall) with all that was here.
    pub gone: Option<Gone>,
    pub timed_out: bool,
    /// We were asked to end before it did.
    pub stopped: bool,
}

/// What process 1 waits for.
enum Heard {
    Signal(Signal),
    /// The time has come.
    Time,
    /// All has to go at once.
    Recall,
}

impl Init {
    /// Takes over the signals of this process. To be called first: until then, process 1 loses them.
    ///
    /// # Errors
    /// The kernel refuses a signalfd.
    pub fn begin() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in ENDING.into_iter().chain(PASSED_ON).chain([Signal::SIGCHLD]) {
            set.add(signal);
        }
        // Blocked signals reach even process 1, for which the kernel drops those with a default action.
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { signals, recall: None, first: getpid() == Pid::from_raw(1) })
    }

    /// Whoever comes to this pipe ends us, and all that is in the container: see [`recall`].
    pub fn heed(&mut self, pipe: File) {
        self.recall = Some(pipe);
    }

    /// Whether we are asked to end, before anything was started.
    pub fn is_asked_to_end(&self) -> bool {
        loop {
            match self.hear(Some(Instant::now())) {
                Heard::Signal(signal) if !ENDING.contains(&signal) => {}
                Heard::Signal(_) | Heard::Recall => return true,
                Heard::Time => return false,
            }
        }
    }

    /// Runs a program that others depend on, and returns when it has ended, with what it left behind. Its output goes to our
    /// stderr. When we are asked to end meanwhile, everything in the container is, and the answer comes when all is gone;
    /// who does not obey is left to Docker, which kills us all after its grace.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(
        &self,
        argv: &[String],
        env: &[(String, String)],
        limit: Option<Duration>,
    ) -> Result<Ended, CommandFault> {
        let mut command = prepare(argv, env)?;
        let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(|fault| cannot_start(argv, &fault))?;
        command.stdin(Stdio::null()).stdout(stderr);
        let step = fault::step("launch", || {
            argv.first().map(|program| fault::file_name(program.as_ref())).unwrap_or_default()
        });
        let child = command.spawn().map_err(|fault| cannot_start(argv, &fault))?;
        drop(step);
        // It is waited for below, with all others: its handle is not used any more.
        let child = Pid::from_raw(libc::pid_t::try_from(child.id()).expect("a process id is a positive pid_t"));
        let mut end = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut timed_out = false;
        let mut stopping = false;
        let mut status = None;
        loop {
            let alone = bury(|pid, gone| {
                if pid == child {
                    status = Some(gone.code);
                }
            });
            match status {
                Some(_) if timed_out => return Ok(Ended::TimedOut),
                Some(code) if !stopping => return Ok(Ended::Itself(code)),
                Some(code) if alone || !self.first => return Ok(Ended::Stopped(code)),
                _ => {}
            }
            match self.hear(end) {
                Heard::Signal(Signal::SIGCHLD) => {}
                Heard::Signal(signal) if ENDING.contains(&signal) => {
                    stopping = true;
                    self.tell_all(child, Signal::SIGTERM);
                    // Who is stopped (Ctrl-Z) sees the other signal only then.
                    self.tell_all(child, Signal::SIGCONT);
                }
                Heard::Signal(signal) => {
                    let _gone = kill(child, signal);
                }
                Heard::Recall => self.vanish(),
                Heard::Time => {
                    timed_out = true;
                    end = None;
                    self.tell_all(child, Signal::SIGKILL);
                }
            }
        }
    }

    /// Waits for a program that was started (see [`super::launch`]), whose end is that of the container: when we are asked to
    /// end, or its `limit` is over, all in the container gets TERM, and KILL after `grace`. Nothing of it lives when this returns
    /// (where we are process 1). Whoever recalls us waits until this process ends.
    pub fn attend(&self, child: u32, limit: Option<Duration>, grace: Duration) -> Attended {
        let child = Pid::from_raw(libc::pid_t::try_from(child).expect("a process id is a positive pid_t"));
        let mut limit = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut kill_at = None::<Instant>;
        let mut attended = Attended { gone: None, timed_out: false, stopped: false };
        loop {
            let alone = bury(|pid, gone| {
                if pid == child {
                    attended.gone = Some(gone);
                }
            });
            if attended.gone.is_some() {
                if alone || !self.first {
                    return attended;
                }
                if kill_at.is_none() {
                    // What is left gets its time to end well.
                    kill_at = Some(Instant::now() + FAREWELL);
                    self.ask_all(child);
                }
                limit = None;
            }
            let next = [limit, kill_at].into_iter().flatten().min();
            match self.hear(next) {
                Heard::Signal(Signal::SIGCHLD) => {}
                Heard::Signal(signal) if ENDING.contains(&signal) => {
                    if !attended.stopped {
                        attended.stopped = attended.gone.is_none();
                        let at = Instant::now() + grace;
                        kill_at = Some(kill_at.map_or(at, |before| before.min(at)));
                        self.ask_all(child);
                    }
                }
                Heard::Signal(signal) => {
                    let _gone = kill(child, signal);
                }
                Heard::Recall => {
                    // Whoever ends from here on does so by our hand.
                    self.clear();
                    return attended;
                }
                Heard::Time => {
                    let now = Instant::now();
                    if limit.is_some_and(|limit| limit <= now) {
                        limit = None;
                        attended.timed_out = !attended.stopped;
                        kill_at = kill_at.or(Some(now + grace));
                        self.ask_all(child);
                    }
                    if kill_at.is_some_and(|at| at <= now) {
                        // Again after a while, for what was being born.
                        kill_at = Some(now + Duration::from_secs(1));
                        self.tell_all(child, Signal::SIGKILL);
                    }
                }
            }
        }
    }

    /// Keeps a container alive for those who work in it: buries orphans until we are asked to end, and lets all end well then.
    pub fn idle(&self) {
        loop {
            bury(|_, _| {});
            match self.hear(None) {
                Heard::Signal(signal) if ENDING.contains(&signal) => return self.farewell(),
                Heard::Recall => self.vanish(),
                Heard::Signal(_) | Heard::Time => {}
            }
        }
    }

    /// TERM, also to those that are stopped.
    fn ask_all(&self, child: Pid) {
        self.tell_all(child, Signal::SIGTERM);
        self.tell_all(child, Signal::SIGCONT);
    }

    /// Before process 1 ends, and the kernel kills what is left: gives it the chance to end well, for five seconds at most.
    pub fn farewell(&self) {
        if !self.first {
            return;
        }
        let end = Instant::now() + FAREWELL;
        if bury(|_, _| {}) {
            return;
        }
        let _none = kill(Pid::from_raw(-1), Signal::SIGTERM);
        let _none = kill(Pid::from_raw(-1), Signal::SIGCONT);
        while !bury(|_, _| {}) {
            match self.hear(Some(end)) {
                Heard::Signal(_) => {}
                Heard::Recall => self.vanish(),
                Heard::Time => return,
            }
        }
    }

    /// To everything in the container but ourselves; where we are not process 1, to the child alone.
    fn tell_all(&self, child: Pid, signal: Signal) {
        let _gone = kill(if self.first { Pid::from_raw(-1) } else { child }, signal);
    }

    fn hear(&self, end: Option<Instant>) -> Heard {
        loop {
            // First of all: signals may come without a pause.
            if self.recall.as_ref().is_some_and(recall::is_called) {
                return Heard::Recall;
            }
            match self.signals.read_signal() {
                Ok(Some(info)) => {
                    let number = i32::try_from(info.ssi_signo).expect("signal numbers are below 65");
                    return Heard::Signal(Signal::try_from(number).expect("it is one of those that are blocked"));
                }
                Ok(None) | Err(Errno::EINTR) => {}
                Err(fault) => panic!("cannot read a signalfd: {fault}"),
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Heard::Time;
            }
            let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
            match &self.recall {
                Some(recall) => poll(&mut [signals, recall::wait_for(recall)], end),
                None => poll(&mut [signals], end),
            }
        }
    }

    /// Ends everything in the container and this process, which says nothing of how its program ended: it did not end by itself.
    fn vanish(&self) -> ! {
        self.clear();
        std::process::exit(RECALLED);
    }

    /// Ends everything in the container but this process; whoever recalls us waits until that has ended too.
    fn clear(&self) {
        self.recall.iter().for_each(recall::drain);
        eprintln!("hakuriver: this container was recalled by its node");
        if !self.first {
            // Docker's own init ends the rest after us.
            return;
        }
        loop {
            let _none = kill(Pid::from_raw(-1), Signal::SIGKILL);
            if bury(|_, _| {}) {
                return;
            }
            // What was being born meanwhile is killed next time.
            poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], Some(Instant::now() + AGAIN));
            while self.signals.read_signal().is_ok_and(|signal| signal.is_some()) {}
        }
    }
}

/// Each of them ends the container.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
const PASSED_ON: [Signal; 3] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// Waits for every child that has ended, ours or inherited; true if there is no other child.
fn bury(mut ended: impl FnMut(Pid, Gone)) -> bool {
    reap(|gone| ended(Pid::from_raw(libc::pid_t::try_from(gone.pid).expect("a process id is a positive pid_t")), gone))
}
