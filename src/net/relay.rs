//! Two-way copy between sockets: half-close is carried through, a reader that stalls stalls its writer, and nothing
//! piles up here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use crate::sys::{socket, thread};

/// A quiet tunnel costs this much for each direction …
const SMALL: usize = 16 << 10;
/// … and one whose reads fill the buffer, this much: beyond it, throughput grows no more.
const LARGE: usize = 256 << 10;

/// Copies both ways until both are at their end, or one breaks. Returns bytes a→b and b→a.
pub fn run(a: TcpStream, b: TcpStream) -> (u64, u64) {
    for socket in [&a, &b] {
        // Both only help: keystrokes are not held back, and a peer that has vanished is noticed.
        drop(socket.set_nodelay(true));
        drop(socket::keep_alive(socket, 60, 20));
    }
    let (Ok(a_in), Ok(b_out)) = (a.try_clone(), b.try_clone()) else { return (0, 0) };
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let there = thread::spawn("tunnel-up", move || {
        // The other side is waiting for this number, or has panicked.
        let _ = tell.send(one_way(&a_in, &b_out));
    });
    let Ok(there) = there else { return (0, 0) };
    let back = one_way(&b, &a);
    let up = told.recv().unwrap_or(0);
    drop(there.join());
    (up, back)
}

/// Copies to the end of `from`, and tells it to `to`. After a fault both sockets are shut, so that the other direction ends too.
fn one_way(from: &TcpStream, to: &TcpStream) -> u64 {
    let mut copied = 0;
    let ended = copy(&mut &*from, &mut &*to, &mut copied).and_then(|()| to.shutdown(Shutdown::Write));
    if ended.is_err() {
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    }
    copied
}

/// Copies `input` to the socket and the socket to `output` (the client's stdin and stdout), until the socket is at its end.
///
/// # Errors
/// A thread could not be started, or `output` is gone.
pub fn stdio(input: OwnedFd, output: OwnedFd, socket: TcpStream) -> io::Result<()> {
    drop(socket.set_nodelay(true));
    drop(socket::keep_alive(&socket, 60, 20));
    let to = socket.try_clone()?;
    // Not joined: a read of stdin cannot be interrupted, and the process ends when the socket's side is at its end.
    thread::spawn("tunnel-stdin", move || {
        let ended = copy(&mut File::from(input), &mut &to, &mut 0);
        drop(to.shutdown(if ended.is_ok() { Shutdown::Write } else { Shutdown::Both }));
    })?;
    copy(&mut &socket, &mut File::from(output), &mut 0)
}

fn copy(from: &mut impl Read, to: &mut impl Write, copied: &mut u64) -> io::Result<()> {
    let mut buffer = vec![0_u8; SMALL];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            Err(fault) => return Err(fault),
        };
        to.write_all(&buffer[..n])?;
        *copied += n as u64;
        if n == buffer.len() && n < LARGE {
            buffer = vec![0_u8; (n * 4).min(LARGE)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        (client, listener.accept().expect("a client came").0)
    }

    #[test]
    fn half_close_is_carried_through_both_ways() {
        let (mut client, a) = pair();
        let (b, mut server) = pair();
        let relay = std::thread::spawn(move || run(a, b));
        client.write_all(b"question").expect("room in the socket");
        client.shutdown(Shutdown::Write).expect("it is open");
        let mut question = String::new();
        server.read_to_string(&mut question).expect("the end arrives");
        assert_eq!(question, "question");
        server.write_all(b"a longer answer").expect("its other half is still open");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the end arrives");
        assert_eq!(answer, "a longer answer");
        assert_eq!(relay.join().expect("it does not panic"), (8, 15));
    }

    #[test]
    fn large_amounts_arrive_whole() {
        let (mut client, a) = pair();
        let (b, mut server) = pair();
        let relay = std::thread::spawn(move || run(a, b));
        let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            client.write_all(&copy).expect("the relay reads");
            client.shutdown(Shutdown::Write).expect("it is open");
            client
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).expect("the end arrives");
        assert!(got == sent);
        drop(server);
        drop(writer.join().expect("it does not panic"));
        assert_eq!(relay.join().expect("it does not panic").0, 5_000_000);
    }

    #[test]
    fn a_side_that_breaks_ends_both() {
        let (client, a) = pair();
        let (b, server) = pair();
        let relay = std::thread::spawn(move || run(a, b));
        drop(server);
        drop(client);
        relay.join().expect("it ends");
    }
}
