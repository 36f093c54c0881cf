//! A number that grows, and those who wait until it has.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Shared between the engine, which sets the number, and requests that wait for a change (long polls, event streams).
#[derive(Debug, Default)]
pub(super) struct Signal {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    number: u64,
    closed: bool,
}

impl Signal {
    pub(super) fn starting_at(number: u64) -> Self {
        Self { state: Mutex::new(State { number, closed: false }), wake: Condvar::new() }
    }

    /// The number now.
    pub(super) fn number(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).number
    }

    /// Sets a new number and wakes everyone; the same number wakes nobody.
    pub(super) fn set(&self, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.number != number {
            state.number = number;
            self.wake.notify_all();
        }
    }

    /// Counts on by one and wakes everyone.
    pub(super) fn advance(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).number += 1;
        self.wake.notify_all();
    }

    /// Wakes everyone, now and ever after: the Host stops.
    pub(super) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_all();
    }

    /// Waits until the number is another than `seen`, the time is over, or the Host stops.
    pub(super) fn wait(&self, seen: u64, timeout: Duration) -> Woken {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .wake
            .wait_timeout_while(state, timeout, |state| state.number == seen && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            Woken::Closed
        } else if state.number == seen {
            Woken::TimedOut
        } else {
            Woken::Changed
        }
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Changed,
    TimedOut,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_by_change_time_or_closing() {
        let signal = Signal::starting_at(5);
        assert_eq!(signal.wait(4, Duration::from_secs(60)), Woken::Changed);
        assert_eq!(signal.wait(5, Duration::from_millis(1)), Woken::TimedOut);
        signal.set(6);
        assert_eq!(signal.wait(5, Duration::from_secs(60)), Woken::Changed);
        signal.close();
        assert_eq!(signal.wait(6, Duration::from_secs(60)), Woken::Closed);
    }
}
