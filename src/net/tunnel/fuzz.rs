//! Any bytes as what a client of the SSH proxy port says first.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use super::{Hello, HelloFault, LONGEST_HELLO, parse_hello, read_hello};

/// What is read over a socket is what stands in its first line, and what follows is left for the tunnel.
pub(crate) fn hello(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(8 << 10)];
    let line = bytes.iter().take(LONGEST_HELLO).position(|byte| *byte == b'\n');
    let expected = match line {
        Some(end) => parse_hello(&bytes[..end]).ok_or(HelloFault::Format),
        None if bytes.len() >= LONGEST_HELLO => Err(HelloFault::Format),
        None => Err(HelloFault::Closed),
    };
    let (mut client, mut server) = pair();
    client.write_all(bytes).expect("room in the socket");
    client.shutdown(Shutdown::Write).expect("it is open");
    let found = read_hello(&server, Duration::from_secs(20));
    assert_eq!(found, expected);
    if let Ok(Hello { task_id, token }) = found {
        let token = token.map(|token| format!(" {token}")).unwrap_or_default();
        let said = format!("REQUEST_TUNNEL {task_id}{token}");
        assert!(said.len() < LONGEST_HELLO && !task_id.contains([' ', '\n', '\r']) && !task_id.is_empty());
        assert_eq!(parse_hello(said.as_bytes()).ok_or(HelloFault::Format), expected);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).expect("the client has ended");
        assert_eq!(Some(rest.as_slice()), line.map(|end| &bytes[end + 1..]), "what belongs to the tunnel");
    }
}

fn pair() -> (TcpStream, TcpStream) {
    static LISTENER: OnceLock<TcpListener> = OnceLock::new();
    let listener = LISTENER.get_or_init(|| TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"));
    // Tests go in parallel: whose connection comes out is told by its port.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock();
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    (client, listener.accept().expect("a client came").0)
}
