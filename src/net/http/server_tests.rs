//! The server over real sockets on loopback.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use super::*;
use crate::net::http::{Head, Reply};

struct Echo;

impl Handler for Echo {
    fn admit(&self, head: &Head) -> Result<usize, Reply> {
        if head.path == "/secret" { Err(Reply::error(401, "no token")) } else { Ok(1 << 20) }
    }

    fn handle(&self, head: &Head, body: &[u8]) -> Reply {
        match head.path.as_str() {
            "/panic" => panic!("as planned"),
            "/stream" => Reply::Stream {
                status: 200,
                content_type: "text/plain",
                write: Box::new(|out| out.write_all(b"one").and_then(|()| out.write_all(b"two"))),
            },
            _ => Reply::Full { status: 200, content_type: "text/plain", body: Arc::from(body) },
        }
    }
}

struct Server {
    address: SocketAddr,
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let stop = Stop::new();
        let theirs = stop.clone();
        let thread = std::thread::spawn(move || serve(listener, Arc::new(Echo), limits, &theirs));
        Self { address, stop, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out can be set");
        socket
    }

    /// Sends `text`, and reads to the end of the connection.
    fn talk(&self, text: &str) -> String {
        let mut socket = self.connect();
        socket.write_all(text.as_bytes()).expect("room in the socket");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap_or_else(|fault| panic!("{text:?} gave {answer:?} and {fault}"));
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.set();
        self.thread.take().expect("joined once").join().expect("it does not panic");
    }
}

fn quick() -> Limits {
    Limits { idle_time: Duration::from_millis(200), head_time: Duration::from_millis(200), ..Limits::default() }
}

#[test]
fn requests_one_after_the_other_and_pipelined_are_answered_in_order() {
    let server = Server::start(Limits::default());
    let answer = server.talk(
        "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nde\
         GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    let (abc, de) = (answer.find("\r\n\r\nabc").expect("the first"), answer.find("\r\n\r\nde").expect("the second"));
    assert!(abc < de);
}

#[test]
fn a_length_beyond_the_limit_is_refused_without_being_read_or_allocated() {
    let server = Server::start(Limits::default());
    let answer = server.talk("POST / HTTP/1.1\r\nContent-Length: 1000000000000\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("1000000000000 bytes"), "{answer}");
}

#[test]
fn a_refusal_comes_before_the_body_is_read() {
    let server = Server::start(Limits::default());
    let answer = server.talk("POST /secret HTTP/1.1\r\nContent-Length: 500000\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[test]
fn a_panic_in_a_handler_is_a_500_and_the_connection_goes_on() {
    let server = Server::start(Limits::default());
    let answer = server.talk("GET /panic HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn streams_are_chunked_and_end() {
    let server = Server::start(Limits::default());
    let answer = server.talk("GET /stream HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), "{answer}");
    let old = server.talk("GET /stream HTTP/1.0\r\n\r\n");
    assert!(old.ends_with("\r\n\r\nonetwo"), "{old}");
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::start(Limits::default());
    let answer = server.talk("HEAD / HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab");
    assert!(answer.contains("content-length: 2") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn a_client_that_expects_100_gets_it_before_it_sends() {
    let server = Server::start(Limits::default());
    let mut socket = server.connect();
    let head = "POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    socket.write_all(head.as_bytes()).expect("room in the socket");
    let mut first = [0; 25];
    socket.read_exact(&mut first).expect("the go-ahead");
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"ab").expect("room in the socket");
    let mut rest = String::new();
    socket.read_to_string(&mut rest).expect("the answer");
    assert!(rest.ends_with("ab"), "{rest}");
}

#[test]
fn one_byte_now_and_then_does_not_extend_the_time_for_a_head() {
    let server = Server::start(quick());
    let mut socket = server.connect();
    let started = Instant::now();
    // Each byte comes well within the idle time; all of them together do not come within the head's.
    let refused = b"GET / HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        .iter()
        .any(|byte| {
            std::thread::sleep(Duration::from_millis(20));
            socket.write_all(&[*byte]).is_err()
        });
    let mut answer = Vec::new();
    let closed = refused || socket.read_to_end(&mut answer).is_ok() || started.elapsed() < Duration::from_secs(10);
    assert!(closed && answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
}

#[test]
fn at_the_cap_the_oldest_idle_connection_goes_and_a_new_one_is_served() {
    let server = Server::start(Limits { connections: 4, ..Limits::default() });
    let mut idle: Vec<TcpStream> = (0..4).map(|_| server.connect()).collect();
    for _ in 0..3 {
        let answer = server.talk("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    let mut nothing = Vec::new();
    idle[0].read_to_end(&mut nothing).expect("the oldest was closed");
    // The youngest was not.
    idle[3].write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").expect("it is open");
    idle[3].read_to_end(&mut nothing).expect("it is answered");
    assert!(nothing.starts_with(b"HTTP/1.1 200 OK"));
}
