//! Where a database is: one file under one name, with all that lies beside it.
//!
//! SQLite keeps its log beside the name that a database was opened under, and so stands our lock. A second name (a link) would have
//! another log and another lock: so links are followed, and a file with several names is refused.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::sys::file::{self, Lock};
use crate::sys::process;

use super::{StoreFault, seal};

/// The one name of a database's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
}

/// What is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A file, of so many bytes; more than none.
    File(u64),
    /// Nothing, nor a trace of it.
    Nothing,
}

fn damaged(path: &Path, how: &str) -> StoreFault {
    StoreFault::Unusable(format!("the database {} is damaged ({how}); it is left as it is.\n{REMEDY}", path.display()))
}

/// What to do where there is no database that can be used.
pub const REMEDY: &str = "'hakuriver host restore FILE' puts a backup in its place; without one, 'hakuriver host restore --empty' \
    begins anew, and what nodes have is shown as unknown";

impl StoreFault {
    /// As it is told when a Host cannot start for it: where the database at `path` is damaged, with what to do.
    pub fn at_start(self, path: &Path) -> Self {
        match self {
            Self::Unusable(how) | Self::Row(how) if how.starts_with("cannot ") => damaged(path, &how),
            other => other,
        }
    }
}

/// Is there a database, or a trace of one?
///
/// # Errors
/// [`StoreFault::Unusable`]: what is there is no database's file.
pub fn is_there(path: &Path) -> Result<bool, StoreFault> {
    let place = Place::of(path)?;
    Ok(place.restored().exists() || place.look()? != Found::Nothing)
}

impl Place {
    /// Follows links.
    ///
    /// # Errors
    /// A link that leads nowhere, or a folder that is not there.
    pub(super) fn of(path: &Path) -> Result<Self, StoreFault> {
        let fault = |why: String| StoreFault::Failed(format!("cannot use the database {}: {why}", path.display()));
        match fs::symlink_metadata(path) {
            Ok(seen) => {
                let real = fs::canonicalize(path).map_err(|error| match error.kind() {
                    ErrorKind::NotFound if seen.is_symlink() => {
                        fault("it is a link to what is not there (is its file system mounted?)".to_owned())
                    }
                    _ => fault(error.to_string()),
                })?;
                Ok(Self { path: real })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let real = fs::canonicalize(folder).map_err(|error| fault(format!("{}: {error}", folder.display())))?;
                let name = path.file_name().ok_or_else(|| fault("it is no file name".to_owned()))?;
                Ok(Self { path: real.join(name) })
            }
            Err(error) => Err(fault(error.to_string())),
        }
    }

    /// No place at all: a database in memory.
    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        Self { path: PathBuf::from(":memory:") }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// What is there. A log without its database is damage, and so is an empty file: we make neither.
    pub(super) fn look(&self) -> Result<Found, StoreFault> {
        match fs::metadata(&self.path) {
            Ok(seen) if !seen.is_file() => {
                let what = if seen.is_dir() { "a folder" } else { "no regular file" };
                Err(StoreFault::Unusable(format!(
                    "the database {} is {what}: set database.db_file",
                    self.path.display()
                )))
            }
            Ok(seen) if seen.nlink() > 1 => Err(StoreFault::Unusable(format!(
                "the database {} has {} names (hard links), and its log lies beside one of them only: remove the others",
                self.path.display(),
                seen.nlink()
            ))),
            Ok(seen) if seen.len() == 0 => Err(self.damaged("the file is empty")),
            // Its log, if there is one, is another database's, and SQLite would take its pages for this one's.
            Ok(_) if seal::is_sealed(&self.path).map_err(|error| self.cannot("read", &error))? => {
                Err(StoreFault::Unusable(format!(
                    "the database {0} is a backup that was copied there by hand: move it elsewhere, and put it back with \
                     'hakuriver host restore FILE', which sees to the log of the database before",
                    self.path.display()
                )))
            }
            Ok(seen) => Ok(Found::File(seen.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let log = self.beside("-wal");
                if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
                    return Err(self.damaged("the file is gone, but its write-ahead log is still there"));
                }
                Ok(Found::Nothing)
            }
            Err(error) => Err(self.cannot("read", &error)),
        }
    }

    /// That it is damaged, and what to do.
    pub(super) fn damaged(&self, how: &str) -> StoreFault {
        damaged(&self.path, how)
    }

    /// `path` with `suffix` at its end.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Where a database is prepared that is to take this one's place; it means nothing.
    pub(super) fn prepared(&self) -> PathBuf {
        self.hidden("restore")
    }

    /// Under this name it is decided that it takes this one's place: see [`Place::finish_restore`].
    pub(super) fn restored(&self) -> PathBuf {
        self.hidden("restore-decided")
    }

