//! An HTTP/1.1 server for blocking handlers, bounded in everything: head, headers, body, connections, time.

mod bodies;
mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod parse;
mod server;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

pub use server::serve;

use crate::api::json;
use crate::api::public::ErrorBody;

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// `GET`, `POST` … as sent.
    pub method: String,
    /// Percent-decoded path, without the query.
    pub path: String,
    /// Percent-decoded pairs, in order.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The other end.
    pub peer: SocketAddr,
}

impl Head {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first query value of that name.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Writes a streamed body: each write is sent at once. A flush fails when the client is gone, which writing nothing would
/// not tell.
pub type StreamBody = Box<dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send>;

/// An answer.
pub enum Reply {
    /// A whole body. Arc, so that a cached list is not copied for each reader.
    Full { status: u16, content_type: &'static str, body: Arc<[u8]> },
    /// Chunked, each write flushed as a chunk; the connection closes after it if the writer fails.
    /// `headers` are names in lower case, with their values.
    Stream { status: u16, content_type: &'static str, headers: Vec<(&'static str, String)>, write: StreamBody },
    /// The raw socket is handed over (WebSocket): `head` is written, then `take` has it, with bytes already read.
    Upgrade { head: String, take: Box<dyn FnOnce(TcpStream, Vec<u8>) + Send> },
}

impl Reply {
    /// A JSON answer.
    pub fn json(status: u16, body: String) -> Self {
        Self::Full { status, content_type: "application/json", body: Arc::from(body.into_bytes()) }
    }

    /// `{"detail": "…"}`
    pub fn error(status: u16, detail: &str) -> Self {
        Self::json(status, json::encode(&ErrorBody { detail: detail.to_owned() }))
    }
}

/// What the server asks the product.
pub trait Handler: Send + Sync + 'static {
    /// Before the body is read: Ok(the largest body taken, in bytes), or the answer that refuses it (401, 403, 404, 405, 415 …).
    ///
    /// # Errors
    /// The refusal.
    fn admit(&self, head: &Head) -> Result<usize, Reply>;

    /// The answer. A panic in it is a 500.
    fn handle(&self, head: &Head, body: &[u8]) -> Reply;

    /// The server ends: returns when the requests in progress that have to undo what they had begun have done so, or nobody waits for
    /// that any longer. Only then their last moments are counted, in which they can still say so.
    fn end(&self) {}
}

/// The bounds of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; at the cap the oldest one without a request in progress is closed, or else the oldest that is only being
    /// answered.
    pub connections: usize,
    /// Bytes of large bodies that are held at once, all together; one that would be more is refused with 503.
    pub bodies: usize,
    /// For a whole head to arrive, from its first byte.
    pub head_time: Duration,
    /// For a whole body to arrive.
    pub body_time: Duration,
    /// A kept-alive connection without a request.
    pub idle_time: Duration,
    /// For one write to make progress.
    pub write_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            bodies: 128 << 20,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_secs(30),
        }
    }
}
