//! The agent on a node. It listens on nothing, and does what the Host's list says.
//!
//! The way of an order: `talk` polls the list → `order` reads it → `agent` compares it with what is here and starts an
//! operation of `work` in a thread of its own → `executor` tells Docker → `record` keeps what came of it → `observed` holds
//! it until `talk` has reported it. `watch` tells the agent what Docker does meanwhile; `judge` says what follows from that.

use std::fmt;

use crate::config::Config;
use crate::sys::shutdown::Stop;

pub mod agent;
mod alone;
pub mod backoff;
pub mod depot;
pub mod executor;
pub(crate) mod following;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod gate;
pub mod holdings;
pub mod home;
pub mod host_key;
pub mod images;
pub mod inventory;
pub mod judge;
pub mod link;
pub mod message;
pub mod node;
pub mod observed;
pub mod on_node;
pub mod order;
pub mod outcome;
pub mod output;
pub mod record;
mod run;
pub mod shells;
pub mod storage;
pub mod supervise;
pub mod supervisor;
pub mod talk;
pub mod watch;
pub mod work;

/// Which Host, and with what right.
#[derive(Clone)]
pub struct Join {
    /// `ADDR:PORT` of the Host's API.
    pub host: String,
    /// The node token; None in auth mode "none".
    pub node_token: Option<String>,
}

/// The Runner is ready: it is registered.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The node's name.
    pub hostname: String,
    /// The address on which its VPS ports are published.
    pub address: String,
}

/// Why the Runner could not start or had to end: one or two lines for the user.
#[derive(Clone, Debug)]
pub struct RunnerFault(pub String);

impl fmt::Display for RunnerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the Runner until `stop` (its tasks go on); `ready` is called at every successful registration.
///
/// # Errors
/// See [`RunnerFault`]. A Host that cannot be reached is no error: it is tried for ever, with jittered backoff.
pub fn run(config: &Config, join: &Join, stop: &Stop, ready: &mut dyn FnMut(&Ready)) -> Result<(), RunnerFault> {
    run::run(config, join, stop, ready)
}
