//! What a user asked for. Parsed once, at the edge; inside it is trusted.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::ids::{EnvName, GpuId, TaskName};
use super::size::Bytes;
use super::ssh_key::PublicKey;
use super::target::Target;

/// One task as it was asked for: everything but its id, batch and standing.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSpec {
    /// A VPS with its keys, or a command with its arguments.
    pub kind: TaskKind,
    /// Cores of its own; 0 = not pinned, no part in core accounting.
    pub cores: u32,
    /// The memory limit, held from placement to proof of death.
    pub memory: Option<Bytes>,
    /// Which GPUs, or how many.
    pub gpus: GpuRequest,
    /// The node (and NUMA node) asked for; None = the Host chooses.
    pub target: Option<Target>,
    /// The environment to run in, or straight on the node.
    pub container: Container,
    /// Name of the task, if it has one.
    pub name: Option<TaskName>,
    /// Environment variables, in the order given. They often hold secrets.
    pub env: Vec<EnvVar>,
    /// What to do when it does not fit now.
    pub patience: Patience,
    /// TERM after this long, then KILL.
    pub time_limit: Option<Duration>,
    /// Working directory; None = `/shared` in a container, the record folder otherwise.
    pub workdir: Option<String>,
    /// Who runs it (commands only).
    pub user: Option<UserId>,
}

/// The two kinds of task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskKind {
    /// A persistent container with an SSH server; at least one key.
    Vps { keys: Vec<PublicKey> },
    /// A command line run to completion: the program and its arguments, as given.
    Command { program: String, arguments: Vec<String> },
}

impl TaskKind {
    /// `vps` or `command`, as in the API's `task_type`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Vps { .. } => "vps",
            Self::Command { .. } => "command",
        }
    }
}

/// Where a task runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Container {
    /// In a container of this environment.
    Environment { name: EnvName, privileged: bool, mounts: Vec<Mount> },
    /// Straight on the node (`--container NULL`); commands only.
    Null,
}

/// Which GPUs a task asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuRequest {
    /// None.
    None,
    /// Exactly these of the target node (never empty, no doubles).
    Ids(Vec<GpuId>),
    /// Any free ones, this many (at least 1).
    Any(u32),
}

impl GpuRequest {
    /// How many GPUs it takes.
    pub fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Ids(ids) => ids.len(),
            Self::Any(n) => *n as usize,
        }
    }
}

/// What to do with a task that does not fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Patience {
    /// Fail rather than wait (`--immediate`).
    pub immediate: bool,
    /// Wait also for a named node that is offline or draining (`--queue`).
    pub queue: bool,
    /// `failed` when it is still waiting after this long (`--max-wait`).
    pub max_wait: Option<Duration>,
}

/// One environment variable. Its Debug hides the value.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// `[A-Za-z_][A-Za-z0-9_]*`
    pub name: String,
    /// Anything without a NUL byte.
    pub value: String,
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=<hidden>", self.name)
    }
}

/// An additional directory of the node in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute, normalised path on the node.
    pub host: String,
    /// Absolute, normalised path in the container; not `/` and not below the product's own `/.hakuriver`.
    pub container: String,
    /// `:ro`
    pub read_only: bool,
}

/// A numeric user and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserId {
    pub uid: u32,
    /// None = the group with the uid's number.
    pub gid: Option<u32>,
}

/// Why a part of a specification was refused: one sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecFault(pub String);

impl fmt::Display for SpecFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Mount {
    type Err = SpecFault;

    /// `HOST_PATH:CONTAINER_PATH[:ro|rw]`
    fn from_str(_text: &str) -> Result<Self, SpecFault> {
        unimplemented!("domain")
    }
}

impl fmt::Display for Mount {
    /// The form that parses back, as Docker's `-v` takes it too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.container, if self.read_only { "ro" } else { "rw" })
    }
}

impl FromStr for EnvVar {
    type Err = SpecFault;

    /// `NAME=VALUE`
    fn from_str(_text: &str) -> Result<Self, SpecFault> {
        unimplemented!("domain")
    }
}

impl FromStr for UserId {
    type Err = SpecFault;

    /// `UID[:GID]`
    fn from_str(_text: &str) -> Result<Self, SpecFault> {
        unimplemented!("domain")
    }
}

/// Parses a duration as the command line takes it: `90`, `90s`, `5m`, `2h30m`, `1d`. More than 0, at most 365 days.
///
/// # Errors
/// One sentence that names the accepted form.
pub fn parse_duration(_text: &str) -> Result<Duration, SpecFault> {
    unimplemented!("domain")
}
