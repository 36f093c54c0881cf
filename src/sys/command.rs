//! The only door to external programs: argv in, bounded output out, with a deadline. No shell, ever.
//!
//! A program runs in a process group of its own, with an empty signal mask, default SIGPIPE, and no descriptor of ours but
//! its three streams. One poll(2) loop serves its streams, its end, its deadline and our [`Stop`].

pub mod crew;
mod drive;

use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::sys::shutdown::Stop;
pub(super) use drive::open_pidfd;
use drive::{Ended, Feed};

/// A program to run.
#[derive(Clone)]
pub struct Program {
    /// Program (looked up on PATH) and arguments, as they go to exec.
    pub argv: Vec<String>,
    /// Environment variables added to our own.
    pub env: Vec<(String, String)>,
    /// What it reads; empty = /dev/null.
    pub stdin: Vec<u8>,
    /// After this long its process group is killed.
    pub deadline: Duration,
    /// How many bytes of each of stdout and stderr are kept (of stderr the last ones); the rest is read and dropped.
    pub keep: usize,
    /// It is killed when the thread that runs it ends, also by SIGKILL of our process. For what would else wait for ever
    /// for something to say (`docker events`).
    pub dies_with_us: bool,
}

impl fmt::Debug for Program {
    /// Without values of the environment and without the input: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Program")
            .field("argv", &self.argv)
            .field("env", &names)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// With a deadline; 1 MiB of output kept, no input.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>, deadline: Duration) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: Vec::new(),
            deadline,
            keep: 1 << 20,
            dies_with_us: false,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It could not be started, or its time was up. A non-zero exit is not an error here: see [`Output::ok`].
    pub fn run(&self) -> Result<Output, CommandFault> {
        #[cfg(test)]
        if let Some(world) = super::simulated::world() {
            return world.run(&self.argv);
        }
        let mut stdout = Head::new(self.keep);
        let end = drive::run(self, Feed::Bytes(&self.stdin), None, &mut |bytes| {
            stdout.take(bytes);
            true
        })?;
        self.output(end, stdout.kept)
    }

    /// Runs it and gives each line of its stdout, as it comes, to `line`; kills the program (and its group) when `line`
    /// answers false or `stop` is set, which then shows as `signal: Some(9)`. No deadline on the whole if `deadline` is
    /// `Duration::MAX`. For `docker events`, `docker load`.
    ///
    /// Lines come without their end; bytes that are no UTF-8 are replaced; what is longer than `keep` is cut. The output's
    /// `stdout` is empty.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn lines(&self, stop: &Stop, line: &mut dyn FnMut(&str) -> bool) -> Result<Output, CommandFault> {
        let mut lines = Lines { pending: Vec::new(), limit: self.keep, cut: false };
        let mut more = true;
        let end = drive::run(self, Feed::Bytes(&self.stdin), Some(stop), &mut |bytes| {
            more = lines.take(bytes, line);
            more
        })?;
        if more && !lines.pending.is_empty() {
            line(&String::from_utf8_lossy(&lines.pending));
        }
        self.output(end, Vec::new())
    }

    /// Runs it with `source` as its input (`stdin` is not used), and says after each part how many bytes it has taken so
    /// far. For `docker load` of a large file with progress. When the program stops reading, that is left to its exit
    /// status to explain; `stop` kills it.
    ///
    /// # Errors
    /// As [`Program::run`]; [`CommandFault::Failed`] if the source cannot be read.
    pub fn feed(&self, stop: &Stop, source: &mut dyn Read, taken: &mut dyn FnMut(u64)) -> Result<Output, CommandFault> {
        let mut stdout = Head::new(self.keep);
        let end = drive::run(self, Feed::Source { source, taken }, Some(stop), &mut |bytes| {
            stdout.take(bytes);
            true
        })?;
        self.output(end, stdout.kept)
    }

    /// Runs it and gives its stdout, as it comes, to `sink`, whose fault (the disk is full) kills the program and is the answer.
    /// `stop` kills it too, which shows as `signal: Some(9)`. The output's `stdout` is empty. For `docker save`.
    ///
    /// # Errors
    /// As [`Program::run`]; [`CommandFault::Failed`] if the sink took no more.
    pub fn pour(&self, stop: &Stop, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<Output, CommandFault> {
        let mut fault = None;
        let end = drive::run(self, Feed::Bytes(&self.stdin), Some(stop), &mut |bytes| {
            fault = fault.take().or_else(|| sink(bytes).err());
            fault.is_none()
        })?;
        if let Some(fault) = fault {
            let status = format!("its output could not be kept: {fault}");
            return Err(CommandFault::Failed { argv: self.argv.clone(), status, stderr: String::new() });
        }
        self.output(end, Vec::new())
    }

    fn output(&self, end: Ended, stdout: Vec<u8>) -> Result<Output, CommandFault> {
        let Ended { status, timed_out, source_fault, stderr } = end;
        if timed_out {
            let stderr = last_lines(&String::from_utf8_lossy(&stderr));
            return Err(CommandFault::TimedOut { argv: self.argv.clone(), after: self.deadline, stderr });
        }
        if let Some(fault) = source_fault {
            let status = format!("its input could not be read: {fault}");
            return Err(CommandFault::Failed { argv: self.argv.clone(), status, stderr: String::new() });
        }
        // Only what we have killed can be left without a status.
        let (code, signal) = status.map_or((None, Some(libc::SIGKILL)), |status| (status.code(), status.signal()));
        Ok(Output { argv: self.argv.clone(), code, signal, stdout, stderr })
    }
}

