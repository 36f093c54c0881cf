//! A directory of the Host whose file server may be dead: the shared one, and that of the environments' archives. Whoever asks for what
//! is in it hears so within seconds, and whatever needs nothing of it goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use super::HostFault;
use super::engine::ActFault;
use crate::sys::looks::Looks;
use crate::{info, warning};

/// The door to it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// What messages call it.
    what: &'static str,
    looks: Looks,
    /// As last said in the log.
    is_silent: AtomicBool,
}

/// A directory that did not answer in time, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Silent(String);

impl Directory {
    /// `paths.shared_dir`
    pub(super) fn shared(path: &Path) -> Arc<Self> {
        Self::new("shared directory", path)
    }

    /// `docker.container_dir`
    pub(super) fn of_archives(path: &Path) -> Arc<Self> {
        Self::new("container directory", path)
    }

    fn new(what: &'static str, path: &Path) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), what, looks: Looks::default(), is_silent: AtomicBool::new(false) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What `look` finds or does there.
    ///
    /// # Errors
    /// It took too long: see [`Looks::at`] for what becomes of it then.
    pub(super) fn at<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, Silent> {
        let found = self.looks.at(look);
        let is_silent = found.is_none();
        if self.is_silent.load(Ordering::Relaxed) != is_silent
            && self.is_silent.swap(is_silent, Ordering::Relaxed) != is_silent
        {
            if is_silent {
                warning!("{}; what needs it waits or fails", self.silence());
            } else {
                info!("the {} {} answers again", self.what, self.path.display());
            }
        }
        found.ok_or_else(|| Silent(format!("{}; try again when it does", self.silence())))
    }

    fn silence(&self) -> String {
        format!("the {} {} does not answer (is its file server dead?)", self.what, self.path.display())
    }

    /// Keeps something that was opened there.
    pub(super) fn hold<T: Send + Sync + 'static>(self: &Arc<Self>, what: T) -> Held<T> {
        Held { directory: Arc::clone(self), what: Some(Arc::new(what)) }
    }
}

/// Something that is open there: used, and closed, where that may hang.
#[derive(Debug)]
pub(super) struct Held<T: Send + Sync + 'static> {
    directory: Arc<Directory>,
    /// None: it is being dropped.
    what: Option<Arc<T>>,
}

impl<T: Send + Sync + 'static> Held<T> {
    /// # Errors
    /// As [`Directory::at`].
    pub(super) fn at<R: Send + 'static>(&self, look: impl FnOnce(&T) -> R + Send + 'static) -> Result<R, Silent> {
        let what = Arc::clone(self.what.as_ref().expect("it is not dropped yet"));
        self.directory.at(move || look(&what))
    }
}

impl<T: Send + Sync + 'static> Drop for Held<T> {
    fn drop(&mut self) {
        // Here, or with the last look that still uses it: never in the thread of who drops this.
        self.directory.looks.let_go(self.what.take());
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Silent> for ActFault {
    fn from(silent: Silent) -> Self {
        Self::new(503, silent.0)
    }
}

impl From<Silent> for HostFault {
    fn from(silent: Silent) -> Self {
        Self(silent.0)
    }
}

/// As a file system says it that gives up by itself.
impl From<Silent> for io::Error {
    fn from(silent: Silent) -> Self {
        Self::new(io::ErrorKind::TimedOut, silent.0)
    }
}
