//! The log of Host and Runner: one line an event, to stderr or a file. Never a secret.

use std::path::Path;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

/// Sends the log to a file (appended to) instead of stderr.
///
/// # Errors
/// The file cannot be opened.
pub fn to_file(_path: &Path) -> std::io::Result<()> {
    unimplemented!("sys")
}

/// Writes one line; control characters in `text` are escaped, so that a hostile name cannot forge a line.
pub fn write(_level: Level, _text: &str) {
    unimplemented!("sys")
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
