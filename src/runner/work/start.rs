//! From an order to a container: what VPS and commands have in common.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Halt, Work};
use crate::api::json;
use crate::domain::cpuset::CpuSet;
use crate::domain::pinning::PinRequest;
use crate::info;
use crate::runner::backoff::Backoff;
use crate::runner::executor::docker_args::{ContainerRun, run_task};
use crate::runner::executor::docker_parse::{Complaint, Container, ContainerState};
use crate::runner::holdings::Cannot;
use crate::runner::images::ImageFault;
use crate::runner::message::Next;
use crate::runner::order::{ContainerOrder, Needs, Order};
use crate::runner::record::{Outcome, Phase};
use crate::runner::supervise::box_file::{self, BoxFile};
use crate::sys::{file, recall};

/// How often a start is tried: a port may be taken that looked free. A missing image or a dead shim counts for a third of them.
const TRIES: u32 = 100;
/// Between two looks for cores that are still held.
const BUSY: Duration = Duration::from_millis(500);
/// Between two tries to write to a disk that is full.
const ROOM: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What is to run in a container.
pub(super) struct Contained<'a> {
    pub(super) needs: &'a Needs,
    pub(super) container: &'a ContainerOrder,
    pub(super) workdir: Option<&'a str>,
    pub(super) is_vps: bool,
}

impl Work {
    /// Starts it, or goes on with a start that was interrupted.
    pub(super) fn start(&mut self, order: Result<Order, String>) -> Next {
        match self.try_start(order) {
            Ok(()) | Err(Halt::Cancelled | Halt::Told) => {}
            Err(Halt::Over(outcome)) => {
                info!("task {} did not start: {}", self.record.task, outcome.reason.as_deref().unwrap_or("no reason"));
                return self.end(outcome);
            }
        }
        Next::Nothing
    }

    fn try_start(&mut self, order: Result<Order, String>) -> Result<(), Halt> {
        if self.record.launched
            && let Some(container) = self.interrupted()?
        {
            return self.launched(container.id);
        }
        let container = match order.map_err(over)? {
            Order::Vps(order) => self.start_vps(&order)?,
            Order::Contained(order, container) => self.start_command(&order, &container)?,
            // The agent gives these to the node's supervisor.
            Order::OnNode(_) => return Err(over("a task without a container was given to Docker")),
        };
        self.launched(container)
    }

    /// Its container was made, and runs or ran.
    fn launched(&mut self, container: String) -> Result<(), Halt> {
        if self.record.is_command() {
            self.runs(container);
            Ok(())
        } else {
            self.see_it_start(container)
        }
    }

    /// The container of a start that was interrupted, if it is there and runs. One that did not come to run is removed.
    fn interrupted(&mut self) -> Result<Option<Container>, Halt> {
        let known = self.record.container.is_some();
        let Some(container) = self.seen()? else {
            if known {
                return Err(over("its container was removed behind our back while it started"));
            }
            return Ok(None);
        };
        match &container.state {
            _ if container.labels.attempt != self.record.attempt => {
                self.remove(Self::waiting)?;
                Ok(None)
            }
            ContainerState::Running | ContainerState::Restarting => Ok(Some(container)),
            ContainerState::Paused => {
                let id = container.id.clone();
                let _thawed = self.docker(Self::waiting, |docker| docker.freeze(&id, false))?;
                Ok(Some(container))
            }
            // The call that made it may still be under way, from a Runner that is dead: it may start at any moment.
            ContainerState::Created => {
                let id = container.id.clone();
                // Together with the box the ticket was lost that tells whether it was begun. Docker may have lost sight of that, unless it
                // saw the start fail; what the runtime has made in the container's file system has not. (What starts from now on finds no
                // box, and begins nothing.)
                let lost_box = self.record.is_command() && self.record.launched && self.kept_box().is_none();
                let is_fresh = lost_box
                    && (container.never_began
                        || self
                            .docker(Self::waiting, |docker| docker.was_prepared(&id))?
                            .is_ok_and(|prepared| !prepared));
                match self.docker(Self::waiting, |docker| docker.remove_unstarted(&id))? {
                    Ok(()) => {
                        self.record.container = None;
                        self.record.launched &= !is_fresh;
                        Ok(None)
                    }
                    Err(fault) if fault.kind == Complaint::WrongState => self.interrupted(),
                    Err(fault) => {
                        self.remove(Self::waiting)?;
                        Err(over(fault.text))
                    }
                }
            }
            // A command runs once, and this one was begun: what it came to went with its container.
            ContainerState::Removing if self.record.is_command() && container.started_at.is_some() => {
                Err(over("its container was removed behind our back while it started"))
            }
            ContainerState::Removing => {
                self.remove(Self::waiting)?;
                self.record.container = None;
                Ok(None)
            }
            // A command runs once, and this was it.
            ContainerState::Exited(exit) if self.record.is_command() => {
                self.record.container = Some(container.id.clone());
                // Cancelled, it stays as it is, and whoever goes on with the start comes here again.
                let _next = self.over(exit);
                Err(Halt::Told)
            }
            // It was the machine that ended, not the container.
            ContainerState::Exited(_) if self.record.boot_id != self.node.boot_id => {
                self.remove(Self::waiting)?;
                self.record.container = None;
                Ok(None)
            }
            ContainerState::Exited(_) => Err(self.died_early(&container)?),
        }
    }

