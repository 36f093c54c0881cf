//! Those who wait for what becomes of single tasks: their output, their end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::ids::TaskId;
use crate::host::signal::Signal;

/// A signal for each task that somebody watches. Where nobody does, waking costs one look at a number.
#[derive(Debug, Default)]
pub(in crate::host) struct Watchers {
    inner: Mutex<Inner>,
    watched: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    signals: HashMap<TaskId, (Arc<Signal>, usize)>,
    closed: bool,
}

/// Somebody watches a task for as long as this lives.
#[derive(Debug)]
pub(in crate::host) struct Watch {
    watchers: Arc<Watchers>,
    task: TaskId,
    pub(in crate::host) signal: Arc<Signal>,
}

impl Watchers {
    pub(in crate::host) fn watch(self: &Arc<Self>, task: TaskId) -> Watch {
        let mut inner = self.lock();
        let closed = inner.closed;
        let entry = inner.signals.entry(task).or_default();
        entry.1 += 1;
        let signal = entry.0.clone();
        if closed {
            signal.close();
        }
        self.watched.store(inner.signals.len(), Ordering::SeqCst);
        Watch { watchers: self.clone(), task, signal }
    }

    /// Something has become of it.
    pub(in crate::host) fn wake(&self, task: TaskId) {
        if self.is_idle() {
            return;
        }
        if let Some((signal, _)) = self.lock().signals.get(&task) {
            signal.advance();
        }
    }

    /// Something may have become of any of them.
    pub(in crate::host) fn wake_all(&self) {
        self.lock().signals.values().for_each(|(signal, _)| signal.advance());
    }

    /// Nobody watches anything.
    pub(in crate::host) fn is_idle(&self) -> bool {
        self.watched.load(Ordering::SeqCst) == 0
    }

    /// Wakes everyone, now and ever after: the Host stops.
    pub(in crate::host) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.signals.values().for_each(|(signal, _)| signal.close());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.watchers.lock();
        if let Some(entry) = inner.signals.get_mut(&self.task) {
            entry.1 -= 1;
            if entry.1 == 0 {
                inner.signals.remove(&self.task);
            }
        }
        self.watchers.watched.store(inner.signals.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::signal::Woken;

    #[test]
    fn only_the_watched_task_wakes_its_watchers_and_nothing_is_left_of_them() {
        let (a, b) = (TaskId::from_u64(1), TaskId::from_u64(2));
        let watchers = Arc::new(Watchers::default());
        watchers.wake(a);
        let (first, second) = (watchers.watch(a), watchers.watch(a));
        let seen = first.signal.number();
        watchers.wake(b);
        assert_eq!(first.signal.wait(seen, Duration::from_millis(1)), Woken::TimedOut);
        watchers.wake(a);
        assert_eq!(first.signal.wait(seen, Duration::from_secs(60)), Woken::Changed);
        assert_eq!(second.signal.wait(seen, Duration::from_secs(60)), Woken::Changed);
        drop(first);
        assert!(!watchers.is_idle());
        drop(second);
        assert!(watchers.is_idle());
        watchers.close();
        assert_eq!(watchers.watch(b).signal.wait(0, Duration::from_secs(60)), Woken::Closed);
    }
}
