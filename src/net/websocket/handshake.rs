//! The beginning of a WebSocket: an HTTP request that asks for one, and the answer that grants it.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use tungstenite::protocol::Role;

use super::Socket;
use crate::net::http::{Head, Reply};
use crate::sys::random;

/// For a connection to be made: more is a host that is down, or a firewall that drops.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The longest answer that is read, refusal and reason included.
const LONGEST_ANSWER: usize = 64 << 10;
/// RFC 6455, section 1.3.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why there is no WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// No connection, or it broke.
    Unreachable(String),
    /// The server's refusal: its status and body.
    Refused { status: u16, body: Vec<u8> },
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) => f.write_str(reason),
            Self::Refused { status, body } => write!(f, "answer {status}: {}", String::from_utf8_lossy(body).trim()),
        }
    }
}

/// The server's side: hands a request's connection over as a WebSocket, or refuses one that asks for none (426) or asks wrongly (400).
/// Messages may have `largest` bytes.
///
/// # Errors
/// The refusal.
pub fn accept(head: &Head, largest: usize, take: impl FnOnce(Socket) + Send + 'static) -> Result<Reply, (u16, String)> {
    let answer = answer_to(head)?;
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {answer}\r\n\r\n"
    );
    Ok(Reply::Upgrade {
        head,
        take: Box::new(move |stream, read| match Socket::server(stream, read, largest) {
            Ok(socket) => take(socket),
            Err(fault) => crate::warning!("a WebSocket was given up: {fault}"),
        }),
    })
}

/// The key's answer, if the request is right.
pub(super) fn answer_to(head: &Head) -> Result<String, (u16, String)> {
    let names = |header: &str, wanted: &str| {
        head.headers
            .iter()
            .filter(|(name, _)| name == header)
            .any(|(_, value)| value.split(',').any(|word| word.trim().eq_ignore_ascii_case(wanted)))
    };
    if !names("upgrade", "websocket") || !names("connection", "upgrade") {
        return Err((426, "this is a WebSocket: ask for it with 'Upgrade: websocket'".to_owned()));
    }
    if head.header("sec-websocket-version").map(str::trim) != Some("13") {
        return Err((426, "only version 13 of the WebSocket protocol is spoken here".to_owned()));
    }
    let key = head.header("sec-websocket-key").map(str::trim).unwrap_or_default();
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(accepted(key)),
        _ => Err((400, "the header Sec-WebSocket-Key is missing or wrong".to_owned())),
    }
}

fn accepted(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(MAGIC).finalize())
}

/// The client's side: connects to `address` (`ADDR:PORT`) and asks for `path`, with a bearer token if there is one. Each of
/// connecting and asking has a limit of time; messages may have `largest` bytes.
///
/// # Errors
/// See [`ConnectFault`].
pub fn connect(
    address: &str,
    path: &str,
    token: Option<&str>,
    limit: Duration,
    largest: usize,
) -> Result<Socket, ConnectFault> {
    let unreachable = |fault: io::Error| ConnectFault::Unreachable(fault.to_string());
    let mut stream = dial(address).map_err(unreachable)?;
    let key = STANDARD.encode(random::bytes::<16>());
    let bearer = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: hakuriver/{}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n{bearer}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.set_write_timeout(Some(limit)).map_err(unreachable)?;
    stream.write_all(request.as_bytes()).map_err(unreachable)?;
    let rest = read_answer(&mut stream, &accepted(&key), Instant::now() + limit)?;
    stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None)).map_err(unreachable)?;
    Socket::new(stream, rest, largest, Role::Client).map_err(unreachable)
}

/// Tries every address of the name.
fn dial(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(stream) => return Ok(stream),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// Reads the answer; what follows it are the first bytes of the WebSocket.
fn read_answer(stream: &mut TcpStream, accepted: &str, end: Instant) -> Result<Vec<u8>, ConnectFault> {
    let broken = |text: &str| ConnectFault::Unreachable(text.to_owned());
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes, accepted) {
            Answer::Partial if bytes.len() < LONGEST_ANSWER => {}
            Answer::Partial | Answer::Foreign => return Err(broken("the answer is not that of a HakuRiver Host")),
            Answer::Granted(length) => return Ok(bytes.split_off(length)),
            Answer::Refused { status, body } => return Err(ConnectFault::Refused { status, body }),
        }
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(broken("no answer in time"));
        }
        stream.set_read_timeout(Some(rest)).map_err(|fault| ConnectFault::Unreachable(fault.to_string()))?;
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) => return Err(broken("the connection was closed without an answer")),
            Ok(n) => bytes.extend_from_slice(&part[..n]),
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(broken("no answer in time"));
            }
            Err(fault) => return Err(ConnectFault::Unreachable(fault.to_string())),
        }
    }
}

/// What the bytes at hand are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Partial,
    /// A WebSocket, after so many bytes.
    Granted(usize),
    Refused {
        status: u16,
        body: Vec<u8>,
    },
    /// No answer to what was asked.
    Foreign,
}

pub(super) fn parse(bytes: &[u8], accepted: &str) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Answer::Partial,
        Err(_) => return Answer::Foreign,
    };
    let header = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    match response.code {
        Some(101) if header("sec-websocket-accept") == Some(accepted) => Answer::Granted(length),
        Some(101) | None => Answer::Foreign,
        Some(status) => {
            let wanted = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0_usize);
            match bytes[length..].get(..wanted.min(LONGEST_ANSWER - length.min(LONGEST_ANSWER))) {
                Some(body) => Answer::Refused { status, body: body.to_vec() },
                None => Answer::Partial,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_standard_is_answered_as_it_says() {
        assert_eq!(accepted("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn requests_are_granted_or_refused() {
        let right = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let with = |name: &str, value: Option<&str>| {
            let headers = right.iter().filter(|(known, _)| *known != name).map(|(n, v)| (n.to_string(), v.to_string()));
            let head = Head {
                method: "GET".into(),
                path: "/".into(),
                query: Vec::new(),
                headers: headers.chain(value.map(|value| (name.to_owned(), value.to_owned()))).collect(),
                peer: ([127, 0, 0, 1], 1).into(),
            };
            answer_to(&head).map_err(|(status, _)| status)
        };
        assert_eq!(with("x", None), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()));
        for (name, value, status) in [
            ("upgrade", None, 426),
            ("upgrade", Some("h2c"), 426),
            ("connection", Some("keep-alive"), 426),
            ("sec-websocket-version", Some("8"), 426),
            ("sec-websocket-version", None, 426),
            ("sec-websocket-key", None, 400),
            ("sec-websocket-key", Some("c2hvcnQ="), 400),
            ("sec-websocket-key", Some("no base64 at all"), 400),
        ] {
            assert_eq!(with(name, value), Err(status), "{name} {value:?}");
        }
    }

    #[test]
    fn answers_are_told_apart_and_waited_for() {
        let granted = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: right\r\n\r\n";
        for (text, answer) in [
            (granted.to_owned(), Answer::Granted(granted.len())),
            (format!("{granted}\u{1}"), Answer::Granted(granted.len())),
            (granted[..40].to_owned(), Answer::Partial),
            (granted.replace("right", "wrong"), Answer::Foreign),
            ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), Answer::Foreign),
            (
                "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
                Answer::Refused { status: 404, body: b"{}".to_vec() },
            ),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{".to_owned(), Answer::Partial),
            ("HTTP/1.1 500 x\r\n\r\n".to_owned(), Answer::Refused { status: 500, body: Vec::new() }),
        ] {
            assert_eq!(parse(text.as_bytes(), "right"), answer, "{text:?}");
        }
    }
}
