//! The HTTP API: who may ask, what is asked, and the answer in its words. What is decided stands in the engine.

mod archive;
mod environments;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::host) mod fuzz;
mod lists;
mod metrics;
mod nodes;
mod output;
mod path;
mod runner;
mod same_site;
mod stream;
mod submit;
mod tasks;
mod terminal;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::api::json;
use crate::api::public::{ErrorBody, Message, Version};
use crate::net::http::{Handler, Head, Reply};
use crate::store::{Readers, StoreFault};

use self::path::{Audience, Route};
#[cfg(test)]
pub(super) use self::runner::seen;
pub(super) use self::same_site::SameSite;
use super::archives::Archives;
use super::engine::{ActFault, Engine};
use super::environments::Environments;
use super::health::History;
use super::outputs::Outputs;
use super::submission::Rules;
use super::terminal::Terminals;
use super::tokens::{self, Standing, Tokens};

/// Everything that answers need.
pub(super) struct Api {
    pub(super) engine: Engine,
    pub(super) readers: Readers,
    pub(super) tokens: Tokens,
    pub(super) same_site: SameSite,
    pub(super) rules: Rules,
    pub(super) environments: Arc<Environments>,
    pub(super) archives: Archives,
    pub(super) history: Arc<History>,
    pub(super) outputs: Arc<Outputs>,
    pub(super) terminals: Arc<Terminals>,
    pub(super) cluster_id: String,
    /// How long a long poll waits.
    pub(super) poll: Duration,
}

/// Most bodies are small; a submission or an inventory may hold thousands of tasks.
const BODY: usize = 1 << 20;
const LARGE_BODY: usize = 16 << 20;

impl Handler for Api {
    fn admit(&self, head: &Head) -> Result<usize, Reply> {
        let (route, method) = path::parse(&head.path)
            .ok_or_else(|| refuse(404, &format!("{} is no path of this API", shorten(&head.path))))?;
        if head.method != method {
            return Err(refuse(405, &format!("{} takes {method}, not {}", shorten(&head.path), shorten(&head.method))));
        }
        self.same_site.check(head).map_err(|why| refuse(403, &why))?;
        self.authorise(head, route.audience())?;
        let has_body = head.header("content-length").is_some_and(|length| length.trim() != "0");
        let expected = match route {
            Route::Ship(..) => "application/octet-stream",
            _ => "application/json",
        };
        let is_expected = head
            .header("content-type")
            .map(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(expected)));
        // A web page can send a foreign server any type but these without asking it first.
        if is_expected == Some(false) || (has_body && is_expected.is_none()) {
            return Err(refuse(415, &format!("the body has to be of Content-Type {expected}")));
        }
        Ok(match route {
            Route::Submit | Route::Observed(_) => LARGE_BODY,
            // While a body comes, its connection holds its place: a stranger's must not.
            _ if route.audience() == Audience::Open => 0,
            _ => BODY,
        })
    }

    fn end(&self) {
        self.environments.end();
    }

    fn handle(&self, head: &Head, body: &[u8]) -> Reply {
        // Parsed when it was admitted.
        let Some((route, _)) = path::parse(&head.path) else { return refuse(404, "no such path") };
        let answer = match route {
            Route::Healthz => Ok(Reply::json(200, "{\"status\":\"ok\"}".to_owned())),
            Route::Version => Ok(answer(
                200,
                &Version { version: env!("CARGO_PKG_VERSION").to_owned(), cluster_id: self.cluster_id.clone() },
            )),
            Route::Metrics => self.metrics(),
            Route::Nodes => Ok(self.nodes()),
            Route::Health => self.health(head),
            Route::NodeVerb(name, verb) => self.node_verb(&name, verb),
            Route::Submit => self.submit(body),
            Route::Status(task) => self.status(&task),
            Route::Kill(task) => self.kill(&task),
            Route::Control(task, action) => self.control(&task, &action),
            Route::Output(task, stream) => self.output(&task, stream, head),
            Route::TaskTerminal(task) => self.task_terminal(&task, head),
            Route::EnvironmentTerminal(name) => self.environment_terminal(&name, head),
            Route::Tasks => self.tasks(head),
            Route::Vps => self.vps(head),
            Route::VpsStatus => self.vps_status(head),
            Route::Events => self.events(head),
            Route::Containers => self.containers(),
            Route::CreateContainer => self.create_container(head, body),
            Route::ContainerVerb(name, verb) => self.container_verb(&name, verb),
            Route::CreateTar(name) => self.create_tar(&name, head, body),
            Route::Tarballs => self.tarballs(),
            Route::Register => self.register(head, body),
            Route::Heartbeat(name) => self.heartbeat(&name, body),
            Route::Observed(name) => self.observed(&name, body),
            Route::Desired(name) => self.desired(&name, head),
            Route::Environment(name) => self.environment(&name),
            Route::Archive(name, version) => self.archive(&name, version, head),
            Route::Ship(name, task, attempt, stream) => self.ship(&name, task, attempt, stream, head, body),
            Route::NodeShell(name, id) => self.node_shell(&name, &id, head),
        };
        answer.unwrap_or_else(|fault| refuse(fault.status, &fault.detail))
    }
}

impl Api {
    fn authorise(&self, head: &Head, audience: Audience) -> Result<(), Reply> {
        let (wanted, other) = match audience {
            Audience::Open => return Ok(()),
            Audience::User | Audience::Member => {
                (tokens::Audience::User, "this is the nodes' token, and users' calls need the users' token")
            }
            Audience::Node => {
                (tokens::Audience::Node, "this is a user's token, and Runners' calls need the node token")
            }
        };
        let token = head.header("authorization").and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        match self.tokens.check(token, wanted) {
            Standing::Welcome => Ok(()),
            Standing::WrongKind if audience == Audience::Member => Ok(()),
            Standing::WrongKind => Err(refuse(403, other)),
            Standing::Nobody if token.is_none() => Err(refuse(
                401,
                "a token is needed: set auth.token or auth.token_file in the configuration, or HAKURIVER_TOKEN",
            )),
            Standing::Nobody => Err(refuse(401, "the token is not this cluster's")),
        }
    }
}

/// The body of every error.
fn refuse(status: u16, detail: &str) -> Reply {
    answer(status, &ErrorBody { detail: detail.to_owned() })
}

/// An answer of the API's types.
fn answer<T: nanoserde::SerJson>(status: u16, body: &T) -> Reply {
    Reply::json(status, json::encode(body))
}

fn message(status: u16, message: String) -> Reply {
    answer(status, &Message { message })
}

/// The database could not be read: now, or what is asked for, ever.
fn unreadable(fault: StoreFault) -> ActFault {
    let status = if matches!(fault, StoreFault::Row(_)) { 500 } else { 503 };
    ActFault::new(status, fault.to_string())
}

/// Foreign text in a message, at a length that can be read.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
