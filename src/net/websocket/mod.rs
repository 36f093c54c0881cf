//! WebSockets (RFC 6455) that never block: text messages in, text messages out, nothing piled up.
//!
//! Framing is tungstenite's; [`handshake`] is ours, since our own server reads the requests. Whoever has a [`Socket`] waits for its
//! descriptor among others, so one thread serves a terminal and its connection, and what is not taken on one side is not read on
//! the other.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handshake;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

pub use handshake::{ConnectFault, accept, connect};

use crate::sys::ready::{self, Interest, Ready};
use crate::sys::socket;

/// Bytes that are read at once.
const READ_AT_ONCE: usize = 16 << 10;
/// Beyond a message: pongs, and the last words.
const MORE: usize = 64 << 10;
/// After this long without a word from the other side it is asked for one …
const QUIET: Duration = Duration::from_secs(20);
/// … and after this long without an answer it is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// One end of a WebSocket.
pub struct Socket {
    inner: WebSocket<TcpStream>,
    /// Something waits for the other side to take it.
    unsent: bool,
    /// When the other side was last heard, or asked.
    heard: Instant,
    /// It was asked for a word since then.
    asked: bool,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    Text(String),
    /// The other side has ended the connection, and why (may be empty).
    Closed(String),
}

/// The connection is of no use any more, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost(pub String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All was said.
    Done,
    /// Something went wrong, which was told.
    Failed,
    /// This process ends.
    Away,
}

impl Socket {
    /// The server's end of an accepted connection, with what was read of it beyond the handshake. Messages may have `largest` bytes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn server(stream: TcpStream, read: Vec<u8>, largest: usize) -> io::Result<Self> {
        Self::new(stream, read, largest, Role::Server)
    }

    fn new(stream: TcpStream, read: Vec<u8>, largest: usize, role: Role) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Keystrokes must not wait for one another; and without keep-alive a peer that lost its power would never be missed.
        stream.set_nodelay(true)?;
        socket::keep_alive(&stream, 60, 20)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_AT_ONCE)
            .write_buffer_size(0)
            .max_write_buffer_size(largest + MORE)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest));
        let inner = WebSocket::from_partially_read(stream, read, role, Some(config));
        Ok(Self { inner, unsent: false, heard: Instant::now(), asked: false })
    }

    /// The next message; None if there is none now. Bytes that were read ahead are not seen by whoever waits for the descriptor: it is
    /// to be asked until it has none.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn receive(&mut self) -> Result<Option<Incoming>, Lost> {
        loop {
            let message = match self.inner.read() {
                Ok(message) => message,
                Err(Error::Io(fault)) if is_later(&fault) => return Ok(None),
                Err(fault) => return Err(lost(&fault)),
            };
            self.hear();
            match message {
                Message::Text(text) => return Ok(Some(Incoming::Text(text.as_str().to_owned()))),
                Message::Close(frame) => {
                    // Our answer to it; whether it arrives is the other side's business.
                    let _answered = self.inner.flush();
                    let reason = frame.map(|frame| frame.reason.as_str().to_owned());
                    return Ok(Some(Incoming::Closed(reason.unwrap_or_default())));
                }
                // Nobody sends them; a pong is on its way by itself.
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Sends a message, or keeps what the other side does not take now. To be called only when nothing is [`unsent`](Self::has_unsent).
    ///
    /// # Errors
    /// The connection is lost.
    pub fn send(&mut self, text: String) -> Result<(), Lost> {
        let sent = self.inner.send(Message::text(text));
        self.sent(sent)
    }

    /// Does something still wait to be taken?
    pub fn has_unsent(&self) -> bool {
        self.unsent
    }

    /// Sends on what waits.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self) -> Result<(), Lost> {
        let sent = self.inner.flush();
        self.sent(sent)
    }

    fn sent(&mut self, sent: Result<(), Error>) -> Result<(), Lost> {
        match sent {
            Ok(()) => self.unsent = false,
            Err(Error::Io(fault)) if is_later(&fault) => self.unsent = true,
            Err(fault) => return Err(lost(&fault)),
        }
        Ok(())
    }

    /// Ends the connection: says so after all that was sent, and waits for `limit` at most until the other side has taken it and
    /// answered; false if it has not. What it still sends is dropped. What the kernel has of ours, it sends on by itself.
    pub fn close(&mut self, ending: Ending, reason: &str, limit: Duration) -> bool {
        let code = match ending {
            Ending::Done => CloseCode::Normal,
            Ending::Failed => CloseCode::Error,
            Ending::Away => CloseCode::Away,
        };
        let end = Instant::now() + limit;
        // A control frame has room for 123 bytes beside the code.
        let reason: String = reason.chars().take(30).collect();
        let closed = self.inner.close(Some(CloseFrame { code, reason: reason.into() }));
        let mut going = self.sent(closed).is_ok();
        while going && Instant::now() < end {
            let interest = Interest { read: true, write: self.unsent, end: true };
            let [ready] = ready::wait([(self.fd(), interest)], Some(end));
            if ready.write {
                going = self.flush().is_ok();
            }
            if ready.read {
                match self.receive() {
                    Ok(Some(Incoming::Closed(_))) => return true,
                    Ok(_) => {}
                    Err(_) => going = false,
                }
            }
        }
        false
    }

    /// Ends the connection at once, and what is on its way is lost: to one that takes nothing, an end in good order would never come
    /// through, as it stands behind what was sent before.
    pub fn abort(self) {
        // Without it, it ends as any other.
        let _refused = socket::reset_at_close(self.inner.get_ref());
    }

    /// To be waited for, with what is to be waited for: to read only where `listening`, and to write if something is unsent.
    pub fn wanted(&self, listening: bool, interest_in_end: bool) -> (BorrowedFd<'_>, Interest) {
        (self.fd(), Interest { read: listening, write: self.unsent, end: interest_in_end })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }

    /// When [`Self::tend`] is to be called at the latest.
    pub fn due(&self) -> Instant {
        self.heard + if self.asked { PATIENCE } else { QUIET }
    }

    /// Sends on what waits and can be sent, and asks a side that has long been silent for a word. `listening`: was it heard at all?
    ///
    /// # Errors
    /// The connection is lost.
    pub fn tend(&mut self, ready: Ready, listening: bool) -> Result<(), Lost> {
        if self.unsent && ready.write {
            self.flush()?;
        }
        if Instant::now() < self.due() {
            return Ok(());
        }
        if self.unsent {
            // The question would stand behind what it does not take.
            self.hear();
            return Ok(());
        }
        if self.asked && listening {
            return Err(Lost(format!("no answer for {} s", (QUIET + PATIENCE).as_secs())));
        }
        // Where nobody listens its answer is not heard. But if nobody is there, its kernel resets the connection, which is seen.
        self.hear();
        self.asked = listening;
        let sent = self.inner.send(Message::Ping(Vec::new().into()));
        self.sent(sent)
    }

    fn hear(&mut self) {
        self.heard = Instant::now();
        self.asked = false;
    }
}

fn is_later(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn lost(fault: &Error) -> Lost {
    Lost(match fault {
        Error::ConnectionClosed | Error::AlreadyClosed => "the connection was closed".to_owned(),
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
            "the connection was closed without a word".to_owned()
        }
        Error::Io(fault) => fault.to_string(),
        Error::Capacity(_) => "a message is longer than what is taken".to_owned(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests;
