//! The log of Host and Runner: one line an event, to stderr or a file. Never a secret.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::clock;
use crate::domain::steering::steers;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// None = stderr.
static SINK: Mutex<Option<(PathBuf, File)>> = Mutex::new(None);

/// Sends the log to a file (appended to) instead of stderr.
///
/// # Errors
/// The file cannot be opened; its path is in the message.
pub fn to_file(path: &Path) -> io::Result<()> {
    let file = open(path)?;
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_owned(), file));
    Ok(())
}

/// Opens the log file again under its name, after it was moved away; false if the log is stderr.
/// If that fails, the old file goes on being written, and says so.
pub(super) fn reopen() -> bool {
    let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((path, file)) = sink.as_mut() else { return false };
    let failed = match open(path) {
        Ok(new) => {
            *file = new;
            None
        }
        Err(fault) => Some(fault),
    };
    drop(sink);
    if let Some(fault) = failed {
        write(Level::Error, &format!("the log goes on in the old file: {fault}"));
    }
    true
}

/// Writes one line; control characters in `text` are escaped, so that a hostile name cannot forge a line.
pub fn write(level: Level, text: &str) {
    #[cfg(test)]
    if let Some(world) = super::simulated::world() {
        return world.log(level, text);
    }
    let line = line(clock::unix_ms(), level, text);
    let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
    // The line goes out in one write(2), so that lines of several processes in one file do not mix. A full disk must not
    // end what is being logged about.
    let _lost = match sink.as_mut() {
        Some((_, file)) => file.write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|fault| io::Error::new(fault.kind(), format!("cannot open the log file {}: {fault}", path.display())))
}

fn line(unix_ms: u64, level: Level, text: &str) -> String {
    let mut line = format!("{} {}: ", clock::rfc3339(unix_ms), level.name());
    for c in text.chars() {
        if steers(c) {
            write!(line, "{}", c.escape_default()).expect("a String takes every text");
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// `info!("node {name} registered")`
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::sys::log::write($crate::sys::log::Level::Info, &format!($($arg)*)) };
}

/// `warning!("…")`
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::sys::log::write($crate::sys::log::Level::Warning, &format!($($arg)*)) };
}

/// `error!("…")`
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::sys::log::write($crate::sys::log::Level::Error, &format!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_event_whatever_the_text() {
        assert_eq!(
            line(0, Level::Info, "node é registered"),
            "1970-01-01T00:00:00.000+00:00 info: node é registered\n"
        );
        let forged = line(0, Level::Warning, "a\n1970 error: b\r\u{1b}[2J\u{7f}\u{85}\u{202e}\u{2028}");
        assert_eq!(
            forged,
            "1970-01-01T00:00:00.000+00:00 warning: a\\n1970 error: b\\r\\u{1b}[2J\\u{7f}\\u{85}\\u{202e}\\u{2028}\n"
        );
    }
}
