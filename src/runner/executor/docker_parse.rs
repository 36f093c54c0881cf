//! What `docker` prints, read into types. Pure; tested with what docker 20.10 really said.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::collections::BTreeMap;

use nanoserde::DeJson;

pub use crate::domain::docker_words::{Complaint, complaint, plain};

use crate::domain::docker_words::never_began;

use super::{ATTEMPT, CLUSTER, KIND, Labels, NODE, Owner, TASK};
use crate::api::json;
use crate::domain::ids::Attempt;
use crate::runner::supervise::box_file;

/// The template for `docker inspect --format`: one line of JSON a container, with what [`inspected`] reads and no more. Of its labels
/// ours alone: the others come from the image, and an image with too many of them would make the whole answer unreadable.
pub const INSPECT: &str = concat!(
    r#"{"id":{{json .Id}},"state":{{json .State}},"labels":{{with .Config.Labels}}{"#,
    r#""hakuriver.cluster":{{json (index . "hakuriver.cluster")}},"hakuriver.node":{{json (index . "hakuriver.node")}},"#,
    r#""hakuriver.task":{{json (index . "hakuriver.task")}},"hakuriver.attempt":{{json (index . "hakuriver.attempt")}},"#,
    r#""hakuriver.kind":{{json (index . "hakuriver.kind")}}}{{else}}null{{end}},"#,
    r#""restart":{{json .HostConfig.RestartPolicy.Name}},"ports":{{json .HostConfig.PortBindings}},"#,
    r#""cpus":{{json .HostConfig.CpusetCpus}},"shares":{{json .HostConfig.CpuShares}},"mounts":{{json .Mounts}}}"#
);

/// One of our containers, as Docker has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub labels: Labels,
    pub state: ContainerState,
    /// Docker starts it again when it ends (restart policy other than `no`).
    pub restarts: bool,
    /// The address and port at which its port 22 is published.
    pub published: Option<(String, u16)>,
    /// Its `--cpuset-cpus`, as given.
    pub cpus: String,
    /// Its CPU weight is not lowered: its cores are its own.
    pub exclusive: bool,
    /// When it was last started (RFC 3339); None: never.
    pub started_at: Option<String>,
    /// Its start failed before anything of it ran.
    pub never_began: bool,
    /// Our binary on the node that it runs.
    pub binary: String,
}

impl Container {
    /// Whether `handle` is its id or the name that its labels give it.
    pub fn is_called(&self, handle: &str) -> bool {
        self.id == handle || self.labels.name() == handle
    }
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Never started.
    Created,
    Running,
    Paused,
    /// Between two runs: Docker starts it again soon.
    Restarting,
    Exited(ContainerExit),
    /// Being removed.
    Removing,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerExit {
    pub code: i32,
    /// The kernel killed a process of it for want of memory.
    pub oom: bool,
    /// When (RFC 3339).
    pub finished_at: Option<String>,
}

/// One thing that happened to a container of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerEvent {
    pub container: String,
    pub labels: Labels,
    /// It has the name that its labels give it. A user's copy has another, and our own if it was renamed.
    pub is_named: bool,
    pub action: DockerAction,
    /// With [`DockerAction::Die`]: how it ended.
    pub exit_code: Option<i32>,
    /// When, in milliseconds since 1970, by the daemon's clock: an event may be told again long after it happened.
    pub at_ms: Option<u64>,
}

/// What happened to it. Everything else that Docker tells is of no account here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerAction {
    Start,
    Die,
    Pause,
    Unpause,
    Destroy,
}

/// What a container does, as far as `docker ps` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glimpse {
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
}

#[derive(DeJson)]
struct InspectLine {
    id: String,
    state: StateLine,
    labels: Option<BTreeMap<String, Option<String>>>,
    restart: String,
    ports: Option<BTreeMap<String, Option<Vec<PortLine>>>>,
    cpus: String,
    shares: i64,
    mounts: Option<Vec<MountLine>>,
}

#[derive(DeJson)]
struct StateLine {
    #[nserde(rename = "Status")]
    status: String,
    #[nserde(rename = "OOMKilled")]
    oom_killed: bool,
    #[nserde(rename = "ExitCode")]
    exit_code: i64,
    #[nserde(rename = "Error")]
    error: Option<String>,
    #[nserde(rename = "StartedAt")]
    started_at: String,
    #[nserde(rename = "FinishedAt")]
    finished_at: String,
}

#[derive(DeJson)]
struct PortLine {
    #[nserde(rename = "HostIp")]
    host_ip: String,
    #[nserde(rename = "HostPort")]
    host_port: String,
}

#[derive(DeJson)]
struct MountLine {
    #[nserde(rename = "Source")]
    source: Option<String>,
    #[nserde(rename = "Destination")]
    destination: Option<String>,
}

/// Reads the lines of `docker inspect`. A container without the owner's labels is passed over, and so is a user's copy of one of ours:
/// `docker commit` takes labels along, and not the binary that is mounted in each that we make.
///
/// # Errors
/// One sentence: Docker printed something that we do not know.
pub fn inspected(stdout: &[u8], owner: &Owner) -> Result<Vec<Container>, String> {
    let text = String::from_utf8_lossy(stdout);
    let mut containers = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut line: InspectLine = json::decode(line.as_bytes())
            .map_err(|fault| format!("docker inspect printed what this program cannot read: {fault}"))?;
        let labels = line.labels.take().unwrap_or_default();
        let labels = labels.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if is_ours(&labels, owner) {
            containers.extend(container(line, &labels));
        }
    }
    Ok(containers)
}

