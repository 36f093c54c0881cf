//! Both ends over loopback.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn pair() -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let server = listener.accept().expect("a client came").0;
    (
        Socket::new(client, Vec::new(), 1 << 20, Role::Client).expect("options can be set"),
        Socket::server(server, Vec::new(), 1 << 20).expect("options can be set"),
    )
}

/// Waits for the next message.
fn next(socket: &mut Socket) -> Result<Incoming, Lost> {
    let end = Instant::now() + SOON;
    loop {
        if let Some(message) = socket.receive()? {
            return Ok(message);
        }
        assert!(Instant::now() < end, "nothing comes");
        ready::wait([socket.wanted(true, false)], Some(end));
    }
}

fn text(text: &str) -> Result<Incoming, Lost> {
    Ok(Incoming::Text(text.to_owned()))
}

#[test]
fn messages_arrive_in_order_and_the_end_has_its_reason() {
    let (mut client, mut server) = pair();
    for word in ["one", "zwei \u{20ac}", ""] {
        client.send(word.to_owned()).expect("it is open");
        assert_eq!(next(&mut server), text(word));
        server.send(word.to_owned()).expect("it is open");
        assert_eq!(next(&mut client), text(word));
    }
    server.send("last".to_owned()).expect("it is open");
    let closing = std::thread::spawn(move || server.close(Ending::Done, "exit 3", SOON));
    assert_eq!(next(&mut client), text("last"));
    assert_eq!(next(&mut client), Ok(Incoming::Closed("exit 3".to_owned())));
    drop(client);
    assert!(closing.join().expect("it does not panic"), "it was answered");
}

#[test]
fn a_reader_that_stalls_stalls_its_writer_and_loses_nothing() {
    let (mut client, mut server) = pair();
    let part = "x".repeat(50_000);
    let mut sent = 0;
    while !server.has_unsent() {
        server.send(part.clone()).expect("it is open");
        sent += 1;
        assert!(sent < 5_000, "what is not read piles up somewhere");
    }
    let reader = std::thread::spawn(move || {
        for _ in 0..sent {
            assert_eq!(next(&mut client), text(&"x".repeat(50_000)));
        }
    });
    while server.has_unsent() {
        let [ready] = ready::wait([server.wanted(false, false)], Some(Instant::now() + SOON));
        server.tend(ready, false).expect("it is open");
    }
    reader.join().expect("all arrived");
}

#[test]
fn who_is_silent_is_asked_and_then_gone() {
    let (client, mut server) = pair();
    let long_ago =
        Instant::now().checked_sub(QUIET + Duration::from_secs(1)).expect("the machine runs longer than that");
    server.heard = long_ago;
    // Not heard, because nobody listened: no judgement.
    for _ in 0..3 {
        server.heard = long_ago;
        server.tend(Ready::default(), false).expect("nothing is wrong");
        assert!(!server.asked && server.heard > long_ago);
    }
    server.heard = long_ago;
    server.tend(Ready::default(), true).expect("it is asked");
    assert!(server.asked);
    // A living client answers by itself.
    let answering = std::thread::spawn(move || {
        let mut client = client;
        let (fd, interest) = client.wanted(true, false);
        ready::wait([(fd, interest)], Some(Instant::now() + SOON));
        assert_eq!(client.receive(), Ok(None));
        client.flush().expect("it is open");
        client
    });
    let client = answering.join().expect("it does not panic");
    ready::wait([server.wanted(true, false)], Some(Instant::now() + SOON));
    assert_eq!(server.receive(), Ok(None));
    assert!(!server.asked, "it has answered");
    server.heard = long_ago;
    server.tend(Ready::default(), true).expect("it is asked");
    server.heard = Instant::now().checked_sub(PATIENCE).expect("the machine runs longer than that");
    let fault = server.tend(Ready::default(), true).expect_err("no answer").0;
    assert!(fault.contains("no answer for 50 s"), "{fault}");
    drop(client);
}

#[test]
fn who_takes_nothing_sees_the_end_at_once_and_who_is_gone_is_seen_without_listening() {
    let ends = |socket: &Socket| {
        let [ready] = ready::wait([socket.wanted(false, true)], Some(Instant::now() + SOON));
        ready.ended
    };
    let fill = |socket: &mut Socket| {
        while !socket.has_unsent() {
            socket.send("x".repeat(100_000)).expect("it is open");
        }
    };
    let (client, mut server) = pair();
    fill(&mut server);
    assert!(!server.close(Ending::Done, "", Duration::from_millis(10)), "it takes nothing");
    server.abort();
    assert!(ends(&client));
    // The end of this one stands behind what the server does not read, until it is asked.
    let (mut client, mut server) = pair();
    fill(&mut client);
    drop(client);
    server.heard = Instant::now().checked_sub(QUIET).expect("the machine runs longer than that");
    server.tend(Ready::default(), false).expect("it is not known yet");
    assert!(ends(&server));
}

#[test]
fn garbage_a_long_message_and_a_break_end_it() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x81, 0x85, 1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x81, 0x01, b'x']]
    {
        let (client, mut server) = pair();
        (&mut client.inner.get_ref()).write_all(bytes).expect("room in the socket");
        assert!(next(&mut server).is_err(), "{bytes:?}");
    }
    // Announced, not sent: refused by its head.
    let (client, mut server) = pair();
    let head = [0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    (&mut client.inner.get_ref()).write_all(&head).expect("room in the socket");
    assert_eq!(next(&mut server).expect_err("too long").0, "a message is longer than what is taken");
    let (client, mut server) = pair();
    drop(client);
    assert_eq!(next(&mut server).expect_err("gone").0, "the connection was closed without a word");
}

#[test]
fn a_refusal_comes_whole_and_silence_has_an_end() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client came");
        let mut head = vec![0; 4096];
        let n = socket.read(&mut head).expect("a request");
        let head = String::from_utf8_lossy(&head[..n]).into_owned();
        assert!(
            head.starts_with("GET /x?y=1 HTTP/1.1\r\n") && head.contains("authorization: Bearer t0k\r\n"),
            "{head}"
        );
        socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n{\"a").expect("room");
        socket.write_all(b"\": 12}").expect("room");
        let silent = listener.accept().expect("a second client came");
        (listener, silent)
    });
    let fault = connect(&address, "/x?y=1", Some("t0k"), SOON, 1000).err();
    assert_eq!(fault, Some(ConnectFault::Refused { status: 404, body: b"{\"a\": 12}".to_vec() }));
    let fault = connect(&address, "/", None, Duration::from_millis(100), 1000).err();
    assert_eq!(fault, Some(ConnectFault::Unreachable("no answer in time".to_owned())));
    drop(server.join().expect("it does not panic"));
    let fault = connect(&address, "/", None, SOON, 1000).err();
    assert!(matches!(&fault, Some(ConnectFault::Unreachable(text)) if text.contains("refused")), "{fault:?}");
}
