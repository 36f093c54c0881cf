//! Whether the Docker daemon answers, as everyone here sees it. Who needs it waits here until it does.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::sys::shutdown::Stop;

/// Someone asked for something else: the operation ends where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

/// The daemon's standing.
pub struct Gate {
    standing: Mutex<Standing>,
    changed: Condvar,
}

struct Standing {
    /// Err: why it does not answer.
    health: Result<(), String>,
    /// Counts the changes of `health`, of which the first answer is one.
    changes: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// Not asked yet.
    pub fn new() -> Self {
        let health = Err("it was not asked yet".to_owned());
        Self { standing: Mutex::new(Standing { health, changes: 0 }), changed: Condvar::new() }
    }

    /// It answered, or why it did not; true if that is a change.
    pub fn set(&self, health: Result<(), String>) -> bool {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = standing.changes == 0 || standing.health.is_ok() != health.is_ok();
        if standing.health != health {
            standing.health = health;
            standing.changes += u64::from(changed);
            self.changed.notify_all();
        }
        changed
    }

    /// Ok, or why it does not answer.
    pub fn health(&self) -> Result<(), String> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).health.clone()
    }

    /// Waits until the daemon answers; `waiting` hears why it does not, whenever that changes.
    ///
    /// # Errors
    /// `cancel` was set (and [`Gate::nudge`] called).
    pub fn wait_up(&self, cancel: &Stop, waiting: &mut dyn FnMut(&str)) -> Result<(), Cancelled> {
        let mut told = None;
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if cancel.is_set() {
                return Err(Cancelled);
            }
            let Err(reason) = &standing.health else { return Ok(()) };
            if told.as_ref() != Some(reason) {
                let reason = reason.clone();
                drop(standing);
                waiting(&reason);
                told = Some(reason);
                standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            #[cfg(test)]
            if let Some(world) = crate::sys::simulated::world() {
                drop(standing);
                world.pass(None);
                standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            standing = self.changed.wait(standing).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the daemon's health has changed since `seen` (0 at first), at most `timeout`. The answer is what to
    /// give as `seen` next time.
    pub fn wait_change(&self, seen: u64, timeout: Duration) -> u64 {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let (standing, _) = self
            .changed
            .wait_timeout_while(standing, timeout, |standing| standing.changes == seen)
            .unwrap_or_else(PoisonError::into_inner);
        standing.changes
    }

    /// Makes everyone who waits look at their `cancel` again.
    pub fn nudge(&self) {
        // Taken and let go, so that nobody stands between their look and their wait.
        drop(self.standing.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn who_waits_goes_on_when_the_daemon_answers() {
        let gate = Arc::new(Gate::new());
        assert!(gate.set(Err("down".to_owned())), "the first answer is a change");
        let (told, heard) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.wait_up(&Stop::new(), &mut |reason| told.send(reason.to_owned()).expect("the test listens"))
        });
        assert_eq!(heard.recv().expect("it says why"), "down");
        assert!(gate.set(Ok(())));
        assert_eq!(waiter.join().expect("no panic"), Ok(()));
        assert!(!gate.set(Ok(())), "no change");
        assert_eq!(gate.wait_change(1, Duration::MAX), 2);
    }

    #[test]
    fn who_waits_can_be_called_back() {
        let gate = Arc::new(Gate::new());
        let cancel = Stop::new();
        let (told, heard) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn({
            let (gate, cancel) = (Arc::clone(&gate), cancel.clone());
            move || gate.wait_up(&cancel, &mut |_| told.send(()).expect("the test listens"))
        });
        heard.recv().expect("it waits");
        cancel.set();
        gate.nudge();
        assert_eq!(waiter.join().expect("no panic"), Err(Cancelled));
    }
}