    /// The image to run; loaded if the node does not have it yet.
    pub(super) fn image(&mut self, order: &ContainerOrder) -> Result<String, Halt> {
        let node = std::sync::Arc::clone(&self.node);
        let cancel = self.cancel.clone();
        let mut doubts = 0;
        loop {
            node.gate.wait_up(&cancel, &mut |reason| self.waiting(reason))?;
            let found = node.images.resolve(order.environment.as_str(), &cancel, &mut |text| self.progress(text));
            match found {
                Ok(id) => return Ok(id),
                Err(ImageFault::Cancelled) => return Err(Halt::Cancelled),
                Err(ImageFault::Unusable(reason)) => return Err(over(reason)),
                Err(ImageFault::Docker(fault))
                    if fault.kind == Complaint::Down && node.is_docker_away(&fault, &mut doubts, &cancel) => {}
                Err(ImageFault::Docker(fault)) => return Err(over(fault.text)),
            }
        }
    }

    /// Makes the record's folders, and writes the box; and the ticket to begin it, as long as Docker was told nothing of this attempt:
    /// nobody can have taken it then.
    pub(super) fn write_box(&mut self, content: &BoxFile) -> Result<(), Halt> {
        let folder = self.folder();
        let path = folder.join("box").join(box_file::FILE);
        let text = json::encode(content);
        let ticket = (content.has_ticket && !self.record.launched).then(|| folder.join("out").join(box_file::TICKET));
        self.with_room(|_| {
            file::make_dir(&folder, 0o700)?;
            file::make_dir(&folder.join("box"), 0o700)?;
            file::make_dir(&folder.join("out"), 0o700)?;
            recall::make(&folder.join("box").join(box_file::RECALL))?;
            if let Some(ticket) = &ticket {
                file::write_atomic(ticket, b"", 0o600)?;
            }
            file::write_atomic(&path, text.as_bytes(), 0o600)
        })
    }

    /// Writes something of the task's, and waits while the node's disk is full: a node that failed all that it is given would be
    /// given all that there is.
    fn with_room(&mut self, write: impl Fn(&Self) -> io::Result<()>) -> Result<(), Halt> {
        let mut backoff = Backoff::new(ROOM.0, ROOM.1);
        loop {
            match write(self) {
                Ok(()) => return Ok(()),
                Err(fault) if is_full(&fault) => {
                    self.progress(&format!("waiting for room on this node's disk: {fault}"));
                    if self.cancel.wait(backoff.wait()) {
                        return Err(Halt::Cancelled);
                    }
                }
                Err(fault) => return Err(over(format!("this node cannot store the task: {fault}"))),
            }
        }
    }

    /// The task's environment, with what every task is told.
    pub(super) fn environment(&self, needs: &Needs) -> Vec<(String, String)> {
        let mut env = needs.env.clone();
        env.push(("HAKURIVER_TASK_ID".to_owned(), self.record.task.to_string()));
        if let Some(numa) = needs.numa {
            env.push(("HAKURIVER_TARGET_NUMA_NODE".to_owned(), numa.to_string()));
        }
        env
    }

