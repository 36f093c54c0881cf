//! The only door to external programs: argv in, bounded output out, with a deadline. No shell, ever.

use std::fmt;
use std::time::Duration;

/// A program to run.
#[derive(Clone, Debug)]
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
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It could not be started, or its time was up. A non-zero exit is not an error here: see [`Output::ok`].
    pub fn run(&self) -> Result<Output, CommandFault> {
        unimplemented!("sys")
    }

    /// Runs it and gives each line of its stdout, as it comes, to `line`; ends the program when `line` answers false.
    /// No deadline on the whole if `deadline` is `Duration::MAX`. For `docker events`, `docker load`.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn lines(
        &self,
        _stop: &crate::sys::shutdown::Stop,
        _line: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Output, CommandFault> {
        unimplemented!("sys")
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
        unimplemented!("sys")
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
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!("sys")
    }
}
