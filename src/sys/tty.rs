//! The terminal that this program was started in: its size, its raw mode, and what it and others signal meanwhile.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

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

    /// Sets the terminal as it was before, for as long as others have it.
    pub fn put_right(&self) {
        // In the background it is others' already, and who touched it would be stopped by the kernel, for ever.
        if is_in_foreground() {
            // A terminal that is gone needs nothing.
            let _gone = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.put_right();
    }
}

/// Whether the terminal that stdin is listens to this process: a shell gives it to one job at a time. Also where it does not tell.
pub fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
}

/// Stops this process as the terminal's own key does, until somebody lets it go on: a shell then has its prompt back. Returns at
/// once where nobody would (an orphaned process group, see setpgid(2)).
///
/// # Errors
/// The kernel refuses.
pub fn stop() -> io::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTSTP);
    // Ours is blocked: see [`Signals::begin`].
    set.thread_unblock()?;
    raise(Signal::SIGTSTP)?;
    Ok(set.thread_block()?)
}

/// Where we are in the background, stops as whoever reads there: until `fg`. It can come back in the background all the same.
///
/// # Errors
/// The kernel refuses.
pub fn await_foreground() -> io::Result<()> {
    if is_in_foreground() { Ok(()) } else { Ok(raise(Signal::SIGTTIN)?) }
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
    /// We are to stop, and others have the terminal meanwhile (SIGTSTP; the key for it goes to the shell).
    Stop,
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
        for signal in [
            Signal::SIGWINCH,
            Signal::SIGTSTP,
            Signal::SIGCONT,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next one; None if there is none now. The kernel gives those to end first, also where one of these makes us go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn next(&self) -> io::Result<Option<Signalled>> {
        loop {
            return match self.0.read_signal() {
                Ok(None) => Ok(None),
                Ok(Some(info)) => Ok(Some(match i32::try_from(info.ssi_signo).expect("signal numbers are below 65") {
                    libc::SIGWINCH => Signalled::Resized,
                    libc::SIGTSTP => Signalled::Stop,
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
                (libc::SIGTSTP, Signalled::Stop),
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
