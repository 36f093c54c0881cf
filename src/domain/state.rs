//! The life of a task: states, events, and [`step`], the only function that changes a state.

use super::ids::Attempt;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Accepted, waiting to be placed.
    Pending,
    /// Placed; its resources are held; the node has not yet said that it runs.
    Assigning,
    Running,
    Paused,
    /// Exit 0.
    Completed,
    /// Exit ≠ 0, could not start, or its result is unknown: the error message says which.
    Failed,
    Killed,
    /// Ended non-zero with the kernel's out-of-memory record for this attempt.
    KilledOom,
    /// Its node is silent; becomes what the node reports when it returns.
    Lost,
}

impl State {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Assigning,
        Self::Running,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Killed,
        Self::KilledOom,
        Self::Lost,
    ];

    /// The word in the API, the tables and the database.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Assigning => "assigning",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::KilledOom => "killed_oom",
            Self::Lost => "lost",
        }
    }

    /// The state with that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Final for a user: `completed`, `failed`, `killed`, `killed_oom`, `lost`.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Killed | Self::KilledOom | Self::Lost)
    }

    /// Never changes again: every final state but `lost`.
    pub const fn is_settled(self) -> bool {
        self.is_final() && !matches!(self, Self::Lost)
    }

    /// Its resources are held: from placement to proof of death, so also paused and lost.
    pub const fn holds_resources(self) -> bool {
        matches!(self, Self::Assigning | Self::Running | Self::Paused | Self::Lost)
    }
}

/// What the Host wants of a task. Stored apart from what was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    Run,
    Pause,
    Stop,
}

impl Want {
    /// `run`, `pause` or `stop`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Pause => "pause",
            Self::Stop => "stop",
        }
    }

    /// The want with that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Run, Self::Pause, Self::Stop].into_iter().find(|want| want.word() == word)
    }
}

/// The part of a task that [`step`] changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    pub want: Want,
    pub attempt: Attempt,
    /// The highest revision taken from the node for this attempt; 0 before its first report.
    pub rev: u64,
    /// Why it ended as it did, or what it is doing, for the user; from the last change that had something to say.
    pub note: Option<String>,
    /// How it ended: `exit_code`, `exit_signal`.
    pub exit: Exit,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128+n for signal n. None: not ended, never started, or unknown.
    pub code: Option<i32>,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
}

/// What a Runner saw of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub attempt: Attempt,
    /// Grows with each change of that task on the node.
    pub rev: u64,
    pub observation: Observation,
}

/// What a Runner can see of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// Accepted by the node; `progress` says what it does (loading an image, starting sshd).
    Starting {
        progress: Option<String>,
    },
    Running,
    Paused,
    /// Ended by itself.
    Exited {
        exit: Exit,
        oom: bool,
        message: Option<String>,
    },
    /// Ended because it was asked to (`want: stop`): nothing of it lives.
    Stopped {
        exit: Exit,
        message: Option<String>,
    },
    /// Could not start, was removed behind our back, or its result is unknown.
    Failed {
        exit: Exit,
        message: String,
    },
    /// The node was told to stop a task that it does not have.
    Gone,
}

/// What can happen to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Placement chose a node for it.
    Placed,
    /// Waited longer than `max_wait`; or can never be placed: with the reason.
    GivenUp { reason: String },
    /// A user asked for its end.
    Kill,
    /// A user asked for a pause.
    Pause,
    /// A user asked to go on.
    Resume,
    /// A report from its node.
    Reported(Report),
    /// Its node was silent longer than the time-out.
    NodeSilent,
    /// The first complete inventory of a node's session shows that this attempt was never started.
    NeverStarted,
    /// A complete inventory lacks it although it was seen there before: its result is unknown.
    Missing,
}

/// Why an event was refused (for Kill, Pause, Resume: a 4xx; for reports: silently passed over).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The task is in a final state.
    Ended(State),
    /// Not possible while it waits.
    NotYet,
    /// An older attempt or revision than is known.
    Stale,
    /// This event has no meaning in this state (a programming error if it comes from the Host itself).
    OutOfPlace(State),
}

/// What [`step`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing changes (a repeated request or report).
    Same,
    /// The new standing.
    Changed(Standing),
}

/// The only function that changes a task's state. Pure: (standing, event) → new standing, or why not.
///
/// # Errors
/// See [`Refusal`].
pub fn step(_now: &Standing, _event: &Event) -> Result<Step, Refusal> {
    unimplemented!("domain")
}
