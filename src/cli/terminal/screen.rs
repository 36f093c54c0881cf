//! What is written to the terminal, by a thread of its own: one that takes its time holds up nothing but its own output.

use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::sys::ready::{self, Interest};
use crate::sys::thread;
use crate::sys::tty::{Signalled, Signals};
use crate::sys::wake::Wake;

/// Pieces that wait to be written; a piece is what a shell has written at once.
const MOST: usize = 16;

/// The terminal to write to.
pub(super) struct Screen {
    pieces: Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: AtomicUsize,
    is_gone: AtomicBool,
    /// Rung when a piece was written.
    written: Wake,
}

impl Screen {
    /// On stdout.
    ///
    /// # Errors
    /// There is no thread left.
    pub(super) fn start() -> io::Result<Self> {
        let (pieces, to_write) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::spawn("screen", move || write(&to_write, &of_thread))?;
        Ok(Self { pieces, shared })
    }

    /// Whether another piece is taken now.
    pub(super) fn has_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Acquire) < MOST
    }

    /// Writes a piece, after those before it.
    pub(super) fn show(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.shared.waiting.fetch_add(1, Ordering::AcqRel);
            // The thread ends only when the terminal is gone, which is seen elsewhere.
            let _gone = self.pieces.send(bytes);
        }
    }

    /// Readable when there may be room again.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.shared.written.fd()
    }

    /// The bell was heard; false if the terminal is gone.
    pub(super) fn heard(&self) -> bool {
        self.shared.written.heard();
        !self.shared.is_gone.load(Ordering::Acquire)
    }

    /// Waits until all is written, for `limit` at most; without one for as long as it takes, since it is the user who takes it. Ends
    /// when we are told to end, with that signal.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn finish(&self, signals: &Signals, limit: Option<Duration>) -> io::Result<Option<i32>> {
        let end = limit.map(|limit| Instant::now() + limit);
        while self.heard() && self.shared.waiting.load(Ordering::Acquire) > 0 {
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(None);
            }
            ready::wait([(self.fd(), Interest::READ), (signals.fd(), Interest::READ)], end);
            if let Some(Signalled::End(signal)) = signals.next()? {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }
}

fn write(pieces: &Receiver<Vec<u8>>, shared: &Shared) {
    for piece in pieces {
        let mut out = io::stdout().lock();
        let written = out.write_all(&piece).and_then(|()| out.flush());
        drop(out);
        shared.waiting.fetch_sub(1, Ordering::AcqRel);
        if written.is_err() {
            shared.is_gone.store(true, Ordering::Release);
        }
        shared.written.ring();
        if written.is_err() {
            return;
        }
    }
}
