//! One task in the agent's eyes, and what follows from how it stands. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::AGAIN;
use crate::domain::reconcile::{self, Had};
use crate::domain::state::Want;
use crate::runner::executor::docker_parse::{Container, ContainerState};
use crate::runner::order::{CommandOrder, Order, VpsOrder, Wanted};
use crate::runner::record::{COMMAND, Phase, Record};
use crate::runner::work::{Death, Job};
use crate::sys::shutdown::Stop;

/// A container that Docker is to start again may be seen ended for this long before we start it: also a daemon that was
/// itself restarted brings back its containers one after the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Deaths of a container count for this long.
pub(super) const OFTEN: Duration = Duration::from_secs(60);
/// How often a container may end within [`OFTEN`] before it is given up.
pub(super) const DEATHS: usize = 5;

/// One task, as the agent knows it.
pub(super) struct Task {
    pub(super) record: Record,
    pub(super) running: Option<Running>,
    /// When to look at its container.
    pub(super) look: Option<Instant>,
    /// Since when its container has been between two states.
    pub(super) between: Option<Instant>,
    /// When its container ended, lately.
    pub(super) deaths: VecDeque<Instant>,
    /// Nothing is tried before then.
    pub(super) not_before: Option<Instant>,
    /// Its container came to light when nothing was known of it here, and never came to run.
    pub(super) leftover: bool,
    /// The Host has stored its end.
    pub(super) acknowledged: bool,
    /// Nothing more is to be said of it; its container is kept.
    pub(super) retired: bool,
    /// Its container was kept, and is there no more: the user has removed it.
    pub(super) kept_is_gone: bool,
    /// The Host has what it wrote, or will never get it. (A VPS writes nothing, nor does what was never started.)
    pub(super) output_settled: bool,
    /// How a command's container ended, as Docker has told.
    pub(super) death: Option<Death>,
    /// Of a task of the supervisor's: what it was asked last, and has not answered yet.
    pub(super) asked: Option<Asked>,
}

/// What is asked of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Start,
    Pause,
    Resume,
    Stop,
}

impl Asked {
    /// A task that is in this phase shows that it was done.
    pub(super) fn is_answered(self, phase: &Phase) -> bool {
        match (self, phase) {
            (Self::Start, _) | (Self::Pause, Phase::Paused) | (Self::Resume, Phase::Running { .. }) => true,
            (Self::Pause | Self::Resume | Self::Stop, _) => false,
        }
    }
}

/// The operation on a task.
pub(super) struct Running {
    pub(super) kind: Kind,
    pub(super) cancel: Stop,
    pub(super) died: Stop,
}

/// What an operation is for, as far as another one may interrupt it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Start,
    Look,
    Pause,
    Resume,
    /// Never interrupted.
    End,
}

impl Task {
    pub(super) fn new(record: Record) -> Self {
        Self {
            record,
            running: None,
            look: None,
            between: None,
            deaths: VecDeque::new(),
            not_before: None,
            leftover: false,
            acknowledged: false,
            retired: false,
            kept_is_gone: false,
            output_settled: false,
            death: None,
            asked: None,
        }
    }

    /// It has ended, and its container holds what the user may still want.
    pub(super) fn is_kept(&self) -> bool {
        self.running.is_none() && self.record.outcome().is_some_and(|outcome| outcome.kept)
    }

    /// As the difference wants it.
    pub(super) fn had(&self) -> Had {
        let phase = match &self.record.phase {
            Phase::Ended(_) => {
                let settled = self.output_settled || !self.record.writes();
                reconcile::Phase::Ended { acknowledged: self.acknowledged && settled }
            }
            _ if self.record.stopping => reconcile::Phase::Stopping,
            Phase::Starting { .. } => reconcile::Phase::Starting,
            Phase::Running { .. } => reconcile::Phase::Running,
            Phase::Paused => reconcile::Phase::Paused,
        };
        Had { attempt: self.record.attempt, phase }
    }
}

