//! The line to the Runner, as the supervisor has it: frames in, frames out, never waiting.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::api::json;
use crate::runner::supervise::frame;
use crate::runner::supervise::protocol::{Ask, Tell};

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    socket: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` is sent.
    sent: usize,
}

impl Conn {
    /// # Errors
    /// The socket cannot be made one that does not wait.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, incoming: Vec::new(), outgoing: Vec::new(), sent: 0 })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Something is still to be sent: what is told next has to wait, so that a Runner that does not read costs one message.
    pub(super) fn is_busy(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// What has come; None: the connection is over, or what came makes no sense.
    pub(super) fn read(&mut self) -> Option<Vec<Ask>> {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => break,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        let mut asks = Vec::new();
        loop {
            match frame::next(&mut self.incoming) {
                Ok(Some(text)) => match json::decode::<Ask>(&text) {
                    Ok(ask) => asks.push(ask),
                    Err(fault) => {
                        crate::warning!("the Runner asks for what this program does not understand: {fault}");
                        return None;
                    }
                },
                Ok(None) => return Some(asks),
                Err(fault) => {
                    crate::warning!("the Runner's connection is closed: {fault}");
                    return None;
                }
            }
        }
    }

    /// Sends as much as goes at once. False: the connection is over.
    pub(super) fn tell(&mut self, tell: &Tell) -> bool {
        frame::put(&mut self.outgoing, json::encode(tell).as_bytes());
        self.flush()
    }

    /// Sends what is left, as much as goes at once. False: the connection is over.
    pub(super) fn flush(&mut self) -> bool {
        while self.is_busy() {
            match self.socket.write(&self.outgoing[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => return true,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        true
    }
}
