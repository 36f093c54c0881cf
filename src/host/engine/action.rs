//! What can be asked of the engine, and how it answers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use crate::api::node::{Acknowledged, DesiredAnswer, Registered, ShellOrder};
use crate::domain::ids::{Attempt, GpuId, NodeName, TaskId, TaskName};
use crate::domain::node::{Conditions, Inventory};
use crate::domain::spec::TaskSpec;
use crate::domain::state::Observation;

use super::super::view::Figures;

/// Where an answer goes. It comes after the commit.
pub(in crate::host) type Reply<T> = SyncSender<Result<T, ActFault>>;

/// One thing that the engine is asked to do.
#[derive(Debug)]
pub(in crate::host) enum Action {
    Submit(Box<Submission>, Reply<Submitted>),
    Kill(TaskId, Reply<String>),
    Control(TaskId, Control, Reply<String>),
    Drain(NodeName, bool, Reply<String>),
    Forget(NodeName, Reply<String>),
    Register(Box<Registration>, Reply<Registered>),
    Heartbeat(NodeName, Box<Beat>, Reply<String>),
    Observed(NodeName, Snapshot, Reply<(Vec<Acknowledged>, String)>),
    Desired(NodeName, Poll, Reply<DesiredAnswer>),
    /// A user waits for a shell in a task there.
    AskShell(NodeName, TaskId, ShellOrder),
    /// Nobody waits for that one any more.
    EndShell(NodeName, String),
    /// Nobody is to wait for news any longer: the Host stops.
    LetGo,
    Stop,
}

/// Sends one fault to whoever waits for an action's answer.
pub(super) type OnFault = Box<dyn FnOnce(&ActFault) + Send>;

impl Action {
    /// How to tell the one who asked that the whole turn failed.
    pub(super) fn on_fault(&self) -> Option<OnFault> {
        fn to<T: Send + 'static>(reply: &Reply<T>) -> Option<OnFault> {
            let reply = reply.clone();
            // Err: whoever asked has gone; or was answered already, as a poll is when memory is made anew. Nobody is waited for.
            Some(Box::new(move |fault| drop(reply.try_send(Err(fault.clone())))))
        }
        match self {
            Self::Submit(_, reply) => to(reply),
            Self::Kill(_, reply) | Self::Control(_, _, reply) | Self::Drain(_, _, reply) | Self::Forget(_, reply) => {
                to(reply)
            }
            Self::Register(_, reply) => to(reply),
            Self::Heartbeat(_, _, reply) => to(reply),
            Self::Observed(_, _, reply) => to(reply),
            Self::Desired(_, _, reply) => to(reply),
            Self::AskShell(..) | Self::EndShell(..) | Self::LetGo | Self::Stop => None,
        }
    }
}

/// Why something was not done: the status and the sentence of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) struct ActFault {
    pub(in crate::host) status: u16,
    pub(in crate::host) detail: String,
}

impl ActFault {
    pub(in crate::host) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

/// What a user can ask of a placed task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host) enum Control {
    Pause,
    Resume,
}

/// A submission whose every part was checked without looking at the cluster.
#[derive(Debug)]
pub(in crate::host) struct Submission {
    /// One for each target and argument set, in order; with the target as the user wrote it (`auto` if none).
    pub(in crate::host) tasks: Vec<(Arc<str>, Arc<TaskSpec>)>,
    /// Targets that were refused already: target, reason.
    pub(in crate::host) refused: Vec<(String, String)>,
    pub(in crate::host) name: Option<TaskName>,
    pub(in crate::host) idempotency: Option<Idempotency>,
}

/// What makes a repeated submission the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) struct Idempotency {
    pub(in crate::host) key: String,
    /// SHA-256 of the body.
    pub(in crate::host) body_hash: Vec<u8>,
}

/// The answer to a submission that was accepted: its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) struct Submitted(pub(in crate::host) String);

/// A Runner that wants to be this node.
#[derive(Debug)]
pub(in crate::host) struct Registration {
    pub(in crate::host) name: NodeName,
    pub(in crate::host) instance: String,
    pub(in crate::host) machine_id: String,
    pub(in crate::host) boot_id: String,
    pub(in crate::host) version: String,
    pub(in crate::host) address: IpAddr,
    pub(in crate::host) inventory: Inventory,
}

/// A heartbeat.
#[derive(Debug)]
pub(in crate::host) struct Beat {
    pub(in crate::host) session: String,
    pub(in crate::host) figures: Figures,
    pub(in crate::host) conditions: Conditions,
    /// See [`Heartbeat`](crate::api::node::Heartbeat).
    pub(in crate::host) gpus_gone: BTreeSet<GpuId>,
}

/// A node asks for its list.
#[derive(Clone, Debug)]
pub(in crate::host) struct Poll {
    pub(in crate::host) session: String,
    /// The version that it has, as it was told; empty: none.
    pub(in crate::host) known: String,
    /// It takes the difference to that version.
    pub(in crate::host) changes: bool,
    /// It takes long lists in parts: an older Runner would take the first one for all.
    pub(in crate::host) parts: bool,
    /// It has that version only as far as this task, in the order of ids.
    pub(in crate::host) through: Option<TaskId>,
    /// It is answered when there is something new, rather than at once.
    pub(in crate::host) may_wait: bool,
}

/// What a Runner saw.
#[derive(Debug)]
pub(in crate::host) struct Snapshot {
    pub(in crate::host) session: String,
    /// All that it has, not only what changed.
    pub(in crate::host) complete: bool,
    pub(in crate::host) tasks: Vec<Seen>,
    /// With `complete`: those of which the calls just before have told.
    pub(in crate::host) told: BTreeSet<TaskId>,
    /// With `complete`: the epoch that its node had heard when it began to make this; empty: it does not say.
    pub(in crate::host) epoch: String,
}

/// One task as a Runner saw it.
#[derive(Clone, Debug)]
pub(in crate::host) struct Seen {
    pub(in crate::host) id: TaskId,
    pub(in crate::host) attempt: Attempt,
    pub(in crate::host) rev: u64,
    pub(in crate::host) what: What,
    pub(in crate::host) ssh_port: Option<u16>,
    pub(in crate::host) host_keys: Option<Vec<String>>,
    /// Milliseconds since 1970, by the node's clock.
    pub(in crate::host) started_ms: Option<u64>,
    pub(in crate::host) completed_ms: Option<u64>,
    /// How much it wrote in all, in bytes; None: it has not ended, or its node does not know.
    pub(in crate::host) stdout_bytes: Option<u64>,
    pub(in crate::host) stderr_bytes: Option<u64>,
    /// The systemd scope it runs in.
    pub(in crate::host) unit: Option<String>,
    /// It has ended, and nothing of it is there any more.
    pub(in crate::host) nothing_left: bool,
}

/// What was seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) enum What {
    Report(Observation),
    /// It is there, but the list has it not.
    Unknown,
}

impl Seen {
    /// Something of it may live on the node.
    pub(super) fn is_alive(&self) -> bool {
        matches!(
            self.what,
            What::Unknown | What::Report(Observation::Starting { .. } | Observation::Running | Observation::Paused)
        )
    }
}
