//! A command in a container: from its box to its result.

use super::start::{Contained, over};
use super::{Death, Halt, Work};
use crate::api::json;
use crate::runner::executor::docker_parse::{Complaint, ContainerExit, ContainerState};
use crate::runner::message::Next;
use crate::runner::order::{CommandOrder, ContainerOrder};
use crate::runner::outcome;
use crate::runner::record::{COMMAND, Outcome, Phase};
use crate::runner::supervise::box_file::{self, BoxFile, ExitFile, LARGEST_EXIT};
use crate::sys::{clock, file};
use crate::{info, warning};

/// How many lines of a container that could not run its command are told.
const LINES: u32 = 5;
/// A submission has 16 MiB at most, and JSON may double it.
const LARGEST_BOX: usize = 32 << 20;

impl Work {
    /// Makes and starts its container; the answer is the container's id.
    pub(super) fn start_command(&mut self, order: &CommandOrder, container: &ContainerOrder) -> Result<String, Halt> {
        self.allowed(container)?;
        let image = self.image(container)?;
        let mut doubts = 0;
        let config = loop {
            let node = std::sync::Arc::clone(&self.node);
            match node.images.config(&image) {
                Ok(config) => break config,
                Err(fault)
                    if fault.kind == Complaint::Down && node.is_docker_away(&fault, &mut doubts, &self.cancel) =>
                {
                    let cancel = self.cancel.clone();
                    node.gate.wait_up(&cancel, &mut |reason| self.waiting(reason))?;
                }
                Err(fault) => return Err(over(fault.text)),
            }
        };
        let mut argv = config.entrypoint.unwrap_or_default();
        argv.extend(order.argv.iter().cloned());
        let user = order.user.map(|user| match user.gid {
            Some(gid) => format!("{}:{gid}", user.uid),
            None => format!("{0}:{0}", user.uid),
        });
        let has_ticket = has_ticket(self.record.launched, self.kept_box().as_ref());
        self.write_box(&BoxFile {
            kind: COMMAND.to_owned(),
            task_id: self.record.task.to_string(),
            argv,
            env: self.environment(&order.needs),
            user: user.or(config.user).unwrap_or_default(),
            time_limit_seconds: order.time_limit_seconds,
            has_ticket,
            ..BoxFile::default()
        })?;
        let workdir = order.workdir.as_deref();
        let task = Contained { needs: &order.needs, container, workdir, is_vps: false };
        self.launch(&task, image)
    }

    /// Its container was started.
    pub(super) fn runs(&mut self, container: String) {
        self.record.container = Some(container);
        self.record.started_at = Some(clock::rfc3339(clock::unix_ms()));
        self.change(Phase::Running { note: None });
        info!("task {} runs", self.record.task);
    }

    /// Its container has ended, with this exit code as Docker tells it: the end of the task.
    pub(super) fn finish(&mut self, death: Death) -> Next {
        // Only of one that failed does it matter what the kernel has killed, and that only Docker knows.
        if death.code != 0 {
            return self.look(false);
        }
        if self.exit_file().is_none_or(|told| told.code != Some(0)) {
            // Docker and the supervisor in the container disagree, or only one of them has said so.
            return self.look(false);
        }
        let finished_at = death.at_ms.map(clock::rfc3339);
        self.over(&ContainerExit { code: death.code, oom: false, finished_at })
    }

    /// It ended like that.
    pub(super) fn over(&mut self, exit: &ContainerExit) -> Next {
        let told = self.exit_file();
        let restarted = self.record.boot_id != self.node.boot_id;
        let mut end = outcome::end_of(exit, told.as_ref(), restarted);
        if told.is_none() && end.fault.is_none() && outcome::is_doubtful(exit) {
            // It did not come so far as to write anything but this; or what it wrote was lost with all the Runner's records.
            let handle = self.handle();
            let Ok(lines) = self.docker(Self::quietly, |docker| docker.lines(&handle, LINES)) else {
                return Next::LookAgain;
            };
            end = outcome::without_record(end, lines.as_deref().map_err(|fault| fault.text.as_str()));
        }
        let times = told.and_then(|told| told.started_ms.zip(told.ended_ms));
        // It may say anything; what cannot be is passed over.
        let times = times.filter(|(started, ended)| started <= ended && *ended <= clock::unix_ms() + 1_000);
        if let Some((started, _)) = times {
            self.record.started_at = Some(clock::rfc3339(started));
        }
        self.record.completed_at = match times {
            Some((_, ended)) => Some(clock::rfc3339(ended)),
            None => exit.finished_at.clone(),
        };
        let limit = if end.timed_out { self.time_limit() } else { None };
        self.end(outcome::of(&end, limit))
    }

    fn time_limit(&self) -> Option<u64> {
        self.kept_box()?.time_limit_seconds
    }

    /// Its box, if one was written.
    pub(super) fn kept_box(&self) -> Option<BoxFile> {
        let folder = self.folder();
        let text = file::read_foreign(&folder.join("box").join(box_file::FILE), LARGEST_BOX).ok()?;
        json::decode(&text).ok()
    }

    fn exit_file(&self) -> Option<ExitFile> {
        let folder = self.folder();
        let text = file::read_foreign(&folder.join("out").join(box_file::EXIT), LARGEST_EXIT).ok()?;
        match json::decode::<ExitFile>(&text) {
            Ok(told) => Some(told),
            Err(fault) => {
                warning!("task {}: what it says of its end makes no sense: {fault}", self.record.task);
                None
            }
        }
    }

    /// The last words for one whose container is there, but in a state that a command's never is.
    pub(super) fn never_ran(&mut self, state: &ContainerState) -> Next {
        self.end(Outcome::failed(format!("its container was made, and did not start (it is {state:?})")))
    }
}

/// Whether the command is begun by who takes its ticket. `kept`: the box that was written for this attempt before. Once Docker may have
/// been told of it (`launched`) none is made anew: where that box had none, it is an older version's, and where it was lost, so is all
/// that would tell whether the command was begun.
fn has_ticket(launched: bool, kept: Option<&BoxFile>) -> bool {
    !launched || kept.is_none_or(|kept| kept.has_ticket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_asked_for_unless_an_older_version_has_begun() {
        let kept = |has_ticket| BoxFile { has_ticket, ..BoxFile::default() };
        for (launched, kept, expected) in [
            (false, None, true),
            // Docker was told nothing yet: it is this version that begins.
            (false, Some(kept(false)), true),
            (false, Some(kept(true)), true),
            (true, Some(kept(false)), false),
            (true, Some(kept(true)), true),
            (true, None, true),
        ] {
            assert_eq!(has_ticket(launched, kept.as_ref()), expected, "{launched} {kept:?}");
        }
    }
}
