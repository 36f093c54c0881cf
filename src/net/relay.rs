//! Two-way copy between sockets: half-close is carried through, a reader that stalls stalls its writer, and nothing
//! piles up here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

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
    // Shared, not cloned: a tunnel has two descriptors and no more.
    let (a, b) = (Arc::new(a), Arc::new(b));
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let (a_in, b_out) = (Arc::clone(&a), Arc::clone(&b));
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
    use std::time::Duration;

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
        let (mut client, a) = pair();
        let (b, server) = pair();
        let relay = std::thread::spawn(move || run(a, b));
        // Closed with something unread in it: a reset, not an end.
        client.write_all(b"unread").expect("room in the socket");
        server.peek(&mut [0]).expect("it has arrived");
        drop(server);
        // The client has closed nothing, and is told all the same.
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out can be set");
        match client.read(&mut [0]) {
            Ok(0) => {}
            Ok(n) => panic!("{n} bytes from nowhere"),
            Err(fault) => assert!(!is_time_out(&fault), "{fault}"),
        }
        drop(client);
        relay.join().expect("it ends");
    }

    #[test]
    fn a_reader_that_stalls_stalls_its_writer_and_nobody_else() {
        let (client, a) = pair();
        let (b, mut server) = pair();
        let relay = std::thread::spawn(move || run(a, b));
        server.set_write_timeout(Some(Duration::from_millis(500))).expect("a time-out can be set");
        let block = vec![7; 1 << 20];
        let mut sent = 0;
        let fault = loop {
            match server.write(&block) {
                Ok(n) => sent += n,
                Err(fault) => break fault,
            }
            assert!(sent < 256 << 20, "what is not read piles up somewhere");
        };
        assert!(is_time_out(&fault), "{fault}");
        // The other direction is not held up.
        (&client).write_all(b"hello").expect("room in the socket");
        server.read_exact(&mut [0; 5]).expect("it arrives");
        // And nothing of what was sent is lost.
        server.shutdown(Shutdown::Write).expect("it is open");
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            (&client).read_to_end(&mut got).expect("the end arrives");
            got.len()
        });
        assert_eq!(reader.join().expect("it does not panic"), sent);
        drop(server);
        assert_eq!(relay.join().expect("it does not panic"), (5, sent as u64));
    }

    #[test]
    fn stdin_and_stdout_are_carried_and_the_end_of_stdin_is_a_half_close() {
        let (client, mut server) = pair();
        let (mut stdin, input) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (mut stdout, output) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let relay = std::thread::spawn(move || stdio(input.into(), output.into(), client));
        stdin.write_all(b"question").expect("room");
        drop(stdin);
        let mut question = String::new();
        server.read_to_string(&mut question).expect("the end arrives");
        assert_eq!(question, "question");
        server.write_all(b"answer").expect("its other half is still open");
        drop(server);
        let mut answer = String::new();
        stdout.read_to_string(&mut answer).expect("the end arrives");
        assert_eq!(answer, "answer");
        relay.join().expect("it does not panic").expect("it went well");
    }

    #[test]
    fn stdio_ends_with_the_socket_while_stdin_is_open() {
        let (client, server) = pair();
        let (_stdin, input) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (_stdout, output) = std::os::unix::net::UnixStream::pair().expect("a pair");
        drop(server);
        stdio(input.into(), output.into(), client).expect("it went well");
    }

    fn is_time_out(fault: &io::Error) -> bool {
        matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    }
}
