//! One connection: requests in, answers out, every wait with an end.

use std::io::{self, IoSlice, Read as _, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::bodies::{Bodies, SMALL, Share};
use super::parse::{self, LONGEST_HEAD, Parsed, Whole};
use super::server::Open;
use super::{Handler, Limits, Reply};
use crate::sys::fault;

/// What is read at once. On the stack, so that an idle connection has no buffer.
const PART: usize = 4 << 10;
/// The same of a large body.
const BLOCK: usize = 128 << 10;
/// After a refusal, what the client still sends is read for this long and dropped, so that it sees the answer and not a
/// reset: many clients look for an answer only when all of their body is sent.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 << 20;

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Next,
    Close,
    /// Close, with a request's body still coming.
    Linger,
}

struct Connection<'a> {
    socket: &'a TcpStream,
    limits: &'a Limits,
    bodies: &'a Bodies,
    /// Bytes that were read and not yet used: the beginning of the next request.
    buffer: Vec<u8>,
    /// As it was last told to the kernel: a system call less a request.
    read_timeout: Option<Duration>,
}

/// Serves requests until the client closes, errs, or is slower than the limits.
pub(super) fn serve(open: &Open, peer: SocketAddr, handler: &dyn Handler, limits: &Limits, bodies: &Bodies) {
    let mut connection = Connection { socket: &open.socket, limits, bodies, buffer: Vec::new(), read_timeout: None };
    let ready = open.socket.set_nodelay(true).and_then(|()| open.socket.set_write_timeout(Some(limits.write_time)));
    if ready.is_err() {
        return;
    }
    // When the server ends, it shuts the reading side: the next request is not there.
    loop {
        // An error is a client that is gone, or too slow: there is nobody to tell.
        let after = connection.one(open, peer, handler).unwrap_or(After::Close);
        open.done();
        match after {
            After::Next => {}
            After::Close => break,
            After::Linger => {
                connection.linger();
                break;
            }
        }
    }
}

