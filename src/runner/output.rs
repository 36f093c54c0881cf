//! What tasks write, on its way to the Host: shipped as it grows, repeated until the Host has it, in constant memory.

use std::path::PathBuf;
use std::sync::mpsc::Sender;

use super::link::Link;
use super::message::Message;
use crate::api::node::{OutputChunk, OutputHave};
use crate::domain::ids::{Attempt, TaskId};
use crate::sys::shutdown::Stop;
use std::sync::Arc;

/// Shared by the agent (which says what there is) and the conversations with the Host (which carry it).
pub struct Outputs {}

/// How much a task has written in the end, in bytes; None: its file is not there (any more), so it cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub stdout: Option<u64>,
    pub stderr: Option<u64>,
}

impl Outputs {
    /// Starts the thread that ships. [`Message::OutputSettled`] is told for each task that has ended and whose output the
    /// Host has, or will never get.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(_link: Arc<Link>, _tell: Sender<Message>, _stop: &Stop) -> std::io::Result<Arc<Self>> {
        unimplemented!()
    }

    /// A task that writes (or wrote, before this Runner was started) below `folder`, its record folder: `out/stdout`,
    /// `out/stderr`. Told again, nothing changes.
    pub fn watch(&self, _task: TaskId, _attempt: Attempt, _folder: PathBuf) {
        unimplemented!()
    }

    /// Nothing of it lives, so its files do not grow any more. The answer is for its report.
    pub fn ended(&self, _task: TaskId, _attempt: Attempt) -> Totals {
        unimplemented!()
    }

    /// The rest of a task's output, if it is so little that it goes with the report of its end: both streams together at
    /// most 32 KiB. Called by the thread that reports; what it gives counts as shipped only when
    /// [`Outputs::received`] says so.
    pub fn rest(&self, _task: TaskId) -> Vec<OutputChunk> {
        unimplemented!()
    }

    /// What the Host has of it by now.
    pub fn received(&self, _have: &[OutputHave]) {
        unimplemented!()
    }

    /// Nothing is to be remembered of it.
    pub fn forget(&self, _task: TaskId, _attempt: Attempt) {
        unimplemented!()
    }
}