    /// Makes and starts the container; the answer is its id.
    pub(super) fn launch(&mut self, task: &Contained<'_>, image: String) -> Result<String, Halt> {
        let mut run = self.run_of(task, image)?;
        let mut tries = 0;
        let mut clashes = 0;
        let mut doubts = 0;
        let mut refused = None;
        loop {
            // Before each call, and not only the first: it may have waited for Docker.
            if self.cancel.is_set() {
                return Err(Halt::Cancelled);
            }
            if let Some((address, port)) = &mut run.vps {
                *port = self
                    .node
                    .holdings
                    .take_port(self.record.task, self.node.limits.vps_ports, *address, refused)
                    .map_err(over)?;
                self.record.port = Some(*port);
            }
            let may_live = std::mem::replace(&mut self.record.launched, true);
            self.record.phase = Phase::Starting { progress: Some("starting its container".to_owned()) };
            self.node.boot_id.clone_into(&mut self.record.boot_id);
            self.with_room(Self::try_save)?;
            self.watch();
            // Only of a call that was made before: the first one meets at most what an earlier Runner is still starting, and that is this
            // task as well; Docker says that its name is taken. What Docker has lost sight of is ended by process 1 of the new one.
            if may_live {
                self.outlive()?;
            }
            let arguments = run_task(&run);
            let fault = match self.node.docker.run(arguments) {
                Ok(id) => return Ok(id),
                Err(fault) => fault,
            };
            match fault.kind {
                Complaint::PortTaken if tries < TRIES => {
                    tries += 1;
                    refused = self.record.port;
                    self.remove(Self::waiting)?;
                }
                Complaint::NoSuchImage if tries < TRIES => {
                    tries += TRIES / 3;
                    self.node.images.forget(&run.image);
                    run.image = self.image(task.container)?;
                }
                // An earlier call of ours came through late; or it is someone else's.
                Complaint::NameTaken if clashes < 2 => {
                    clashes += 1;
                    if let Some(container) = self.interrupted()? {
                        return Ok(container.id);
                    }
                }
                Complaint::NameTaken => {
                    return Err(over(format!(
                        "a container of someone else has the name {} on this node: remove or rename it",
                        run.name()
                    )));
                }
                // Killed for want of memory, say. Whether the task had begun by then its ticket tells.
                Complaint::ShimDied if tries < TRIES => {
                    tries += TRIES / 3;
                    if let Some(container) = self.interrupted()? {
                        return Ok(container.id);
                    }
                }
                // What it did is not known until it answers again.
                Complaint::Down if self.node.is_docker_away(&fault, &mut doubts, &self.cancel) => {
                    if let Some(container) = self.interrupted()? {
                        return Ok(container.id);
                    }
                }
                _ => {
                    self.remove(Self::waiting)?;
                    return Err(over(fault.text));
                }
            }
        }
    }

    /// A command's output is looked at from now on.
    fn watch(&self) {
        if self.record.writes() {
            let (task, attempt) = (self.record.task, self.record.attempt);
            self.outputs.watch(task, attempt, self.node.records.container_output(task, attempt));
        }
    }

    /// All that Docker is told about the container, but its port.
    fn run_of(&mut self, task: &Contained<'_>, image: String) -> Result<ContainerRun, Halt> {
        let needs = task.needs;
        let node = std::sync::Arc::clone(&self.node);
        let inventory = node.inventory();
        let (gpus, near) = node.gpus(&inventory, &needs.gpus).map_err(over)?;
        let request = PinRequest { cores: needs.cores, numa: needs.numa, near };
        let pinned = loop {
            match node.holdings.take_cores(self.record.task, &request, &inventory) {
                Ok(pinned) => break pinned,
                Err(Cannot::Ever(why)) => return Err(over(why)),
                // The Host has given it cores that this node still has to find free: of what has ended, or was here before a Runner
                // lost its records.
                Err(Cannot::Now(why)) => {
                    self.progress(&format!("waiting for cores on its node: {why}"));
                    node.holdings.promise(self.record.task);
                    if self.cancel.wait(BUSY) {
                        return Err(Halt::Cancelled);
                    }
                }
            }
        };
        self.record.cpus = pinned.as_ref().map_or_else(CpuSet::default, |pinned| pinned.cpus.clone());
        self.record.exclusive = needs.cores > 0;
        self.record.binary = node.binary.to_string_lossy().into_owned();
        let folder = node.records.folder(self.record.task, self.record.attempt);
        let (mounts, workdir) = self.mounts(task)?;
        Ok(ContainerRun {
            owner: node.docker.owner().clone(),
            task: self.record.task,
            attempt: self.record.attempt,
            image,
            vps: task.is_vps.then(|| (node.address(), 0)),
            pinned,
            exclusive: needs.cores > 0,
            memory: needs.memory,
            gpus,
            privileged: task.container.privileged,
            mounts,
            workdir,
            binary: self.record.binary.clone(),
            box_dir: text(&folder.join("box"))?,
            out_dir: text(&folder.join("out"))?,
        })
    }

    /// Its container, as Docker has it now.
    pub(super) fn seen(&mut self) -> Result<Option<Container>, Halt> {
        match self.find(Self::waiting)? {
            Ok(seen) => Ok(seen),
            // What is there is not known; nothing of it is to be left behind.
            Err(fault) => {
                self.remove(Self::waiting)?;
                Err(over(fault.text))
            }
        }
    }

    pub(super) fn waiting(&mut self, reason: &str) {
        self.progress(&format!("waiting for Docker on this node: {reason}"));
    }
}

pub(super) fn over(reason: impl Into<String>) -> Halt {
    Halt::Over(Outcome::failed(reason))
}

fn is_full(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn text(path: &Path) -> Result<String, Halt> {
    let text = path.to_str().map(ToOwned::to_owned);
    text.ok_or_else(|| over(format!("the path {} is not UTF-8, which Docker cannot mount", path.display())))
}