/// Runs a program in the foreground, with our own streams and in our own process group (so that it owns the terminal),
/// and waits for it; Ctrl-C is its business, not ours. The answer is its exit status, 128+n for signal n. For `ssh`.
///
/// # Errors
/// It could not be started.
pub fn foreground(argv: &[String], env: &[(String, String)]) -> Result<i32, CommandFault> {
    let mut command = prepare(argv, env)?;
    let quiet = IgnoreInterrupts::new();
    let status = command.spawn().and_then(|mut child| child.wait());
    drop(quiet);
    status.map(exit_number).map_err(|fault| cannot_start(argv, &fault))
}

/// Replaces this process with a program, which keeps our streams. Returns only if that fails.
pub fn exec(argv: &[String], env: &[(String, String)]) -> CommandFault {
    match prepare(argv, env) {
        Ok(mut command) => cannot_start(argv, &command.exec()),
        Err(fault) => fault,
    }
}

/// 0 to 255, and 128+n for signal n.
pub(super) fn exit_number(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// A command whose child starts in a clean state.
pub(super) fn prepare(argv: &[String], env: &[(String, String)]) -> Result<Command, CommandFault> {
    let Some((program, arguments)) = argv.split_first() else {
        let reason = "the command line is empty".to_owned();
        return Err(CommandFault::CannotStart { argv: Vec::new(), reason, is_too_long: false });
    };
    let mut command = Command::new(program);
    command.args(arguments).envs(env.iter().map(|(name, value)| (name, value)));
    // SAFETY: between fork and exec only functions that are async-signal-safe are called (sigprocmask, signal and one
    // plain system call), and no memory is allocated.
    unsafe { command.pre_exec(start_clean) };
    Ok(command)
}

/// Has the child killed when the thread that starts it ends.
fn die_with_us(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: as in `prepare`; the closure owns a number and nothing else.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before that: then nobody would send the signal.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                libc::_exit(255);
            }
            Ok(())
        });
    }
}

/// In the child: our own threads block signals and ignore some, and we may have inherited descriptors that are not marked
/// to be closed. None of it may reach a foreign program.
fn start_clean() -> io::Result<()> {
    // SAFETY: plain system calls on a set that is made here; see `prepare`.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_DFL);
        }
        // Kernels before 5.11 do not have it; there, what std and we opened is closed all the same.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

/// SIGINT and SIGQUIT are ignored while this lives (as system(3) does): the terminal sends them to the child too.
struct IgnoreInterrupts([libc::sighandler_t; 2]);

impl IgnoreInterrupts {
    const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGQUIT];

    fn new() -> Self {
        // SAFETY: setting a disposition of "ignore" runs no code of ours in a signal handler.
        Self(Self::SIGNALS.map(|signal| unsafe { libc::signal(signal, libc::SIG_IGN) }))
    }
}

