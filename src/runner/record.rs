//! What the Runner remembers of a task: one folder for each attempt, written before Docker is told anything.
//!
//! `tasks/<id>.<attempt>/` holds `record.json`, the `box` that the container reads and the `out` that it writes.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nanoserde::{DeJson, SerJson};

use crate::api::json;
use crate::domain::cpuset::CpuSet;
use crate::domain::ids::{Attempt, TaskId};
use crate::runner::output::{Place, Totals};
use crate::sys::file;

/// One attempt at a task, as this node knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub task: TaskId,
    pub attempt: Attempt,
    /// `vps` or `command`.
    pub kind: String,
    /// Grows with each change that is reported.
    pub rev: u64,
    /// The start of the machine in which it was last touched.
    pub boot_id: String,
    pub phase: Phase,
    /// Its end was asked for. Never taken back.
    pub stopping: bool,
    /// Docker may have been told to make its container; or the supervisor, to start it.
    pub launched: bool,
    /// Its container's id, once that is known to run.
    pub container: Option<String>,
    /// The port of this node at which its port 22 is published.
    pub port: Option<u16>,
    /// The CPUs it is bound to.
    pub cpus: CpuSet,
    /// They are its own.
    pub exclusive: bool,
    /// Its public host keys; None: not known any more.
    pub host_keys: Option<Vec<String>>,
    /// When it first ran (RFC 3339).
    pub started_at: Option<String>,
    /// When it ended (RFC 3339).
    pub completed_at: Option<String>,
    /// Docker's start time of the container's run whose SSH banner was read: another one means that it was restarted.
    pub answered_since: Option<String>,
    /// Our binary on the node, which its container has as process 1.
    pub binary: String,
    /// The node's supervisor has it: its truth is there, and no record is kept on disk.
    pub supervised: bool,
    /// The systemd scope that it runs in.
    pub unit: Option<String>,
    /// How much it wrote, once it has ended.
    pub totals: Totals,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No SSH banner was read yet; what it is doing.
    Starting {
        progress: Option<String>,
    },
    /// It ran; `note` says what is missing where it was restarted and does not answer yet.
    Running {
        note: Option<String>,
    },
    Paused,
    Ended(Outcome),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub state: Ending,
    /// For the user.
    pub reason: Option<String>,
    pub exit_code: Option<i32>,
    pub exit_signal: Option<i32>,
    /// Its container is not removed: it holds what the user may still want.
    pub kept: bool,
}

/// The word for how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Completed,
    Failed,
    Killed,
    KilledOom,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Completed, Self::Failed, Self::Killed, Self::KilledOom];

    /// The state's name on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::KilledOom => "killed_oom",
        }
    }
}

impl Outcome {
    /// It failed without an exit status of its own.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self { state: Ending::Failed, reason: Some(reason.into()), exit_code: None, exit_signal: None, kept: false }
    }

    /// Nothing of it lives, as was asked for.
    pub const fn killed() -> Self {
        Self { state: Ending::Killed, reason: None, exit_code: None, exit_signal: None, kept: false }
    }

    /// A container that ended by itself.
    pub fn exited(code: i32, oom: bool, reason: Option<String>) -> Self {
        let state = match (code, oom) {
            (0, _) => Ending::Completed,
            (_, true) => Ending::KilledOom,
            (_, false) => Ending::Failed,
        };
        // Docker tells the end by signal n as 128+n.
        let exit_signal = (129..=192).contains(&code).then_some(code - 128);
        Self { state, reason, exit_code: Some(code), exit_signal, kept: false }
    }
}

impl Record {
    /// The record of a task that is about to be started.
    pub fn new(task: TaskId, attempt: Attempt, kind: &str, boot_id: &str) -> Self {
        Self {
            task,
            attempt,
            kind: kind.to_owned(),
            rev: 1,
            boot_id: boot_id.to_owned(),
            phase: Phase::Starting { progress: None },
            stopping: false,
            launched: false,
            container: None,
            port: None,
            cpus: CpuSet::default(),
            exclusive: false,
            host_keys: None,
            started_at: None,
            completed_at: None,
            answered_since: None,
            binary: String::new(),
            supervised: false,
            unit: None,
            totals: Totals::default(),
        }
    }

