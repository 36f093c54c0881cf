//! The end of a process: signals become a [`Stop`] that everything waiting can see.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Shared, set once, never cleared.
///
/// Inside is an eventfd that is readable from [`Stop::set`] on, so that a poll(2) loop can wait for it beside its pipes
/// and sockets: see [`Stop::fd`].
#[derive(Clone, Debug)]
pub struct Stop {
    event: Arc<OwnedFd>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// Not yet set.
    pub fn new() -> Self {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        // A Stop is made when a process or a test starts; one that cannot open a single descriptor can do nothing else.
        assert!(fd >= 0, "cannot make an eventfd: {}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        Self { event: Arc::new(unsafe { OwnedFd::from_raw_fd(fd) }) }
    }

    /// Sets it and wakes everyone who waits.
    pub fn set(&self) {
        // It is never read, so it stays readable. A write fails only when the counter is full, and then it is readable too.
        let _full = nix::unistd::write(&*self.event, &1_u64.to_ne_bytes());
    }

    /// Is it set?
    pub fn is_set(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits until it is set or the time is over; true if it is set.
    pub fn wait(&self, timeout: Duration) -> bool {
        #[cfg(test)]
        if let Some(world) = super::simulated::world() {
            let end = world.now().checked_add(timeout);
            while !self.is_readable() && end.is_none_or(|end| world.now() < end) {
                world.pass(end);
            }
            return self.is_readable();
        }
        let end = Instant::now().checked_add(timeout);
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        poll(&mut fds, end);
        is_ready(&fds[0])
    }

    #[cfg(test)]
    fn is_readable(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        poll(&mut fds, Some(Instant::now()));
        is_ready(&fds[0])
    }

    /// Readable from [`Stop::set`] on. To be waited for, never read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Waits for one of `fds` until `end` (None: without end). What is ready is in `revents`.
pub(super) fn poll(fds: &mut [PollFd<'_>], end: Option<Instant>) {
    loop {
        let timeout = end.map_or(PollTimeout::NONE, |end| poll_timeout(end.saturating_duration_since(Instant::now())));
        match nix::poll::poll(fds, timeout) {
            // The longest time-out of poll(2) is 24 days: not the end, then.
            Ok(0) if end.is_none_or(|end| Instant::now() < end) => {}
            Ok(_) => return,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // EFAULT, EINVAL, ENOMEM: a fault of ours, or a kernel without memory for a few bytes.
            Err(fault) => panic!("poll failed: {fault}"),
        }
    }
}

/// Readable, writable, closed or broken: in any case something can be learnt from it now.
pub(super) fn is_ready(fd: &PollFd<'_>) -> bool {
    fd.revents().is_some_and(|events| !events.is_empty())
}

/// Rounded up to whole milliseconds, so that a short rest is not waited for in a loop.
fn poll_timeout(rest: Duration) -> PollTimeout {
    let ms = rest.as_nanos().div_ceil(1_000_000);
    i32::try_from(ms).ok().and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::MAX)
}

/// SIGTERM, SIGINT and SIGHUP.
fn ending_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

/// Blocks SIGTERM, SIGINT and SIGHUP in this thread, and so in every thread started later. Called in main before the first one.
///
/// Children do not inherit this: [`super::command`] clears the mask.
pub fn block_signals() {
    ending_signals().thread_block().expect("these signals can be blocked");
}

/// Waits for SIGTERM or SIGINT (the number is the answer), or for `stop`.
///
/// SIGHUP opens the log file anew (so that it can be rotated); where the log is stderr, it ends like the others: the terminal is gone.
pub fn wait_for_signal(stop: &Stop) -> Option<i32> {
    let signals = SignalFd::with_flags(&ending_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .unwrap_or_else(|fault| panic!("cannot make a signalfd: {fault}"));
    loop {
        let mut fds = [PollFd::new(stop.fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, None);
        if is_ready(&fds[0]) {
            return None;
        }
        match signals.read_signal() {
            Ok(Some(info)) => {
                let number = i32::try_from(info.ssi_signo).expect("signal numbers are below 65");
                if number != libc::SIGHUP || !super::log::reopen() {
                    return Some(number);
                }
            }
            Ok(None) | Err(Errno::EINTR) => {}
            Err(fault) => panic!("cannot read a signalfd: {fault}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_wakes_who_waits_and_stays_set() {
        let stop = Stop::new();
        assert!(!stop.is_set());
        assert!(!stop.wait(Duration::from_millis(5)));
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.set();
        assert!(waiter.join().expect("the waiter does not panic"));
        stop.set();
        assert!(stop.is_set() && stop.wait(Duration::MAX));
        assert_eq!(wait_for_signal(&stop), None);
    }

    #[test]
    fn a_signal_is_the_answer() {
        // In a thread of its own: the mask is the thread's, and a signal sent to the thread reaches no other.
        let waiter = std::thread::spawn(|| {
            block_signals();
            // SAFETY: raises a signal in this thread, which has just blocked it.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGINT) };
            wait_for_signal(&Stop::new())
        });
        assert_eq!(waiter.join().expect("the waiter does not panic"), Some(libc::SIGINT));
    }

    #[test]
    fn long_times_do_not_overflow_poll() {
        assert_eq!(poll_timeout(Duration::from_micros(1)), PollTimeout::from(1_u8));
        assert_eq!(poll_timeout(Duration::MAX), PollTimeout::MAX);
    }
}
