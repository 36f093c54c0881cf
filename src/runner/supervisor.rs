//! The Runner's line to the node's supervisor: connects, starts it where it does not run, and connects again. Nothing here
//! makes the agent wait.

use std::path::Path;
use std::sync::mpsc::Sender;

use super::executor::Owner;
use super::message::Message;
use super::supervise::protocol::{Start, Which};
use crate::sys::shutdown::Stop;

/// The line. What is asked while it is broken is dropped: after each connection the agent hears everything
/// ([`Message::Supervised`] with `complete`), and asks again for what is missing.
pub struct Supervisor {}

impl Supervisor {
    /// `folder` is `<state>/runner/<hostname>`, `binary` our own copy there. Where a supervisor runs, or has left a journal,
    /// it is connected to at once; else the first [`Supervisor::start`] starts one, and an empty complete
    /// [`Message::Supervised`] is sent at once.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(
        _owner: &Owner,
        _folder: &Path,
        _binary: &Path,
        _tell: Sender<Message>,
        _stop: &Stop,
    ) -> std::io::Result<Self> {
        unimplemented!()
    }

    pub fn start(&self, _start: Start) {
        unimplemented!()
    }

    pub fn stop(&self, _which: Which) {
        unimplemented!()
    }

    pub fn pause(&self, _which: Which) {
        unimplemented!()
    }

    pub fn resume(&self, _which: Which) {
        unimplemented!()
    }

    pub fn forget(&self, _which: Which) {
        unimplemented!()
    }
}
