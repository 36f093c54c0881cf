//! Where a task writes, and reading that. Its files are its own to replace: by a link, a pipe, a folder, nothing.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::output::Stream;
use crate::runner::supervise::protocol::{STDERR, STDOUT};
use crate::sys::file;
use crate::sys::inotify::{WatchId, Watcher};

/// Where a task writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `stdout` and `stderr` in a folder that is the task's alone.
    Folder(Arc<Path>),
    /// `<this>.stdout` and `<this>.stderr`, beside those of other tasks. They were there before the task was.
    Files(Arc<Path>),
}

/// What there is of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// In bytes.
    Known(u64),
    /// The task never made it.
    Absent,
    /// It was there, or would have been.
    Removed,
    /// Something that is no regular file, or cannot be looked at.
    Foreign,
}

impl Place {
    /// See [`Place::Folder`].
    pub fn folder(path: PathBuf) -> Self {
        Self::Folder(Arc::from(path))
    }

    /// See [`Place::Files`].
    pub fn files(beginning: PathBuf) -> Self {
        Self::Files(Arc::from(beginning))
    }

    fn path(&self, stream: Stream) -> PathBuf {
        let name = match stream {
            Stream::Stdout => STDOUT,
            Stream::Stderr => STDERR,
        };
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Files(beginning) => {
                let mut path = OsString::from(beginning.as_os_str());
                path.push(".");
                path.push(name);
                PathBuf::from(path)
            }
        }
    }

    /// A task with this place was begun.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Folder(folder) => folder.is_dir(),
            Self::Files(_) => Stream::ALL.iter().any(|stream| fs::symlink_metadata(self.path(*stream)).is_ok()),
        }
    }

    /// One stat(2) where the file is there.
    pub(super) fn size(&self, stream: Stream) -> Size {
        match fs::symlink_metadata(self.path(stream)) {
            Ok(seen) if seen.is_file() => Size::Known(seen.len()),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => match self {
                Self::Folder(folder) if folder.is_dir() => Size::Absent,
                Self::Folder(_) | Self::Files(_) => Size::Removed,
            },
            Ok(_) | Err(_) => Size::Foreign,
        }
    }

    /// Reads up to `length` bytes from `offset` on, into `bytes` in the place of what was there. Fewer: the file is shorter.
    ///
    /// # Errors
    /// It is no regular file, not there, or cannot be read.
    pub(super) fn read(&self, stream: Stream, offset: u64, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.clear();
        if length == 0 {
            return Ok(());
        }
        let file = file::open_foreign(&self.path(stream), OpenOptions::new().read(true))?;
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

    /// The next write to either stream is told, once.
    ///
    /// # Errors
    /// Something of it is not there, or the kernel has no room. Nothing is watched then.
    pub(super) fn watch_once(&self, watcher: &Watcher) -> io::Result<Vec<WatchId>> {
        match self {
            Self::Folder(folder) => Ok(vec![watcher.watch_folder(folder)?]),
            Self::Files(_) => {
                let stdout = watcher.watch_file(&self.path(Stream::Stdout))?;
                match watcher.watch_file(&self.path(Stream::Stderr)) {
                    Ok(stderr) => Ok(vec![stdout, stderr]),
                    Err(fault) => {
                        watcher.forget(stdout);
                        Err(fault)
                    }
                }
            }
        }
    }

    /// Removes the files; a folder stays.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn remove(&self) -> io::Result<()> {
        for path in Stream::ALL.map(|stream| self.path(stream)) {
            file::remove(&path)
                .map_err(|fault| io::Error::new(fault.kind(), format!("cannot remove {}: {fault}", path.display())))?;
        }
        Ok(())
    }
}
