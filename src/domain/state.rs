//! The life of a task: states, events, and [`step`], the only function that changes a state.

use std::cmp::Ordering;

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

impl Exit {
    /// The end of a process that exited with this status.
    pub const fn status(code: i32) -> Self {
        Self { code: Some(code), signal: None }
    }

    /// The end of a process that this signal killed.
    pub const fn signal(signal: i32) -> Self {
        Self { code: Some(128 + signal), signal: Some(signal) }
    }

    /// The same with one convention: a signal n always goes with code 128+n, whatever the reporter wrote beside it.
    const fn normal(self) -> Self {
        match self.signal {
            Some(signal) => Self::signal(signal),
            None => self,
        }
    }
}

/// What a Runner saw of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub attempt: Attempt,
    /// Grows with each change of that task on the node, from 1.
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
    /// The node was asked to give back what it had not started, and has not started it.
    Returned,
    /// The node has spoken of it, or may have, and knows now that it has never begun it.
    Unbegun,
    /// The node was told to stop a task that it does not have, or does not have one that was seen there. A node without the
    /// task's record cannot know its revisions, so this is taken with any.
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
    /// The first complete inventory of a node's session lacks a task in `assigning`: this attempt was never started,
    /// and nothing that would start it is under way.
    NeverStarted,
    /// A complete inventory lacks a task that was seen on the node (`rev` above 0): its result is unknown.
    Missing,
    /// The database was put back from a backup, which does not know what became of the task since: with that as a sentence.
    Restored { reason: String },
}

/// Why an event was refused (for Kill, Pause, Resume: a 4xx). A refused report is passed over, but acknowledged all the
/// same: else the node would repeat it for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The task is in a final state.
    Ended(State),
    /// Not possible while it waits.
    NotYet,
    /// An older attempt or revision than is known.
    Stale,
    /// This event has no meaning in this state (a programming error if it comes from the Host itself; a report of an
    /// attempt that was never given out, if it comes from a node).
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
pub fn step(now: &Standing, event: &Event) -> Result<Step, Refusal> {
    use {Event as E, State as S};
    match (now.state, event) {
        (S::Pending, E::Placed) => changed(Standing { state: S::Assigning, note: None, ..now.clone() }),
        (S::Pending, E::GivenUp { reason }) => {
            changed(Standing { state: S::Failed, note: Some(reason.clone()), ..now.clone() })
        }
        // Nothing of it lives anywhere, so the kill is done as soon as it is asked for.
        (S::Pending, E::Kill) => changed(Standing { state: S::Killed, want: Want::Stop, note: None, ..now.clone() }),
        // It may have run since then: whether to run it (again) is for its user to say.
        (S::Pending, E::Restored { reason }) => {
            changed(Standing { state: S::Failed, note: Some(format!("result unknown: {reason}")), ..now.clone() })
        }
        (S::Pending, E::Pause | E::Resume) => Err(Refusal::NotYet),
        (S::Pending, E::Reported(report)) if report.attempt < now.attempt => Err(Refusal::Stale),
        (S::Pending, E::Reported(_) | E::NodeSilent | E::NeverStarted | E::Missing) => out_of_place(now),

        (S::Assigning | S::Running | S::Paused, E::Placed | E::GivenUp { .. }) => out_of_place(now),
        (S::Assigning | S::Running | S::Paused | S::Lost, E::Kill) => want(now, Want::Stop),
        (S::Assigning | S::Running | S::Paused, E::Pause) => want(now, Want::Pause),
        (S::Assigning | S::Running | S::Paused, E::Resume) => want(now, Want::Run),
        (S::Assigning | S::Running | S::Paused, E::NodeSilent) => changed(Standing {
            state: S::Lost,
            note: Some("its node is silent: what became of it is known when the node returns".to_owned()),
            ..now.clone()
        }),
        // Its node knows what became of it. One that the node had not spoken of may have been started since: from now on it counts
        // as seen there, so that it is not started again.
        (S::Assigning | S::Running | S::Paused | S::Lost, E::Restored { reason }) => {
            changed(Standing { state: S::Lost, rev: now.rev.max(1), note: Some(reason.clone()), ..now.clone() })
        }
        (S::Running | S::Paused, E::Reported(report)) if report.observation == Observation::Returned => {
            Err(Refusal::Stale)
        }
        (S::Assigning | S::Running | S::Paused | S::Lost, E::Reported(report)) => reported(now, report),

        (S::Assigning, E::NeverStarted) => {
            changed(never_started(now, Some("its node restarted before it was started there")))
        }
        (S::Running | S::Paused | S::Lost, E::NeverStarted) => out_of_place(now),

        // One in `assigning` is not missing, but not seen yet: its node still has it to start.
        (S::Assigning, E::Missing) => out_of_place(now),
        // The same for one that was lost before its node ever spoke of it.
        (S::Lost, E::Missing) if now.rev == 0 => out_of_place(now),
        (S::Running | S::Paused | S::Lost, E::Missing) => {
            changed(not_there(now, "result unknown: the node no longer has it"))
        }

        (S::Lost, E::Placed | E::GivenUp { .. }) => out_of_place(now),
        (S::Lost, E::Pause | E::Resume) => Err(Refusal::Ended(S::Lost)),
        (S::Lost, E::NodeSilent) => Ok(Step::Same),

        (S::Completed | S::Failed | S::Killed | S::KilledOom, E::Kill | E::Pause | E::Resume) => {
            Err(Refusal::Ended(now.state))
        }
        (S::Completed | S::Failed | S::Killed | S::KilledOom, E::Reported(report)) => {
            match (report.attempt, report.rev).cmp(&(now.attempt, now.rev)) {
                Ordering::Less => Err(Refusal::Stale),
                Ordering::Equal => Ok(Step::Same),
                Ordering::Greater => Err(Refusal::Ended(now.state)),
            }
        }
        (
            S::Completed | S::Failed | S::Killed | S::KilledOom,
            E::Placed | E::GivenUp { .. } | E::NodeSilent | E::NeverStarted | E::Missing | E::Restored { .. },
        ) => out_of_place(now),
    }
}

