//! One call for all who want the same thing at the same time: the first does it, for those too that have come while the call before
//! was under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// See above. `R` is what a call gives to all who share it.
#[derive(Debug)]
pub(super) struct Together<R> {
    state: Mutex<State<R>>,
    ended: Condvar,
}

#[derive(Debug)]
struct State<R> {
    waiting: BTreeSet<String>,
    /// How many share the call that has not begun.
    sharing: usize,
    /// A call is under way.
    busy: bool,
    /// Calls that were begun.
    begun: u64,
    /// What the calls gave that have ended, for those who have not taken it yet: how many.
    results: BTreeMap<u64, (Arc<R>, usize)>,
}

impl<R> Default for Together<R> {
    fn default() -> Self {
        let state = State { waiting: BTreeSet::new(), sharing: 0, busy: false, begun: 0, results: BTreeMap::new() };
        Self { state: Mutex::new(state), ended: Condvar::new() }
    }
}

impl<R> Together<R> {
    /// Has `call` done for `item`, alone or with others. A call begins only after this was called, so what it gives is fresh.
    pub(super) fn together(&self, item: &str, call: impl FnOnce(&[String]) -> R) -> Arc<R> {
        #[cfg(test)]
        if crate::sys::simulated::world().is_some() {
            return Arc::new(call(&[item.to_owned()]));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.insert(item.to_owned());
        state.sharing += 1;
        // The next call to begin takes all that wait.
        let mine = state.begun + 1;
        loop {
            if let Some((result, left)) = state.results.get_mut(&mine) {
                *left -= 1;
                let (result, is_last) = (Arc::clone(result), *left == 0);
                if is_last {
                    state.results.remove(&mine);
                }
                return result;
            }
            if !state.busy && state.begun < mine {
                break;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy = true;
        state.begun = mine;
        let all: Vec<String> = std::mem::take(&mut state.waiting).into_iter().collect();
        let others = std::mem::take(&mut state.sharing) - 1;
        drop(state);
        let result = Arc::new(call(&all));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy = false;
        if others > 0 {
            state.results.insert(mine, (Arc::clone(&result), others));
        }
        drop(state);
        self.ended.notify_all();
        result
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
                    let item = item.to_string();
                    let done = together.together(&item, |all| {
                        calls.fetch_add(1, Ordering::Relaxed);
                        items.fetch_add(all.len(), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(20));
                        all.to_vec()
                    });
                    assert!(done.contains(&item), "its own is among them");
                });
            }
        });
        assert_eq!(items.load(Ordering::Relaxed), 50, "each once");
        assert!(calls.load(Ordering::Relaxed) < 25, "{calls:?} calls for 50");
        let state = together.state.lock().expect("nobody panicked");
        assert!(state.results.is_empty() && state.waiting.is_empty(), "nothing is kept");
    }

    #[test]
    fn each_call_gives_its_own() {
        let together = Together::default();
        assert_eq!(*together.together("x", |_| 1), 1);
        assert_eq!(*together.together("x", |_| 2), 2);
    }
}
