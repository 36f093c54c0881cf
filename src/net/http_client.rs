//! The HTTP client of Runner and command line, over ureq: explicit time-outs, no proxy, no redirects, no retry but one
//! (a kept connection that the server has closed meanwhile, for calls that may be repeated).

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ureq::http::{Request, Response, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, AsSendBody, Body};

use crate::sys::fault::around;

/// How large a whole answer may be: a list of 100,000 tasks is some 40 MB.
const LARGEST_ANSWER: u64 = 64 << 20;
/// For a connection to be made: more is a host that is down, or a firewall that drops.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// One server, with the token sent to it. Keeps connections alive between calls.
pub struct Client {
    base: String,
    bearer: Option<String>,
    agent: Agent,
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// What goes with a request.
#[derive(Clone, Copy)]
enum Payload<'a> {
    Nothing,
    Json(&'a str),
    Bytes(&'a [u8]),
}

/// A body, and what it is.
trait Typed {
    const TYPE: &'static str;
}

impl Typed for () {
    const TYPE: &'static str = "";
}

impl Typed for &str {
    const TYPE: &'static str = "application/json";
}

impl Typed for &[u8] {
    const TYPE: &'static str = "application/octet-stream";
}

/// A body that is read as it comes.
pub type Coming = Box<dyn Read + Send>;

/// No answer came.
#[derive(Clone, Debug)]
pub enum ClientFault {
    /// No connection, so nothing was sent: safe to repeat.
    Unreachable { url: String, reason: String },
    /// The connection broke or the time was up after something was sent: the server may have acted.
    Broken { url: String, reason: String },
}

impl fmt::Display for ClientFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, reason } => write!(f, "cannot reach {url}: {reason}"),
            Self::Broken { url, reason } => write!(f, "no whole answer from {url}: {reason}"),
        }
    }
}

impl std::error::Error for ClientFault {}

