//! The end of a process: signals become a [`Stop`] that everything waiting can see.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Shared, set once, never cleared.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

impl Stop {
    /// Not yet set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it and wakes everyone who waits.
    pub fn set(&self) {
        let (flag, wake) = &*self.inner;
        *flag.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        wake.notify_all();
    }

    /// Is it set?
    pub fn is_set(&self) -> bool {
        *self.inner.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until it is set or the time is over; true if it is set.
    pub fn wait(&self, timeout: Duration) -> bool {
        let (flag, wake) = &*self.inner;
        let guard = flag.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *wake.wait_timeout_while(guard, timeout, |set| !*set).unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}

/// Blocks SIGTERM, SIGINT and SIGHUP in this thread, and so in every thread started later. Called in main before the first one.
pub fn block_signals() {
    unimplemented!("sys")
}

/// Waits for SIGTERM or SIGINT (the number is the answer), or for `stop`.
pub fn wait_for_signal(_stop: &Stop) -> Option<i32> {
    unimplemented!("sys")
}
