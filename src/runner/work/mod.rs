//! Operations on one task. Each runs in a thread of its own and owns the task's record while it lasts; the agent waits
//! for none of them, and starts the next one for a task when the last one has ended.
//!
//! What an operation changes is on disk before it is reported.

mod banner;
mod command;
mod freeze;
mod look;
mod mounts;
mod start;
mod stop;
mod vps;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::backoff::Backoff;
use super::executor::docker::{Docker, DockerFault};
use super::executor::docker_parse::{Complaint, Container};
use super::executor::{command_name, vps_name};
use super::gate::Cancelled;
use super::message::{Message, Next};
use super::node::Node;
use super::order::Order;
use super::output::{Outputs, Totals};
use super::record::{Outcome, Phase, Record};
use super::supervise::box_file::{RECALL, RECALL_LIMIT, TICKET};
use crate::sys::shutdown::Stop;
use crate::sys::{clock, file, recall, thread};
use crate::warning;

/// What is to be done with one task.
#[derive(Clone)]
pub enum Job {
    /// Start it, or go on with a start that was interrupted.
    Start(Box<Result<Order, String>>),
    /// See what Docker has, and put the record right. `patience_over`: see [`super::judge::judge`].
    Look {
        patience_over: bool,
    },
    /// A command's container has ended: tell its end.
    Finish(Death),
    Pause,
    Resume,
    Stop,
    /// It was restarted too often: stop it, keep its container.
    GiveUp,
    /// Its end is stored by the Host: remove what is left of it.
    Forget,
    /// A container of it came to light after its end: remove that.
    Sweep {
        container: String,
    },
    /// A container of it came to light when nothing of it was known here, never came to run, and is asked for by nobody: remove that.
    Discard,
}

/// The end of a container, as Docker's event tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub code: i32,
    /// Milliseconds since 1970.
    pub at_ms: Option<u64>,
}

/// One operation's hold on its task.
pub struct Work {
    pub node: Arc<Node>,
    pub record: Record,
    /// Set when something else is wanted: end as soon as possible, wherever that is.
    pub cancel: Stop,
    /// Set when its container died.
    pub died: Stop,
    pub tell: Sender<Message>,
    pub outputs: Arc<Outputs>,
}

/// Why an operation ended early.
#[derive(Debug)]
pub enum Halt {
    Cancelled,
    /// The task is over.
    Over(Outcome),
    /// The task is over, and that was told.
    Told,
}

impl From<Cancelled> for Halt {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl Work {
    /// Does it, and tells the end; also that of one which has found a fault in itself: the agent would wait for it for ever.
    pub fn run(mut self, job: Job) {
        let what = format!("an operation on task {}", self.record.task);
        let next = thread::caught(&what, || self.act(job)).unwrap_or(Next::NotAtOnce);
        // The agent ends before its operations only when the process does.
        let _ended = self.tell.send(Message::Done(Box::new(self.record), next));
    }

    fn act(&mut self, job: Job) -> Next {
        match job {
            Job::Start(order) => self.start(*order),
            Job::Look { patience_over } => self.look(patience_over),
            Job::Finish(death) => self.finish(death),
            Job::Pause => self.freeze(true),
            Job::Resume => self.freeze(false),
            Job::Stop => self.stop(),
            Job::GiveUp => self.give_up(),
            Job::Forget => self.forget(),
            Job::Sweep { container } => self.sweep(&container),
            Job::Discard => self.discard(),
        }
    }

    /// Writes the record as it is. A full disk must not keep a task from being stopped or reported, so that is a warning.
    fn save(&mut self) {
        self.node.boot_id.clone_into(&mut self.record.boot_id);
        if let Err(fault) = self.try_save() {
            warning!("task {}: its record is out of date: {fault}", self.record.task);
        }
    }

    fn try_save(&self) -> io::Result<()> {
        self.node.records.save(&self.record)
    }

    /// A change that the Host should hear of: stored, then told.
    fn change(&mut self, phase: Phase) {
        self.record.phase = phase;
        self.record.rev += 1;
        self.save();
        let _ended = self.tell.send(Message::Changed(Box::new(self.record.clone())));
    }

    /// What it does while it starts.
    fn progress(&mut self, text: &str) {
        let phase = Phase::Starting { progress: Some(text.to_owned()) };
        if self.record.phase != phase {
            self.change(phase);
        }
    }

    /// Where its record is, and what its container reads and writes.
    fn folder(&self) -> PathBuf {
        self.node.records.folder(self.record.task, self.record.attempt)
    }

    /// What it does, or what is missing while it runs.
    fn say(&mut self, text: &str) {
        match self.record.phase {
            Phase::Starting { .. } => self.progress(text),
            Phase::Running { .. } => self.note(text),
            Phase::Paused | Phase::Ended(_) => {}
        }
    }