    /// A command, not a VPS.
    pub fn is_command(&self) -> bool {
        self.kind == COMMAND
    }

    /// A command that may have written something: it was started, or may have been.
    pub fn writes(&self) -> bool {
        self.is_command() && self.launched
    }

    /// It ended, and how.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }
}

/// The file's form. What is missing in it (an older version's file) has its default.
#[derive(DeJson, SerJson)]
struct RecordFile {
    /// The form's version.
    format: u32,
    cluster: String,
    task_id: String,
    attempt: u32,
    kind: String,
    rev: u64,
    boot_id: String,
    /// `starting`, `running`, `paused`, or the word of an ending.
    phase: String,
    /// Progress, note or reason.
    text: Option<String>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    #[nserde(default)]
    kept: bool,
    stopping: bool,
    launched: bool,
    container: Option<String>,
    port: Option<u16>,
    cpus: String,
    exclusive: bool,
    host_keys: Option<Vec<String>>,
    started_at: Option<String>,
    completed_at: Option<String>,
    answered_since: Option<String>,
    binary: String,
    #[nserde(default)]
    stdout_bytes: Option<u64>,
    #[nserde(default)]
    stderr_bytes: Option<u64>,
}

/// The kind of task that is no VPS.
pub const COMMAND: &str = "command";
const FORMAT: u32 = 1;
const FILE: &str = "record.json";

/// The folder of records.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
    /// What tasks write that have no record.
    outputs: PathBuf,
    cluster: String,
}

/// What stood in the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// One for each task: the highest attempt.
    pub records: Vec<Record>,
    /// What could not be read, or is of another cluster.
    pub warnings: Vec<String>,
}

