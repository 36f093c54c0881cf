//! Reading what a task writes. Its files are its own to replace: by a link, a pipe, a folder, nothing.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::domain::output::Stream;
use crate::runner::supervise::protocol::{STDERR, STDOUT};
use crate::sys::file;

/// What there is of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// In bytes.
    Known(u64),
    /// No file.
    Absent,
    /// Not even the folder that it would be in.
    NoFolder,
    /// Something that is no regular file, or cannot be looked at.
    Foreign,
}

/// Where a stream of the task with that folder is.
pub(super) fn path(folder: &Path, stream: Stream) -> PathBuf {
    folder.join(match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    })
}

/// One stat(2) where the file is there.
pub(super) fn size(folder: &Path, stream: Stream) -> Size {
    match fs::symlink_metadata(path(folder, stream)) {
        Ok(seen) if seen.is_file() => Size::Known(seen.len()),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
            if folder.is_dir() {
                Size::Absent
            } else {
                Size::NoFolder
            }
        }
        Ok(_) | Err(_) => Size::Foreign,
    }
}

/// Reads up to `length` bytes from `offset` on, into `bytes` in the place of what was there. Fewer: the file is shorter.
///
/// # Errors
/// It is no regular file, not there, or cannot be read.
pub(super) fn read(folder: &Path, stream: Stream, offset: u64, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    if length == 0 {
        return Ok(());
    }
    let file = file::open_foreign(&path(folder, stream), OpenOptions::new().read(true))?;
    bytes.resize(length, 0);
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            Err(fault) => return Err(fault),
        }
    }
    bytes.truncate(filled);
    Ok(())
}
