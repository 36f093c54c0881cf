//! What a user asked for. Parsed once, at the edge; inside it is trusted.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::ids::{EnvName, GpuId, NumaId, TaskName};
use super::size::Bytes;
use super::ssh_key::PublicKey;
use super::target::Target;

/// One task as it was asked for: everything but its id, batch and standing.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Environment variables, in the order given; one copy for all tasks of a batch. They often hold secrets.
    pub env: Arc<[EnvVar]>,
    /// What to do when it does not fit now.
    pub patience: Patience,
    /// TERM after this long, then KILL.
    pub time_limit: Option<Duration>,
    /// Working directory; None = `/shared` in a container, the record folder otherwise.
    pub workdir: Option<String>,
    /// Who runs it (commands only).
    pub user: Option<UserId>,
}

impl TaskSpec {
    /// The NUMA node asked for.
    pub fn numa(&self) -> Option<NumaId> {
        self.target.as_ref().and_then(|target| target.numa)
    }
}

/// The two kinds of task.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// In a container of this environment.
    Environment { name: EnvName, privileged: bool, mounts: Vec<Mount> },
    /// Straight on the node (`--container NULL`); commands only.
    Null,
}

/// Which GPUs a task asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Absolute, normalised path on the node (`/` is possible).
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
    fn from_str(text: &str) -> Result<Self, SpecFault> {
        let fault = |what: &str| {
            let shown: String = text.chars().take(100).collect();
            SpecFault(format!(
                "mount {shown:?} is not valid: {what}; expected HOST_PATH:CONTAINER_PATH[:ro|rw], such as /data:/data:ro"
            ))
        };
        let mut parts = text.split(':');
        let (Some(host), Some(container)) = (parts.next(), parts.next()) else {
            return Err(fault("the path in the container is missing"));
        };
        let read_only = match parts.next() {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(mode) => {
                let shown: String = mode.chars().take(20).collect();
                return Err(fault(&format!("the mode is ro or rw, not {shown:?}")));
            }
        };
        if parts.next().is_some() {
            return Err(fault("it has more than three parts (a path cannot contain ':')"));
        }
        let host = normalise(host).map_err(|what| fault(&format!("the path on the node {what}")))?;
        let container = normalise(container).map_err(|what| fault(&format!("the path in the container {what}")))?;
        if container == "/" {
            return Err(fault("the path in the container cannot be /"));
        }
        if container == OWN_ROOT || container.strip_prefix(OWN_ROOT).is_some_and(|rest| rest.starts_with('/')) {
            return Err(fault(&format!("{OWN_ROOT} in the container is HakuRiver's own")));
        }
        Ok(Self { host, container, read_only })
    }
}

impl Mount {
    /// Of one task: each is written for each task of a batch, and each pair of them is compared.
    pub const MOST: usize = 64;

    /// Not too many, and no place in the container has two.
    ///
    /// # Errors
    /// One sentence that names both.
    pub fn check_distinct(mounts: &[Self]) -> Result<(), SpecFault> {
        if mounts.len() > Self::MOST {
            return Err(SpecFault(format!("these are {} mounts, at most {} can be given", mounts.len(), Self::MOST)));
        }
        for (at, mount) in mounts.iter().enumerate() {
            if let Some(first) = mounts[..at].iter().find(|first| first.container == mount.container) {
                return Err(SpecFault(format!("two mounts have the same place in the container: {first} and {mount}")));
            }
        }
        Ok(())
    }
}

/// Where the product's own files stand in a container.
const OWN_ROOT: &str = "/.hakuriver";

/// An absolute path without `//`, `.` and a closing `/`. What Docker's options would read as something else is refused:
/// `,` and `"` separate and quote in `--mount`, `:` separates in `-v`, and `..` could lead out of an allowed folder.
fn normalise(path: &str) -> Result<String, &'static str> {
    if path.is_empty() {
        return Err("is missing");
    }
    if !path.starts_with('/') {
        return Err("is not absolute");
    }
    if path.len() >= 4096 {
        return Err("is too long");
    }
    if path.chars().any(char::is_control) {
        return Err("contains a control character");
    }
    if path.contains([',', '"']) {
        return Err("contains a comma or a double quote, which Docker would take apart");
    }
    let mut normal = String::with_capacity(path.len());
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("contains '..'"),
            part => {
                normal.push('/');
                normal.push_str(part);
            }
        }
    }
    Ok(if normal.is_empty() { "/".to_owned() } else { normal })
}

