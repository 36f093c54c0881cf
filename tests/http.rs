//! HTTP by hand, over a plain socket: nothing between the test and the bytes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A connection to 127.0.0.1 on which nothing blocks for more than 30 s.
pub fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|e| panic!("cannot connect to {port}: {e}"));
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// The bytes of a request, with keep-alive.
pub fn request(method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    if let Some(token) = token {
        text.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or(""));
    text
}

/// One call on a connection of its own; a connection that cannot be had or breaks is an error.
pub fn try_call(port: u16, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> io::Result<Reply> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.write_all(request(method, path, token, body).as_bytes())?;
    read_reply(&mut socket)
}

/// As [`try_call`], where a failure is a failed test.
#[track_caller]
pub fn call(port: u16, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Reply {
    try_call(port, method, path, token, body).unwrap_or_else(|e| panic!("{method} {path} on port {port}: {e}"))
}

/// Reads one answer: by Content-Length, chunked, or to the end of the stream.
pub fn read_reply(socket: &mut impl Read) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at;
        }
        if more(socket, &mut bytes)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed in the head after {} bytes", bytes.len()),
            ));
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut reply = Reply { status, headers, body: bytes.split_off(head_end + 4) };
    if reply.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        while find(&reply.body, b"0\r\n\r\n").is_none() && more(socket, &mut reply.body)? > 0 {}
        reply.body = unchunk(&reply.body);
    } else if let Some(length) = reply.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
        while reply.body.len() < length {
            if more(socket, &mut reply.body)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed in the body"));
            }
        }
    } else {
        while more(socket, &mut reply.body)? > 0 {}
    }
    Ok(reply)
}

fn more(socket: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    let count = loop {
        match socket.read(&mut buffer) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    bytes.extend_from_slice(&buffer[..count]);
    Ok(count)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(at) = find(bytes, b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&bytes[..at]), 16).unwrap_or(0);
        if size == 0 || bytes.len() < at + 2 + size {
            break;
        }
        whole.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = &bytes[(at + 4 + size).min(bytes.len())..];
    }
    whole
}
