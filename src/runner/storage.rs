//! Shared storage: looked at from threads that may hang, because a dead file server makes every look at it hang.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::sys::{fault, file, thread};

/// How long a look at a file system may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many looks are under way at once: those that hang stay there.
const AT_ONCE: usize = 8;

/// Looks at file systems with a time limit.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    under_way: Mutex<usize>,
    ended: Condvar,
}

impl Looks {
    /// What `look` finds; None if it takes longer than 5 s, or those before it do.
    pub fn at<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        #[cfg(test)]
        if crate::sys::simulated::world().is_some() {
            return Some(look());
        }
        let end = Instant::now() + PATIENCE;
        self.shared.begin(PATIENCE)?;
        let (send, receive) = mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let started = thread::spawn("storage", move || {
            // Nobody listens any more if it took too long.
            let _late = send.send(look());
            shared.end();
        });
        if started.is_err() {
            self.shared.end();
            return None;
        }
        receive.recv_timeout(end.saturating_duration_since(Instant::now())).ok()
    }

    /// `<shared_dir>/shared_data`, if `shared_dir` is this cluster's: only where `.hakuriver-cluster` holds its id. So a
    /// mount point whose file system is missing is never taken for it, nor written to.
    pub fn shared_data(&self, shared_dir: &Path, cluster: &str) -> Option<PathBuf> {
        let (shared_dir, cluster) = (shared_dir.to_owned(), cluster.to_owned());
        self.at(move || {
            if !is_clusters(&shared_dir, &cluster) {
                return None;
            }
            let data = shared_dir.join("shared_data");
            let _step = fault::step("folder", || "shared_data".to_owned());
            match fs::create_dir(&data) {
                Ok(()) => Some(data),
                Err(_) if data.is_dir() => Some(data),
                Err(_) => None,
            }
        })
        .flatten()
    }
}

/// Whether a directory is the one that `cluster` shares. May take long: for [`Looks::at`].
pub fn is_clusters(shared_dir: &Path, cluster: &str) -> bool {
    let id = file::read_foreign(&shared_dir.join(".hakuriver-cluster"), 4096);
    id.is_ok_and(|id| String::from_utf8_lossy(&id).trim() == cluster)
}

impl Shared {
    /// Waits for its turn; None: it does not come.
    fn begin(&self, patience: Duration) -> Option<()> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |under_way: &mut usize| *under_way >= AT_ONCE;
        let (mut under_way, waited) =
            self.ended.wait_timeout_while(under_way, patience, waits).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *under_way += 1;
        Some(())
    }

    fn end(&self) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.ended.notify_one();
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
    fn many_looks_wait_for_each_other_and_none_for_those_that_hang() {
        let looks = Looks::default();
        std::thread::scope(|scope| {
            for number in 0..10 * AT_ONCE {
                let looks = &looks;
                scope.spawn(move || assert_eq!(looks.at(move || number), Some(number)));
            }
        });
        let shared = Shared { under_way: Mutex::new(AT_ONCE), ..Shared::default() };
        assert_eq!(shared.begin(Duration::from_millis(10)), None);
        shared.end();
        assert_eq!(shared.begin(Duration::ZERO), Some(()));
    }
}