    /// Under this name the database is kept whose place was taken at that time, in seconds since 1970.
    pub(super) fn replaced(&self, time_s: u64) -> PathBuf {
        self.beside(&format!(".replaced-{time_s}"))
    }

    /// Who works on the database alone: a Host, or a restore. None: somebody else does.
    pub(super) fn lock(&self) -> Result<Option<Lock>, StoreFault> {
        self.take(".lock", Lock::try_take)
    }

    /// Nobody may replace the database while a backup is made of it.
    pub(super) fn lock_for_backup(&self) -> Result<Option<Lock>, StoreFault> {
        self.take(".backup.lock", Lock::try_share)
    }

    /// The other side of [`Place::lock_for_backup`].
    pub(super) fn lock_for_restore(&self) -> Result<Option<Lock>, StoreFault> {
        self.take(".backup.lock", Lock::try_take)
    }

    fn take(
        &self,
        suffix: &str,
        how: impl FnOnce(&Path) -> std::io::Result<Option<Lock>>,
    ) -> Result<Option<Lock>, StoreFault> {
        let path = self.beside(suffix);
        how(&path).map_err(|error| self.cannot("lock", &error))
    }

    /// Whoever works on a database of another user's Host as root would leave files that this Host cannot work with, and follow
    /// whatever that user has put in the way. Without a database its folder's owner counts.
    pub(super) fn refuse_root_for_others(&self) -> Result<(), StoreFault> {
        let seen = fs::metadata(&self.path).or_else(|_| fs::metadata(self.folder()));
        let owner = seen.map_err(|error| self.cannot("read", &error))?.uid();
        if !process::is_root() || owner == 0 {
            return Ok(());
        }
        Err(StoreFault::Failed(format!(
            "the database {} is the user's with number {owner}: do this as that user, as with sudo -u '#{owner}'",
            self.path.display()
        )))
    }

    /// Is it a file of the database's, or one of those that it may have beside it?
    pub(super) fn is_own(&self, path: &Path) -> bool {
        let beside = ["", "-wal", "-shm", "-journal", ".lock", ".backup.lock"].map(|suffix| self.beside(suffix));
        beside.iter().any(|own| own == path) || [self.prepared(), self.restored()].iter().any(|own| own == path)
    }

    /// A name beside it that nobody gives to a file by hand.
    fn hidden(&self, purpose: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.folder().join(format!(".{name}.hakuriver-{purpose}"))
    }

    pub(super) fn cannot(&self, what: &str, error: &dyn std::fmt::Display) -> StoreFault {
        StoreFault::Failed(format!("cannot {what} the database {}: {error}", self.path.display()))
    }

    /// Goes on with a restore that was decided, wherever it was cut off: the database that was there is kept under another name,
    /// together with its log, which must never meet the new one. To be called under the lock. The answer is where the old one is.
    pub(super) fn finish_restore(&self) -> Result<Option<PathBuf>, StoreFault> {
        let restored = self.restored();
        let decided = match fs::metadata(&restored) {
            Ok(seen) => seen.modified().map_err(|error| self.cannot("restore", &error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.cannot("restore", &error)),
        };
        let time_s = decided.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let kept = self.replaced(time_s);
        cut_here()?;
        // The log last: a database without it is still told from one that is whole by the file that is decided on.
        for suffix in ["", "-journal", "-wal"] {
            let mut to = OsString::from(&kept);
            to.push(suffix);
            self.rename_if_there(&self.beside(suffix), Path::new(&to))?;
            cut_here()?;
        }
        file::remove(&self.beside("-shm")).map_err(|error| self.cannot("restore", &error))?;
        file::sync_dir(self.folder()).map_err(|error| self.cannot("restore", &error))?;
        cut_here()?;
        self.rename_if_there(&restored, &self.path)?;
        cut_here()?;
        file::sync_dir(self.folder()).map_err(|error| self.cannot("restore", &error))?;
        Ok(kept.exists().then_some(kept))
    }

    fn rename_if_there(&self, from: &Path, to: &Path) -> Result<(), StoreFault> {
        match file::rename(from, to) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.cannot("restore", &error)),
            _ => Ok(()),
        }
    }
}

/// Between two steps of what may be cut off anywhere: in tests it is.
pub(super) fn cut_here() -> Result<(), StoreFault> {
    #[cfg(test)]
    cuts::count()?;
    Ok(())
}

/// Where a test cuts off what this thread does.
#[cfg(test)]
pub(super) mod cuts {
    use std::cell::Cell;

    use crate::store::StoreFault;

    thread_local!(static LEFT: Cell<Option<u32>> = const { Cell::new(None) });

    /// So many steps are still done; None: all.
    pub(crate) fn after(steps: Option<u32>) {
        LEFT.set(steps);
    }

    pub(super) fn count() -> Result<(), StoreFault> {
        match LEFT.get() {
            Some(0) => Err(StoreFault::Failed("cut off".to_owned())),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}
