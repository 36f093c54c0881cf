//! The loop that serves a running program: its input, its output, its end, its deadline.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{CommandFault, Program, cannot_start, die_with_us, prepare};
use crate::sys::fault::around;
use crate::sys::shutdown::{self, Stop};

/// How long output is still read after the program itself has ended: a process that it left behind may hold the pipe open
/// for ever.
const AFTER_END: Duration = Duration::from_millis(200);
/// How long a killed program may take to die before it is left to itself (it may hang in the kernel, on a dead disk).
const AFTER_KILL: Duration = Duration::from_secs(2);
/// How often to look for the end where the kernel has no pidfd (before 5.3).
pub(super) const TICK: Duration = Duration::from_millis(20);

/// What the program reads.
pub(super) enum Feed<'a> {
    Bytes(&'a [u8]),
    Source { source: &'a mut dyn Read, taken: &'a mut dyn FnMut(u64) },
}

/// How it ended.
pub(super) struct Ended {
    /// None: it was killed, but hangs in the kernel.
    pub(super) status: Option<ExitStatus>,
    pub(super) timed_out: bool,
    /// The source of its input failed.
    pub(super) source_fault: Option<io::Error>,
    /// The last bytes.
    pub(super) stderr: Vec<u8>,
}

/// Runs it to its end. `stdout` gets what it writes, and answers false when the program is to be killed.
pub(super) fn run(
    program: &Program,
    feed: Feed<'_>,
    stop: Option<&Stop>,
    stdout: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<Ended, CommandFault> {
    let words = || {
        let name = program.argv.first().map_or("", |path| path.rsplit('/').next().unwrap_or_default());
        format!("{name} {}", program.argv.get(1).map_or("", String::as_str))
    };
    around("command", words, || drive(program, feed, stop, stdout))
}

fn drive(
    program: &Program,
    feed: Feed<'_>,
    stop: Option<&Stop>,
    stdout: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<Ended, CommandFault> {
    let argv = &program.argv;
    let mut command = prepare(argv, &program.env)?;
    if program.dies_with_us {
        die_with_us(&mut command);
    }
    let needs_input = !matches!(feed, Feed::Bytes([]));
    command
        .process_group(0)
        .stdin(if needs_input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|fault| cannot_start(argv, &fault))?;
    let streams = Streams {
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
        pidfd: open_pidfd(&child),
    };
    // The command itself holds nothing that the child has, but its pre_exec closure; it is not needed any more.
    drop(command);
    let running = Running {
        child,
        streams,
        input: Input { feed, buffer: Vec::new(), at: 0, taken: 0, fault: None },
        tail: Tail { kept: Vec::new(), limit: program.keep },
        deadline: Instant::now().checked_add(program.deadline),
        killed: None,
        timed_out: false,
    };
    running.finish(stop, stdout).map_err(|fault| cannot_start(argv, &fault))
}

struct Streams {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// None where the kernel has none.
    pidfd: Option<OwnedFd>,
}

struct Running<'a> {
    child: Child,
    streams: Streams,
    input: Input<'a>,
    tail: Tail,
    /// None: without end.
    deadline: Option<Instant>,
    /// When its group was killed.
    killed: Option<Instant>,
    timed_out: bool,
}

impl Running<'_> {
    fn finish(mut self, stop: Option<&Stop>, stdout: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<Ended> {
        if let Err(fault) = self.streams.set_nonblocking() {
            self.kill();
            self.leave();
            return Err(fault);
        }
        // Once it has ended: until when its output is still read.
        let mut status: Option<(ExitStatus, Instant)> = None;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let ready = self.wait(stop, status.map(|(_, until)| until));
            if ready.stop {
                self.kill();
            }
            if ready.stdin && !self.input.push(&mut self.streams.stdin) {
                self.kill();
            }
            if ready.stdout && !pull(&mut self.streams.stdout, &mut buffer, stdout) {
                self.kill();
                self.streams.stdout = None;
            }
            if ready.stderr {
                pull(&mut self.streams.stderr, &mut buffer, &mut |bytes| {
                    self.tail.take(bytes);
                    true
                });
            }
            if status.is_none() {
                status = self.child.try_wait()?.map(|status| (status, Instant::now() + AFTER_END));
            }
            match status {
                Some((status, until)) => {
                    let silent = self.streams.stdout.is_none() && self.streams.stderr.is_none();
                    if silent || Instant::now() >= until {
                        return Ok(self.ended(Some(status)));
                    }
                }
                None if self.killed.is_some_and(|killed| Instant::now() >= killed + AFTER_KILL) => {
                    self.leave();
                    return Ok(self.ended(None));
                }
                None => self.keep_deadline(),
            }
        }
    }

    /// Waits for something to do, until the deadline at most.
    fn wait(&self, stop: Option<&Stop>, output_until: Option<Instant>) -> Ready {
        let ended = output_until.is_some();
        let Streams { stdin, stdout, stderr, pidfd } = &self.streams;
        let mut fds = Vec::with_capacity(5);
        let stdin = add(&mut fds, stdin.as_ref().filter(|_| !ended), PollFlags::POLLOUT);
        let stdout = add(&mut fds, stdout.as_ref(), PollFlags::POLLIN);
        let stderr = add(&mut fds, stderr.as_ref(), PollFlags::POLLIN);
        let _end = add(&mut fds, pidfd.as_ref().filter(|_| !ended), PollFlags::POLLIN);
        // After the kill there is nothing more that a stop could ask for.
        let stop = stop.filter(|_| self.killed.is_none()).map(Stop::fd);
        let stop = add(&mut fds, stop.as_ref(), PollFlags::POLLIN);

        let mut until = match (output_until, self.killed) {
            (Some(until), _) => Some(until),
            (None, Some(killed)) => Some(killed + AFTER_KILL),
            (None, None) => self.deadline,
        };
        if self.streams.pidfd.is_none() && !ended {
            let tick = Instant::now() + TICK;
            until = Some(until.map_or(tick, |until| until.min(tick)));
        }
        shutdown::poll(&mut fds, until);
        let is = |index: Option<usize>| index.is_some_and(|index| shutdown::is_ready(&fds[index]));
        Ready { stdin: is(stdin), stdout: is(stdout), stderr: is(stderr), stop: is(stop) }
    }

    fn ended(self, status: Option<ExitStatus>) -> Ended {
        Ended { status, timed_out: self.timed_out, source_fault: self.input.fault, stderr: self.tail.kept }
    }

    /// Kills it when its time is up.
    fn keep_deadline(&mut self) {
        if self.killed.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.timed_out = true;
            self.kill();
        }
    }

    /// Kills its whole group, once. The child is not yet waited for, so its number still means it.
    fn kill(&mut self) {
        if self.killed.is_none() {
            self.killed = Some(Instant::now());
            // The group is there: it has at least the child, as a zombie.
            let _gone = killpg(Pid::from_raw(pid(&self.child)), Signal::SIGKILL);
        }
    }

    /// Leaves the child to a thread that waits for it, so that no zombie stays.
    fn leave(&mut self) {
        let child = pid(&self.child);
        // Without a thread the zombie stays until this process ends: harmless.
        let _none = crate::sys::thread::spawn("reaper", move || {
            let mut status = 0;
            // SAFETY: `status` is ours to write; the child is not waited for anywhere else any more.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
        });
    }
}

