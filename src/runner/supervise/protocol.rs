//! What the Runner and its node's supervisor say to each other, over a local socket: frames of JSON, each with its length in
//! front.
//!
//! Level-triggered like the talk with the Host: the supervisor tells the whole state of a task whenever that changes, and
//! all of them when a Runner connects; asking for the same thing twice does no harm.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use nanoserde::{DeJson, SerJson};

/// What the Runner asks for.
#[derive(Clone, DeJson, SerJson)]
pub enum Ask {
    /// The first frame of a connection.
    Hello(Hello),
    /// A task and attempt that is known already is left as it is.
    Start(Box<Start>),
    /// TERM to all of it, KILL after a grace. Nothing where it is not known.
    Stop(Which),
    /// Freezes all of it.
    Pause(Which),
    Resume(Which),
    /// Its end is stored by the Host: nothing is to be remembered of it. Nothing happens while it lives.
    Forget(Which),
}

/// Who asks.
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct Hello {
    /// The version of the Runner's program.
    pub version: String,
    /// Where the journal is to stand: `<state>/runner/<hostname>`. Made again if it was removed.
    pub folder: String,
}

/// One attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq, DeJson, SerJson)]
pub struct Which {
    pub task: u64,
    pub attempt: u32,
}

/// All that is needed to start a task.
#[derive(Clone, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct Start {
    pub task: u64,
    pub attempt: u32,
    /// Program and arguments, in the text form of `domain::raw_text`.
    pub argv: Vec<String>,
    /// The whole environment (names, values in the text form): nothing else is inherited.
    pub env: Vec<(String, String)>,
    /// Absolute; None: `/`.
    pub workdir: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// CPUs it is bound to, in list form; empty: all that the supervisor has.
    pub cpus: String,
    /// NUMA nodes its memory comes from, in list form; empty: all.
    pub mems: String,
    /// The CPUs are its own. Else its CPU weight is low.
    pub exclusive: bool,
    /// Bytes.
    pub memory: Option<u64>,
    pub time_limit_seconds: Option<u64>,
    /// Where its output goes on the node: `<output>.stdout` and `<output>.stderr`. The folder is made by the supervisor if it is
    /// not there.
    pub output: String,
    /// Inside a systemd scope.
    pub scope: bool,
}

/// What the supervisor tells.
#[derive(Clone, Debug, DeJson, SerJson)]
pub enum Tell {
    /// Everything that it has, once for each connection, first.
    All(Vec<TaskState>),
    /// What has changed.
    Changed(Vec<TaskState>),
    /// Before all of it: some of its journal could not be read, so what it does not have may have been begun all the same.
    Gaps,
}

/// One attempt at a task, as the supervisor has it.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct TaskState {
    pub task: u64,
    pub attempt: u32,
    /// `starting`, `running`, `paused`, `ended`
    pub phase: String,
    /// It was asked to stop.
    pub stopping: bool,
    pub pid: Option<u32>,
    /// Milliseconds since 1970.
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    /// Only when `ended`; on disk before it is told.
    pub end: Option<End>,
    /// As in [`Start`].
    pub cpus: String,
    pub exclusive: bool,
    /// The systemd scope.
    pub unit: Option<String>,
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct End {
    /// None: it was never started, or its result is not known; see `fault`.
    pub code: Option<i32>,
    /// The signal that ended it; `code` is 128 + n then.
    pub signal: Option<i32>,
    /// The kernel has killed something of it for want of memory.
    pub oom: bool,
    /// Its time limit was over.
    pub timed_out: bool,
    /// It was asked to stop before it ended.
    pub stopped: bool,
    /// Why it could not start, or why its result is not known: for the user.
    pub fault: Option<String>,
}

/// The file of what a task wrote to its standard output: its whole name in a container's folder, its ending elsewhere.
pub const STDOUT: &str = "stdout";
/// The same for its standard error.
pub const STDERR: &str = "stderr";

/// The abstract socket's name (without the leading NUL).
pub fn socket_name(cluster: &str, node: &str) -> String {
    format!("hakuriver-{cluster}-{node}")
}

impl std::fmt::Debug for Start {
    /// Without the environment: it often holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("task", &self.task).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
