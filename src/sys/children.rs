//! The children of a process that starts many: one descriptor tells when one has ended, and all that end are waited for, also those
//! that were inherited from a child.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// One a process.
#[derive(Debug)]
pub struct Children {
    signals: SignalFd,
}

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    pub pid: u32,
    /// 0 to 255, and 128+n for signal n.
    pub code: i32,
    pub signal: Option<i32>,
}

/// What was heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub gone: Vec<Gone>,
    /// SIGTERM or SIGINT.
    pub ending: bool,
}

impl Children {
    /// Takes over SIGCHLD, SIGTERM and SIGINT of this process, and becomes the parent of whatever its children leave behind. To be
    /// called before the first thread starts.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn begin() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            set.add(signal);
        }
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // SAFETY: prctl(2) with numbers alone.
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { signals })
    }

    /// Readable when there is something to hear.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// All that has happened since.
    pub fn hear(&self) -> Heard {
        let mut heard = Heard::default();
        // Read before the children are waited for: one that ends in between is told again.
        while let Ok(Some(info)) = self.signals.read_signal() {
            heard.ending |= info.ssi_signo != Signal::SIGCHLD as u32;
        }
        reap(|gone| heard.gone.push(gone));
        heard
    }
}

/// Waits for every child that has ended; true if there is no other child.
pub(super) fn reap(mut each: impl FnMut(Gone)) -> bool {
    loop {
        let mut status = 0;
        // SAFETY: waitpid(2) writes one integer. (nix has no word for the real-time signals that can end a child.)
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        let Ok(number) = u32::try_from(pid) else {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            // There are no children.
            return true;
        };
        if number == 0 {
            return false;
        }
        if libc::WIFEXITED(status) {
            each(Gone { pid: number, code: libc::WEXITSTATUS(status), signal: None });
        } else if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            each(Gone { pid: number, code: 128 + signal, signal: Some(signal) });
        }
    }
}