impl Connection<'_> {
    fn one(&mut self, open: &Open, peer: SocketAddr, handler: &dyn Handler) -> io::Result<After> {
        let whole = match self.read_head(peer)? {
            Some(Parsed::Whole(whole)) => *whole,
            Some(Parsed::Refused(status, reason)) => {
                self.answer(Reply::error(status, reason), &Manner::CLOSE)?;
                return Ok(After::Linger);
            }
            Some(Parsed::Partial) | None => return Ok(After::Close),
        };
        self.buffer.drain(..whole.length);
        let manner = Manner { keep_alive: whole.keep_alive, no_body: whole.no_body, old: whole.old };
        let largest = match guarded(|| handler.admit(&whole.head)) {
            Ok(Ok(largest)) => largest,
            Ok(Err(refusal)) | Err(refusal) => return self.refuse(refusal, &whole, manner),
        };
        if whole.content_length > largest as u64 {
            let what = format!("the body has {} bytes; at most {largest} are taken here", whole.content_length);
            return self.refuse(Reply::error(413, &what), &whole, manner);
        }
        if !open.begin() {
            // Closed meanwhile to make room: nothing is done of which the answer could not be sent.
            return Ok(After::Close);
        }
        let length = usize::try_from(whole.content_length).expect("not above the limit, which is a usize");
        let mut share = self.bodies.share();
        let Some(body) = self.read_body(length, whole.expects_continue, &mut share)? else {
            let what = "the Host holds as many large requests as it has room for: try again in a moment";
            return self.refuse(Reply::error(503, what), &whole, manner);
        };
        let reply = guarded(|| handler.handle(&whole.head, &body)).unwrap_or_else(|fault| fault);
        let _step = fault::step("answer", || fault::stable(&format!("{} {}", whole.head.method, whole.head.path)));
        drop((body, share));
        match &reply {
            Reply::Full { .. } => open.answering(),
            Reply::Stream { .. } => open.streaming(),
            Reply::Upgrade { .. } => {}
        }
        self.answer(reply, &manner)
    }

    /// None: the client closed, or was silent too long, before a whole head had come.
    fn read_head(&mut self, peer: SocketAddr) -> io::Result<Option<Parsed>> {
        let mut end = None;
        loop {
            if !self.buffer.is_empty() {
                match parse::head(&self.buffer, peer) {
                    Parsed::Partial => {}
                    other => return Ok(Some(other)),
                }
                end.get_or_insert_with(|| Instant::now() + self.limits.head_time);
            }
            let patience = end.map_or(self.limits.idle_time, |end| end.saturating_duration_since(Instant::now()));
            if patience.is_zero() || self.read_part(patience, LONGEST_HEAD - self.buffer.len())? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads once into the buffer: `most` bytes at most. 0 is the end.
    fn read_part(&mut self, patience: Duration, most: usize) -> io::Result<usize> {
        if self.read_timeout != Some(patience) {
            self.socket.set_read_timeout(Some(patience))?;
            self.read_timeout = Some(patience);
        }
        if self.buffer.is_empty() {
            // An idle connection waits here, with nothing allocated.
            self.buffer = Vec::new();
        }
        let mut part = [0_u8; PART];
        let room = most.clamp(1, PART);
        loop {
            match (&mut &*self.socket).read(&mut part[..room]) {
                Ok(n) => {
                    self.buffer.extend_from_slice(&part[..n]);
                    return Ok(n);
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// As [`Self::read_part`], for a body: straight into the buffer, which grows with what comes and not with what was
    /// announced.
    fn read_block(&mut self, patience: Duration, most: usize) -> io::Result<usize> {
        if most <= PART {
            return self.read_part(patience, most);
        }
        self.socket.set_read_timeout(Some(patience))?;
        self.read_timeout = Some(patience);
        let filled = self.buffer.len();
        self.buffer.resize(filled + most.min(BLOCK), 0);
        let got = loop {
            match (&mut &*self.socket).read(&mut self.buffer[filled..]) {
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.buffer.truncate(filled + got.as_ref().map_or(0, |n| *n));
        got
    }

    /// None: there is no room for it.
    fn read_body(
        &mut self,
        length: usize,
        expects_continue: bool,
        share: &mut Share<'_>,
    ) -> io::Result<Option<Vec<u8>>> {
        if expects_continue && self.buffer.len() < length {
            (&mut &*self.socket).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let end = Instant::now() + self.limits.body_time;
        while self.buffer.len() < length {
            let patience = end.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let most = (length - self.buffer.len()).min(BLOCK);
            // What is held is what has come, not what was announced.
            if length > SMALL && !share.grow(most, self.limits.bodies) {
                return Ok(None);
            }
            let got = self.read_block(patience, most)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            share.shrink(most - got);
        }
        let rest = self.buffer.split_off(length);
        Ok(Some(std::mem::replace(&mut self.buffer, rest)))
    }

    /// A refusal before the body was read: the connection can go on only where there is none.
    fn refuse(&mut self, refusal: Reply, whole: &Whole, manner: Manner) -> io::Result<After> {
        if whole.content_length == 0 {
            return self.answer(refusal, &manner);
        }
        self.answer(refusal, &Manner { keep_alive: false, ..manner })?;
        Ok(After::Linger)
    }

    fn answer(&mut self, reply: Reply, manner: &Manner) -> io::Result<After> {
        let after = if manner.keep_alive { After::Next } else { After::Close };
        match reply {
            Reply::Full { status, content_type, body } => {
                let mut head = status_line(status, content_type, manner);
                head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
                let sent: &[u8] = if manner.no_body { &[] } else { &body };
                self.write_all([head.as_bytes(), sent, &[]])?;
                Ok(after)
            }
            Reply::Stream { status, content_type, headers, write } => {
                // HTTP/1.0 has no chunks: there, the end of the connection is the end of the body.
                let mut head = status_line(status, content_type, manner);
                headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
                head.push_str(if manner.old { "\r\n" } else { "transfer-encoding: chunked\r\n\r\n" });
                (&mut &*self.socket).write_all(head.as_bytes())?;
                if manner.no_body {
                    return Ok(After::Close);
                }
                if manner.old {
                    write(&mut &*self.socket)?;
                    return Ok(After::Close);
                }
                write(&mut Chunks { connection: self })?;
                (&mut &*self.socket).write_all(b"0\r\n\r\n")?;
                Ok(after)
            }
            Reply::Upgrade { head, take } => {
                (&mut &*self.socket).write_all(head.as_bytes())?;
                let socket = self.socket.try_clone()?;
                socket.set_read_timeout(None)?;
                socket.set_write_timeout(None)?;
                take(socket, std::mem::take(&mut self.buffer));
                Ok(After::Close)
            }
        }
    }

    /// Writes the parts, in one system call where the socket takes them, within a time that grows with their size.
    fn write_all(&self, parts: [&[u8]; 3]) -> io::Result<()> {
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        let megabytes = u32::try_from(left >> 20).unwrap_or(u32::MAX);
        let end = Instant::now() + self.limits.write_time.saturating_mul(megabytes.saturating_add(1));
        let mut slices = parts.map(IoSlice::new);
        let mut rest = &mut slices[..];
        while left > 0 {
            let n = match (&mut &*self.socket).write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) => return Err(fault),
            };
            IoSlice::advance_slices(&mut rest, n);
            left -= n;
            // A reader of one byte a second makes progress, but must not hold a connection for ever.
            if Instant::now() >= end && left > 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    fn linger(&mut self) {
        drop(self.socket.shutdown(Shutdown::Write));
        let end = Instant::now() + LINGER;
        let mut dropped = 0;
        while dropped < LINGER_BYTES {
            self.buffer.clear();
            let patience = end.saturating_duration_since(Instant::now());
            match self.read_part(patience, PART) {
                Ok(n) if n > 0 && !patience.is_zero() => dropped += n,
                _ => break,
            }
        }
    }
}

/// How an answer is to be sent.
#[derive(Clone, Copy)]
struct Manner {
    keep_alive: bool,
    no_body: bool,
    old: bool,
}

impl Manner {
    const CLOSE: Self = Self { keep_alive: false, no_body: false, old: false };
}

/// Each write is a chunk, sent at once.
struct Chunks<'a, 'b> {
    connection: &'a Connection<'b>,
}

impl Write for Chunks<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            // An empty chunk would be the end.
            let length = format!("{:x}\r\n", bytes.len());
            self.connection.write_all([length.as_bytes(), bytes, b"\r\n"])?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let socket = self.connection.socket;
        socket.set_nonblocking(true)?;
        let seen = socket.peek(&mut [0]);
        socket.set_nonblocking(false)?;
        match seen {
            Ok(0) => Err(io::ErrorKind::ConnectionAborted.into()),
            Err(fault) if !matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(fault),
            // Silent, or it has sent its next request already.
            _ => Ok(()),
        }
    }
}

/// A panic in a handler is a 500, not the end of the Host.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, Reply> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| {
        crate::error!("a request ended with a panic; please report it with the lines above");
        Reply::error(500, "the Host has found a fault in itself; its log says more")
    })
}

fn status_line(status: u16, content_type: &str, manner: &Manner) -> String {
    let mut head = String::with_capacity(192);
    head.push_str(if manner.old { "HTTP/1.0 " } else { "HTTP/1.1 " });
    head.push_str(&format!("{status} {}\r\n", reason_phrase(status)));
    if !content_type.is_empty() {
        head.push_str(&format!("content-type: {content_type}\r\n"));
    }
    head.push_str("cache-control: no-store\r\nx-content-type-options: nosniff\r\n");
    if !manner.keep_alive {
        head.push_str("connection: close\r\n");
    } else if manner.old {
        head.push_str("connection: keep-alive\r\n");
    }
    head
}

/// RFC 9110, section 15.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ if status < 400 => "Success",
        _ => "Error",
    }
}
