//! The line to the Runner, as the supervisor has it: frames in, frames out, never waiting.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::api::json;
use crate::runner::supervise::frame;
use crate::runner::supervise::protocol::{Ask, Tell};
use crate::sys::fault;

/// How often strangers are told of: whoever may not connect may do so in a loop, and is not to fill our disk.
const PACE: Duration = Duration::from_secs(600);

/// Those that were sent away.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    told: Option<Instant>,
    since: u64,
}

impl Strangers {
    /// One more; the answer is for the log.
    pub(super) fn note(&mut self, now: Instant) -> Option<String> {
        self.since += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < PACE) {
            return None;
        }
        self.told = Some(now);
        let count = std::mem::take(&mut self.since);
        Some(format!(
            "a process of another user, or of a container, has connected, and is sent away ({count} since the last time)"
        ))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    socket: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` is sent.
    sent: usize,
    is_over: bool,
}

impl Conn {
    /// # Errors
    /// The socket cannot be made one that does not wait.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, incoming: Vec::new(), outgoing: Vec::new(), sent: 0, is_over: false })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Something is still to be sent: what is told next has to wait, so that a Runner that does not read costs one message.
    pub(super) fn is_busy(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// The other side has ended, or sends what makes no sense.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// What has come, also just before the connection's end.
    pub(super) fn read(&mut self) -> Vec<Ask> {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => {
                    self.is_over = true;
                    break;
                }
                Ok(count) => self.incoming.extend_from_slice(&buffer[..count]),
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => break,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.is_over = true;
                    break;
                }
            }
        }
        let mut asks = Vec::new();
        loop {
            let ask = match frame::next(&mut self.incoming) {
                Ok(None) => return asks,
                Ok(Some(text)) => json::decode(&text).map_err(|fault| fault.to_string()),
                Err(fault) => Err(fault),
            };
            match ask {
                Ok(ask) => asks.push(ask),
                Err(fault) => {
                    crate::warning!("the Runner's connection is closed: {fault}");
                    self.is_over = true;
                    return asks;
                }
            }
        }
    }

    /// Sends as much as goes at once.
    pub(super) fn tell(&mut self, tell: &Tell) {
        frame::put(&mut self.outgoing, json::encode(tell).as_bytes());
        self.flush();
    }

    /// Sends what is left, as much as goes at once.
    pub(super) fn flush(&mut self) {
        while self.is_busy() {
            let _step = fault::step("line", || "tell".to_owned());
            match self.socket.write(&self.outgoing[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => return,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.is_over = true;
                    return;
                }
            }
        }
        self.outgoing.clear();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_of_now_and_then() {
        let (mut strangers, now) = (Strangers::default(), Instant::now());
        assert!(strangers.note(now).is_some_and(|text| text.contains("(1 since")));
        assert!((0..1_000).all(|_| strangers.note(now + PACE / 2).is_none()));
        assert!(strangers.note(now + PACE).is_some_and(|text| text.contains("(1001 since")));
    }
}