/// What follows from a task itself, whatever else the list says of it. `due`: it is time to look at its container.
///
/// A death is told once: a container that somebody has started again lives after it. Where the job came to nothing, a look a while
/// later finds the truth.
pub(super) fn own_job(task: &mut Task, wanted: Option<&Wanted>, due: bool, now: Instant) -> Option<Job> {
    match &task.record.phase {
        Phase::Ended(_) => None,
        _ if task.record.supervised => None,
        // It was begun before this process was started, or could not be finished.
        _ if task.record.stopping => Some(Job::Stop),
        Phase::Starting { .. } if task.record.container.is_some() && due => Some(Job::Look { patience_over: false }),
        Phase::Starting { .. } => {
            let wanted = wanted.filter(|wanted| wanted.attempt == task.record.attempt && wanted.want != Want::Stop)?;
            Some(Job::Start(Box::new(wanted.order.clone())))
        }
        Phase::Running { .. } | Phase::Paused if task.record.is_command() => match task.death.take() {
            Some(death) => {
                task.look = Some(now + AGAIN);
                Some(Job::Finish(death))
            }
            None => due.then_some(Job::Look { patience_over: false }),
        },
        Phase::Running { .. } | Phase::Paused if task.deaths.len() >= DEATHS => Some(Job::GiveUp),
        Phase::Running { .. } | Phase::Paused => due.then(|| Job::Look {
            patience_over: task.between.is_some_and(|since| now.duration_since(since) > PATIENCE),
        }),
    }
}

pub(super) fn kind(job: &Job) -> Kind {
    match job {
        Job::Start(_) => Kind::Start,
        Job::Look { .. } | Job::Finish(_) => Kind::Look,
        Job::Pause => Kind::Pause,
        Job::Resume => Kind::Resume,
        Job::Stop | Job::GiveUp | Job::Forget | Job::Sweep { .. } | Job::Discard => Kind::End,
    }
}

/// Whether an operation binds its task to cores of its own.
pub(super) fn takes_cores(job: &Job) -> bool {
    match job {
        Job::Start(order) => match &**order {
            Ok(Order::Vps(VpsOrder { needs, .. }) | Order::Contained(CommandOrder { needs, .. }, _)) => needs.cores > 0,
            Ok(Order::OnNode(_)) | Err(_) => false,
        },
        _ => false,
    }
}

/// Whether an operation is interrupted for another one.
pub(super) fn gives_way(running: Kind, wanted: Kind) -> bool {
    match (running, wanted) {
        (Kind::End, _) => false,
        (_, Kind::End) => true,
        // A task is paused when it has started.
        (Kind::Start, _) => false,
        // It may be waiting for a server that is to be frozen, or for Docker in order to do the opposite.
        (Kind::Look, _) => true,
        (Kind::Pause | Kind::Resume, _) => running != wanted,
    }
}

/// Whether an operation that is wanted waits for a while: another one has failed, or its container is to be looked at first, which
/// may not be there to be frozen. A stop is not put off: what failed before it has no say.
pub(super) fn has_to_wait(task: &Task, wanted: Kind, now: Instant) -> bool {
    let is_due = task.look.is_some_and(|look| look <= now);
    wanted != Kind::End && (is_due || task.not_before.is_some_and(|then| then > now))
}

/// Whether an operation has ended without that for which it was: then it is not tried again at once.
pub(super) fn fell_short(kind: Kind, phase: &Phase) -> bool {
    match kind {
        Kind::Pause => matches!(phase, Phase::Running { .. }),
        Kind::Resume => *phase == Phase::Paused,
        Kind::Start | Kind::Look | Kind::End => false,
    }
}

/// A record made from a container. Its revision is later than any that the lost record can have had.
pub(super) fn rebuilt(container: &Container, boot_id: &str, rev: u64) -> Record {
    // Docker restarts a VPS, so it was running once: that policy is set only then. A command's container runs at once.
    let ran = container.restarts || (container.labels.kind == COMMAND && container.started_at.is_some());
    let phase = match container.state {
        ContainerState::Paused => Phase::Paused,
        _ if ran => Phase::Running { note: Some("found again after its record was lost".to_owned()) },
        _ => Phase::Starting { progress: Some("found again after its record was lost".to_owned()) },
    };
    Record {
        rev,
        phase,
        launched: true,
        container: Some(container.id.clone()),
        port: container.published.as_ref().map(|(_, port)| *port),
        cpus: container.cpus.parse().unwrap_or_default(),
        exclusive: container.exclusive,
        started_at: container.started_at.clone().filter(|_| ran),
        binary: container.binary.clone(),
        ..Record::new(container.labels.task, container.labels.attempt, &container.labels.kind, boot_id)
    }
}

#[cfg(test)]
mod tests;
