//! Ctrl-C while a command waits for something that goes on without it.

use crate::sys::shutdown::{self, Stop};
use crate::sys::thread;

/// Calls `act` with the number of the signal when SIGINT, SIGTERM or SIGHUP comes, once. To be called before other threads start, so
/// that none of them gets the signal instead.
pub(super) fn on_interrupt(act: impl FnOnce(i32) + Send + 'static) {
    shutdown::block_signals();
    thread::spawn_vital("signals", move || {
        if let Some(signal) = shutdown::wait_for_signal(&Stop::new()) {
            act(signal);
        }
    });
}

/// The exit status of a command that a signal has ended.
pub(super) fn status(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}
