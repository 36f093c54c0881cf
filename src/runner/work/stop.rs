//! The end of a task, asked for or forced; and what is removed after it.

use std::time::Duration;

use super::Work;
use crate::runner::backoff::Backoff;
use crate::runner::executor::docker::DockerFault;
use crate::runner::executor::docker_parse::{Complaint, Container, ContainerState};
use crate::runner::judge::{Verdict, judge};
use crate::runner::message::Next;
use crate::runner::record::{Outcome, Phase};
use crate::{info, warning};

/// Between TERM and KILL.
const GRACE_S: u32 = 10;

impl Work {
    /// Ends it and removes its container; `killed` is told when nothing of it lives.
    pub(super) fn stop(&mut self) -> Next {
        if !self.record.stopping {
            if self.has_ended() {
                return Next::Nothing;
            }
            // If we die now, the next Runner must not take its end for an accident.
            self.record.stopping = true;
            self.save();
        }
        // Docker was never told of it: there is nothing to stop, whether Docker answers or not.
        if self.record.launched {
            self.end_container();
            // What Docker has lost sight of would stand in the way of the removal, or outlive it. The end waits for it, if need be.
            let _still = self.recall();
            if self.remove(Self::quietly).is_err() {
                return Next::NotAtOnce;
            }
        }
        info!("task {} was stopped", self.record.task);
        self.end(Outcome::killed())
    }

    /// A command that had ended before it was to be stopped: its result is its own.
    fn has_ended(&mut self) -> bool {
        let ran = matches!(self.record.phase, Phase::Running { .. } | Phase::Paused);
        if !self.record.is_command() || !ran {
            return false;
        }
        let Ok(Ok(Some(seen))) = self.find(Self::quietly) else { return false };
        match judge(&self.record, Some(&seen), false) {
            Verdict::Finished(exit) => {
                let _next = self.over(&exit);
                true
            }
            _ => false,
        }
    }

    /// TERM, and KILL after a while. Whatever goes wrong here, the removal that follows kills too.
    fn end_container(&mut self) {
        let handle = self.handle();
        if self.record.phase == Phase::Paused {
            // A frozen process does not hear TERM: it would be killed without having had its time.
            let _thawed = self.docker(Self::quietly, |docker| docker.freeze(&handle, false));
        }
        match self.docker(Self::quietly, |docker| docker.stop(&handle, GRACE_S)) {
            Ok(Err(fault)) if !matches!(fault.kind, Complaint::NoSuchContainer | Complaint::WrongState) => {
                warning!("task {}: it is killed without its time to end: {fault}", self.record.task);
            }
            _ => {}
        }
    }

    /// It was restarted again and again: it has failed. Its container is stopped, and kept with all that is in it.
    pub(super) fn give_up(&mut self) -> Next {
        let handle = self.handle();
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            match self.docker(Self::quietly, |docker| docker.stop(&handle, GRACE_S)) {
                Err(_) => return Next::Nothing,
                Ok(Err(fault)) if fault.kind == Complaint::NoSuchContainer => return self.look(false),
                Ok(Err(fault)) => {
                    warning!("task {} cannot be stopped yet: {fault}", self.record.task);
                    if self.cancel.wait(backoff.wait()) {
                        return Next::Nothing;
                    }
                }
                Ok(Ok(())) => break,
            }
        }
        let lines = self.node.docker.last_lines(&handle, 20);
        let reason = crate::runner::outcome::with_lines(
            "its container ended five times within a minute; it is stopped, and kept on the node",
            &lines,
        );
        warning!("task {} ended: {reason}", self.record.task);
        self.end(Outcome { kept: true, ..Outcome::failed(reason) })
    }

    /// The Host has stored its end, and no longer lists it.
    pub(super) fn forget(&mut self) -> Next {
        let kept = self.record.outcome().is_some_and(|outcome| outcome.kept);
        if self.record.launched && !kept && self.remove(Self::quietly).is_err() {
            return Next::Nothing;
        }
        if let Err(fault) = self.node.records.remove(self.record.task, self.record.attempt) {
            warning!("task {}: {fault}", self.record.task);
            return Next::NotAtOnce;
        }
        self.node.holdings.release(self.record.task);
        Next::Forgotten
    }

    /// A container of a task that is over, or of an older attempt: Docker was slow, and made it when nobody waited any more.
    pub(super) fn sweep(&mut self, container: &str) -> Next {
        warning!("task {}: a container that was made too late is removed: {container}", self.record.task);
        match self.docker(Self::quietly, |docker| docker.remove(container)) {
            Ok(Ok(())) | Err(_) => Next::Nothing,
            Ok(Err(fault)) => {
                warning!("task {}: {fault}", self.record.task);
                Next::NotAtOnce
            }
        }
    }

    /// The same where nothing is known of the task any more. One that has begun meanwhile, or may have, is kept and told.
    pub(super) fn discard(&mut self) -> Next {
        let found = match self.find(Self::quietly) {
            Ok(found) => found,
            Err(_) => return Next::Nothing,
        };
        let removed = found.and_then(|found| match found {
            None => Ok(true),
            Some(container) => self.remove_if_unused(&container),
        });
        match removed {
            // Told as an end: the Host may have heard of it already.
            Ok(true) => {
                self.record.launched = false;
                self.end(Outcome::failed("its container was made too late, and never came to run"))
            }
            Ok(false) => {
                self.save();
                Next::Nothing
            }
            Err(fault) if fault.kind == Complaint::WrongState => Next::NotAtOnce,
            Err(fault) => {
                warning!("task {}: its container cannot be removed yet: {fault}", self.record.task);
                Next::NotAtOnce
            }
        }
    }

    /// False: something may live in it, or did.
    fn remove_if_unused(&self, container: &Container) -> Result<bool, DockerFault> {
        let docker = &self.node.docker;
        // Docker may have lost sight of what it has started.
        let is_unused = container.state == ContainerState::Created
            && (container.never_began || !docker.was_prepared(&container.id)?);
        if is_unused {
            warning!("task {}: a container that was made too late is removed: {}", self.record.task, container.id);
            docker.remove_unstarted(&container.id)?;
        }
        Ok(is_unused)
    }
}