impl Client {
    /// `base` is `http://ADDR:PORT`; `token` goes as a bearer token. Nothing is connected yet.
    pub fn new(base: &str, token: Option<&str>) -> Self {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections_per_host(2)
            .user_agent(concat!("hakuriver/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIME))
            .build();
        Self {
            base: base.trim_end_matches('/').to_owned(),
            bearer: token.map(|token| format!("Bearer {token}")),
            agent: Agent::with_parts(config, DefaultConnector::new(), Addresses::default()),
        }
    }

    /// The base URL, for messages.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One call with a whole answer (at most 64 MiB). `body` is JSON. `timeout` is for the whole call.
    ///
    /// # Errors
    /// See [`ClientFault`]; a 4xx or 5xx is an answer, not an error.
    pub fn call(&self, method: &str, path: &str, body: Option<&str>, timeout: Duration) -> Result<Answer, ClientFault> {
        self.call_again(method, path, body.map_or(Payload::Nothing, Payload::Json), timeout)
    }

    /// A PUT of raw bytes, with a whole answer.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn put_bytes(&self, path: &str, body: &[u8], timeout: Duration) -> Result<Answer, ClientFault> {
        self.call_again("PUT", path, Payload::Bytes(body), timeout)
    }

    fn call_again(
        &self,
        method: &str,
        path: &str,
        body: Payload<'_>,
        timeout: Duration,
    ) -> Result<Answer, ClientFault> {
        let subject = || format!("{method} {}", path.split('?').next().unwrap_or(path));
        match around("call", subject, || self.call_once(method, path, body, timeout)) {
            // A kept connection may have been closed by the server just before we wrote. GET and PUT may be repeated.
            Err(ClientFault::Broken { reason, .. })
                if matches!(method, "GET" | "PUT") && reason.starts_with(CLOSED) =>
            {
                self.call_once(method, path, body, timeout)
            }
            result => result,
        }
    }

    fn call_once(&self, method: &str, path: &str, body: Payload<'_>, timeout: Duration) -> Result<Answer, ClientFault> {
        let response = match body {
            Payload::Json(body) => self.send(method, path, body, Some(timeout), None)?,
            Payload::Bytes(body) => self.send(method, path, body, Some(timeout), None)?,
            Payload::Nothing if method == "GET" => self.send(method, path, (), Some(timeout), None)?,
            // Without a length ureq would announce chunks, which our server refuses.
            Payload::Nothing => self.send(method, path, "", Some(timeout), None)?,
        };
        let status = response.status().as_u16();
        let body = response.into_body().into_with_config().limit(LARGEST_ANSWER).read_to_vec();
        body.map(|body| Answer { status, body }).map_err(|fault| self.fault(path, &fault))
    }

    /// A GET whose answer is read as it comes, for as long as it comes; `idle` is the longest silence.
    ///
    /// # Errors
    /// See [`ClientFault`].
    pub fn stream(&self, path: &str, idle: Duration) -> Result<(u16, Coming), ClientFault> {
        self.stream_with(path, idle, "").map(|(status, _, stream)| (status, stream))
    }

    /// A POST of JSON whose answer is read as it comes, for as long as it comes; `idle` is the longest silence.
    ///
    /// # Errors
    /// See [`ClientFault`].
    pub fn post_stream(&self, path: &str, body: &str, idle: Duration) -> Result<(u16, Coming), ClientFault> {
        let response = self.send("POST", path, body, None, Some(idle))?;
        Ok((response.status().as_u16(), Box::new(response.into_body().into_reader())))
    }

    /// As [`Client::stream`], with the value of one header of the answer.
    ///
    /// # Errors
    /// See [`ClientFault`].
    pub fn stream_with(
        &self,
        path: &str,
        idle: Duration,
        header: &str,
    ) -> Result<(u16, Option<String>, Coming), ClientFault> {
        let response = self.send("GET", path, (), None, Some(idle))?;
        let status = response.status().as_u16();
        let value = response.headers().get(header).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok((status, value, Box::new(response.into_body().into_reader())))
    }

    fn send<B: AsSendBody + Typed>(
        &self,
        method: &str,
        path: &str,
        body: B,
        whole: Option<Duration>,
        idle: Option<Duration>,
    ) -> Result<Response<Body>, ClientFault> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", bearer);
        }
        if method != "GET" {
            request = request.header("content-type", B::TYPE);
        }
        let request = request.body(body).map_err(|fault| ClientFault::Unreachable {
            url: self.base.clone(),
            reason: format!("this is no request: {fault}"),
        })?;
        let request = self
            .agent
            .configure_request(request)
            .allow_non_standard_methods(true)
            .timeout_global(whole)
            .timeout_per_read(idle)
            .build();
        self.agent.run(request).map_err(|fault| self.fault(path, &fault))
    }

    fn fault(&self, path: &str, fault: &ureq::Error) -> ClientFault {
        use io::ErrorKind as Kind;
        let path = path.split('?').next().unwrap_or_default();
        let (reached, reason) = match fault {
            ureq::Error::HostNotFound => (false, "the name is not known".to_owned()),
            ureq::Error::ConnectionFailed => (false, "the connection failed".to_owned()),
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
                (false, format!("no connection within {} s", CONNECT_TIME.as_secs()))
            }
            ureq::Error::Timeout(_) => (true, "no answer in time".to_owned()),
            ureq::Error::BadUri(uri) => (false, format!("'{uri}' is not a valid address")),
            ureq::Error::Io(fault) => match fault.kind() {
                // These come from connect(2) alone: the last is a firewall's.
                Kind::ConnectionRefused => (false, "connection refused".to_owned()),
                Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::AddrNotAvailable | Kind::PermissionDenied => {
                    (false, fault.to_string())
                }
                Kind::ConnectionReset | Kind::BrokenPipe | Kind::UnexpectedEof | Kind::ConnectionAborted => {
                    (true, format!("{CLOSED} ({fault})"))
                }
                // A name that cannot be resolved has no kind of its own.
                _ if fault.to_string().starts_with(LOOKUP) => (false, fault.to_string()),
                _ => (true, fault.to_string()),
            },
            other => (true, other.to_string()),
        };
        if reached {
            ClientFault::Broken { url: format!("{}{path}", self.base), reason }
        } else {
            ClientFault::Unreachable { url: self.base.clone(), reason }
        }
    }
}

/// An address is its own name: ureq's resolver would start a thread for each call, also on a connection that is kept.
#[derive(Debug, Default)]
struct Addresses {
    names: DefaultResolver,
}

impl Resolver for Addresses {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']'));
        let Some(address) = host.and_then(|host| host.parse::<IpAddr>().ok()) else {
            return self.names.resolve(uri, config, timeout);
        };
        let mut found = self.empty();
        found.push(SocketAddr::new(address, uri.port_u16().unwrap_or(80)));
        Ok(found)
    }
}

