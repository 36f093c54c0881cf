//! Locks that stand in files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{at, open_foreign};

/// An exclusive lock on a file, held until dropped (and let go by the kernel when the process dies).
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes it without waiting. Ok(None): someone else has it. The file is made if it is not there, and never removed
    /// (a lock on a removed file locks nothing).
    ///
    /// # Errors
    /// The file cannot be opened, or its file system knows no locks.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        Self::take(path, FlockArg::LockExclusiveNonblock)
    }

    /// The same for one of many, none of whom disturbs the others.
    ///
    /// # Errors
    /// As [`Lock::try_take`].
    pub fn try_share(path: &Path) -> io::Result<Option<Self>> {
        Self::take(path, FlockArg::LockSharedNonblock)
    }

    fn take(path: &Path, how: FlockArg) -> io::Result<Option<Self>> {
        // Somebody else may have put anything in its place: a link would have us make or lock another file, a pipe hold us.
        let file = open_foreign(path, OpenOptions::new().write(true).create(true).truncate(false).mode(0o600))
            .map_err(|fault| at("open the lock file", path, &fault))?;
        match Flock::lock(file, how) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, fault)) => Err(at("lock", path, &fault.into())),
        }
    }
}