impl Records {
    /// In `folder` (made if it is not there), for tasks of `cluster`.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn open(folder: &Path, cluster: &str) -> io::Result<Self> {
        file::make_dir(folder, 0o700)?;
        let outputs = folder.with_file_name("outputs");
        file::make_dir(&outputs, 0o700)?;
        Ok(Self { folder: folder.to_owned(), outputs, cluster: cluster.to_owned() })
    }

    /// The folder of one attempt.
    pub fn folder(&self, task: TaskId, attempt: Attempt) -> PathBuf {
        self.folder.join(format!("{task}.{attempt}"))
    }

    /// Reads all. Folders of older attempts of the same task are removed.
    ///
    /// # Errors
    /// The folder cannot be listed. A record that cannot be read is a warning.
    pub fn load(&self) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let file = path.join(FILE);
            let record = match file::read_foreign(&file, 1 << 20) {
                Ok(text) => self.decode(&text).map_err(|fault| format!("{}: {fault}", file.display())),
                // Made, and not yet written; or removed but for its folder. Nothing was started.
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
                    if let Err(fault) = file::remove_tree(&path) {
                        found.warnings.push(format!("cannot remove {}: {fault}", path.display()));
                    }
                    continue;
                }
                Err(fault) => Err(fault.to_string()),
            };
            match record {
                Ok(record) => found.records.push(record),
                Err(warning) => found.warnings.push(warning),
            }
        }
        found.records.sort_by_key(|record| (record.task, std::cmp::Reverse(record.attempt)));
        let mut newest = None;
        let (keep, older): (Vec<_>, Vec<_>) =
            found.records.drain(..).partition(|record| newest.replace(record.task) != Some(record.task));
        for record in older {
            if let Err(fault) = self.remove(record.task, record.attempt) {
                found.warnings.push(fault.to_string());
            }
        }
        found.records = keep;
        Ok(found)
    }

    /// Writes a record so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let folder = self.folder(record.task, record.attempt);
        file::make_dir(&folder, 0o700)?;
        file::write_atomic(&folder.join(FILE), self.encode(record).as_bytes(), 0o600)
    }

    /// Removes all that is remembered of an attempt.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn remove(&self, task: TaskId, attempt: Attempt) -> io::Result<()> {
        let folder = self.folder(task, attempt);
        // The record goes last of all: while it is there, the rest belongs to something.
        file::remove_tree(&folder.join("box"))?;
        file::remove_tree(&folder.join("out"))?;
        file::remove_tree(&folder)
    }

    /// Where a container of it writes.
    pub fn container_output(&self, task: TaskId, attempt: Attempt) -> Place {
        Place::folder(self.folder(task, attempt).join("out"))
    }

    /// How the files' names begin to which a task writes that has no record here: it is the supervisor's.
    pub fn output(&self, task: TaskId, attempt: Attempt) -> PathBuf {
        self.outputs.join(format!("{task}.{attempt}"))
    }

    /// The same as a place that is read from.
    pub fn supervised_output(&self, task: TaskId, attempt: Attempt) -> Place {
        Place::files(self.output(task, attempt))
    }

    /// Removes what tasks wrote that are not `kept`: nobody will ask for it any more.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn tidy_outputs(&self, kept: &dyn Fn(TaskId) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.outputs)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next());
            if !name.and_then(|id| id.parse().ok()).is_some_and(kept) {
                file::remove_tree(&path)?;
            }
        }
        Ok(())
    }

    fn encode(&self, record: &Record) -> String {
        let (phase, text) = match &record.phase {
            Phase::Starting { progress } => ("starting", progress.clone()),
            Phase::Running { note } => ("running", note.clone()),
            Phase::Paused => ("paused", None),
            Phase::Ended(outcome) => (outcome.state.word(), outcome.reason.clone()),
        };
        let outcome = record.outcome();
        json::encode(&RecordFile {
            format: FORMAT,
            cluster: self.cluster.clone(),
            task_id: record.task.to_string(),
            attempt: record.attempt.0,
            kind: record.kind.clone(),
            rev: record.rev,
            boot_id: record.boot_id.clone(),
            phase: phase.to_owned(),
            text,
            exit_code: outcome.and_then(|outcome| outcome.exit_code),
            exit_signal: outcome.and_then(|outcome| outcome.exit_signal),
            kept: outcome.is_some_and(|outcome| outcome.kept),
            stopping: record.stopping,
            launched: record.launched,
            container: record.container.clone(),
            port: record.port,
            cpus: record.cpus.to_string(),
            exclusive: record.exclusive,
            host_keys: record.host_keys.clone(),
            started_at: record.started_at.clone(),
            completed_at: record.completed_at.clone(),
            answered_since: record.answered_since.clone(),
            binary: record.binary.clone(),
            stdout_bytes: record.totals.stdout,
            stderr_bytes: record.totals.stderr,
        })
    }

    fn decode(&self, text: &[u8]) -> Result<Record, String> {
        let file: RecordFile = json::decode(text).map_err(|fault| fault.to_string())?;
        if file.format != FORMAT {
            return Err(format!("its format {} is newer than this program, which knows {FORMAT}", file.format));
        }
        if file.cluster != self.cluster {
            return Err(format!(
                "it belongs to the cluster {}, and this node is now in {}",
                file.cluster, self.cluster
            ));
        }
        let phase = match file.phase.as_str() {
            "starting" => Phase::Starting { progress: file.text },
            "running" => Phase::Running { note: file.text },
            "paused" => Phase::Paused,
            word => Phase::Ended(Outcome {
                state: Ending::ALL
                    .into_iter()
                    .find(|ending| ending.word() == word)
                    .ok_or_else(|| format!("its phase {word:?} is not known"))?,
                reason: file.text,
                exit_code: file.exit_code,
                exit_signal: file.exit_signal,
                kept: file.kept,
            }),
        };
        Ok(Record {
            task: file.task_id.parse().map_err(|fault: crate::domain::ids::NameFault| fault.to_string())?,
            attempt: Attempt(file.attempt),
            kind: file.kind,
            rev: file.rev,
            boot_id: file.boot_id,
            phase,
            stopping: file.stopping,
            launched: file.launched,
            container: file.container,
            port: file.port,
            cpus: file.cpus.parse()?,
            exclusive: file.exclusive,
            host_keys: file.host_keys,
            started_at: file.started_at,
            completed_at: file.completed_at,
            answered_since: file.answered_since,
            binary: file.binary,
            supervised: false,
            unit: None,
            totals: Totals { stdout: file.stdout_bytes, stderr: file.stderr_bytes },
        })
    }
}

#[cfg(test)]
mod tests;
