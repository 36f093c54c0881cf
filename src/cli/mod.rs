//! The user's commands. One verb, one file.
//!
//! Bad input never leaves the machine: a command parses its words to domain types before it talks to the Host. What it
//! reports goes to stdout, everything else to stderr. It knows nothing of Host and Runner but the API.

pub mod args;
pub mod fault;
pub mod output;
pub mod role;
pub mod server_args;

use fault::Fault;
use role::Invocation;

/// Is one of the user's roles.
///
/// # Errors
/// See [`Fault`].
pub fn run(invocation: &Invocation) -> Result<(), Fault> {
    match invocation.role {
        role => Err(Fault::Usage(format!(
            "'hakuriver {}' is not part of this version ({})",
            role.word(),
            env!("CARGO_PKG_VERSION")
        ))),
    }
}
