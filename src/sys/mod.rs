//! The only place for libc, nix and unsafe: everything that talks to the kernel or starts a program.
//!
//! It knows nothing of tasks and nodes. Readers of `/proc` and `/sys` take a root path, so that they are tested on
//! trees of files.

pub mod affinity;
pub mod cgroup;
pub mod children;
pub mod clock;
pub mod command;
pub mod fault;
pub mod file;
pub mod init;
pub mod inotify;
pub mod launch;
pub mod local;
pub mod log;
pub mod looks;
pub mod names;
pub mod notify;
pub mod numa;
pub mod process;
pub mod procfs;
pub mod pty;
pub mod random;
pub mod ready;
pub mod recall;
pub mod shutdown;
#[cfg(test)]
pub(crate) mod simulated;
pub mod socket;
pub mod thread;
pub mod tty;
pub mod wake;

/// What every role does first, before it starts a thread or looks up a name.
pub fn at_start() {
    names::keep_to_files_and_dns();
    thread::keep_arenas_few();
}
