//! A container of the simulated Docker, and what Docker prints of it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::random::Random;
use super::truth::RunId;
use crate::runner::executor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) state: State,
    pub(super) restarts: bool,
    /// Somebody asked for its end: Docker does not start it again.
    pub(super) stopped: bool,
    pub(super) port: Option<u16>,
    pub(super) address: String,
    pub(super) cpus: String,
    pub(super) shares: u32,
    pub(super) gpus: Vec<String>,
    pub(super) mounts: BTreeMap<String, String>,
    pub(super) started: Option<String>,
    pub(super) finished: Option<String>,
    pub(super) code: i32,
    pub(super) oom: bool,
    /// What our supervisor in it has said.
    pub(super) said: String,
    /// By itself, then, and so.
    pub(super) dies: Option<(Instant, i32, bool)>,
    pub(super) kill_at: Option<(Instant, i32)>,
    /// Its SSH server answers from then on; None: never.
    pub(super) answers: Option<Instant>,
    pub(super) restart_at: Option<Instant>,
    pub(super) run: Option<RunId>,
}

/// The words of a `docker run`.
pub(super) struct Ordered<'a> {
    pub(super) argv: &'a [String],
}

impl Ordered<'_> {
    fn all(&self, name: &str) -> Vec<String> {
        self.argv.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].clone()).collect()
    }

    pub(super) fn one(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    /// The address and the port of its node at which it is reached.
    pub(super) fn published(&self) -> Option<(String, u16)> {
        let text = self.one("--publish")?;
        let mut parts = text.rsplitn(3, ':');
        let (_, port, address) = (parts.next(), parts.next().expect("a port"), parts.next().expect("an address"));
        Some((address.to_owned(), port.parse().expect("a port")))
    }
}

/// A field of a `--mount`, with its `=`.
fn field(mount: &str, name: &str) -> String {
    mount.split(',').find_map(|field| field.strip_prefix(name)).map(ToOwned::to_owned).unwrap_or_default()
}

impl Container {
    /// As it is made, not started.
    pub(super) fn ordered(id: String, order: &Ordered<'_>) -> Self {
        let published = order.published();
        let labels = order.all("--label");
        let labels = labels.iter().filter_map(|label| label.split_once('='));
        let gpus = order.one("--gpus").map(|text| text.trim_matches('"').trim_start_matches("device=").to_owned());
        let mounts = order.all("--mount");
        Self {
            id,
            name: order.one("--name").expect("every container has a name"),
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            state: State::Created,
            restarts: false,
            stopped: false,
            port: published.as_ref().map(|(_, port)| *port),
            address: published.map(|(address, _)| address).unwrap_or_default(),
            cpus: order.one("--cpuset-cpus").unwrap_or_default(),
            shares: order.one("--cpu-shares").and_then(|shares| shares.parse().ok()).unwrap_or(0),
            gpus: gpus.iter().flat_map(|gpus| gpus.split(',')).map(ToOwned::to_owned).collect(),
            mounts: mounts.iter().map(|mount| (field(mount, "target="), field(mount, "source="))).collect(),
            started: None,
            finished: None,
            said: String::new(),
            code: 0,
            oom: false,
            dies: None,
            kill_at: None,
            answers: None,
            restart_at: None,
            run: None,
        }
    }

    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    pub(super) fn task(&self) -> u64 {
        self.label(executor::TASK).parse().expect("our own label")
    }

    pub(super) fn attempt(&self) -> u32 {
        self.label(executor::ATTEMPT).parse().expect("our own label")
    }

    pub(super) fn is_vps(&self) -> bool {
        self.label(executor::KIND) == "vps"
    }

    pub(super) fn lives(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }

    pub(super) fn inspected(&self) -> String {
        let status = match self.state {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Restarting => "restarting",
            State::Removing => "removing",
            State::Exited => "exited",
        };
        let never = "0001-01-01T00:00:00Z";
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        let ports = self.port.map_or("{}".to_owned(), |port| {
            format!(r#"{{"22/tcp":[{{"HostIp":"{}","HostPort":"{port}"}}]}}"#, self.address)
        });
        let mounts: Vec<String> = self
            .mounts
            .iter()
            .map(|(target, source)| format!(r#"{{"Source":"{source}","Destination":"{target}"}}"#))
            .collect();
        format!(
            r#"{{"id":"{}","state":{{"Status":"{status}","OOMKilled":{},"ExitCode":{},"StartedAt":"{}","FinishedAt":"{}"}},"labels":{{{}}},"restart":"{}","ports":{ports},"cpus":"{}","shares":{},"mounts":[{}]}}"#,
            self.id,
            self.oom,
            self.code,
            self.started.as_deref().unwrap_or(never),
            self.finished.as_deref().unwrap_or(never),
            labels.join(","),
            if self.restarts { "unless-stopped" } else { "no" },
            self.cpus,
            self.shares,
            mounts.join(",")
        ) + "\n"
    }
}

/// As `docker ps` tells it.
pub(super) fn listed(container: &Container) -> String {
    let status = match container.state {
        State::Created => "Created",
        State::Running => "Up 3 seconds",
        State::Paused => "Up 3 seconds (Paused)",
        State::Restarting => "Restarting (1) 1 second ago",
        State::Removing => "Removal In Progress",
        State::Exited => "Exited (0) 1 second ago",
    };
    format!("{}\t{status}\n", container.id)
}

/// A code, and whether the kernel killed it for want of memory.
pub(super) fn how_it_ends(random: &Random) -> (i32, bool) {
    match random.below(10) {
        0..=5 => (0, false),
        6 => (1, false),
        7 => (7, false),
        8 => (137, false),
        _ => (137, true),
    }
}
