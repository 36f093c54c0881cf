//! Shared storage: looked at from threads that may hang, because a dead file server makes every look at it hang.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::sys::{file, thread};

/// How long a look at a file system may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many looks may hang at once before no more are tried.
const HANGING: usize = 8;

/// Looks at file systems with a time limit.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    hanging: Arc<AtomicUsize>,
}

impl Looks {
    /// What `look` finds; None if it takes longer than 5 s (or others have hung for long).
    pub fn at<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.hanging.fetch_add(1, Ordering::Relaxed) >= HANGING {
            self.hanging.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let (send, receive) = mpsc::channel();
        let hanging = Arc::clone(&self.hanging);
        let started = thread::spawn("storage", move || {
            // Nobody listens any more if it took too long.
            let _late = send.send(look());
            hanging.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            self.hanging.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        receive.recv_timeout(PATIENCE).ok()
    }

    /// `<shared_dir>/shared_data`, if `shared_dir` is this cluster's: only where `.hakuriver-cluster` holds its id. So a
    /// mount point whose file system is missing is never taken for it, nor written to.
    pub fn shared_data(&self, shared_dir: &Path, cluster: &str) -> Option<PathBuf> {
        let (shared_dir, cluster) = (shared_dir.to_owned(), cluster.to_owned());
        self.at(move || {
            let id = file::read_foreign(&shared_dir.join(".hakuriver-cluster"), 4096).ok()?;
            if String::from_utf8_lossy(&id).trim() != cluster {
                return None;
            }
            let data = shared_dir.join("shared_data");
            match fs::create_dir(&data) {
                Ok(()) => Some(data),
                Err(_) if data.is_dir() => Some(data),
                Err(_) => None,
            }
        })
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn only_the_clusters_own_directory_is_shared_and_nothing_else_is_touched() {
        let scratch = Scratch::new();
        let looks = Looks::default();
        assert_eq!(looks.shared_data(scratch.path(), "c1"), None);
        assert_eq!(looks.shared_data(&scratch.path().join("missing"), "c1"), None);
        assert!(fs::read_dir(scratch.path()).expect("it is there").next().is_none(), "nothing was made");
        fs::write(scratch.path().join(".hakuriver-cluster"), "c1\n").expect("it can be written");
        assert_eq!(looks.shared_data(scratch.path(), "c2"), None);
        let data = scratch.path().join("shared_data");
        assert_eq!(looks.shared_data(scratch.path(), "c1"), Some(data.clone()));
        assert!(data.is_dir());
    }

    #[test]
    fn too_many_looks_that_hang_are_not_joined_by_more() {
        let looks = Looks { hanging: Arc::new(AtomicUsize::new(HANGING)) };
        assert_eq!(looks.at(|| 1), None);
        assert_eq!(Looks::default().at(|| 1), Some(1));
    }
}
