//! The connection to the Host: every call goes from here to there, with the node token and the session.

use std::fmt;
use std::io::Read as _;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use nanoserde::{DeJson, SerJson};

use super::Join;
use super::observed::Batch;
use crate::api::json;
use crate::api::node::{
    DesiredAnswer, Heartbeat, HeartbeatAnswer, ObservedAnswer, OutputChunk, OutputHave, Register, Registered,
};
use crate::api::public::Version;
use crate::api::terminal::LARGEST_MESSAGE;
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::output::Stream;
use crate::net::http_client::{Answer, Client, ClientFault, Coming};
use crate::net::websocket::{self, ConnectFault, Socket};

/// A call that is answered at once.
const CALL: Duration = Duration::from_secs(10);
/// A report, which the Host stores before it answers.
const REPORT: Duration = Duration::from_secs(30);
/// The body of a refusal is no longer.
const REFUSAL: u64 = 64 << 10;

/// Why a call gave no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// No connection, no answer, or the Host is in trouble (5xx): try again.
    Unreachable(String),
    /// The Host does not know this node (404): register.
    NotRegistered,
    /// Another Runner has taken over (410): this one is to end.
    Superseded(String),
    /// A Runner of that name is heard elsewhere (409): try again until it is gone.
    Taken(String),
    /// The token is missing or wrong (401, 403).
    Denied(String),
    /// The Host refuses what was sent, or answers what cannot be read: the two do not fit together.
    Misfit(String),
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered => f.write_str("the Host does not know this node"),
            Self::Unreachable(text)
            | Self::Superseded(text)
            | Self::Taken(text)
            | Self::Denied(text)
            | Self::Misfit(text) => f.write_str(text),
        }
    }
}

/// What the Host's registration gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    pub id: String,
    /// Counts registrations: 0 is none.
    pub number: u64,
}

/// The Host, and the session with it.
pub struct Link {
    client: Client,
    /// For output alone: reports and heartbeats never wait behind it.
    shipping: Client,
    /// For environments.
    fetching: Client,
    hostname: String,
    /// For what does not go through the clients.
    node_token: Option<String>,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    session: Session,
    /// It is over: wait for the next one.
    lost: bool,
    closed: bool,
    /// The registration in which the Host has taken a heartbeat, so that it knows what this node can do now.
    beaten: u64,
}

impl Held {
    fn is_beaten(&self) -> bool {
        !self.lost && self.session.number > 0 && self.beaten == self.session.number
    }
}

#[derive(DeJson)]
struct Detail {
    detail: String,
}

impl Link {
    /// Not registered yet.
    pub fn new(join: &Join, hostname: &str) -> Self {
        let base = if join.host.contains("://") { join.host.clone() } else { format!("http://{}", join.host) };
        Self {
            client: Client::new(&base, join.node_token.as_deref()),
            shipping: Client::new(&base, join.node_token.as_deref()),
            fetching: Client::new(&base, join.node_token.as_deref()),
            hostname: hostname.to_owned(),
            node_token: join.node_token.clone(),
            held: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The Host's address, for messages.
    pub fn host(&self) -> &str {
        self.client.base()
    }

    /// The id of the Host's cluster.
    ///
    /// # Errors
    /// See [`LinkFault`].
    pub fn cluster(&self) -> Result<String, LinkFault> {
        let version: Version = self.call("GET", "/version", None::<&Register>, CALL)?;
        Ok(version.cluster_id)
    }

    /// Registers; from then on the session is held here.
    ///
    /// # Errors
    /// See [`LinkFault`].
    pub fn register(&self, register: &Register) -> Result<Registered, LinkFault> {
        let answer: Registered = self.call("POST", "/register", Some(register), CALL)?;
        self.registered(&answer);
        Ok(answer)
    }

    /// The Host has taken this node: the session begins, or goes on.
    pub(crate) fn registered(&self, answer: &Registered) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.session = Session { id: answer.session.clone(), number: held.session.number + 1 };
        held.lost = false;
        drop(held);
        self.changed.notify_all();
    }

    /// The session, and whether the Host has taken a heartbeat in it; None: there is none now.
    #[cfg(test)]
    pub(crate) fn session_now(&self) -> Option<(Session, bool)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = !held.closed && !held.lost && held.session.number > 0;
        is_there.then(|| (held.session.clone(), held.is_beaten()))
    }

