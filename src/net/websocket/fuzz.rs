//! Any bytes as the beginning of a WebSocket, and as what comes over one.

use std::io::Write as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Mutex, OnceLock};

use super::handshake;
use super::{Incoming, Socket};
use crate::net::http::Head;
use tungstenite::protocol::Role;

/// Messages are no longer.
pub(crate) const LARGEST: usize = 1 << 10;

/// A request that asks for a WebSocket as it should, or not.
pub(crate) fn request(head: &Head) {
    match handshake::answer_to(head) {
        Ok(answer) => assert_eq!(answer.len(), 28, "20 bytes in base64: {answer:?}"),
        Err((status, reason)) => assert!(matches!(status, 400 | 426) && !reason.is_empty()),
    }
}

/// A server's answer to a client, which has asked with another key.
pub(crate) fn answer(bytes: &[u8]) {
    let accepted = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    match handshake::parse(bytes, accepted) {
        handshake::Answer::Granted(length) => {
            assert!(length <= bytes.len());
            let head = String::from_utf8_lossy(&bytes[..length]).into_owned();
            assert!(head.contains("101") && head.contains(accepted), "{head:?}");
        }
        handshake::Answer::Refused { status, body } => assert!(status != 101 && body.len() <= bytes.len()),
        handshake::Answer::Partial | handshake::Answer::Foreign => {}
    }
}

/// Frames: `first` have come with the handshake, the others after it. The texts in them.
pub(crate) fn frames(first: &[u8], bytes: &[u8], is_server: bool) -> Vec<String> {
    let (mut far, near) = pair();
    far.write_all(bytes).expect("room in the socket");
    far.shutdown(Shutdown::Write).expect("it is open");
    let role = if is_server { Role::Server } else { Role::Client };
    let mut socket = Socket::new(near, first.to_vec(), LARGEST, role).expect("a socket");
    let mut texts = Vec::new();
    // Each turn takes a message, or is the last: the end has been sent.
    for _ in 0..=first.len() + bytes.len() + 1 {
        match socket.receive() {
            Ok(Some(Incoming::Text(text))) => {
                assert!(text.len() <= LARGEST, "a message of {} bytes", text.len());
                texts.push(text);
            }
            Ok(Some(Incoming::Closed(reason))) => {
                assert!(reason.len() <= 123, "{reason:?}");
                return texts;
            }
            Ok(None) => {
                // On the way: the end of a connection over loopback takes its moment.
                std::thread::yield_now();
            }
            Err(_) => return texts,
        }
    }
    texts
}

fn pair() -> (TcpStream, TcpStream) {
    static LISTENER: OnceLock<Mutex<TcpListener>> = OnceLock::new();
    let bound = || Mutex::new(TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"));
    let listener = LISTENER.get_or_init(bound).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let far = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    (far, listener.accept().expect("a client came").0)
}