impl fmt::Display for Mount {
    /// The form that parses back, as Docker's `-v` takes it too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.container, if self.read_only { "ro" } else { "rw" })
    }
}

impl EnvVar {
    /// Checks a name and a value that stand apart, as in a request's `env_vars`.
    ///
    /// # Errors
    /// One sentence that names the variable, and never shows its value.
    pub fn new(name: &str, value: &str) -> Result<Self, SpecFault> {
        let valid = name.bytes().enumerate().all(|(at, b)| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => true,
            b'0'..=b'9' => at > 0,
            _ => false,
        });
        if name.is_empty() || name.len() > 255 || !valid {
            let shown: String = name.chars().take(60).collect();
            return Err(SpecFault(format!(
                "environment variable name {shown:?} is not valid: expected a letter or '_', then letters, digits and '_', at most 255 in all"
            )));
        }
        if value.contains('\0') {
            return Err(SpecFault(format!("environment variable {name}: its value contains a NUL byte")));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl EnvVar {
    /// Can a VPS have it? An SSH server hands variables to its sessions one a line.
    ///
    /// # Errors
    /// One sentence that names the variable, and never shows its value.
    pub fn check_for_vps(&self) -> Result<(), SpecFault> {
        if self.value.contains('\n') {
            let name = &self.name;
            return Err(SpecFault(format!(
                "environment variable {name}: its value has a line break, which an SSH server cannot hand to its sessions; \
                 put it into a file in a mounted directory"
            )));
        }
        Ok(())
    }
}

impl FromStr for EnvVar {
    type Err = SpecFault;

    /// `NAME=VALUE`
    fn from_str(text: &str) -> Result<Self, SpecFault> {
        match text.split_once('=') {
            Some((name, value)) => Self::new(name, value),
            // The text is not shown: what stands here without '=' may be a secret in the wrong place.
            None => Err(SpecFault("environment variable without '=': expected NAME=VALUE".to_owned())),
        }
    }
}

impl FromStr for UserId {
    type Err = SpecFault;

    /// `UID[:GID]`
    fn from_str(text: &str) -> Result<Self, SpecFault> {
        let fault = || {
            let shown: String = text.chars().take(40).collect();
            SpecFault(format!(
                "user {shown:?} is not valid: expected UID[:GID], two decimal numbers below 4294967295, such as 1000 or 1000:100"
            ))
        };
        let id = |digits: &str| {
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(fault());
            }
            // 4294967295 is -1, which the system calls read as "leave it as it is": as root, if a Runner is root.
            digits.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(fault)
        };
        match text.split_once(':') {
            Some((uid, gid)) => Ok(Self { uid: id(uid)?, gid: Some(id(gid)?) }),
            None => Ok(Self { uid: id(text)?, gid: None }),
        }
    }
}

impl fmt::Display for UserId {
    /// The form that parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gid {
            Some(gid) => write!(f, "{}:{gid}", self.uid),
            None => self.uid.fmt(f),
        }
    }
}

/// The longest duration that is accepted.
const MAX_DURATION: Duration = Duration::from_secs(365 * 86_400);

/// Parses a duration as the command line takes it: `90`, `90s`, `5m`, `2h30m`, `1d`. More than 0, at most 365 days.
///
/// # Errors
/// One sentence that names the accepted form.
pub fn parse_duration(text: &str) -> Result<Duration, SpecFault> {
    duration_seconds(text).map(Duration::from_secs).filter(|d| !d.is_zero() && *d <= MAX_DURATION).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        SpecFault(format!(
            "duration {shown:?} is not valid: expected seconds, or numbers with d, h, m, s in this order, such as 90, 5m, 2h30m or 1d; more than 0, at most 365d"
        ))
    })
}

/// Seconds; None for what is no duration.
fn duration_seconds(text: &str) -> Option<u64> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse::<u64>().ok() } else { None }
    };
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return number(text);
    }
    let mut rest = text;
    let mut total = 0_u64;
    for (unit, seconds) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        if let Some((digits, after)) = rest.split_once(unit) {
            total = total.checked_add(number(digits)?.checked_mul(seconds)?)?;
            rest = after;
        }
    }
    if rest.is_empty() { Some(total) } else { None }
}

#[cfg(test)]
mod tests;