    /// Waits for a session; None: closed.
    pub fn session(&self) -> Option<Session> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |held: &mut Held| !held.closed && (held.lost || held.session.number == 0);
        let held = self.changed.wait_while(held, waits).unwrap_or_else(PoisonError::into_inner);
        (!held.closed).then(|| held.session.clone())
    }

    /// Waits for a session in which the Host has taken a heartbeat; None: closed.
    pub fn session_with_heartbeat(&self) -> Option<Session> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |held: &mut Held| !held.closed && !held.is_beaten();
        let held = self.changed.wait_while(held, waits).unwrap_or_else(PoisonError::into_inner);
        (!held.closed).then(|| held.session.clone())
    }

    /// The same, for `limit` at most.
    pub fn wait_heartbeat(&self, limit: Duration) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |held: &mut Held| !held.closed && !held.lost && !held.is_beaten();
        let _passed = self.changed.wait_timeout_while(held, limit, waits).unwrap_or_else(PoisonError::into_inner);
    }

    /// The Host has taken a heartbeat.
    pub fn beaten(&self, session: &Session) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).beaten = session.number;
        self.changed.notify_all();
    }

    /// The Host does not know this session: true if it was the current one.
    pub fn lost(&self, session: &Session) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let current = held.session == *session && !held.lost;
        held.lost |= current;
        current
    }

    /// It is the session of now. An answer to a call of another one says nothing about this Runner: it has registered since, or is
    /// about to.
    pub fn is_current(&self, session: &Session) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.session == *session && !held.lost
    }

    /// Nobody waits any more.
    pub fn close(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    /// Closed?
    pub fn is_closed(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// # Errors
    /// See [`LinkFault`].
    pub fn heartbeat(&self, beat: &Heartbeat) -> Result<HeartbeatAnswer, LinkFault> {
        self.call("PUT", &format!("/heartbeat/{}", self.hostname), Some(beat), CALL)
    }

    /// # Errors
    /// See [`LinkFault`].
    pub fn observed(
        &self,
        session: &Session,
        batch: &Batch,
        outputs: Vec<OutputChunk>,
    ) -> Result<ObservedAnswer, LinkFault> {
        let body = batch.body(session, outputs);
        self.call("PUT", &format!("/runner/{}/observed", self.hostname), Some(&body), REPORT)
    }

    /// The Host's list as soon as it is not `version`; the Host holds the call for `hold` at most. `through`: only so much of that
    /// version is here.
    ///
    /// # Errors
    /// See [`LinkFault`].
    pub fn desired(
        &self,
        session: &Session,
        version: &str,
        through: Option<TaskId>,
        hold: Duration,
    ) -> Result<DesiredAnswer, LinkFault> {
        let (host, session, version) = (&self.hostname, escaped(&session.id), escaped(version));
        let through = through.map(|id| format!("&through={id}")).unwrap_or_default();
        let path = format!("/runner/{host}/desired?session={session}&version={version}&changes=1&parts=1{through}");
        self.call::<(), _>("GET", &path, None, hold + CALL)
    }

    /// A piece of what a task wrote.
    ///
    /// # Errors
    /// See [`LinkFault`]; `Taken` here means that the Host cannot keep that task's output.
    pub fn ship(
        &self,
        session: &Session,
        task: TaskId,
        attempt: Attempt,
        stream: Stream,
        offset: u64,
        bytes: &[u8],
    ) -> Result<OutputHave, LinkFault> {
        let (host, session, attempt) = (&self.hostname, escaped(&session.id), attempt.0);
        let path = format!("/runner/{host}/output/{task}/{attempt}/{stream}?session={session}&offset={offset}");
        self.read("PUT", &path, self.shipping.put_bytes(&path, bytes, REPORT))
    }

    /// A call of no session, with its whole answer.
    ///
    /// # Errors
    /// See [`LinkFault`]; `NotRegistered` here means that there is no such thing.
    pub fn get(&self, path: &str, timeout: Duration) -> Result<Vec<u8>, LinkFault> {
        let answer = self.fetching.call("GET", path, None, timeout);
        let answer = answer.map_err(|fault| LinkFault::Unreachable(fault.to_string()))?;
        if answer.status == 200 { Ok(answer.body) } else { Err(self.refusal(answer.status, &answer.body, path)) }
    }

    /// A call of no session, whose answer is read as it comes; `idle` is the longest silence.
    ///
    /// # Errors
    /// As [`Link::get`].
    pub fn open_stream(&self, path: &str, idle: Duration) -> Result<Coming, LinkFault> {
        let unreachable = |fault: String| LinkFault::Unreachable(fault);
        let (status, stream) = self.fetching.stream(path, idle).map_err(|fault| unreachable(fault.to_string()))?;
        if status == 200 {
            return Ok(stream);
        }
        let mut body = Vec::new();
        stream.take(REFUSAL).read_to_end(&mut body).map_err(|fault| unreachable(fault.to_string()))?;
        Err(self.refusal(status, &body, path))
    }

    fn refusal(&self, status: u16, body: &[u8], path: &str) -> LinkFault {
        let detail = json::decode::<Detail>(body).map(|detail| detail.detail);
        fault(status, detail.ok(), self.host(), path.split('?').next().unwrap_or(path))
    }

    /// Opens the connection of a shell that a user waits for at the Host.
    ///
    /// # Errors
    /// See [`ConnectFault`].
    pub fn shell(&self, session: &Session, id: &str) -> Result<Socket, ConnectFault> {
        let path = format!("/runner/{}/shell/{}?session={}", self.hostname, escaped(id), escaped(&session.id));
        let address = self.host().trim_start_matches("http://");
        websocket::connect(address, &path, self.node_token.as_deref(), CALL, LARGEST_MESSAGE)
    }

    fn call<Q: SerJson, A: DeJson>(
        &self,
        method: &str,
        path: &str,
        body: Option<&Q>,
        timeout: Duration,
    ) -> Result<A, LinkFault> {
        let body = body.map(json::encode);
        self.read(method, path, self.client.call(method, path, body.as_deref(), timeout))
    }

    fn read<A: DeJson>(&self, method: &str, path: &str, answer: Result<Answer, ClientFault>) -> Result<A, LinkFault> {
        let answer = answer.map_err(|fault| LinkFault::Unreachable(fault.to_string()))?;
        if answer.status == 200 || answer.status == 201 {
            let host = self.host();
            return json::decode(&answer.body).map_err(|fault| {
                LinkFault::Misfit(format!("{host} answers {method} {path} with what is no answer: {fault}"))
            });
        }
        Err(self.refusal(answer.status, &answer.body, path))
    }
}

/// Sorts an answer that is no success.
fn fault(status: u16, detail: Option<String>, host: &str, path: &str) -> LinkFault {
    let text = match &detail {
        Some(detail) => format!("{host} answers {status}: {detail}"),
        None => format!("{host} answers {status} to {path}, without a reason: is it a HakuRiver Host?"),
    };
    match status {
        401 | 403 => LinkFault::Denied(text),
        409 => LinkFault::Taken(detail.unwrap_or(text)),
        // Only with a reason: else it is some other server's word for a path that it does not have.
        404 if detail.is_some() => LinkFault::NotRegistered,
        410 => LinkFault::Superseded(detail.unwrap_or(text)),
        408 | 429 | 500.. => LinkFault::Unreachable(text),
        _ => LinkFault::Misfit(text),
    }
}

/// A value of a query (RFC 3986).
fn escaped(value: &str) -> String {
    use fmt::Write as _;
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes every text");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted() {
        let detail = || Some("why".to_owned());
        for (status, detail, expected) in [
            (401, detail(), LinkFault::Denied("h answers 401: why".to_owned())),
            (403, detail(), LinkFault::Denied("h answers 403: why".to_owned())),
            (404, detail(), LinkFault::NotRegistered),
            (409, detail(), LinkFault::Taken("why".to_owned())),
            (410, detail(), LinkFault::Superseded("why".to_owned())),
            (422, detail(), LinkFault::Misfit("h answers 422: why".to_owned())),
            (503, detail(), LinkFault::Unreachable("h answers 503: why".to_owned())),
        ] {
            assert_eq!(fault(status, detail, "h", "/register"), expected);
        }
        let LinkFault::Misfit(text) = fault(404, None, "h", "/register") else { panic!("some web server") };
        assert!(text.contains("is it a HakuRiver Host?"), "{text}");
    }

    #[test]
    fn what_stands_in_a_query_is_escaped() {
        assert_eq!(escaped("ab-1.2_~"), "ab-1.2_~");
        assert_eq!(escaped("a&b=c d+é"), "a%26b%3Dc%20d%2B%C3%A9");
    }

    #[test]
    fn a_session_is_waited_for_and_lost_once() {
        let join = Join { host: "127.0.0.1:1".to_owned(), node_token: None };
        let held = Held { session: Session { id: "s".to_owned(), number: 1 }, ..Held::default() };
        let link = Link { held: Mutex::new(held), ..Link::new(&join, "n") };
        let session = link.session().expect("it is there");
        assert!(link.is_current(&session));
        assert!(link.lost(&session));
        assert!(!link.lost(&session), "already known");
        assert!(!link.is_current(&session));
        link.close();
        assert_eq!(link.session(), None);
        assert_eq!(link.session_with_heartbeat(), None);
    }
}
