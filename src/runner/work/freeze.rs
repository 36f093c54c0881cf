//! Pause and resume.

use super::Work;
use crate::runner::executor::docker_parse::Complaint;
use crate::runner::message::Next;
use crate::runner::record::Phase;
use crate::warning;

impl Work {
    /// Freezes or thaws its container.
    pub(super) fn freeze(&mut self, frozen: bool) -> Next {
        let handle = self.handle();
        match self.docker(Self::quietly, |docker| docker.freeze(&handle, frozen)) {
            Err(_) => Next::Nothing,
            Ok(Ok(())) => {
                self.change(if frozen { Phase::Paused } else { Phase::Running { note: None } });
                // A container that was restarted while it was to be frozen may not answer yet.
                if frozen { Next::Nothing } else { Next::LookAgain }
            }
            Ok(Err(fault)) => match fault.kind {
                // It already is, or it died or vanished: Docker knows.
                Complaint::WrongState | Complaint::NoSuchContainer => self.look(false),
                _ => {
                    let word = if frozen { "paused" } else { "resumed" };
                    warning!("task {} cannot be {word}: {fault}", self.record.task);
                    Next::NotAtOnce
                }
            },
        }
    }
}
