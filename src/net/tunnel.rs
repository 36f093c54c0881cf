//! The hello of the SSH proxy port: `REQUEST_TUNNEL <task_id>[ <token>]\n`, then `SUCCESS\n` or `ERROR <reason>\n`.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// What a client asked for. Debug hides the token.
pub struct Hello {
    /// As sent; not yet parsed.
    pub task_id: String,
    pub token: Option<String>,
}

/// Why a hello was not understood, in the protocol's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloFault {
    /// `Invalid request format.`
    Format,
    /// `Timeout waiting for request.`
    Timeout,
    /// The client went away.
    Closed,
}

/// Reads the hello: 256 bytes and `limit` at most. Not one byte after the newline is taken from the socket.
///
/// # Errors
/// See [`HelloFault`].
pub fn read_hello(_socket: &TcpStream, _limit: Duration) -> Result<Hello, HelloFault> {
    unimplemented!("net")
}

/// The client's side: sends the hello and reads the answer. Ok(Err(reason)) = the Host's `ERROR <reason>`.
///
/// # Errors
/// The connection broke, or the answer is no tunnel's.
pub fn say_hello(
    _socket: &TcpStream,
    _task_id: &str,
    _token: Option<&str>,
    _limit: Duration,
) -> io::Result<Result<(), String>> {
    unimplemented!("net")
}
