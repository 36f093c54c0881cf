//! What `docker` prints, read into types. Pure; tested with what docker 20.10 really said.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::collections::BTreeMap;

use nanoserde::DeJson;

use super::{ATTEMPT, CLUSTER, KIND, Labels, NODE, Owner, TASK};
use crate::api::json;
use crate::domain::ids::Attempt;
use crate::runner::supervise::box_file;

/// The template for `docker inspect --format`: one line of JSON a container, with what [`inspected`] reads and no more.
pub const INSPECT: &str = concat!(
    r#"{"id":{{json .Id}},"state":{{json .State}},"labels":{{json .Config.Labels}},"#,
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
    /// Our binary on the node that it runs.
    pub binary: Option<String>,
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
    pub action: DockerAction,
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
    labels: Option<BTreeMap<String, String>>,
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

/// Reads the lines of `docker inspect`. A container without the owner's labels is passed over.
///
/// # Errors
/// One sentence: Docker printed something that we do not know.
pub fn inspected(stdout: &[u8], owner: &Owner) -> Result<Vec<Container>, String> {
    let text = String::from_utf8_lossy(stdout);
    let mut containers = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let line: InspectLine = json::decode(line.as_bytes())
            .map_err(|fault| format!("docker inspect printed what this program cannot read: {fault}"))?;
        if line.labels.as_ref().is_some_and(|labels| is_ours(labels, owner)) {
            containers.extend(container(line));
        }
    }
    Ok(containers)
}

