//! Starting a program that outlives the call: exec as given, in its own session, bound, limited and as another user.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use crate::domain::cpuset::CpuSet;

/// What to start. All of it is prepared before the fork.
#[derive(Debug)]
pub struct Launch {
    /// Program (looked up on the PATH of `env` if it has no slash) and arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    pub workdir: PathBuf,
    pub stdout: File,
    pub stderr: File,
    /// User and group; supplementary groups are dropped.
    pub user: Option<(u32, u32)>,
    /// Read back after it was set.
    pub cpus: Option<CpuSet>,
    /// NUMA nodes that memory comes from (`MPOL_BIND`).
    pub mems: Option<CpuSet>,
    /// Files to which the child writes `0`: see [`Group::entries`](super::cgroup::Group::entries).
    pub groups: Vec<File>,
    /// Descriptors that the program is to inherit, at the numbers that they have.
    pub keep: Vec<File>,
}

/// A child of this process. It has to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    pub pid: u32,
    /// Clock ticks since the boot, which with the pid names it for good.
    pub start_time: u64,
}

/// Why nothing runs: which step failed, on what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchFault(pub String);

impl fmt::Display for LaunchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Starts it; returns when exec has succeeded or failed.
///
/// # Errors
/// See [`LaunchFault`]; the child is gone then.
pub fn launch(_launch: Launch) -> Result<Launched, LaunchFault> {
    unimplemented!()
}
