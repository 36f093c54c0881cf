//! A bell between threads: rung by any, heard in poll(2) by the one that waits, which can go on waiting afterwards.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// See above.
#[derive(Clone, Debug)]
pub struct Wake(Arc<EventFd>);

impl Default for Wake {
    fn default() -> Self {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        Self(Arc::new(event.unwrap_or_else(|fault| panic!("cannot make an eventfd: {fault}"))))
    }
}

impl Wake {
    /// Rings it; more than once before it is heard counts once.
    pub fn ring(&self) {
        // Full only after 2^64 - 2 rings.
        let _full = self.0.write(1);
    }

    /// It has been heard.
    pub fn heard(&self) {
        let _silent = self.0.read();
    }

    /// Readable while it rings.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
