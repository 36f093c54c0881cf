//! From an order to an SSH server that answers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::banner::{Heard, listen};
use super::{Halt, Work};
use crate::api::json;
use crate::domain::cpuset::CpuSet;
use crate::domain::pinning::PinRequest;
use crate::domain::spec::Mount;
use crate::info;
use crate::runner::executor::docker_args::{VpsRun, run_vps};
use crate::runner::executor::docker_parse::{Complaint, Container, ContainerState};
use crate::runner::executor::vps_name;
use crate::runner::host_key::{self, HostKey};
use crate::runner::images::ImageFault;
use crate::runner::judge::exit_text;
use crate::runner::message::Next;
use crate::runner::order::VpsOrder;
use crate::runner::record::{Ending, Outcome, Phase};
use crate::runner::supervise::box_file::{self, BoxFile};
use crate::sys::{clock, file};

/// How long to try the server without asking Docker whether its container still runs.
const STRETCH: Duration = Duration::from_secs(2);
/// How often Docker may say that a port is taken which looked free.
const PORT_TRIES: u32 = 100;
/// How many lines of a failed container's output are told.
const LINES: u32 = 20;
/// A box holds keys and variables: a submit's body has 16 MiB at most, and JSON may double it.
const LARGEST_BOX: usize = 32 << 20;

impl Work {
    /// Starts it, or goes on with a start that was interrupted.
    pub(super) fn start(&mut self, order: Result<VpsOrder, String>) -> Next {
        match self.try_start(order) {
            Ok(()) | Err(Halt::Cancelled) => {}
            Err(Halt::Over(outcome)) => {
                info!("task {} did not start: {}", self.record.task, outcome.reason.as_deref().unwrap_or("no reason"));
                self.end(outcome);
            }
        }
        Next::Nothing
    }

