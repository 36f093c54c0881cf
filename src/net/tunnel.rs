//! The hello of the SSH proxy port: `REQUEST_TUNNEL <task_id>[ <token>]\n`, then `SUCCESS\n` or `ERROR <reason>\n`.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The longest hello, with its newline.
const LONGEST_HELLO: usize = 256;
/// The longest answer: a reason may name a node, whose name alone may have 253 characters.
const LONGEST_ANSWER: usize = 1024;

/// What a client asked for. Debug hides the token.
#[derive(PartialEq, Eq)]
pub struct Hello {
    /// As sent; not yet parsed.
    pub task_id: String,
    pub token: Option<String>,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("task_id", &self.task_id).finish_non_exhaustive()
    }
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
pub fn read_hello(socket: &TcpStream, limit: Duration) -> Result<Hello, HelloFault> {
    let line = read_line::<LONGEST_HELLO>(socket, limit).map_err(|fault| match fault.kind() {
        io::ErrorKind::InvalidData => HelloFault::Format,
        io::ErrorKind::TimedOut => HelloFault::Timeout,
        _ => HelloFault::Closed,
    })?;
    parse_hello(&line).ok_or(HelloFault::Format)
}

fn parse_hello(line: &[u8]) -> Option<Hello> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (Some("REQUEST_TUNNEL"), Some(task_id)) = (words.next(), words.next()) else { return None };
    let token = words.next().map(str::to_owned);
    if words.next().is_some() { None } else { Some(Hello { task_id: task_id.to_owned(), token }) }
}

/// The client's side: sends the hello and reads the answer. Ok(Err(reason)) = the Host's `ERROR <reason>`.
///
/// # Errors
/// The connection broke, or the answer is no tunnel's.
pub fn say_hello(
    mut socket: &TcpStream,
    task_id: &str,
    token: Option<&str>,
    limit: Duration,
) -> io::Result<Result<(), String>> {
    let token = token.map(|token| format!(" {token}")).unwrap_or_default();
    socket.write_all(format!("REQUEST_TUNNEL {task_id}{token}\n").as_bytes())?;
    let line = read_line::<LONGEST_ANSWER>(socket, limit)?;
    let line = String::from_utf8_lossy(&line);
    match line.trim_end() {
        "SUCCESS" => Ok(Ok(())),
        line => match line.strip_prefix("ERROR ") {
            Some(reason) => Ok(Err(reason.to_owned())),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, NO_TUNNEL)),
        },
    }
}

const NO_TUNNEL: &str = "the answer is not that of an SSH proxy port";

/// Reads up to and with the first newline, and answers what stands before it.
fn read_line<const LONGEST: usize>(mut socket: &TcpStream, limit: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + limit;
    let mut buffer = [0_u8; LONGEST];
    let mut filled = 0;
    let line = loop {
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(rest))?;
        // Looked at first, then taken up to the newline only: what follows belongs to the tunnel.
        let seen = match socket.peek(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(seen) => seen,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(fault) => return Err(fault),
        };
        let newline = buffer[filled..filled + seen].iter().position(|byte| *byte == b'\n');
        let take = newline.map_or(seen, |at| at + 1);
        socket.read_exact(&mut buffer[filled..filled + take])?;
        filled += take;
        if newline.is_some() {
            break buffer[..filled - 1].to_vec();
        }
        if filled == buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, NO_TUNNEL));
        }
    };
    socket.set_read_timeout(None)?;
    Ok(line)
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
    fn hellos() {
        let hello = |task_id: &str, token: Option<&str>| {
            Some(Hello { task_id: task_id.to_owned(), token: token.map(str::to_owned) })
        };
        assert_eq!(parse_hello(b"REQUEST_TUNNEL 42"), hello("42", None));
        assert_eq!(parse_hello(b"REQUEST_TUNNEL 42 t0k\r"), hello("42", Some("t0k")));
        for bad in [&b""[..], b"REQUEST_TUNNEL", b"GET / HTTP/1.1", b"REQUEST_TUNNEL 1 t x", b"REQUEST_TUNNEL \xff"] {
            assert_eq!(parse_hello(bad), None, "{bad:?}");
        }
        assert!(!format!("{:?}", hello("42", Some("t0k"))).contains("t0k"));
    }

    #[test]
    fn not_one_byte_beyond_the_newline_is_taken() {
        let (mut client, mut server) = pair();
        client.write_all(b"REQUEST_TUNNEL 7\nSSH-2.0-x").expect("room in the socket");
        assert_eq!(read_hello(&server, Duration::from_secs(5)).expect("a hello").task_id, "7");
        let mut rest = [0; 9];
        server.read_exact(&mut rest).expect("the rest is still there");
        assert_eq!(&rest, b"SSH-2.0-x");
    }

    #[test]
    fn a_long_line_silence_and_a_hang_up_are_told_apart() {
        let (mut client, server) = pair();
        client.write_all(&[b'x'; 300]).expect("room in the socket");
        assert_eq!(read_hello(&server, Duration::from_secs(5)), Err(HelloFault::Format));
        let (mut client, server) = pair();
        client.write_all(b"REQUEST_").expect("room in the socket");
        assert_eq!(read_hello(&server, Duration::from_millis(50)), Err(HelloFault::Timeout));
        drop(client);
        assert_eq!(read_hello(&server, Duration::from_secs(5)), Err(HelloFault::Closed));
    }

    #[test]
    fn a_long_reason_arrives_and_what_is_no_answer_is_called_that() {
        let (client, mut server) = pair();
        let reason = "x".repeat(700);
        server.write_all(format!("ERROR {reason}\n").as_bytes()).expect("room in the socket");
        assert_eq!(say_hello(&client, "7", None, Duration::from_secs(5)).expect("an answer"), Err(reason));
        for other in ["SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "x".repeat(2_000)] {
            let (client, mut server) = pair();
            server.write_all(other.as_bytes()).expect("room in the socket");
            let fault = say_hello(&client, "7", None, Duration::from_secs(5)).expect_err("no tunnel's");
            assert_eq!(fault.to_string(), NO_TUNNEL);
        }
    }

    #[test]
    fn one_byte_now_and_then_does_not_extend_the_time() {
        let (mut client, server) = pair();
        let writer = std::thread::spawn(move || {
            while client.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        assert_eq!(read_hello(&server, Duration::from_millis(200)), Err(HelloFault::Timeout));
        drop(server);
        writer.join().expect("it does not panic");
    }

    #[test]
    fn the_hosts_reason_arrives_word_for_word() {
        let (client, mut server) = pair();
        server.write_all(b"ERROR Task 7 not found.\n").expect("room in the socket");
        let answer = say_hello(&client, "7", Some("t"), Duration::from_secs(5)).expect("an answer");
        assert_eq!(answer, Err("Task 7 not found.".to_owned()));
        assert_eq!(read_hello(&server, Duration::from_secs(5)).expect("a hello").token.as_deref(), Some("t"));
    }
}
