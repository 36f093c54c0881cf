//! The terminal that this program was started in: its size, its raw mode, and what it and others signal meanwhile.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// While it lives, every key reaches us as it is pressed, Ctrl-C too, and nothing is echoed. Dropped, the terminal is as before.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Of stdin.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn begin() -> io::Result<Self> {
        let terminal = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mode = Self { terminal, before };
        mode.again()?;
        Ok(mode)
    }

    /// Sets it once more: a shell puts the terminal right when it was stopped and goes on.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        // Now: waiting until all was written could take for ever.
        Ok(tcsetattr(&self.terminal, SetArg::TCSANOW, &raw)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _gone = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// Rows and columns of the terminal that stdin is; None where it does not tell.
pub fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize`, which lives as long as the call.
    let done = unsafe { libc::ioctl(io::stdin().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// What was signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// The window has another size.
    Resized,
    /// We were stopped, and go on.
    Continued,
    /// We are to end: SIGTERM, SIGINT, SIGHUP or SIGQUIT, by its number.
    End(i32),
}

/// The signals of a program that owns a terminal.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Takes them over: to be called before the first thread starts, so that none of them gets one instead.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub fn begin() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in
            [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]
        {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next one; None if there is none now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn next(&self) -> io::Result<Option<Signalled>> {
        loop {
            return match self.0.read_signal() {
                Ok(None) => Ok(None),
                Ok(Some(info)) => Ok(Some(match i32::try_from(info.ssi_signo).expect("signal numbers are below 65") {
                    libc::SIGWINCH => Signalled::Resized,
                    libc::SIGCONT => Signalled::Continued,
                    other => Signalled::End(other),
                })),
                Err(Errno::EINTR) => continue,
                Err(fault) => Err(fault.into()),
            };
        }
    }

    /// Readable when there is one.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_told_apart() {
        // In a thread of its own: the mask is the thread's, and a signal sent to the thread reaches no other.
        let thread = std::thread::spawn(|| {
            let signals = Signals::begin().expect("they can be blocked");
            assert_eq!(signals.next().expect("it can be read"), None);
            for (signal, expected) in [
                (libc::SIGWINCH, Signalled::Resized),
                (libc::SIGCONT, Signalled::Continued),
                (libc::SIGTERM, Signalled::End(libc::SIGTERM)),
            ] {
                // SAFETY: raises a signal in this thread, which has blocked it.
                unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
                assert_eq!(signals.next().expect("it can be read"), Some(expected));
            }
        });
        assert!(thread.join().is_ok(), "it panicked");
    }
}