    /// Ends what lives of its container though Docker has lost sight of that: see [`recall`]. True if something did.
    fn recall(&self) -> io::Result<bool> {
        let has_lived = recall::end(&self.folder().join("box").join(RECALL), RECALL_LIMIT)?;
        if has_lived {
            warning!("task {}: a container of it still lived, and was ended without Docker", self.record.task);
        }
        Ok(has_lived)
    }

    /// As [`Self::recall`], and does not give up as long as somebody is known to live there.
    fn outlive(&mut self) -> Result<(), Cancelled> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            match self.recall() {
                Ok(_) => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::TimedOut => {
                    warning!(
                        "task {}: a container that Docker has lost sight of has not ended yet: {fault}",
                        self.record.task
                    );
                    self.say("waiting for an earlier container of it to end");
                    if self.cancel.wait(backoff.wait()) {
                        return Err(Cancelled);
                    }
                }
                // That is no sign of life.
                Err(fault) => {
                    warning!("task {}: what Docker has lost sight of cannot be ended: {fault}", self.record.task);
                    return Ok(());
                }
            }
        }
    }

    /// It is over: nothing of it lives, nor begins any more (a `docker run` of a Runner that is dead may still be on its way). Until
    /// that is so, nothing is told and nothing let go. Where something else is wanted meanwhile, all stays as it was: whoever looks at
    /// it next comes here again.
    fn end(&mut self, outcome: Outcome) -> Next {
        if self.record.is_command()
            && let Err(fault) = file::take(&self.folder().join("out").join(TICKET))
        {
            warning!("task {}: a container of it that comes too late could begin it: {fault}", self.record.task);
        }
        // In this order: what has begun it meanwhile is there to be ended.
        if self.outlive().is_err() {
            return Next::LookAgain;
        }
        if outcome.kept {
            self.node.holdings.release_cores(self.record.task);
        } else {
            self.node.holdings.release(self.record.task);
        }
        if self.record.completed_at.is_none() {
            self.record.completed_at = Some(clock::rfc3339(clock::unix_ms()));
        }
        if self.record.writes() {
            self.record.totals = self.outputs.ended(self.record.task, self.record.attempt);
        } else if self.record.is_command() {
            self.record.totals = Totals { stdout: Some(0), stderr: Some(0) };
        }
        self.change(Phase::Ended(outcome));
        Next::Nothing
    }

    /// By what its container is called: the id, once that is known.
    fn handle(&self) -> String {
        let name = if self.record.is_command() { command_name } else { vps_name };
        self.record.container.clone().unwrap_or_else(|| name(self.record.task))
    }

    /// Makes a call when the daemon answers, and again if it stops answering meanwhile (so `call` must be one that may be
    /// made twice). `waiting` hears why it waits.
    fn docker<T>(
        &mut self,
        waiting: fn(&mut Self, &str),
        mut call: impl FnMut(&Docker) -> Result<T, DockerFault>,
    ) -> Result<Result<T, DockerFault>, Cancelled> {
        let node = Arc::clone(&self.node);
        let mut doubts = 0;
        loop {
            let cancel = self.cancel.clone();
            node.gate.wait_up(&cancel, &mut |reason| waiting(self, reason))?;
            match call(&node.docker) {
                Err(fault) if fault.kind == Complaint::Down && node.is_docker_away(&fault, &mut doubts, &cancel) => {}
                other => return Ok(other),
            }
        }
    }

    /// Its container, as Docker has it now.
    fn find(&mut self, waiting: fn(&mut Self, &str)) -> Result<Result<Option<Container>, DockerFault>, Cancelled> {
        let handle = self.handle();
        self.docker(waiting, |docker| docker.look(&handle))
    }

    /// Removes its container, and does not give up: nothing may be left behind. What bears its name and not its labels is
    /// someone else's.
    fn remove(&mut self, waiting: fn(&mut Self, &str)) -> Result<(), Cancelled> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        loop {
            let removed = match &self.record.container {
                Some(id) => Ok(Some(id.clone())),
                None => self.find(waiting)?.map(|found| found.map(|container| container.id)),
            };
            let removed = match removed {
                Ok(Some(id)) => self.docker(waiting, |docker| docker.remove(&id))?,
                Ok(None) => Ok(()),
                Err(fault) => Err(fault),
            };
            match removed {
                Ok(()) => return Ok(()),
                Err(fault) => {
                    warning!("task {}: its container cannot be removed yet: {fault}", self.record.task);
                    // Because something lives there of which Docker knows nothing?
                    let _still = self.recall();
                    if self.cancel.wait(backoff.wait()) {
                        return Err(Cancelled);
                    }
                }
            }
        }
    }

    /// Nothing to say while waiting for Docker.
    fn quietly(&mut self, _reason: &str) {}
}