/// What can go on without waiting.
struct Ready {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    stop: bool,
}

impl Streams {
    fn set_nonblocking(&self) -> io::Result<()> {
        let fds = [
            self.stdin.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        for fd in fds.into_iter().flatten() {
            // Our ends of the pipes are our own open file descriptions: the child's ends stay as they are.
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }
}

/// Adds a descriptor to be polled, if there is one; the answer is its place.
fn add<'a, F: AsFd>(fds: &mut Vec<PollFd<'a>>, fd: Option<&'a F>, events: PollFlags) -> Option<usize> {
    fds.push(PollFd::new(fd?.as_fd(), events));
    Some(fds.len() - 1)
}

fn pid(child: &Child) -> libc::pid_t {
    libc::pid_t::try_from(child.id()).expect("a process id is a positive pid_t")
}

/// None where the kernel has none (before 5.3), or a filter forbids it.
pub(in crate::sys) fn open_pidfd(child: &Child) -> Option<OwnedFd> {
    // SAFETY: no pointers; the child is ours and not yet waited for, so the number means it.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid(child), 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor is new and nobody else's; the kernel has marked it close-on-exec.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads what is there and closes the stream at its end; false if `take` wants no more.
fn pull<R: Read>(stream: &mut Option<R>, buffer: &mut [u8], take: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let Some(reader) = stream else { return true };
    match reader.read(buffer) {
        Ok(0) => *stream = None,
        Ok(n) => return take(&buffer[..n]),
        Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        Err(_broken) => *stream = None,
    }
    true
}

struct Input<'a> {
    feed: Feed<'a>,
    /// What was read from the source and is not yet taken.
    buffer: Vec<u8>,
    at: usize,
    taken: u64,
    fault: Option<io::Error>,
}

impl Input<'_> {
    /// Gives the program what it can take, and closes its input after the last byte or when it reads no more; false if
    /// the source failed.
    fn push(&mut self, stdin: &mut Option<ChildStdin>) -> bool {
        let Some(pipe) = stdin else { return true };
        if let Feed::Source { source, .. } = &mut self.feed
            && self.at == self.buffer.len()
        {
            self.buffer.resize(256 << 10, 0);
            self.at = 0;
            let got = loop {
                match source.read(&mut self.buffer) {
                    Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                    got => break got,
                }
            };
            match got {
                Ok(n) => self.buffer.truncate(n),
                Err(fault) => {
                    self.buffer.clear();
                    self.fault = Some(fault);
                    *stdin = None;
                    return false;
                }
            }
        }
        let rest = match &self.feed {
            Feed::Bytes(bytes) => &bytes[self.at..],
            Feed::Source { .. } => &self.buffer[self.at..],
        };
        if rest.is_empty() {
            *stdin = None;
            return true;
        }
        match pipe.write(rest) {
            Ok(n) => {
                self.at += n;
                self.taken += n as u64;
                match &mut self.feed {
                    Feed::Source { taken, .. } => taken(self.taken),
                    Feed::Bytes(bytes) if self.at == bytes.len() => *stdin = None,
                    Feed::Bytes(_) => {}
                }
            }
            Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // It reads no more; its exit status says whether that is a fault.
            Err(_broken) => *stdin = None,
        }
        true
    }
}

/// The last bytes of a stream.
struct Tail {
    kept: Vec<u8>,
    limit: usize,
}

impl Tail {
    fn take(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (self.kept.len() + bytes.len()).saturating_sub(self.limit);
        // A part of a pipe at a time: moving the kept bytes costs little beside reading them.
        self.kept.drain(..excess);
        self.kept.extend_from_slice(bytes);
    }
}
