//! Tasks in containers, through the `docker` command; and without a container, as [`process`] or in a systemd [`scope`].
//!
//! Argument lists are built in [`docker_args`] and outputs read in [`docker_parse`], both pure; [`docker`] runs what the
//! one built and gives the result to the other. It must not know the Host, the records, or why something is to be done.

pub mod docker;
pub mod docker_args;
pub mod docker_parse;
pub mod process;
pub mod scope;
mod together;

use crate::domain::ids::{Attempt, TaskId};

/// The label that holds the cluster's id.
pub const CLUSTER: &str = "hakuriver.cluster";
/// The label that holds the node's name.
pub const NODE: &str = "hakuriver.node";
/// The label that holds the task's id.
pub const TASK: &str = "hakuriver.task";
/// The label that holds the attempt.
pub const ATTEMPT: &str = "hakuriver.attempt";
/// The label that holds the kind of task: `vps` or `command`.
pub const KIND: &str = "hakuriver.kind";

/// Whose containers are ours: only those that carry both labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub cluster: String,
    pub node: String,
}

/// What the labels of a container say about its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    pub task: TaskId,
    pub attempt: Attempt,
    pub kind: String,
}

impl Labels {
    /// The name that a container with these was given.
    pub fn name(&self) -> String {
        let name = if self.kind == "vps" { vps_name } else { command_name };
        name(self.task)
    }
}

/// The name of a command's container.
pub fn command_name(task: TaskId) -> String {
    format!("hakuriver-task-{task}")
}

/// The name of a VPS's container.
pub fn vps_name(task: TaskId) -> String {
    format!("hakuriver-vps-{task}")
}
