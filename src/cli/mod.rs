//! The user's commands. One verb, one file.
//!
//! Bad input never leaves the machine: a command parses its words to domain types before it talks to the Host. What it
//! reports goes to stdout, everything else to stderr. It knows nothing of Host and Runner but the API.

pub mod args;
pub mod fault;
pub mod output;
pub mod role;
pub mod server_args;

mod client;
mod command;
mod docker;
mod host_api;
mod init;
mod interrupt;
mod kill;
mod run;
mod shell;
mod ssh;
mod submit;
mod table;
mod task;
mod task_ref;
mod terminal;
mod vps;
mod words;

use fault::Fault;
use role::{Invocation, Role};

/// Is one of the user's roles.
///
/// # Errors
/// See [`Fault`].
pub fn run(invocation: &Invocation) -> Result<(), Fault> {
    match invocation.role {
        Role::Vps => vps::run(invocation),
        Role::Task => task::run(invocation),
        Role::Client => client::run(invocation),
        Role::Docker => docker::run(invocation),
        Role::Ssh => ssh::run(invocation),
        Role::DockerShell => shell::docker(invocation),
        Role::Run => run::run(invocation),
        Role::Init => init::run(invocation),
        role => Err(not_here(&format!("hakuriver {}", role.word()))),
    }
}

/// The answer where a part of HakuRiver is not in this version.
fn not_here(what: &str) -> Fault {
    Fault::Usage(format!("'{what}' is not part of this version ({})", env!("CARGO_PKG_VERSION")))
}
