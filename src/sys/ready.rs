//! Waiting for several descriptors at once.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

/// What is waited for on a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
    /// Also when the other side goes while nothing is to be read or written.
    pub end: bool,
}

impl Interest {
    /// Something to read, or the end.
    pub const READ: Self = Self { read: true, write: false, end: false };
}

/// What can be done with a descriptor without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Something can be read, the end or a fault too.
    pub read: bool,
    /// Something can be written, or the fault is learnt from trying.
    pub write: bool,
    /// The other side sends no more, or is gone altogether; there may still be something to be read.
    pub ended: bool,
}

/// Waits until something that was asked for can be done, or `end` has come (None: without end). The answers are in the order of
/// the sources.
pub fn wait<const N: usize>(sources: [(BorrowedFd<'_>, Interest); N], end: Option<Instant>) -> [Ready; N] {
    let mut fds = sources.map(|(fd, interest)| libc::pollfd {
        // Of one that nothing is wanted of, poll(2) would still tell the end, again and again; it passes over negative ones.
        fd: if interest == Interest::default() { -1 } else { fd.as_raw_fd() },
        events: flags(interest),
        revents: 0,
    });
    loop {
        let timeout = end.map_or(-1, |end| milliseconds(end.saturating_duration_since(Instant::now())));
        let count = libc::nfds_t::try_from(N).expect("a handful");
        // SAFETY: the pointer and the count describe `fds`; its descriptors are borrowed for as long as `sources` lives.
        let found = unsafe { libc::poll(fds.as_mut_ptr(), count, timeout) };
        match found {
            // The longest time-out of poll(2) is 24 days: not the end, then.
            0 if end.is_none_or(|end| Instant::now() < end) => {}
            -1 => {
                let fault = io::Error::last_os_error();
                // EFAULT, EINVAL, ENOMEM: a fault of ours, or a kernel without memory for a few bytes.
                assert!(fault.kind() == io::ErrorKind::Interrupted, "poll failed: {fault}");
            }
            _ => return fds.map(|fd| answer(fd.revents)),
        }
    }
}

fn flags(interest: Interest) -> libc::c_short {
    let one = |wanted: bool, flag: libc::c_short| if wanted { flag } else { 0 };
    one(interest.read, libc::POLLIN) | one(interest.write, libc::POLLOUT) | one(interest.end, libc::POLLRDHUP)
}

fn answer(events: libc::c_short) -> Ready {
    let has = |flags: libc::c_short| events & flags != 0;
    let broken = has(libc::POLLHUP | libc::POLLERR | libc::POLLNVAL);
    Ready {
        read: broken || has(libc::POLLIN),
        write: broken || has(libc::POLLOUT),
        ended: broken || has(libc::POLLRDHUP),
    }
}

/// Rounded up, so that a short rest is not waited for in a loop.
fn milliseconds(rest: Duration) -> libc::c_int {
    libc::c_int::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    #[test]
    fn each_is_told_what_it_asked_for() {
        let (a, mut b) = UnixStream::pair().expect("a pair");
        let (c, _d) = UnixStream::pair().expect("a pair");
        let both = Interest { read: true, write: true, end: true };
        let quiet = wait([(a.as_fd(), Interest::READ), (c.as_fd(), Interest::READ)], soon());
        assert_eq!(quiet, [Ready::default(); 2]);
        b.write_all(b"x").expect("room");
        let [a_ready, none, c_ready] =
            wait([(a.as_fd(), Interest::READ), (a.as_fd(), Interest::default()), (c.as_fd(), both)], None);
        assert_eq!((a_ready.read, a_ready.write, a_ready.ended), (true, false, false));
        assert_eq!(none, Ready::default());
        assert_eq!((c_ready.read, c_ready.write, c_ready.ended), (false, true, false));
        drop(b);
        let end = Interest { end: true, ..Interest::default() };
        let [gone, unasked] = wait([(a.as_fd(), end), (a.as_fd(), Interest::default())], soon());
        assert!(gone.ended && unasked == Ready::default(), "{gone:?}");
    }
}
