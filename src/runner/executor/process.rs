//! Tasks straight on the node: as a plain process in a control group of ours, or inside a systemd scope. Used by the node's
//! supervisor, whose children they are.

use crate::runner::supervise::protocol::Start;
use crate::sys::cgroup::{Cgroups, Group};
use crate::sys::launch::Launched;

/// A task that was started.
#[derive(Debug)]
pub struct Running {
    pub process: Launched,
    /// None: this node has no control groups that we may use.
    pub group: Option<Group>,
    /// The systemd scope.
    pub unit: Option<String>,
}

/// Starts what `start` says, with its output in `out/stdout` and `out/stderr` of its folder (made here if need be).
///
/// # Errors
/// For the user: which step failed, on what, and why.
pub fn start(_start: &Start, _cgroups: &Cgroups) -> Result<Running, String> {
    unimplemented!()
}
