//! The server over real sockets on loopback.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::net::http::{Head, Reply};

#[derive(Default)]
struct Echo {
    /// Endless streams that are being written.
    streams: Arc<AtomicUsize>,
    /// A request of `/slow` has come, and waits until this is 0 again.
    slow: AtomicUsize,
    /// Not 0: the server's end waits until it is.
    undoing: AtomicUsize,
}

impl Handler for Echo {
    fn end(&self) {
        while self.undoing.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }

    fn admit(&self, head: &Head) -> Result<usize, Reply> {
        if head.path == "/secret" { Err(Reply::error(401, "no token")) } else { Ok(1 << 20) }
    }

    fn handle(&self, head: &Head, body: &[u8]) -> Reply {
        match head.path.as_str() {
            "/panic" => panic!("as planned"),
            "/stream" => Reply::Stream {
                status: 200,
                content_type: "text/plain",
                headers: vec![("x-start", "7".to_owned())],
                write: Box::new(|out| out.write_all(b"one").and_then(|()| out.write_all(b"two"))),
            },
            "/endless" => {
                let streams = Arc::clone(&self.streams);
                streams.fetch_add(1, Ordering::SeqCst);
                let write = move |out: &mut dyn std::io::Write| {
                    let ended = loop {
                        if let Err(fault) = out.write_all(&[b'x'; 4096]) {
                            break fault;
                        }
                    };
                    streams.fetch_sub(1, Ordering::SeqCst);
                    Err(ended)
                };
                Reply::Stream { status: 200, content_type: "text/plain", headers: Vec::new(), write: Box::new(write) }
            }
            "/huge" => Reply::Full { status: 200, content_type: "text/plain", body: Arc::from(vec![b'x'; 64 << 20]) },
            "/slow" => {
                self.slow.store(1, Ordering::SeqCst);
                while self.slow.load(Ordering::SeqCst) == 1 {
                    std::thread::yield_now();
                }
                Reply::Full { status: 200, content_type: "text/plain", body: Arc::from([]) }
            }
            "/upgrade" => Reply::Upgrade {
                head: "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
                take: Box::new(|mut socket, early| {
                    socket.write_all(&[b"got ", early.as_slice()].concat()).expect("room in the socket");
                }),
            },
            _ => Reply::Full { status: 200, content_type: "text/plain", body: Arc::from(body) },
        }
    }
}

struct Server {
    address: SocketAddr,
    stop: Stop,
    echo: Arc<Echo>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let stop = Stop::new();
        let echo = Arc::new(Echo::default());
        let (theirs, handler) = (stop.clone(), Arc::clone(&echo));
        let thread = std::thread::spawn(move || serve(listener, handler, limits, &theirs));
        Self { address, stop, echo, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out can be set");
        socket
    }

    /// Sends `text`, and reads to the end of the connection.
    fn talk(&self, text: &str) -> String {
        self.try_talk(text).unwrap_or_else(|fault| panic!("{text:?} gave {fault}"))
    }

