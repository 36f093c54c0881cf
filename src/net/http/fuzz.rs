//! Any bytes as the head of a request, and as all that comes over a connection.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::parse::{self, LONGEST_HEAD, Parsed, Whole};
use super::{Handler, Head, Limits, Reply, serve};
use crate::sys::shutdown::Stop;
use crate::sys::thread;

/// What the connection's handler takes.
const LARGEST_BODY: usize = 4_096;

fn parsed(bytes: &[u8]) -> Parsed {
    parse::head(bytes, SocketAddr::from(([127, 0, 0, 1], 1)))
}

/// The head that the bytes begin with, if they do.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let whole = match parsed(bytes) {
        Parsed::Whole(whole) => whole,
        Parsed::Partial => {
            assert!(bytes.len() < LONGEST_HEAD, "{} bytes, and no end", bytes.len());
            return None;
        }
        Parsed::Refused(status, reason) => {
            assert!((400..500).contains(&status) && !reason.is_empty());
            return None;
        }
    };
    let Whole { head, length, content_length, .. } = *whole;
    assert!(length <= bytes.len() && length <= LONGEST_HEAD);
    // Nothing that follows it, and nothing less than all of it, is taken for the same request.
    assert!(matches!(parsed(&bytes[..length]), Parsed::Whole(alone) if alone.length == length));
    assert!(!matches!(parsed(&bytes[..length - 1]), Parsed::Whole(_)), "whole without its last byte");
    assert!(head.path.starts_with('/') || head.path == "*", "{:?}", head.path);
    let texts = head.query.iter().flat_map(|(name, value)| [name, value]).chain([&head.path, &head.method]);
    assert!(!texts.into_iter().any(|text| text.chars().any(char::is_control)));
    let named = |wanted: &'static str| head.headers.iter().filter(move |(name, _)| name == wanted);
    assert_eq!(named("transfer-encoding").count(), 0, "a second way to say where the body ends");
    let lengths: Vec<&str> = named("content-length").map(|(_, value)| value.as_str()).collect();
    match lengths.as_slice() {
        [] => assert_eq!(content_length, 0),
        [one] => assert_eq!(one.trim_start_matches('0'), content_length.to_string().trim_start_matches('0')),
        more => panic!("taken with {} lengths", more.len()),
    }
    for (name, value) in &head.headers {
        assert!(!name.is_empty() && !name.contains([' ', '\t', ':']) && !name.bytes().any(|b| b.is_ascii_uppercase()));
        assert!(!value.contains(['\r', '\n', '\0']), "{value:?}");
    }
    Some(head)
}

/// Answers with the length of the body.
struct Counter;

impl Handler for Counter {
    fn admit(&self, head: &Head) -> Result<usize, Reply> {
        if head.method == "PUT" { Err(Reply::error(401, "no token")) } else { Ok(LARGEST_BODY) }
    }

    fn handle(&self, _: &Head, body: &[u8]) -> Reply {
        Reply::json(200, format!("{{\"had\":{}}}", body.len()))
    }
}

/// All that comes over a connection, until the client has nothing more to say: as many answers as there are whole requests up to the
/// first that is refused, each about the right number of bytes.
pub(crate) fn connection(bytes: &[u8]) {
    // What the socket does not take at once would have to wait for the answers to be read.
    let bytes = &bytes[..bytes.len().min(32 << 10)];
    let mut client = TcpStream::connect(server()).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out can be set");
    client.write_all(bytes).expect("room in the socket");
    client.shutdown(Shutdown::Write).expect("it is open");
    let mut answers = String::new();
    client.read_to_string(&mut answers).expect("answers, and an end");
    let found: Vec<&str> = answers
        .split("HTTP/1.")
        .skip(1)
        // A refusal's text may name the protocol, too.
        .filter(|answer| answer.get(2..5).is_some_and(|status| status.bytes().all(|b| b.is_ascii_digit())))
        .filter(|answer| !answer.starts_with("1 100 "))
        .map(|answer| {
            let is_told = answer.contains("{\"had\":");
            if is_told { answer.rsplit("\r\n\r\n").next().unwrap_or_default() } else { &answer[2..5] }
        })
        .collect();
    let expected = expected(bytes);
    assert_eq!(found, expected, "{answers}");
}

/// What is to be answered: the count where there is a body to read of, else the status.
fn expected(mut bytes: &[u8]) -> Vec<String> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let whole = match parsed(bytes) {
            Parsed::Whole(whole) => whole,
            Parsed::Partial => break,
            Parsed::Refused(status, _) => {
                answers.push(status.to_string());
                break;
            }
        };
        let rest = &bytes[whole.length..];
        let is_refused = whole.head.method == "PUT";
        if is_refused || whole.content_length > LARGEST_BODY as u64 {
            answers.push(if is_refused { "401" } else { "413" }.to_owned());
            if whole.content_length > 0 || !whole.keep_alive {
                break;
            }
            bytes = rest;
            continue;
        }
        let length = usize::try_from(whole.content_length).expect("small");
        let Some(rest) = rest.get(length..) else { break };
        answers.push(if whole.no_body { "200".to_owned() } else { format!("{{\"had\":{length}}}") });
        if !whole.keep_alive {
            break;
        }
        bytes = rest;
    }
    answers
}

/// One server for all that a process tries.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn("fuzzed", move || serve(listener, Arc::new(Counter), Limits::default(), &Stop::new()))
            .expect("a thread can be started");
        address
    })
}
