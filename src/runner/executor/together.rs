//! One call for all who want the same thing at the same time: the first does it, for those too that have come while the call before
//! was under way.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

/// See above.
#[derive(Debug, Default)]
pub(super) struct Together {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<String>,
    /// A call is under way.
    busy: bool,
    /// Calls that were begun, and ended.
    begun: u64,
    ended: u64,
    /// The last calls that failed.
    failed: BTreeSet<u64>,
}

impl Together {
    /// Has `call` done for `item`, alone or with others; says whether that call went well.
    pub(super) fn together(&self, item: &str, call: impl FnOnce(&[String]) -> bool) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.insert(item.to_owned());
        // The next call to begin takes all that wait.
        let mine = state.begun + 1;
        while state.busy && state.ended < mine {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended >= mine {
            return !state.failed.contains(&mine);
        }
        state.busy = true;
        state.begun += 1;
        let all: Vec<String> = std::mem::take(&mut state.waiting).into_iter().collect();
        drop(state);
        let went_well = call(&all);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy = false;
        state.ended = mine;
        if !went_well {
            state.failed.insert(mine);
        }
        // Whoever waited for an earlier one has woken long ago.
        state.failed.retain(|call| call + 64 > mine);
        drop(state);
        self.ended.notify_all();
        went_well
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn who_comes_during_a_call_shares_the_next_one() {
        let (together, calls, items) = (Together::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for item in 0..50 {
                let (together, calls, items) = (&together, &calls, &items);
                scope.spawn(move || {
                    let done = together.together(&item.to_string(), |all| {
                        calls.fetch_add(1, Ordering::Relaxed);
                        items.fetch_add(all.len(), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(20));
                        true
                    });
                    assert!(done);
                });
            }
        });
        assert_eq!(items.load(Ordering::Relaxed), 50, "each once");
        assert!(calls.load(Ordering::Relaxed) < 25, "{calls:?} calls for 50");
        assert!(!together.together("x", |_| false), "a failure is told");
        assert!(together.together("x", |_| true));
    }
}