    fn try_start(&mut self, order: Result<VpsOrder, String>) -> Result<(), Halt> {
        if self.record.launched
            && let Some(container) = self.interrupted()?
        {
            return self.see_it_start(container.id);
        }
        let order = order.map_err(over)?;
        self.allowed(&order)?;
        let image = self.image(&order)?;
        let host_key = self.prepare_box(&order)?;
        self.record.host_keys = Some(vec![host_key]);
        let container = self.launch(&order, image)?;
        self.see_it_start(container)
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
            ContainerState::Created | ContainerState::Removing => {
                self.remove(Self::waiting)?;
                self.record.container = None;
                Ok(None)
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

    /// What this node itself forbids, whatever the Host says.
    fn allowed(&self, order: &VpsOrder) -> Result<(), Halt> {
        let limits = &self.node.limits;
        if order.privileged && !limits.allow_privileged {
            return Err(over(
                "this node allows no privileged containers (docker.allow_privileged = false in its config)",
            ));
        }
        let allowed =
            |mount: &&Mount| limits.allowed_mounts.iter().any(|root| Path::new(&mount.host).starts_with(root));
        match order.mounts.iter().find(|mount| !allowed(mount)) {
            Some(mount) => {
                Err(over(format!("this node does not allow {} to be mounted (docker.allowed_mounts)", mount.host)))
            }
            None => Ok(()),
        }
    }

    /// The image to run; loaded if the node does not have it yet.
    fn image(&mut self, order: &VpsOrder) -> Result<String, Halt> {
        let node = std::sync::Arc::clone(&self.node);
        let cancel = self.cancel.clone();
        loop {
            node.gate.wait_up(&cancel, &mut |reason| self.waiting(reason))?;
            // Told at most twice a second: each is a write to the disk and a call to the Host.
            let mut told = None::<Instant>;
            let found = node.images.resolve(order.environment.as_str(), &cancel, &mut |text| {
                if told.is_none_or(|told| told.elapsed() >= Duration::from_millis(500)) {
                    told = Some(Instant::now());
                    self.progress(text);
                }
            });
            match found {
                Ok(id) => return Ok(id),
                Err(ImageFault::Cancelled) => return Err(Halt::Cancelled),
                Err(ImageFault::Unusable(reason)) => return Err(over(reason)),
                Err(ImageFault::Docker(fault)) if fault.kind == Complaint::Down => {
                    node.gate.set(Err(fault.text));
                }
                Err(ImageFault::Docker(fault)) => return Err(over(fault.text)),
            }
        }
    }

    /// Writes what the container is to read; the answer is its public host key.
    fn prepare_box(&self, order: &VpsOrder) -> Result<String, Halt> {
        let task = self.record.task;
        let folder = self.node.records.folder(task, self.record.attempt);
        let path = folder.join("box").join(box_file::FILE);
        let (seed, key) = kept_seed(&path).unwrap_or_else(new_key);
        let mut env = order.env.clone();
        env.push(("HAKURIVER_TASK_ID".to_owned(), task.to_string()));
        if let Some(numa) = order.numa {
            env.push(("HAKURIVER_TARGET_NUMA_NODE".to_owned(), numa.to_string()));
        }
        let content = BoxFile {
            kind: "vps".to_owned(),
            task_id: task.to_string(),
            keys: order.keys.clone(),
            host_key_seed: seed,
            argv: Vec::new(),
            env,
        };
        let made = file::make_dir(&folder, 0o700)
            .and_then(|()| file::make_dir(&folder.join("box"), 0o700))
            .and_then(|()| file::make_dir(&folder.join("out"), 0o700))
            .and_then(|()| file::write_atomic(&path, json::encode(&content).as_bytes(), 0o600));
        made.map_err(|fault| over(format!("this node cannot store the task: {fault}")))?;
        Ok(key.public_line())
    }

    /// Makes and starts the container; the answer is its id.
    fn launch(&mut self, order: &VpsOrder, image: String) -> Result<String, Halt> {
        let mut run = self.run_of(order, image)?;
        let mut tries = 0;
        let mut clashes = 0;
        let mut refused = None;
        loop {
            // Before each call, and not only the first: it may have waited for Docker.
            if self.cancel.is_set() {
                return Err(Halt::Cancelled);
            }
            let address = run.address;
            run.port = self
                .node
                .holdings
                .take_port(self.record.task, self.node.limits.vps_ports, address, refused)
                .map_err(over)?;
            self.record.port = Some(run.port);
            self.record.launched = true;
            self.record.phase = Phase::Starting { progress: Some("starting its container".to_owned()) };
            if !self.save() {
                return Err(over("this node cannot write the task's record: its disk is full or broken"));
            }
            let arguments = run_vps(&run);
            let fault = match self.node.docker.run(arguments) {
                Ok(id) => return Ok(id),
                Err(fault) => fault,
            };
            match fault.kind {
                Complaint::PortTaken if tries < PORT_TRIES => {
                    tries += 1;
                    refused = Some(run.port);
                    self.remove(Self::waiting)?;
                }
                Complaint::NoSuchImage if tries < PORT_TRIES => {
                    tries += PORT_TRIES / 3;
                    self.node.images.forget(&run.image);
                    run.image = self.image(order)?;
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
                        vps_name(self.record.task)
                    )));
                }
                // What it did is not known until it answers again.
                Complaint::Down => {
                    self.node.gate.set(Err(fault.text));
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

    /// All that Docker is told about the container, but its port.
    fn run_of(&mut self, order: &VpsOrder, image: String) -> Result<VpsRun, Halt> {
        let node = std::sync::Arc::clone(&self.node);
        let inventory = node.inventory();
        let mut gpus = Vec::new();
        let mut near = Vec::new();
        for id in &order.gpus {
            let gpu = inventory.gpus.iter().find(|gpu| gpu.id == *id);
            let gpu = gpu.ok_or_else(|| over(format!("this node has no GPU {id} (any more)")))?;
            gpus.push(gpu.uuid.clone());
            near.extend(gpu.numa);
        }
        let request = PinRequest { cores: order.cores, numa: order.numa, near };
        let pinned = node.holdings.take_cores(self.record.task, &request, &inventory).map_err(over)?;
        self.record.cpus = pinned.as_ref().map_or_else(CpuSet::default, |pinned| pinned.cpus.clone());
        self.record.exclusive = order.cores > 0;
        self.record.binary = node.binary.to_string_lossy().into_owned();
        let folder = node.records.folder(self.record.task, self.record.attempt);
        let (mounts, workdir) = self.mounts(order)?;
        Ok(VpsRun {
            owner: node.docker.owner().clone(),
            task: self.record.task,
            attempt: self.record.attempt,
            image,
            address: node.address(),
            port: 0,
            pinned,
            exclusive: order.cores > 0,
            memory: order.memory,
            gpus,
            privileged: order.privileged,
            mounts,
            workdir,
            binary: self.record.binary.clone(),
            box_dir: text(&folder.join("box"))?,
            out_dir: text(&folder.join("out"))?,
        })
    }

    /// The mounts, and the working directory.
    fn mounts(&self, order: &VpsOrder) -> Result<(Vec<Mount>, Option<String>), Halt> {
        let limits = &self.node.limits;
        let taken = |path: &str| order.mounts.iter().any(|mount| mount.container == path);
        let mut mounts = Vec::new();
        let mut add = |host: PathBuf, container: &str| -> Result<(), Halt> {
            // A mount of the user's own at this place wins.
            if !taken(container) {
                mounts.push(Mount { host: text(&host)?, container: container.to_owned(), read_only: false });
            }
            Ok(())
        };
        let shared = self.node.looks.shared_data(&limits.shared_dir, &self.node.docker.owner().cluster);
        let is_shared = shared.is_some();
        if let Some(shared) = shared {
            add(shared, "/shared")?;
        }
        add(limits.local_temp_dir.clone(), "/local_temp")?;
        mounts.extend(order.mounts.iter().cloned());
        let shared = (is_shared || taken("/shared")).then(|| "/shared".to_owned());
        Ok((mounts, order.workdir.clone().or(shared)))
    }

    /// Waits for the SSH banner of a container that was started, and watches over it meanwhile.
    fn see_it_start(&mut self, container: String) -> Result<(), Halt> {
        self.record.container = Some(container);
        let began = Instant::now();
        let address = SocketAddr::new(self.node.address(), self.port()?);
        loop {
            let limit = self.limit();
            let until = (began + limit).min(Instant::now() + STRETCH);
            match listen(address, until, &[&self.cancel, &self.died]) {
                Heard::Banner => {
                    self.answered_first();
                    return Ok(());
                }
                _ if self.cancel.is_set() => return Err(Halt::Cancelled),
                Heard::Interrupted | Heard::Nothing => {}
            }
            let Some(container) = self.seen()? else {
                return Err(over("its container was removed behind our back while it started"));
            };
            match &container.state {
                ContainerState::Exited(_) => return Err(self.died_early(&container)?),
                // The event of its death was of an earlier run of it.
                _ if self.died.is_set() => self.died = crate::sys::shutdown::Stop::new(),
                _ => {}
            }
            if began.elapsed() >= limit {
                return Err(self.never_answered(address, limit)?);
            }
        }
    }

    /// The banner was read: it runs. What is not urgent follows after this was told.
    fn answered_first(&mut self) {
        self.record.started_at = Some(clock::rfc3339(clock::unix_ms()));
        self.change(Phase::Running { note: None });
        info!("task {} runs at port {}", self.record.task, self.record.port.unwrap_or_default());
        self.let_restart();
        // Which run of the container it was that answered, so that a later one is known to be another.
        if let Ok(Ok(Some(seen))) = self.find(Self::quietly) {
            self.record.answered_since = seen.started_at;
            self.save();
        }
    }

    /// How long it may take: longer where the image must get an SSH server first. What it says stands in a file that the
    /// container can write what it likes into: at worst it gets the longer limit.
    fn limit(&mut self) -> Duration {
        let folder = self.node.records.folder(self.record.task, self.record.attempt);
        let phase = file::read_foreign(&folder.join("out").join(box_file::PHASE), 4096).unwrap_or_default();
        match phase_text(&phase) {
            Some(text) => {
                let installs = text.starts_with("installing");
                self.progress(&text);
                if installs { self.node.limits.install_timeout } else { self.node.limits.start_timeout }
            }
            None => self.node.limits.start_timeout,
        }
    }

    /// It ended before its SSH server answered.
    fn died_early(&mut self, container: &Container) -> Result<Halt, Halt> {
        let ContainerState::Exited(exit) = &container.state else {
            return Ok(over("its container did not start"));
        };
        let lines = self.node.docker.last_lines(&container.id, LINES);
        self.remove(Self::waiting)?;
        let reason = format!("{} before its SSH server answered", exit_text(exit.code, exit.oom));
        let outcome = Outcome::exited(exit.code, exit.oom, Some(with_lines(&reason, &lines)));
        // A VPS that ends at once has not done its work, whatever its exit status.
        let state = if outcome.state == Ending::KilledOom { Ending::KilledOom } else { Ending::Failed };
        Ok(Halt::Over(Outcome { state, ..outcome }))
    }

    fn never_answered(&mut self, address: SocketAddr, limit: Duration) -> Result<Halt, Halt> {
        let lines = self.node.docker.last_lines(&self.handle(), LINES);
        self.remove(Self::waiting)?;
        let reason = format!("no SSH server answered at {address} within {} s", limit.as_secs());
        Ok(over(with_lines(&reason, &lines)))
    }

    /// Its container, as Docker has it now.
    fn seen(&mut self) -> Result<Option<Container>, Halt> {
        self.find(Self::waiting)?.map_err(|fault| over(fault.text))
    }

    fn port(&self) -> Result<u16, Halt> {
        self.record.port.ok_or_else(|| over("its container was found again without a published port"))
    }

    fn waiting(&mut self, reason: &str) {
        self.progress(&format!("waiting for Docker on this node: {reason}"));
    }
}

fn over(reason: impl Into<String>) -> Halt {
    Halt::Over(Outcome::failed(reason))
}

fn text(path: &Path) -> Result<String, Halt> {
    let text = path.to_str().map(ToOwned::to_owned);
    text.ok_or_else(|| over(format!("the path {} is not UTF-8, which Docker cannot mount", path.display())))
}

/// A reason, and what the container said last.
pub(super) fn with_lines(reason: &str, lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| printable(line, 500)).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { reason.to_owned() } else { format!("{reason}; its last lines:\n{}", lines.join("\n")) }
}

/// The first line of the phase file, as far as it can be shown.
fn phase_text(content: &[u8]) -> Option<String> {
    let content = String::from_utf8_lossy(content);
    let line = printable(content.lines().next()?, 200);
    (!line.is_empty()).then_some(line)
}

/// Without control characters, and not longer than `limit` characters.
fn printable(line: &str, limit: usize) -> String {
    line.chars().filter(|c| !c.is_control()).take(limit).collect::<String>().trim().to_owned()
}

/// The host key that an earlier try of this attempt wrote: a `docker run` of a Runner that was killed may still be on its
/// way, and its container reads the box when it starts.
fn kept_seed(path: &Path) -> Option<(String, HostKey)> {
    let text = file::read_foreign(path, LARGEST_BOX).ok()?;
    let seed = json::decode::<BoxFile>(&text).ok()?.host_key_seed;
    HostKey::from_seed_hex(&seed).map(|key| (seed, key))
}

fn new_key() -> (String, HostKey) {
    let seed = host_key::new_seed();
    let key = HostKey::from_seed_hex(&seed).expect("a new seed has 64 hexadecimal digits");
    (seed, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_says_is_shown_without_what_would_harm_a_terminal() {
        assert_eq!(
            phase_text(b"installing openssh-server with apt-get\nx"),
            Some("installing openssh-server with apt-get".to_owned())
        );
        assert_eq!(phase_text(b"\x1b[2Jhello\r\n"), Some("[2Jhello".to_owned()));
        assert_eq!(phase_text(b""), None);
        assert_eq!(phase_text(b"  \n"), None);
        assert_eq!(phase_text(&[b'x'; 4096]).map(|text| text.len()), Some(200));
        assert_eq!(with_lines("why", ""), "why");
        assert_eq!(with_lines("why", "a\n\n\x07b\n"), "why; its last lines:\na\nb");
    }
}
