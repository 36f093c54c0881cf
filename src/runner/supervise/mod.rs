//! Our own binary as the parent of tasks. It must not know the Host, and talks to the Runner through files alone.

mod accounts;
pub mod box_file;
mod command;
pub mod frame;
pub mod in_container;
pub mod node;
mod packages;
pub mod protocol;
mod sshd;
mod vps;
