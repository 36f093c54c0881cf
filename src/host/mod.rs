//! The coordinator: API, scheduler, SSH proxy. It never waits for a Runner, and knows nothing of Docker on nodes.

use std::fmt;
use std::net::SocketAddr;

use crate::config::Config;
use crate::sys::shutdown::Stop;

mod archives;
mod backup;
mod directory;
mod engine;
mod environments;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod health;
mod outputs;
mod recent;
mod render;
mod routes;
mod run;
mod signal;
mod submission;
mod terminal;
mod tokens;
mod tunnel;
mod view;

pub use backup::{back_up, restore};
#[cfg(test)]
pub(crate) use engine::simulated;

/// The Host is ready: where it listens.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The HTTP API.
    pub api: SocketAddr,
    /// The SSH proxy.
    pub tunnel: SocketAddr,
}

/// Why the Host could not start or had to end: one or two lines for the user.
#[derive(Clone, Debug)]
pub struct HostFault(pub String);

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the Host until `stop`; `ready` is called once, when both ports listen and the API answers.
///
/// # Errors
/// See [`HostFault`].
pub fn run(config: &Config, stop: &Stop, ready: &mut dyn FnMut(&Ready)) -> Result<(), HostFault> {
    run::run(config, stop, ready)
}

/// What `url` says of a node. A 0.3 Runner listened there; ours listens on nothing, which port 0 tells.
fn node_url(address: &str) -> String {
    if address.contains(':') { format!("http://[{address}]:0") } else { format!("http://{address}:0") }
}
