//! Files that matter: written under a temporary name, synced, renamed, and their folder synced.

use std::io;
use std::path::Path;

/// Replaces `path` with `content` so that a crash leaves the old or the new content, never a part; mode as given.
///
/// # Errors
/// The io error, with the path in its message.
pub fn write_atomic(_path: &Path, _content: &[u8], _mode: u32) -> io::Result<()> {
    unimplemented!("sys")
}

/// Reads a regular file that someone else may have made: no link is followed, and more than `limit` bytes are refused.
///
/// # Errors
/// The io error, with the path in its message.
pub fn read_foreign(_path: &Path, _limit: usize) -> io::Result<Vec<u8>> {
    unimplemented!("sys")
}

/// Makes a directory (and its parents) with `mode` if it is not there.
///
/// # Errors
/// The io error, with the path in its message.
pub fn make_dir(_path: &Path, _mode: u32) -> io::Result<()> {
    unimplemented!("sys")
}

/// An exclusive lock on a file, held until dropped (and let go by the kernel when the process dies).
#[derive(Debug)]
pub struct Lock {
    _file: std::fs::File,
}

impl Lock {
    /// Takes it without waiting. Ok(None): someone else has it.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn try_take(_path: &Path) -> io::Result<Option<Self>> {
        unimplemented!("sys")
    }
}
