//! The HTTP client of Runner and command line, over ureq: explicit time-outs, no proxy, no redirects, no retry but one
//! (a kept connection that the server has closed meanwhile, for calls that may be repeated).

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use ureq::http::{Request, Response};
use ureq::{Agent, AsSendBody, Body};

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
            agent: Agent::new_with_config(config),
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
        match self.call_once(method, path, body, timeout) {
            // A kept connection may have been closed by the server just before we wrote. GET and PUT may be repeated.
            Err(ClientFault::Broken { reason, .. }) if method != "POST" && reason.starts_with(CLOSED) => {
                self.call_once(method, path, body, timeout)
            }
            result => result,
        }
    }

    fn call_once(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        timeout: Duration,
    ) -> Result<Answer, ClientFault> {
        let response = match body {
            Some(body) => self.send(method, path, body, Some(timeout), None)?,
            None if method == "GET" => self.send(method, path, (), Some(timeout), None)?,
            // Without a length ureq would announce chunks, which our server refuses.
            None => self.send(method, path, "", Some(timeout), None)?,
        };
        let status = response.status().as_u16();
        let body = response.into_body().into_with_config().limit(LARGEST_ANSWER).read_to_vec();
        body.map(|body| Answer { status, body }).map_err(|fault| self.fault(path, &fault))
    }

    /// A GET whose answer is read as it comes. `life` bounds the whole stream: a server that has vanished is noticed at its
    /// end, and the caller takes the stream up again where it was.
    ///
    /// # Errors
    /// See [`ClientFault`].
    pub fn stream(&self, path: &str, life: Duration) -> Result<(u16, Box<dyn Read + Send>), ClientFault> {
        let response = self.send("GET", path, (), None, Some(life))?;
        let status = response.status().as_u16();
        Ok((status, Box::new(response.into_body().into_reader())))
    }

    fn send<B: AsSendBody>(
        &self,
        method: &str,
        path: &str,
        body: B,
        whole: Option<Duration>,
        stream: Option<Duration>,
    ) -> Result<Response<Body>, ClientFault> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", bearer);
        }
        if method != "GET" {
            request = request.header("content-type", "application/json");
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
            .timeout_recv_response(stream.map(|life| life.min(Duration::from_secs(30))))
            .timeout_recv_body(stream)
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
                // These come from connect(2) alone.
                Kind::ConnectionRefused => (false, "connection refused".to_owned()),
                Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::AddrNotAvailable => (false, fault.to_string()),
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

/// How std begins the error of a name that has no address.
const LOOKUP: &str = "failed to lookup address information";
/// How the reason of a broken connection begins, where the server closed it.
const CLOSED: &str = "the connection was closed";