fn container(line: InspectLine, all: &BTreeMap<String, String>) -> Option<Container> {
    let labels = labels(all)?;
    let finished_at = moment(line.state.finished_at);
    let code = i32::try_from(line.state.exit_code).unwrap_or(255);
    let state = match line.state.status.as_str() {
        "created" => ContainerState::Created,
        "running" => ContainerState::Running,
        "paused" => ContainerState::Paused,
        "restarting" => ContainerState::Restarting,
        "removing" => ContainerState::Removing,
        // "exited", and "dead": ended, and could not be removed.
        _ => ContainerState::Exited(ContainerExit { code, oom: line.state.oom_killed, finished_at }),
    };
    let published = line.ports.and_then(|mut ports| ports.remove("22/tcp").flatten()).and_then(|bindings| {
        let binding = bindings.into_iter().next()?;
        // 0 is asked for, never given: no tunnel leads there.
        let port = binding.host_port.parse().ok().filter(|port| *port > 0)?;
        Some((binding.host_ip, port))
    });
    let binary = line
        .mounts
        .unwrap_or_default()
        .into_iter()
        .find(|mount| mount.destination.as_deref() == Some(box_file::BINARY))
        .and_then(|mount| mount.source)?;
    Some(Container {
        id: line.id,
        labels,
        state,
        restarts: !matches!(line.restart.as_str(), "" | "no"),
        published,
        exclusive: line.shares == 0 && !line.cpus.is_empty(),
        cpus: line.cpus,
        started_at: moment(line.state.started_at),
        never_began: line.state.error.is_some_and(|text| never_began(&text)),
        binary,
    })
}

/// A name may be taken by a container of another node or cluster on the same machine.
fn is_ours(labels: &BTreeMap<String, String>, owner: &Owner) -> bool {
    labels.get(CLUSTER) == Some(&owner.cluster) && labels.get(NODE) == Some(&owner.node)
}

/// Docker writes "never" as the year 1.
fn moment(text: String) -> Option<String> {
    (!text.is_empty() && !text.starts_with("0001-")).then_some(text)
}

fn labels(labels: &BTreeMap<String, String>) -> Option<Labels> {
    Some(Labels {
        task: labels.get(TASK)?.parse().ok()?,
        attempt: Attempt(labels.get(ATTEMPT)?.parse().ok()?),
        kind: labels.get(KIND)?.clone(),
    })
}

#[derive(DeJson)]
struct EventLine {
    #[nserde(rename = "Action")]
    action: String,
    #[nserde(rename = "Actor")]
    actor: ActorLine,
    #[nserde(rename = "timeNano")]
    time_nano: Option<u64>,
}

#[derive(DeJson)]
struct ActorLine {
    #[nserde(rename = "ID")]
    id: String,
    #[nserde(rename = "Attributes")]
    attributes: Option<BTreeMap<String, String>>,
}

/// Reads one line of `docker events`; None: nothing that matters here.
pub fn event(line: &str) -> Option<DockerEvent> {
    let line: EventLine = json::decode(line.as_bytes()).ok()?;
    let action = match line.action.as_str() {
        "start" => DockerAction::Start,
        "die" => DockerAction::Die,
        "pause" => DockerAction::Pause,
        "unpause" => DockerAction::Unpause,
        "destroy" => DockerAction::Destroy,
        _ => return None,
    };
    let attributes = line.actor.attributes?;
    let exit_code =
        attributes.get("exitCode").filter(|_| action == DockerAction::Die).and_then(|code| code.parse().ok());
    let at_ms = line.time_nano.map(|nanoseconds| nanoseconds / 1_000_000);
    let labels = labels(&attributes)?;
    let is_named = attributes.get("name") == Some(&labels.name());
    Some(DockerEvent { container: line.actor.id, labels, is_named, action, exit_code, at_ms })
}

/// The template for `docker image inspect --format`: what [`image_config`] reads.
pub const IMAGE_CONFIG: &str = r#"{"entrypoint":{{json .Config.Entrypoint}},"user":{{json .Config.User}}}"#;

/// What an image runs by itself, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, DeJson)]
pub struct ImageConfig {
    /// What stands before a command's own words.
    pub entrypoint: Option<Vec<String>>,
    /// `USER[:GROUP]`, names or numbers; empty: root.
    pub user: Option<String>,
}

/// Reads what [`IMAGE_CONFIG`] makes Docker print.
///
/// # Errors
/// One sentence: Docker printed something that we do not know.
pub fn image_config(stdout: &[u8]) -> Result<ImageConfig, String> {
    json::decode(stdout.trim_ascii())
        .map_err(|fault| format!("docker image inspect printed what this program cannot read: {fault}"))
}

/// The layers of images, each from the lowest on; what is no list of them is passed over (an image may have none).
pub fn chains(stdout: &[u8]) -> Vec<Vec<String>> {
    stdout.split(|byte| *byte == b'\n').filter_map(|line| json::decode(line.trim_ascii()).ok()).collect()
}

/// Reads the list of [`super::docker_args::list`]: container ids, and what they do.
pub fn listed(stdout: &[u8]) -> Vec<(String, Glimpse)> {
    let text = String::from_utf8_lossy(stdout);
    text.lines()
        .filter_map(|line| {
            let (id, status) = line.split_once('\t')?;
            let glimpse = match status.split(' ').next()? {
                "Up" if status.contains("(Paused)") => Glimpse::Paused,
                "Up" => Glimpse::Running,
                "Created" => Glimpse::Created,
                "Restarting" => Glimpse::Restarting,
                _ => Glimpse::Exited,
            };
            Some((id.to_owned(), glimpse))
        })
        .collect()
}

/// Whether the list of what has changed in a container (`docker diff`: a letter and a path a line) has the folder of our mounts.
pub fn has_our_mounts(changes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(changes);
    let mut paths = text.lines().filter_map(|line| line.split_once(' '));
    paths.any(|(_, path)| path.strip_prefix("/.hakuriver").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests;