/// The standing of one that its node has not started: it waits anew, as another attempt.
fn never_started(now: &Standing, note: Option<&str>) -> Standing {
    if now.want == Want::Stop {
        return Standing { state: State::Killed, note: None, ..now.clone() };
    }
    let note = note.map(str::to_owned);
    Standing { state: State::Pending, attempt: now.attempt.next(), rev: 0, note, ..now.clone() }
}

fn changed(standing: Standing) -> Result<Step, Refusal> {
    Ok(Step::Changed(standing))
}

fn out_of_place(now: &Standing) -> Result<Step, Refusal> {
    Err(Refusal::OutOfPlace(now.state))
}

/// Sets what is wanted of a placed task. A kill is never taken back: a pause or resume after it is answered as done,
/// and changes nothing.
fn want(now: &Standing, want: Want) -> Result<Step, Refusal> {
    if now.want == want || now.want == Want::Stop { Ok(Step::Same) } else { changed(Standing { want, ..now.clone() }) }
}

/// A report about a placed task.
fn reported(now: &Standing, report: &Report) -> Result<Step, Refusal> {
    if report.attempt < now.attempt {
        return Err(Refusal::Stale);
    }
    // A newer attempt than was given out: this Host's database is older than the cluster (restored from a backup). The
    // node has the one attempt that lives, so it is taken over; refusing it would leave the task in `assigning` for ever.
    let known = if report.attempt == now.attempt { now.rev } else { 0 };
    let returned = now.state == State::Lost;
    if report.observation != Observation::Gone {
        if report.rev < known {
            return Err(Refusal::Stale);
        }
        // A node that was only cut off returns with the revision that was stored before: it is news all the same.
        if report.rev == known && !returned {
            return Ok(Step::Same);
        }
    }
    let next = Standing { attempt: report.attempt, rev: report.rev.max(known), ..now.clone() };
    changed(observed(next, &report.observation))
}

/// The standing after the node saw this.
fn observed(now: Standing, observation: &Observation) -> Standing {
    match observation {
        // What ran once does not go back to `assigning`, which would say that it never ran: the note says what it does.
        Observation::Starting { progress } => {
            let state = if now.state == State::Lost { State::Assigning } else { now.state };
            Standing { state, note: progress.clone(), ..now }
        }
        Observation::Running => Standing { state: State::Running, note: None, ..now },
        Observation::Paused => Standing { state: State::Paused, note: None, ..now },
        Observation::Exited { exit, oom, message } => exited(now, exit.normal(), *oom, message.clone()),
        Observation::Stopped { exit, message } => {
            let exit = exit.normal();
            if now.want == Want::Stop {
                Standing { state: State::Killed, exit, note: message.clone(), ..now }
            } else {
                let note =
                    message.clone().unwrap_or_else(|| "it was stopped on its node, which nobody asked for".to_owned());
                Standing { state: State::Failed, exit, note: Some(note), ..now }
            }
        }
        Observation::Failed { exit, message } => {
            Standing { state: State::Failed, exit: exit.normal(), note: Some(message.clone()), ..now }
        }
        Observation::Returned => never_started(&now, None),
        Observation::Unbegun if matches!(now.state, State::Assigning | State::Lost) => never_started(&now, None),
        // It has been heard to run.
        Observation::Unbegun => not_there(&now, "result unknown: its node does not have it"),
        Observation::Gone => not_there(&now, "result unknown: its node does not have it"),
    }
}

/// The end of a task that ended by itself. If a stop was wanted but came too late, this is still what happened.
fn exited(now: Standing, exit: Exit, oom: bool, message: Option<String>) -> Standing {
    let (state, note) = match (exit.code, exit.signal) {
        // A child that was killed for memory does not make a success a failure.
        (Some(0), _) => (State::Completed, message),
        (None, _) => {
            (State::Failed, message.or_else(|| Some("result unknown: the node reported no exit status".to_owned())))
        }
        (Some(code), _) if oom => (
            State::KilledOom,
            message.or_else(|| Some(format!("the kernel killed it for want of memory (exit code {code})"))),
        ),
        (Some(code), Some(signal)) => {
            (State::Failed, message.or_else(|| Some(format!("killed by signal {signal} (exit code {code})"))))
        }
        (Some(code), None) => (State::Failed, message.or_else(|| Some(format!("exited with status {code}")))),
    };
    Standing { state, exit, note, ..now }
}

/// The end of a task that its node does not have: what was to be stopped is stopped; of anything else nobody knows how
/// it ended.
fn not_there(now: &Standing, unknown: &str) -> Standing {
    if now.want == Want::Stop {
        Standing { state: State::Killed, note: None, ..now.clone() }
    } else {
        Standing { state: State::Failed, note: Some(unknown.to_owned()), ..now.clone() }
    }
}

#[cfg(test)]
mod tests;
