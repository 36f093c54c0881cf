//! The file that tells the supervisor in a container what to do: `task.json` in the task's box.
//!
//! In the container: `/.hakuriver/hakuriver` (our binary), `/.hakuriver/task` (the box, read-only), `/.hakuriver/out` (writable;
//! what stands there was written by the container and is not trusted).

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::time::Duration;

use nanoserde::{DeJson, SerJson};

/// Where our own files stand in a container.
pub const ROOT: &str = "/.hakuriver";
/// The binary.
pub const BINARY: &str = "/.hakuriver/hakuriver";
/// The box: read-only.
pub const BOX: &str = "/.hakuriver/task";
/// What the container tells the Runner.
pub const OUT: &str = "/.hakuriver/out";
/// The box file's name.
pub const FILE: &str = "task.json";
/// In the box: a [pipe](crate::sys::recall) by which the Runner ends the container where Docker does not know of it.
pub const RECALL: &str = "recall";
/// How long a container has for that.
pub const RECALL_LIMIT: Duration = Duration::from_secs(10);
/// In `OUT`: one line of what the start-up does now ("installing openssh-server with apt-get").
pub const PHASE: &str = "phase";

/// What the supervisor ends with when the container cannot be made a VPS; its last line on stderr says what to do
/// (`EX_CONFIG` of sysexits.h, which neither Docker nor an SSH server uses).
pub const UNUSABLE: i32 = 78;

/// How the supervisor's own lines begin.
pub const WORD: &str = "hakuriver: ";

/// Before the code in the last of them, when the command has come to its end.
const ENDED: &str = "the command has ended with exit code ";

/// The last of them, when the command has come to its end: so Docker's log knows of it also where the node has lost the rest.
pub fn last_word(code: i32) -> String {
    format!("{WORD}{ENDED}{code}")
}

/// The code in such a line.
pub fn said_code(line: &str) -> Option<i32> {
    line.strip_prefix(WORD)?.strip_prefix(ENDED)?.parse().ok()
}

/// What it ends with when the command of its container cannot be run, as a shell would.
pub const NOT_RUN: i32 = 127;

/// Docker's code for an end that it has not seen (containerd's `UnknownExitStatus`), and so that of a container which has no end of
/// its own to tell. A command may end with it too; then our supervisor in the container has written so.
pub const UNSEEN: i32 = 255;

/// The content of `task.json`.
#[derive(Clone, Default, DeJson, SerJson)]
pub struct BoxFile {
    /// `vps` or `command`
    pub kind: String,
    pub task_id: String,
    /// VPS: `authorized_keys` lines.
    pub keys: Vec<String>,
    /// VPS: the Ed25519 seed of its host key, 64 hexadecimal digits.
    pub host_key_seed: String,
    /// Command: the image's entry point and the user's argv, as they go to exec.
    pub argv: Vec<String>,
    /// The task's environment (name, value), added to the container's own.
    pub env: Vec<(String, String)>,
    /// Command: `USER[:GROUP]`, names of the image or numbers; empty: root.
    #[nserde(default)]
    pub user: String,
    /// Command: TERM after so long, KILL after a grace.
    #[nserde(default)]
    pub time_limit_seconds: Option<u64>,
    /// Command: it is begun by whoever takes its [`TICKET`], and by nobody else. False: a box of an older version, which has none.
    #[nserde(default)]
    pub has_ticket: bool,
}

/// In `OUT`: there as long as nobody has begun the command.
pub const TICKET: &str = "ticket";

/// In `OUT`: how a command ended, an [`ExitFile`].
pub const EXIT: &str = "exit.json";

/// What the supervisor writes there is far below this, in bytes; what a hostile task puts in its place may not be.
pub const LARGEST_EXIT: usize = 64 << 10;

/// What the supervisor in a container writes when its command has ended.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct ExitFile {
    /// None: it could not be started; see `fault`.
    pub code: Option<i32>,
    /// The signal that ended it; `code` is 128 + n then.
    pub signal: Option<i32>,
    pub timed_out: bool,
    /// The container was asked to end before its command did.
    #[nserde(default)]
    pub stopped: bool,
    /// Milliseconds since 1970.
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    /// Why it could not be started: for the user.
    pub fault: Option<String>,
}

impl BoxFile {
    /// The box of a VPS. `keys` are `authorized_keys` lines without options, `host_key_seed` is from
    /// [`new_seed`](crate::runner::host_key::new_seed).
    pub fn for_vps(task_id: &str, keys: &[String], host_key_seed: &str, env: &[(String, String)]) -> Self {
        Self {
            kind: "vps".to_owned(),
            task_id: task_id.to_owned(),
            keys: keys.to_vec(),
            host_key_seed: host_key_seed.to_owned(),
            env: env.to_vec(),
            ..Self::default()
        }
    }
}

impl std::fmt::Debug for BoxFile {
    /// Without the seed and the environment: they are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoxFile").field("kind", &self.kind).field("task_id", &self.task_id).finish_non_exhaustive()
    }
}