/// How std begins the error of a name that has no address.
const LOOKUP: &str = "failed to lookup address information";
/// How the reason of a broken connection begins, where the server closed it.
const CLOSED: &str = "the connection was closed";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    const SOON: Duration = Duration::from_secs(10);

    /// Reads a request's head and body; its first line, or None at the end of the connection.
    fn request(reader: &mut BufReader<TcpStream>) -> Option<String> {
        let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
        reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
        loop {
            line.clear();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let lower = line.trim().to_ascii_lowercase();
            if lower.is_empty() {
                break;
            }
            if let Some(number) = lower.strip_prefix("content-length: ") {
                length = number.parse().expect("a number");
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        Some(first.trim().to_owned())
    }

    /// Serves one connection after the other, with as many answers as each entry says before it is closed; the requests seen.
    fn server(answers: Vec<Vec<&'static str>>) -> (SocketAddr, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (seen, requests) = channel();
        thread::spawn(move || {
            for (answers, socket) in answers.into_iter().zip(listener.incoming()) {
                let mut reader = BufReader::new(socket.expect("a client came"));
                for answer in answers {
                    let Some(line) = request(&mut reader) else { break };
                    let _nobody_asks = seen.send(line);
                    if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        (address, requests)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn client(address: SocketAddr) -> Client {
        Client::new(&format!("http://{address}/"), Some("t0k"))
    }

    #[test]
    fn a_refusal_is_an_answer_and_the_connection_is_kept() {
        let no = "HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\nno";
        let away = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let (address, requests) = server(vec![vec![no, away, OK]]);
        let client = client(address);
        let answer = client.call("POST", "/kill/1", None, SOON).expect("an answer");
        assert_eq!((answer.status, answer.body.as_slice()), (409, &b"no"[..]));
        assert_eq!(client.call("GET", "/a", None, SOON).expect("not followed").status, 302);
        assert_eq!(client.call("PUT", "/b", Some("{}"), SOON).expect("an answer").status, 200);
        let seen: Vec<String> = requests.try_iter().collect();
        assert_eq!(seen, ["POST /kill/1 HTTP/1.1", "GET /a HTTP/1.1", "PUT /b HTTP/1.1"]);
    }

    #[test]
    fn nobody_there_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        for base in [format!("http://{address}"), "http://no-such-name.invalid:1".to_owned()] {
            let fault = Client::new(&base, None).call("POST", "/submit", Some("{}"), SOON).expect_err("nobody");
            assert!(matches!(&fault, ClientFault::Unreachable { url, .. } if *url == base), "{fault}");
        }
    }

    #[test]
    fn an_answer_that_breaks_off_or_never_comes_is_broken_and_the_text_hides_the_query() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf";
        let (address, _requests) = server(vec![vec![cut], vec![]]);
        let fault = client(address).call("POST", "/submit?secret=1", Some("{}"), SOON).expect_err("cut");
        assert!(matches!(&fault, ClientFault::Broken { .. }) && !fault.to_string().contains("secret"), "{fault}");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let silent = client(listener.local_addr().expect("it is bound"));
        let fault = silent.call("GET", "/a", None, Duration::from_millis(100)).expect_err("silence");
        assert!(matches!(&fault, ClientFault::Broken { reason, .. } if reason.contains("in time")), "{fault}");
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_replaced_for_what_may_be_repeated() {
        for method in ["GET", "PUT"] {
            let (address, requests) = server(vec![vec![OK], vec![OK]]);
            let client = client(address);
            client.call("GET", "/first", None, SOON).expect("an answer");
            // Another kept connection may be tried before the end of this one has come: the answer is the same.
            let answer = client.call(method, "/second", None, SOON).expect("repeated on a new connection");
            assert_eq!(answer.body, b"ok");
            assert_eq!(requests.iter().take(2).count(), 2);
        }
    }

    #[test]
    fn a_post_that_may_have_been_carried_out_is_not_repeated() {
        // The request is read, and the connection closed without an answer.
        let (address, requests) = server(vec![vec![OK, ""], vec![OK]]);
        let client = client(address);
        client.call("GET", "/first", None, SOON).expect("an answer");
        let fault = client.call("POST", "/submit", Some("{}"), SOON).expect_err("no answer");
        assert!(matches!(fault, ClientFault::Broken { .. }), "{fault}");
        assert_eq!(requests.try_iter().count(), 2, "the first GET and one POST");
    }

    #[test]
    fn a_stream_lives_longer_than_its_longest_silence_and_ends_with_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let mut reader = BufReader::new(listener.accept().expect("a client came").0);
            request(&mut reader).expect("a request");
            let socket = reader.get_mut();
            socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").expect("room");
            for _ in 0..8 {
                thread::sleep(Duration::from_millis(100));
                socket.write_all(b"1\r\nx\r\n").expect("it reads");
            }
            // Silent from here on, and not closed.
            thread::sleep(SOON);
        });
        let started = std::time::Instant::now();
        let (status, mut stream) = client(address).stream("/events", Duration::from_millis(500)).expect("it begins");
        let mut got = [0; 8];
        stream.read_exact(&mut got).expect("800 ms of life, with 100 ms of silence each");
        assert_eq!((status, &got), (200, b"xxxxxxxx"));
        stream.read_exact(&mut [0]).expect_err("silent for too long");
        assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    }
}
