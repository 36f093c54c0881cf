//! What the agent hears, from the Host, from Docker, and from its own operations.

use super::executor::docker_parse::{Container, DockerEvent, Glimpse};
use super::order::News;
use super::record::Record;
use super::supervise::protocol::TaskState;
use crate::domain::ids::{Attempt, TaskId};

/// One message.
pub enum Message {
    /// The Host's list: as a whole, or what is new in it.
    Desired(News),
    /// All containers of ours that Docker has.
    Truth(Vec<Container>),
    /// Those that are ours of a few (ids) that were not known.
    Found {
        looked_at: Vec<String>,
        found: Vec<Container>,
    },
    /// The list of our containers, at a glance.
    Glance(Vec<(String, Glimpse)>),
    Event(DockerEvent),
    /// An operation has stored a change.
    Changed(Box<Record>),
    /// An operation has ended.
    Done(Box<Record>, Next),
    /// The Host has stored these reports.
    Acknowledged(Vec<(TaskId, Attempt, u64)>),
    /// What the node's supervisor has: all of it (`complete`, with the number of times that this was told), or what changed.
    Supervised {
        states: Vec<TaskState>,
        complete: Option<u64>,
    },
    /// The node's supervisor may not know of all that it has begun.
    Gaps,
    /// The node's supervisor cannot be had now, and why; it is tried on.
    Unsupervised(String),
    /// The task has ended, and the Host has all of its output that there is.
    OutputSettled(TaskId, Attempt),
    /// The Runner ends; its tasks go on.
    Stop,
}

/// What an operation leaves to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing special.
    Nothing,
    /// Look at it again in a while: it is between two states.
    LookAgain,
    /// It did not work: not again before some time has passed.
    NotAtOnce,
    /// Nothing is left of it.
    Forgotten,
}
