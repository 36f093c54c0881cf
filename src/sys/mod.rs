//! The only place for libc, nix and unsafe: everything that talks to the kernel or starts a program.
//!
//! It knows nothing of tasks and nodes.

pub mod clock;
pub mod command;
pub mod file;
pub mod log;
pub mod random;
pub mod shutdown;
pub mod thread;
