//! What a Runner has to do: the difference between what its node should have and what it has.

use std::collections::BTreeMap;

use super::ids::{Attempt, TaskId};
use super::state::Want;

/// One line of the Host's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired {
    pub attempt: Attempt,
    pub want: Want,
}

/// What the node has of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Had {
    pub attempt: Attempt,
    pub phase: Phase,
}

/// How far a task is on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Recorded, its container or process is not running yet (waiting for an image, being created, sshd not ready).
    Starting,
    Running,
    Paused,
    /// Being stopped.
    Stopping,
    /// Ended; `acknowledged` when the Host has stored that.
    Ended {
        acknowledged: bool,
    },
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write its record and start it.
    Start(TaskId, Attempt),
    Pause(TaskId),
    Resume(TaskId),
    Stop(TaskId),
    /// Asked to stop what is not here: report `gone`.
    ReportGone(TaskId, Attempt),
    /// Here, but not in the list: reported as unknown, and left alone.
    ReportUnknown(TaskId),
    /// Ended, acknowledged, and no longer in the list: remove container and record.
    Forget(TaskId),
}

/// The difference, in task order. Absence from `desired` stops nothing.
pub fn diff(_desired: &BTreeMap<TaskId, Desired>, _had: &BTreeMap<TaskId, Had>) -> Vec<Action> {
    unimplemented!("domain")
}