fn container(line: InspectLine) -> Option<Container> {
    let labels = labels(&line.labels?)?;
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
        Some((binding.host_ip, binding.host_port.parse().ok()?))
    });
    let binary = line
        .mounts
        .unwrap_or_default()
        .into_iter()
        .find(|mount| mount.destination.as_deref() == Some(box_file::BINARY))
        .and_then(|mount| mount.source);
    Some(Container {
        id: line.id,
        labels,
        state,
        restarts: !matches!(line.restart.as_str(), "" | "no"),
        published,
        exclusive: line.shares == 0 && !line.cpus.is_empty(),
        cpus: line.cpus,
        started_at: moment(line.state.started_at),
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
    Some(DockerEvent { container: line.actor.id, labels: labels(&line.actor.attributes?)?, action })
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

/// Why Docker did not do as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The daemon does not answer, or may not be talked to.
    Down,
    NoSuchContainer,
    NoSuchImage,
    /// Another socket has that port.
    PortTaken,
    /// Another container has that name.
    NameTaken,
    /// It is not running, or already as it should be: look again.
    WrongState,
    Other,
}

/// Sorts an error text. Docker has no codes for these; the words are the daemon's, and have been the same for years.
pub fn complaint(stderr: &str) -> Complaint {
    let has = |words: &str| stderr.contains(words);
    let starts = stderr.to_ascii_lowercase();
    if has("Cannot connect to the Docker daemon")
        || has("Is the docker daemon running")
        || has("error during connect")
        || starts.contains("permission denied while trying to connect")
        || has("Cannot connect to Podman")
    {
        Complaint::Down
    } else if has("No such container") || has("No such object") || has("no such container") {
        Complaint::NoSuchContainer
    } else if has("No such image") || has("no such image") || has("image not known") {
        Complaint::NoSuchImage
    } else if has("port is already allocated") || has("bind: address already in use") {
        Complaint::PortTaken
    } else if has("is already in use by") {
        Complaint::NameTaken
    } else if has("is not running") || has("is not paused") || has("is already paused") || has("is restarting") {
        Complaint::WrongState
    } else {
        Complaint::Other
    }
}

/// An error text without what Docker wraps around it, on one line.
pub fn plain(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim).filter(|line| {
        !line.is_empty()
            && !line.starts_with("Run 'docker")
            && !line.starts_with("See 'docker")
            && !line.starts_with("WARNING:")
    });
    let text = lines.collect::<Vec<_>>().join("; ");
    let text = text.strip_prefix("docker: ").unwrap_or(&text);
    let text = text.strip_prefix("Error response from daemon: ").unwrap_or(text);
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TaskId;

    /// `docker inspect --format INSPECT` of 20.10.24, for a paused and for an exited container.
    const PAUSED: &str = r#"{"id":"b78b63e045152c641ea2c145a6abc67574185f93387beeaec6b2106c09ac919c","state":{"Status":"paused","Running":true,"Paused":true,"Restarting":false,"OOMKilled":false,"Dead":false,"Pid":15623,"ExitCode":0,"Error":"","StartedAt":"2026-11-23T01:12:22.684470849Z","FinishedAt":"0001-01-01T00:00:00Z"},"labels":{"hakuriver.attempt":"1","hakuriver.cluster":"rs","hakuriver.kind":"vps","hakuriver.node":"n","hakuriver.task":"42","hakuriver.test-image":"3adda069787df25e"},"restart":"no","ports":{"22/tcp":[{"HostIp":"127.0.0.1","HostPort":"30001"}]},"cpus":"0","shares":0,"mounts":[{"Type":"bind","Source":"/tmp/rs","Destination":"/x","Mode":"ro","RW":false,"Propagation":"rprivate"},{"Type":"bind","Source":"/s/bin/hakuriver-1","Destination":"/.hakuriver/hakuriver","Mode":"","RW":false,"Propagation":"rprivate"}]}"#;
    const EXITED: &str = r#"{"id":"b78b63e045152c641ea2c145a6abc67574185f93387beeaec6b2106c09ac919c","state":{"Status":"exited","Running":false,"Paused":false,"Restarting":false,"OOMKilled":true,"Dead":false,"Pid":0,"ExitCode":137,"Error":"","StartedAt":"2026-11-23T01:12:24.995225927Z","FinishedAt":"2026-11-23T01:12:25.001363726Z"},"labels":{"hakuriver.attempt":"2","hakuriver.cluster":"rs","hakuriver.kind":"vps","hakuriver.node":"n","hakuriver.task":"42"},"restart":"unless-stopped","ports":{},"cpus":"","shares":102,"mounts":[]}"#;

    fn owner() -> Owner {
        Owner { cluster: "rs".to_owned(), node: "n".to_owned() }
    }

    #[test]
    fn inspect_tells_all_that_a_record_is_rebuilt_from() {
        let containers = inspected(format!("{PAUSED}\n{EXITED}\n").as_bytes(), &owner()).expect("it can be read");
        let labels = |attempt| Labels { task: TaskId::from_u64(42), attempt: Attempt(attempt), kind: "vps".to_owned() };
        let id = "b78b63e045152c641ea2c145a6abc67574185f93387beeaec6b2106c09ac919c".to_owned();
        assert_eq!(
            containers[0],
            Container {
                id: id.clone(),
                labels: labels(1),
                state: ContainerState::Paused,
                restarts: false,
                published: Some(("127.0.0.1".to_owned(), 30_001)),
                cpus: "0".to_owned(),
                exclusive: true,
                started_at: Some("2026-11-23T01:12:22.684470849Z".to_owned()),
                binary: Some("/s/bin/hakuriver-1".to_owned()),
            }
        );
        let finished_at = Some("2026-11-23T01:12:25.001363726Z".to_owned());
        assert_eq!(
            containers[1],
            Container {
                id,
                labels: labels(2),
                state: ContainerState::Exited(ContainerExit { code: 137, oom: true, finished_at }),
                restarts: true,
                published: None,
                cpus: String::new(),
                exclusive: false,
                started_at: Some("2026-11-23T01:12:24.995225927Z".to_owned()),
                binary: None,
            }
        );
    }

    #[test]
    fn foreign_labels_are_passed_over_and_foreign_output_is_an_error() {
        let foreign = PAUSED.replace("\"hakuriver.task\":\"42\"", "\"hakuriver.task\":\"x\"");
        assert_eq!(inspected(foreign.as_bytes(), &owner()), Ok(Vec::new()));
        for other in [Owner { node: "m".to_owned(), ..owner() }, Owner { cluster: "x".to_owned(), ..owner() }] {
            assert_eq!(inspected(PAUSED.as_bytes(), &other), Ok(Vec::new()));
        }
        assert!(inspected(b"{\"id\":", &owner()).expect_err("it is cut").contains("docker inspect"));
    }

    #[test]
    fn events_that_matter_are_read_and_others_passed_over() {
        let line = r#"{"status":"die","id":"b78b63","from":"hakuriver-test/sshd:1","Type":"container","Action":"die","Actor":{"ID":"b78b63","Attributes":{"exitCode":"1","hakuriver.attempt":"1","hakuriver.cluster":"rs","hakuriver.kind":"vps","hakuriver.node":"n","hakuriver.task":"42","image":"hakuriver-test/sshd:1","name":"hakuriver-vps-42"}},"scope":"local","time":1795396342,"timeNano":1795396342791807717}"#;
        let labels = Labels { task: TaskId::from_u64(42), attempt: Attempt(1), kind: "vps".to_owned() };
        assert_eq!(
            event(line),
            Some(DockerEvent { container: "b78b63".to_owned(), labels, action: DockerAction::Die })
        );
        for (word, action) in [
            ("start", Some(DockerAction::Start)),
            ("pause", Some(DockerAction::Pause)),
            ("unpause", Some(DockerAction::Unpause)),
            ("destroy", Some(DockerAction::Destroy)),
            ("create", None),
            ("exec_create: sh -c true", None),
        ] {
            let line = line.replace("\"Action\":\"die\"", &format!("\"Action\":\"{word}\""));
            assert_eq!(event(&line).map(|event| event.action), action, "{word}");
        }
        assert_eq!(event("{\"x\":["), None);
    }

    #[test]
    fn the_list_shows_what_containers_do() {
        let list = b"a1\tUp Less than a second (Paused)\nb2\tUp 3 minutes\nc3\tExited (137) 2 hours ago\nd4\tCreated\ne5\tRestarting (1) 4 seconds ago\nf6\tUp 2 minutes (unhealthy)\n";
        let read = listed(list);
        let expected = [
            ("a1", Glimpse::Paused),
            ("b2", Glimpse::Running),
            ("c3", Glimpse::Exited),
            ("d4", Glimpse::Created),
            ("e5", Glimpse::Restarting),
            ("f6", Glimpse::Running),
        ];
        assert_eq!(read, expected.map(|(id, glimpse)| (id.to_owned(), glimpse)));
    }

    #[test]
    fn complaints_are_told_apart() {
        for (stderr, expected) in [
            (
                "Cannot connect to the Docker daemon at unix:///nope.sock. Is the docker daemon running?",
                Complaint::Down,
            ),
            (
                "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
                Complaint::Down,
            ),
            ("Error response from daemon: No such container: hv1", Complaint::NoSuchContainer),
            ("Error: No such object: nope", Complaint::NoSuchContainer),
            ("docker: Error response from daemon: No such image: sha256:1111", Complaint::NoSuchImage),
            ("Error response from daemon: no such image: nope: No such image: nope:latest", Complaint::NoSuchImage),
            (
                "docker: Error response from daemon: driver failed programming external connectivity on endpoint hv2 (e09a): Bind for 127.0.0.1:30001 failed: port is already allocated",
                Complaint::PortTaken,
            ),
            (
                "docker: Error response from daemon: driver failed programming external connectivity on endpoint hv2 (0d7d): Error starting userland proxy: listen tcp4 127.0.0.1:30009: bind: address already in use",
                Complaint::PortTaken,
            ),
            (
                "docker: Error response from daemon: Conflict. The container name \"/hakuriver-vps-42\" is already in use by container \"b78b\". You have to remove (or rename) that container to be able to reuse that name.",
                Complaint::NameTaken,
            ),
            ("Error response from daemon: Container 4706 is already paused", Complaint::WrongState),
            ("Error response from daemon: Container 4706 is not paused", Complaint::WrongState),
            ("Error response from daemon: Container 4706 is not running", Complaint::WrongState),
            (
                "docker: Error response from daemon: could not select device driver \"\" with capabilities: [[gpu]]",
                Complaint::Other,
            ),
        ] {
            assert_eq!(complaint(stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn what_docker_wraps_around_an_error_is_taken_off() {
        let stderr = "docker: Error response from daemon: Minimum memory limit allowed is 6MB\n\nRun 'docker run --help' for more information\n";
        assert_eq!(plain(stderr), "Minimum memory limit allowed is 6MB");
        assert_eq!(plain("Error response from daemon: a\nb\n"), "a; b");
    }
}
