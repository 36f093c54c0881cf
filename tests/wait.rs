//! Waiting for a condition, never for a time: the message on time-out has the last state seen.

use std::time::{Duration, Instant};

/// Between two looks. Tests look at other processes, which offer nothing to wait on.
const INTERVAL: Duration = Duration::from_millis(25);

/// Looks until `look` answers Ok, and returns that. Err is what was seen instead; after `limit` the last one is the panic's message.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() >= limit => {
                panic!("{what}: not within {} s; last seen: {seen}", limit.as_secs_f32())
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// As [`until`], where what is left to be done is counted: `limit` is for one step, and counts anew when less is left than ever before. So
/// how long it may take is for the machine to say, and that it stands still is found as early.
#[track_caller]
pub fn while_it_falls(what: &str, limit: Duration, mut look: impl FnMut() -> Result<(), (usize, String)>) {
    let (mut least, mut since) = (usize::MAX, Instant::now());
    while let Err((left, seen)) = look() {
        if left < least {
            (least, since) = (left, Instant::now());
        }
        if since.elapsed() >= limit {
            panic!("{what}: nothing moves for {} s; last seen: {seen}", limit.as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// As [`until`], for a plain yes or no with a description of what is seen.
#[track_caller]
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> (bool, String)) {
    until(what, limit, || match look() {
        (true, _) => Ok(()),
        (false, seen) => Err(seen),
    });
}

/// Looks for the whole of `time`, and fails as soon as the condition does not hold: "nothing happens" as an assertion.
#[track_caller]
pub fn holds_for(what: &str, time: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(seen) = look() {
            panic!("{what}: no longer so after {} s: {seen}", start.elapsed().as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
}
