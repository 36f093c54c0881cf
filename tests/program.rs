//! Running programs from a test: a deadline on each, and both streams kept.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::wait;

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// -1: ended by a signal.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Status 0 is asserted; the answer is stdout.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.status, 0, "{self}");
        self.out()
    }

    /// The status and every fragment in stderr are asserted, and that the message is one for users.
    #[track_caller]
    pub fn fails(&self, status: i32, fragments: &[&str]) {
        assert_eq!(self.status, status, "the exit status; {self}");
        for fragment in fragments {
            assert!(self.stderr.contains(fragment), "stderr lacks {fragment:?}; {self}");
        }
        assert!(!self.stderr.contains("panicked"), "{self}");
        assert!(self.stderr.starts_with("error: "), "{self}");
        assert!(self.stderr.trim_end().lines().count() <= 2, "more than two lines; {self}");
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}\n--- stdout\n{}--- stderr\n{}---",
            self.command,
            self.status,
            self.out(),
            self.stderr
        )
    }
}

/// Runs it with no input. After `limit` it is killed and the test fails.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    run_with(command, b"", limit)
}

/// Runs it with `input` on stdin.
#[track_caller]
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let line = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start `{line}`: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    thread::scope(|scope| {
        // A program that does not read its input is no fault here.
        scope.spawn(move || drop(stdin.write_all(input)));
        let out = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let err = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).map(|_| bytes)
        });
        let status = wait_for(&mut child, &line, limit);
        let stdout = out.join().unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&err.join().unwrap().unwrap()).into_owned();
        match status {
            Some(status) => Output { command: line, status, stdout, stderr },
            None => panic!("`{line}` did not end within {} s; its stderr:\n{stderr}", limit.as_secs()),
        }
    })
}

/// None: killed after `limit`.
fn wait_for(child: &mut Child, line: &str, limit: Duration) -> Option<i32> {
    let start = std::time::Instant::now();
    wait::until(line, limit + Duration::from_secs(10), || match child.try_wait().unwrap() {
        Some(status) => Ok(Some(status.code().unwrap_or(-1))),
        None if start.elapsed() > limit => {
            child.kill().unwrap();
            child.wait().unwrap();
            Ok(None)
        }
        None => Err("running".to_owned()),
    })
}

pub fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Runs docker on the shared daemon; failure fails the test.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    run(Command::new("docker").args(args), Duration::from_secs(120)).ok().trim_end().to_owned()
}