impl Drop for IgnoreInterrupts {
    fn drop(&mut self) {
        for (signal, before) in Self::SIGNALS.into_iter().zip(self.0) {
            // SAFETY: `before` is what the kernel said was the disposition.
            unsafe { libc::signal(signal, before) };
        }
    }
}

/// The first bytes of a stream.
struct Head {
    kept: Vec<u8>,
    limit: usize,
}

impl Head {
    fn new(limit: usize) -> Self {
        Self { kept: Vec::new(), limit }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = self.limit - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Cuts a stream into lines.
struct Lines {
    pending: Vec<u8>,
    limit: usize,
    /// The line at hand is longer than the limit: what follows of it is dropped.
    cut: bool,
}

impl Lines {
    /// False once `line` has said that it wants no more.
    fn take(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str) -> bool) -> bool {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, complete) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            if !self.cut {
                let room = self.limit - self.pending.len();
                self.pending.extend_from_slice(&text[..text.len().min(room)]);
                self.cut = text.len() > room;
            }
            if complete {
                let whole = std::mem::take(&mut self.pending);
                self.cut = false;
                let whole = String::from_utf8_lossy(&whole);
                if !line(whole.strip_suffix('\r').unwrap_or(&whole)) {
                    return false;
                }
            }
        }
        true
    }
}

/// What a program left.
#[derive(Clone, Debug)]
pub struct Output {
    pub argv: Vec<String>,
    /// None: ended by the signal.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    /// stdout if it exited with 0.
    ///
    /// # Errors
    /// Which program, argv, status and the last lines of its error output.
    pub fn ok(self) -> Result<Vec<u8>, CommandFault> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        let status = match (self.code, self.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "no exit status".to_owned(),
        };
        Err(CommandFault::Failed { stderr: last_lines(&self.stderr_text()), argv: self.argv, status })
    }

    /// stderr as text, trimmed.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// Why a program gave no result.
#[derive(Clone, Debug)]
pub enum CommandFault {
    /// Not found, not executable …
    CannotStart {
        argv: Vec<String>,
        reason: String,
        /// Its arguments are more than Linux passes on: the program may be in the best of health.
        is_too_long: bool,
    },
    TimedOut {
        argv: Vec<String>,
        after: Duration,
        stderr: String,
    },
    Failed {
        argv: Vec<String>,
        status: String,
        stderr: String,
    },
}

impl fmt::Display for CommandFault {
    /// One line: `'docker run -d x' failed with exit status 125: docker: no such image`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotStart { argv, reason, .. } => write!(f, "cannot start '{}': {reason}", shown(argv)),
            Self::TimedOut { argv, after, stderr } => {
                write!(f, "'{}' did not end within {} s and was killed", shown(argv), after.as_secs_f64())?;
                after_colon(f, stderr)
            }
            Self::Failed { argv, status, stderr } => {
                write!(f, "'{}' failed ({status})", shown(argv))?;
                after_colon(f, stderr)
            }
        }
    }
}

impl std::error::Error for CommandFault {}

fn after_colon(f: &mut fmt::Formatter<'_>, stderr: &str) -> fmt::Result {
    let one_line = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    if one_line.is_empty() { Ok(()) } else { write!(f, ": {one_line}") }
}

pub(super) fn cannot_start(argv: &[String], fault: &io::Error) -> CommandFault {
    let reason = match fault.kind() {
        io::ErrorKind::NotFound if argv.first().is_some_and(|program| program.contains('/')) => {
            "there is no such file, or what it is a script for".to_owned()
        }
        io::ErrorKind::NotFound => "there is no such program on the PATH".to_owned(),
        _ => fault.to_string(),
    };
    let is_too_long = fault.kind() == io::ErrorKind::ArgumentListTooLong;
    CommandFault::CannotStart { argv: argv.to_vec(), reason, is_too_long }
}

/// The command line for a person, cut after 300 characters.
fn shown(argv: &[String]) -> String {
    let line = argv.join(" ");
    if line.chars().count() <= 300 { line } else { line.chars().take(299).chain(['…']).collect() }
}

/// The last ten lines, of at most 2,000 characters: an error message is to be read.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    let tail = lines[lines.len().saturating_sub(10)..].join("\n");
    let excess = tail.chars().count().saturating_sub(2_000);
    tail.chars().skip(excess).collect()
}

#[cfg(test)]
mod tests;
