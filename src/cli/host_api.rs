//! The Host, as a command sees it: calls, and what their failures mean to a user.

use std::path::Path;
use std::time::Duration;

use nanoserde::DeJson;

use super::fault::Fault;
use super::output;
use crate::api::json;
use crate::api::public::{ErrorBody, Message};
use crate::config::auth::Bearer;
use crate::config::{self, AuthMode, Config, ConfigFault, Loaded, address};
use crate::net::http_client::{Answer, Client, ClientFault};

/// Long enough for a Host under load, short enough for someone who waits.
const CALL_TIME: Duration = Duration::from_secs(30);
/// Docker has three minutes for what the Host asks of it.
const DOCKER_TIME: Duration = Duration::from_secs(240);

/// The Host of a configuration.
pub(super) struct Host {
    pub(super) loaded: Loaded,
    client: Client,
    /// Why there is no token. It matters only if the Host asks for one.
    token_fault: Option<ConfigFault>,
}

/// Reads the configuration and prints its warnings.
pub(super) fn load(path: Option<&Path>) -> Result<Loaded, Fault> {
    let loaded = config::load(path)?;
    for warning in &loaded.warnings {
        output::error_line(&format!("warning: {warning}"));
    }
    Ok(loaded)
}

/// The user's token, or why there is none.
pub(super) fn token(config: &Config) -> (Option<String>, Option<ConfigFault>) {
    match config.auth.token(Bearer::User) {
        Ok(token) => (token, None),
        Err(fault) => (None, Some(fault)),
    }
}

impl Host {
    /// Nothing is sent yet.
    pub(super) fn of(path: Option<&Path>) -> Result<Self, Fault> {
        Self::from_loaded(load(path)?)
    }

    pub(super) fn from_loaded(loaded: Loaded) -> Result<Self, Fault> {
        let address = address::api(&loaded.config).map_err(|fault| Fault::Unreachable(fault.0))?;
        let (token, token_fault) = token(&loaded.config);
        let client = Client::new(&format!("http://{address}"), token.as_deref());
        Ok(Self { loaded, client, token_fault })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The body of a GET.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>, Fault> {
        let answer = self.client.call("GET", path, None, CALL_TIME).map_err(|fault| self.unreachable(&fault))?;
        self.success(answer)
    }

    /// A GET, decoded.
    pub(super) fn get_as<T: DeJson>(&self, path: &str) -> Result<T, Fault> {
        decode(path, &self.get(path)?)
    }

    /// A POST without a body, that is answered with a message. `look` is the command that shows whether it was carried out.
    pub(super) fn post(&self, path: &str, look: &str) -> Result<String, Fault> {
        self.post_within(path, look, CALL_TIME)
    }

    /// As [`Host::post`], where Docker takes its time on the Host.
    pub(super) fn post_slow(&self, path: &str, look: &str) -> Result<String, Fault> {
        self.post_within(path, look, DOCKER_TIME)
    }

    fn post_within(&self, path: &str, look: &str, time: Duration) -> Result<String, Fault> {
        let answer = self.client.call("POST", path, None, time).map_err(|fault| self.unanswered(&fault, look))?;
        Ok(decode::<Message>(path, &self.success(answer)?)?.message)
    }

    /// The body of a 2xx; the fault that another status means.
    pub(super) fn success(&self, answer: Answer) -> Result<Vec<u8>, Fault> {
        match answer.status {
            200..=299 => Ok(answer.body),
            401 => Err(self.unauthorised(&detail(&answer))),
            _ => Err(Fault::Refused(detail(&answer))),
        }
    }

    fn unauthorised(&self, detail: &str) -> Fault {
        let auth = &self.loaded.config.auth;
        let base = self.client.base();
        Fault::Refused(match (&self.token_fault, auth.mode) {
            (Some(fault), _) => format!("the Host at {base} asks for a token: {fault}"),
            (None, AuthMode::None) => {
                format!(
                    "the Host at {base} asks for a token, and auth.mode is \"none\" in {}",
                    self.loaded.file.display()
                )
            }
            (None, AuthMode::Token) => format!(
                "{detail}\nit comes from {}; the right one is the file 'token' in the Host's state directory",
                auth.source()
            ),
        })
    }

    /// No answer came.
    pub(super) fn unreachable(&self, fault: &ClientFault) -> Fault {
        let file = self.loaded.file.display();
        let base = self.client.base();
        Fault::Unreachable(match fault {
            ClientFault::Unreachable { reason, .. } => format!(
                "cannot reach the Host at {base}: {reason}\n\
                 start it with 'hakuriver up' or set network.host_reachable_address in {file}"
            ),
            ClientFault::Broken { reason, .. } => format!(
                "the Host at {base} did not answer: {reason}\n\
                 try again; if that goes on, look at the Host's log and at the network in between"
            ),
        })
    }

    /// No answer came to a call that changes something. `look` is the command that shows whether it did.
    pub(super) fn unanswered(&self, fault: &ClientFault, look: &str) -> Fault {
        match fault {
            ClientFault::Unreachable { .. } => self.unreachable(fault),
            ClientFault::Broken { reason, .. } => Fault::Unreachable(format!(
                "the Host at {} did not answer: {reason}\n\
                 whether this was carried out is not known: see '{look}', and try again if it was not",
                self.client.base()
            )),
        }
    }
}

fn detail(answer: &Answer) -> String {
    match json::decode::<ErrorBody>(&answer.body) {
        Ok(body) => body.detail,
        // Something else listens there, or a proxy answers in its place.
        Err(_) => {
            format!("the Host answered with HTTP status {} and no explanation; is it HakuRiver's?", answer.status)
        }
    }
}

/// Decodes what the Host sent.
pub(super) fn decode<T: DeJson>(path: &str, body: &[u8]) -> Result<T, Fault> {
    json::decode(body).map_err(|fault| {
        Fault::Refused(format!("the Host's answer to {path} is not understood: {fault}; is its version another?"))
    })
}