    fn try_talk(&self, text: &str) -> std::io::Result<String> {
        let mut socket = self.connect();
        socket.write_all(text.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The same where others have to go first: on a busy machine they take their time, and who comes meanwhile is sent away.
    fn talk_in_the_end(&self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.try_talk(text) {
                Ok(answer) => return answer,
                Err(fault) => assert!(Instant::now() < end, "{text:?} gave {fault}"),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
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

/// Sends `byte` every 20 ms until the server has closed the connection; how long that took.
fn trickle(mut socket: TcpStream, byte: u8) -> Duration {
    let started = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out can be set");
    loop {
        assert!(started.elapsed() < Duration::from_secs(10), "a byte now and then extends the time for ever");
        if socket.write_all(&[byte]).is_err() {
            return started.elapsed();
        }
        match socket.read(&mut [0; 256]) {
            Err(fault) if matches!(fault.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            _ => return started.elapsed(),
        }
    }
}

#[test]
fn one_byte_now_and_then_does_not_extend_the_time_for_a_head() {
    let server = Server::start(quick());
    let mut socket = server.connect();
    socket.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").expect("room in the socket");
    // Each byte comes well within the idle time; all of them together do not come within the head's.
    assert!(trickle(socket, b'a') >= Duration::from_millis(150));
}

#[test]
fn one_byte_now_and_then_does_not_extend_the_time_for_a_body() {
    let server = Server::start(Limits { body_time: Duration::from_millis(200), ..Limits::default() });
    let mut socket = server.connect();
    socket.write_all(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n").expect("room in the socket");
    assert!(trickle(socket, b'a') >= Duration::from_millis(150));
}

#[test]
fn a_connection_without_a_request_is_closed_after_its_time() {
    let server = Server::start(quick());
    assert_eq!(server.talk(""), "");
    // Also after an answer.
    let answer = server.talk("GET / HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn a_reader_that_does_not_read_is_given_up() {
    let server = Server::start(Limits { write_time: Duration::from_millis(200), connections: 1, ..Limits::default() });
    let mut stalled = server.connect();
    stalled.write_all(b"GET /huge HTTP/1.1\r\n\r\n").expect("room in the socket");
    // It is in progress, so nobody else gets its place; but it has an end.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let mut other = server.connect();
        let _refused = other.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        if other.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200 OK") {
            break;
        }
        assert!(Instant::now() < end, "the stalled reader keeps its place");
    }
}

#[test]
fn a_refusal_reaches_a_client_that_sends_its_whole_body_first() {
    let server = Server::start(Limits::default());
    let mut socket = server.connect();
    let body = vec![b'x'; 20 << 20];
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).expect("room in the socket");
    socket.write_all(&body).expect("it is read, and dropped");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("no reset");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[test]
fn an_http_1_0_client_gets_its_answer_and_the_end() {
    let server = Server::start(Limits::default());
    let answer = server.talk("GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.contains("connection: close"), "{answer}");
}

#[test]
fn an_upgrade_hands_over_the_socket_and_what_was_read() {
    let server = Server::start(Limits::default());
    let answer = server.talk("GET /upgrade HTTP/1.1\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nearly");
    assert_eq!(answer, "HTTP/1.1 101 Switching Protocols\r\n\r\ngot early");
}

#[test]
fn the_writer_of_a_stream_ends_when_its_client_goes() {
    let server = Server::start(Limits::default());
    let mut socket = server.connect();
    socket.write_all(b"GET /endless HTTP/1.1\r\n\r\n").expect("room in the socket");
    socket.read_exact(&mut [0; 64]).expect("it streams");
    assert_eq!(server.echo.streams.load(Ordering::SeqCst), 1);
    drop(socket);
    let end = Instant::now() + Duration::from_secs(10);
    while server.echo.streams.load(Ordering::SeqCst) != 0 {
        assert!(Instant::now() < end, "the writer goes on without a reader");
        std::thread::yield_now();
    }
}

#[test]
fn requests_in_progress_keep_their_place_and_heads_do_not() {
    let server = Server::start(Limits { connections: 2, ..Limits::default() });
    // The oldest is in progress: its body is still coming.
    let mut busy = server.connect();
    busy.write_all(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").expect("room");
    busy.read_exact(&mut [0; 25]).expect("it was admitted");
    // Heads that are slow take one another's place, not everyone's.
    let slow: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut socket = server.connect();
            socket.write_all(b"GET / HT").expect("room in the socket");
            socket
        })
        .collect();
    let answer = server.talk_in_the_end("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    drop(slow);
    busy.write_all(b"ab").expect("it is open");
    busy.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    busy.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.ends_with("ab"), "{answer}");
}

#[test]
fn at_the_cap_a_reader_that_stalls_goes_where_nobody_is_idle() {
    let server = Server::start(Limits { connections: 2, ..Limits::default() });
    let mut busy = server.connect();
    busy.write_all(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").expect("room");
    busy.read_exact(&mut [0; 25]).expect("it was admitted");
    let mut stalled = server.connect();
    stalled.write_all(b"GET /huge HTTP/1.1\r\n\r\n").expect("room in the socket");
    stalled.read_exact(&mut [0; 64]).expect("its answer has begun");
    let started = Instant::now();
    let answer = server.talk_in_the_end("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && started.elapsed() < Duration::from_secs(10), "{answer}");
    // What is still being done goes on.
    busy.write_all(b"ab").expect("it is open");
    busy.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    busy.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.ends_with("ab"), "{answer}");
}

#[test]
fn bodies_that_would_be_too_much_together_are_refused_one_by_one() {
    let server = Server::start(Limits { bodies: 300_000, ..Limits::default() });
    let send = |path: &str| {
        let mut socket = server.connect();
        let head = format!("POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 280000\r\n\r\n");
        socket.write_all(head.as_bytes()).expect("room in the socket");
        socket.write_all(&[b'a'; 280_000]).expect("it is read, and dropped if it is refused");
        socket
    };
    let answer = |mut socket: TcpStream| {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("no reset");
        answer
    };
    // It has come, and is being worked on.
    let held = send("/slow");
    let end = Instant::now() + Duration::from_secs(10);
    while server.echo.slow.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "it has not come within 10 s");
        std::thread::yield_now();
    }
    let refused = answer(send("/"));
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(server.talk("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab").ends_with("ab"));
    server.echo.slow.store(0, Ordering::SeqCst);
    let done = answer(held);
    assert!(done.starts_with("HTTP/1.1 200 "), "{done}");
    // Its room is free again.
    assert!(answer(send("/")).ends_with("aaa"), "it is read");
}

#[test]
fn at_the_cap_listeners_make_room_for_who_asks() {
    let server = Server::start(Limits { connections: 2, ..Limits::default() });
    let mut streams: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut socket = server.connect();
            socket.write_all(b"GET /endless HTTP/1.1\r\n\r\n").expect("room in the socket");
            socket.read_exact(&mut [0; 64]).expect("it streams");
            socket
        })
        .collect();
    for _ in 0..3 {
        let answer = server.talk("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    // The oldest went, and the others did not.
    let mut rest = Vec::new();
    let _reset = streams[0].read_to_end(&mut rest);
    streams[1].read_exact(&mut vec![0; 1 << 20]).expect("it goes on");
}

#[test]
fn closed_connections_whose_threads_have_not_seen_it_are_not_without_number() {
    let table = Table::default();
    let server = Server::start(Limits::default());
    let held: Vec<_> = (0..6).map(|_| table.add(server.connect(), 3)).collect();
    assert!(held.iter().all(Option::is_some), "the oldest three were closed");
    assert!(table.add(server.connect(), 3).is_none(), "and still have their threads");
    table.remove(0);
    assert!(table.add(server.connect(), 3).is_some());
}

#[test]
fn a_request_is_begun_or_its_connection_closed_never_both() {
    let open = Open::new(Server::start(Limits::default()).connect());
    assert!(open.begin() && !open.close_if(IDLE) && !open.close_if(ANSWERING), "in progress");
    open.answering();
    assert!(!open.close_if(IDLE), "its answer is on the way");
    open.done();
    assert!(open.close_if(IDLE) && !open.begin(), "closed");
    open.done();
    assert!(!open.begin(), "closed for good");
    let open = Open::new(Server::start(Limits::default()).connect());
    open.begin();
    open.streaming();
    assert!(!open.close_if(IDLE) && !open.close_if(ANSWERING), "a stream");
    open.done();
    assert!(open.begin(), "its next request");
}

#[test]
fn stop_ends_idle_connections_at_once_and_lets_a_request_finish() {
    let mut server = Server::start(Limits::default());
    let (mut idle, mut busy) = (server.connect(), server.connect());
    busy.write_all(b"GET /slow HTTP/1.1\r\n\r\n").expect("room in the socket");
    let end = Instant::now() + Duration::from_secs(10);
    while server.echo.slow.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "the request was not begun");
        std::thread::yield_now();
    }
    let started = Instant::now();
    server.stop.set();
    idle.read_to_end(&mut Vec::new()).expect("closed");
    server.echo.slow.store(0, Ordering::SeqCst);
    let mut answer = String::new();
    busy.read_to_string(&mut answer).expect("answered, then closed");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    server.thread.take().expect("joined once").join().expect("it does not panic");
    assert!(started.elapsed() < GRACE, "{:?}", started.elapsed());
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[test]
fn who_has_to_undo_something_can_say_so_however_long_that_takes() {
    let mut server = Server::start(Limits::default());
    let mut busy = server.connect();
    busy.write_all(b"GET /slow HTTP/1.1\r\n\r\n").expect("room in the socket");
    let end = Instant::now() + Duration::from_secs(10);
    while server.echo.slow.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "the request was not begun");
        std::thread::yield_now();
    }
    server.echo.undoing.store(1, Ordering::SeqCst);
    server.stop.set();
    std::thread::sleep(GRACE + GRACE / 4);
    server.echo.slow.store(0, Ordering::SeqCst);
    let mut answer = String::new();
    let read = busy.read_to_string(&mut answer);
    server.echo.undoing.store(0, Ordering::SeqCst);
    read.expect("answered, then closed");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    server.thread.take().expect("joined once").join().expect("it does not panic");
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
