//! Clients that take their time.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::{host, while_others_are_served};
use crate::env::Cluster;
use crate::http;

/// Sends the bytes one by one, half a second apart, until the Host has closed the connection or answered: how long that took, and
/// what it said.
fn trickle(mut socket: TcpStream, bytes: impl Iterator<Item = u8>) -> (Duration, String) {
    let start = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut said = Vec::new();
    for byte in bytes {
        assert!(start.elapsed() < Duration::from_secs(60), "it may trickle for ever");
        if socket.write_all(&[byte]).is_err() {
            break;
        }
        let mut part = [0; 256];
        match socket.read(&mut part) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&part[..count]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    (start.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

fn begun(cluster: &Cluster, path: &str, length: usize) -> TcpStream {
    let mut socket = http::connect(cluster.api);
    let head = format!(
        "POST {path} HTTP/1.1\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        cluster.token()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket
}

#[test]
fn a_byte_now_and_then_has_an_end_on_both_ports() {
    let cluster = host();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        thread::scope(|scope| {
            let head = b"GET /healthz HTTP/1.1\r\nX-Slow: ".iter().copied().chain(std::iter::repeat(b'a'));
            let head = scope.spawn(|| trickle(http::connect(cluster.api), head));
            let body = scope.spawn(|| trickle(begun(&cluster, "/submit", 1_000_000), std::iter::repeat(b' ')));
            let hello = b"REQUEST_TUNNEL ".iter().copied().chain(std::iter::repeat(b'1'));
            let hello = scope.spawn(|| trickle(http::connect(cluster.tunnel), hello));
            // Ten seconds for a head and for a hello, thirty for a body; and the test's own machine may be slow.
            for (slow, least, most) in [(head, 9, 25), (hello, 9, 25), (body, 28, 50)] {
                let (took, said) = slow.join().unwrap();
                let expected = Duration::from_secs(least)..Duration::from_secs(most);
                assert!(expected.contains(&took), "{took:?}, expected {expected:?}");
                assert!(said.is_empty() || said.starts_with("ERROR Timeout"), "{said}");
            }
        });
    });
}

#[test]
fn a_hundred_bodies_that_never_end_cost_what_was_sent_of_them() {
    let cluster = host();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        // Sixteen megabytes are announced by each, and a kilobyte comes.
        let held: Vec<TcpStream> = (0..100)
            .map(|_| {
                let mut socket = begun(&cluster, "/submit", 16 << 20);
                socket.write_all(&[b' '; 1_000]).unwrap();
                socket
            })
            .collect();
        let id = cluster.post("/submit", "{\"command\":\"true\",\"container_name\":\"NULL\"}");
        assert_eq!(id.status, 202, "{}", id.text());
        drop(held);
    });
}
