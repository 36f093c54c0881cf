//! A VPS: from its container to an SSH server that answers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::banner::{Heard, listen};
use super::start::{Contained, over};
use super::{Halt, Work};
use crate::api::json;
use crate::info;
use crate::runner::executor::docker_parse::{Container, ContainerState};
use crate::runner::host_key::{self, HostKey};
use crate::runner::judge::exit_text;
use crate::runner::order::VpsOrder;
use crate::runner::outcome::{printable, with_lines};
use crate::runner::record::{Ending, Outcome, Phase};
use crate::runner::supervise::box_file::{self, BoxFile};
use crate::sys::{clock, file};

/// How long to try the server without asking Docker whether its container still runs.
const STRETCH: Duration = Duration::from_secs(2);
/// How many lines of a failed container's output are told.
const LINES: u32 = 20;
/// A box holds keys and variables: a submit's body has 16 MiB at most, and JSON may double it.
const LARGEST_BOX: usize = 32 << 20;

impl Work {
    /// Makes and starts its container; the answer is the container's id.
    pub(super) fn start_vps(&mut self, order: &VpsOrder) -> Result<String, Halt> {
        self.allowed(&order.container)?;
        let image = self.image(&order.container)?;
        let host_key = self.prepare_box(order)?;
        self.record.host_keys = Some(vec![host_key]);
        let task = Contained { needs: &order.needs, container: &order.container, workdir: None, is_vps: true };
        self.launch(&task, image)
    }

    /// Writes what the container is to read; the answer is its public host key.
    fn prepare_box(&mut self, order: &VpsOrder) -> Result<String, Halt> {
        let task = self.record.task;
        let folder = self.node.records.folder(task, self.record.attempt);
        let (seed, key) = kept_seed(&folder.join("box").join(box_file::FILE)).unwrap_or_else(new_key);
        self.write_box(&BoxFile {
            kind: "vps".to_owned(),
            task_id: task.to_string(),
            keys: order.keys.clone(),
            host_key_seed: seed,
            env: self.environment(&order.needs),
            ..BoxFile::default()
        })?;
        Ok(key.public_line())
    }

    /// Waits for the SSH banner of a container that was started, and watches over it meanwhile.
    pub(super) fn see_it_start(&mut self, container: String) -> Result<(), Halt> {
        self.record.container = Some(container);
        let began = clock::now();
        let address = SocketAddr::new(self.node.address(), self.port()?);
        loop {
            let limit = self.limit();
            let until = (began + limit).min(clock::now() + STRETCH);
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
            if clock::now() >= began + limit {
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
        let folder = self.folder();
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
    pub(super) fn died_early(&mut self, container: &Container) -> Result<Halt, Halt> {
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

    fn port(&self) -> Result<u16, Halt> {
        self.record.port.ok_or_else(|| over("its container was found again without a published port"))
    }
}

/// The first line of the phase file, as far as it can be shown.
fn phase_text(content: &[u8]) -> Option<String> {
    let content = String::from_utf8_lossy(content);
    let line = printable(content.lines().next()?, 200);
    (!line.is_empty()).then_some(line)
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
    }
}
