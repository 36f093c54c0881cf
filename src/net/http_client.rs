//! The HTTP client of Runner and command line, over ureq: explicit time-outs, no proxy, no retry by itself.

use std::fmt;
use std::io::Read;
use std::time::Duration;

/// One server, with the token sent to it. Keeps connections alive between calls.
pub struct Client {
    base: String,
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// No answer came.
#[derive(Clone, Debug)]
pub enum ClientFault {
    /// No connection, so nothing was sent: safe to repeat.
    Unreachable { url: String, reason: String },
    /// The connection broke or the time was up after something was sent: the server may have acted.
    Broken { url: String, reason: String },
}

impl fmt::Display for ClientFault {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!("net")
    }
}

impl Client {
    /// `base` is `http://ADDR:PORT`; `token` goes as a bearer token.
    pub fn new(_base: &str, _token: Option<&str>) -> Self {
        unimplemented!("net")
    }

    /// The base URL, for messages.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One call with a whole answer (at most 64 MiB). `body` is JSON. `timeout` is for the whole call.
    ///
    /// # Errors
    /// See [`ClientFault`]; a 4xx or 5xx is an answer, not an error.
    pub fn call(
        &self,
        _method: &str,
        _path: &str,
        _body: Option<&str>,
        _timeout: Duration,
    ) -> Result<Answer, ClientFault> {
        unimplemented!("net")
    }

    /// A GET whose answer is read as it comes; `idle` is the longest silence.
    ///
    /// # Errors
    /// See [`ClientFault`].
    pub fn stream(&self, _path: &str, _idle: Duration) -> Result<(u16, Box<dyn Read + Send>), ClientFault> {
        unimplemented!("net")
    }
}
