//! Threads: named, with small stacks; vital ones end the process if they panic.

use std::thread::JoinHandle;

/// Starts a thread that serves one thing; a panic in it is logged and ends only it.
///
/// # Errors
/// The system has no room for another thread.
pub fn spawn<F: FnOnce() + Send + 'static>(_name: &str, _work: F) -> std::io::Result<JoinHandle<()>> {
    unimplemented!("sys")
}

/// Starts a thread without which the process must not go on (engine, accept, agent, watch): a panic in it ends the
/// process with status 70 and its reason, so that systemd restarts it and reconciliation heals.
pub fn spawn_vital<F: FnOnce() + Send + 'static>(_name: &str, _work: F) -> JoinHandle<()> {
    unimplemented!("sys")
}
