//! A shell in a container, carried over a WebSocket: what Host and Runner share of it.
//!
//! [`container`] finds the container's shell and starts it on a terminal, [`session`] carries it to whoever asked for it, [`relay`]
//! hands two connections' messages to each other. It must not know which container is whose, or who may ask.

pub mod container;
pub mod relay;
pub mod session;

use std::time::Duration;

use crate::api::terminal::FromShell;
use crate::net::websocket::{Ending, Socket};

/// For the last words of a connection to be taken: a user may look at something else for a while.
const FAREWELL: Duration = Duration::from_secs(60);

/// Tells why there is no shell, and ends the connection.
pub fn refuse(mut socket: Socket, reason: &str) {
    // Who has gone needs no reason.
    let _gone = socket.send(FromShell::error(reason)).is_ok() && socket.close(Ending::Failed, "", FAREWELL);
}
