//! Argument lists for `docker`. Pure: every word that Docker gets is decided here, and none of them is a secret.

use std::net::IpAddr;

use super::docker_parse::INSPECT;
use super::{ATTEMPT, CLUSTER, KIND, NODE, Owner, TASK, command_name, vps_name};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::pinning::Pinned;
use crate::domain::spec::Mount;
use crate::runner::supervise::box_file;

/// Everything that goes into the `docker run` of a task.
#[derive(Clone, Debug)]
pub struct ContainerRun {
    pub owner: Owner,
    pub task: TaskId,
    pub attempt: Attempt,
    /// An image id: a tag may mean another image on the next node.
    pub image: String,
    /// A VPS, with the place where port 22 of the container is published; None: a command.
    pub vps: Option<(IpAddr, u16)>,
    /// None: not pinned at all.
    pub pinned: Option<Pinned>,
    /// It has cores of its own; else its CPU weight is low.
    pub exclusive: bool,
    pub memory: Option<u64>,
    /// UUIDs of its GPUs.
    pub gpus: Vec<String>,
    pub privileged: bool,
    /// In order; among them `/shared` and `/local_temp`.
    pub mounts: Vec<Mount>,
    pub workdir: Option<String>,
    /// Our own binary on the node.
    pub binary: String,
    /// The task's box on the node.
    pub box_dir: String,
    /// Where the container writes for us, on the node.
    pub out_dir: String,
}

/// Where Docker's default weight is 1,024: a task without cores of its own gets a tenth when it competes with one that
/// has, so it still moves.
const LOW_CPU_SHARES: u32 = 102;

/// `docker run` for a task: the one call on the way to its start.
pub fn run_task(run: &ContainerRun) -> Vec<String> {
    let mut argv = Words::of(["run", "-d"]);
    argv.option("--name", run.name());
    match run.vps {
        // The words of /etc/hostname and the prompt: the container's id would tell the user nothing.
        Some(_) => argv.option("--hostname", format!("vps-{}", run.task)),
        // A bridge would cost more than all else; and a command reaches what its node reaches.
        None => argv.option("--network", "host"),
    }
    for (label, value) in [
        (CLUSTER, run.owner.cluster.clone()),
        (NODE, run.owner.node.clone()),
        (TASK, run.task.to_string()),
        (ATTEMPT, run.attempt.to_string()),
        (KIND, if run.vps.is_some() { "vps" } else { "command" }.to_owned()),
    ] {
        argv.option("--label", format!("{label}={value}"));
    }
    // A container that dies before its SSH server answers has failed, and must not be tried again by Docker.
    // Once a VPS runs this becomes unless-stopped; a command runs once.
    argv.option("--restart", "no");
    // An image's own user could not start an SSH server that lets root in, nor write where a command's output goes. The
    // command itself runs as the image's user again.
    argv.option("--user", "0:0");
    // An image may name another signal, which our process 1 would not take for the end.
    argv.option("--stop-signal", "TERM");
    // A daemon with `"init": true` would put a process 1 of its own before ours.
    argv.word("--init=false");
    if let Some((address, port)) = run.vps {
        argv.option("--publish", format!("{}:{port}:22", bracketed(address)));
    }
    if let Some(pinned) = &run.pinned {
        argv.option("--cpuset-cpus", pinned.cpus.to_string());
        if !pinned.mems.0.is_empty() {
            argv.option("--cpuset-mems", pinned.mems.to_string());
        }
    }
    if !run.exclusive {
        argv.option("--cpu-shares", LOW_CPU_SHARES.to_string());
    }
    if let Some(bytes) = run.memory {
        argv.option("--memory", bytes.to_string());
        // Without it Docker allows as much swap again: the limit would be twice what was asked for.
        argv.option("--memory-swap", bytes.to_string());
    }
    if !run.gpus.is_empty() {
        // Docker reads the value as CSV: without the double quotes in it, the second device would be a key of its own.
        argv.option("--gpus", format!("\"device={}\"", run.gpus.join(",")));
    }
    if run.privileged {
        argv.word("--privileged");
    }
    // Logs are read when a start fails (what a command writes goes to files of its own); without a limit they fill the
    // node's disk.
    argv.option("--log-driver", "json-file");
    argv.option("--log-opt", "max-size=10m");
    argv.option("--log-opt", "max-file=2");
    argv.option("--mount", bind(&run.binary, box_file::BINARY, true));
    argv.option("--mount", bind(&run.box_dir, box_file::BOX, true));
    argv.option("--mount", bind(&run.out_dir, box_file::OUT, false));
    for mount in &run.mounts {
        argv.option("--mount", bind(&mount.host, &mount.container, mount.read_only));
    }
    if let Some(workdir) = &run.workdir {
        argv.option("--workdir", workdir.as_str());
    }
    argv.option("--entrypoint", box_file::BINARY);
    argv.word(run.image.as_str());
    argv.word("supervise");
    argv.word("--in-container");
    argv.0
}

impl ContainerRun {
    /// The container's name.
    pub fn name(&self) -> String {
        if self.vps.is_some() { vps_name(self.task) } else { command_name(self.task) }
    }
}

/// Lists our containers, also those that do not run: see [`super::docker_parse::listed`].
pub fn list(owner: &Owner) -> Vec<String> {
    let mut argv = Words::of(["ps", "--all", "--no-trunc", "--format", "{{.ID}}\t{{.Status}}"]);
    argv.only_ours(owner);
    argv.0
}

/// Follows what happens to our containers, from `since` (seconds since 1970) on: one JSON object a line.
pub fn events(owner: &Owner, since: u64) -> Vec<String> {
    // What happened between `since` and the moment at which the daemon took the call is told first, so nothing that
    // happens after a list that was asked for at `since` is missed.
    let mut argv = Words::of(["events", "--format", "{{json .}}", "--filter", "type=container"]);
    argv.option("--since", since.to_string());
    argv.only_ours(owner);
    argv.0
}

/// Inspects containers by id or name.
pub fn inspect<S: AsRef<str>>(containers: &[S]) -> Vec<String> {
    // Without --type, an image or network of that name would be found too.
    let mut argv = Words::of(["inspect", "--type", "container", "--format", INSPECT]);
    containers.iter().for_each(|container| argv.word(container.as_ref()));
    argv.0
}

/// Starts one that has ended.
pub fn start(container: &str) -> Vec<String> {
    Words::of(["start", container]).0
}

/// Asks to end: TERM, and KILL after `grace_s` seconds.
pub fn stop(container: &str, grace_s: u32) -> Vec<String> {
    Words::of(["stop", "--time", &grace_s.to_string(), container]).0
}

/// Removes containers, dead or alive, with their anonymous volumes.
pub fn remove(containers: &[String]) -> Vec<String> {
    let mut argv = Words::of(["rm", "--force", "--volumes"]);
    containers.iter().for_each(|container| argv.word(container));
    argv.0
}

/// Removes a container that was made and never started. One that was started meanwhile is refused: it is not killed.
pub fn remove_unstarted(container: &str) -> Vec<String> {
    Words::of(["rm", "--volumes", container]).0
}

/// What is other in a container's file system than in its image.
pub fn changes(container: &str) -> Vec<String> {
    Words::of(["diff", container]).0
}

/// `pause` or `unpause`.
pub fn freeze(container: &str, frozen: bool) -> Vec<String> {
    Words::of([if frozen { "pause" } else { "unpause" }, container]).0
}

/// Sets the restart policy.
pub fn set_restart(container: &str, policy: &str) -> Vec<String> {
    Words::of(["update", "--restart", policy, container]).0
}

/// The last lines of a container's output.
pub fn last_lines(container: &str, lines: u32) -> Vec<String> {
    Words::of(["logs", "--tail", &lines.to_string(), container]).0
}

/// The id of an image, if it is there.
pub fn image_id(image: &str) -> Vec<String> {
    Words::of(["image", "inspect", "--format", "{{.Id}}", image]).0
}

/// What an image runs by itself, and as whom: see [`super::docker_parse::image_config`].
pub fn image_config(image: &str) -> Vec<String> {
    Words::of(["image", "inspect", "--format", super::docker_parse::IMAGE_CONFIG, image]).0
}

/// The ids of all images, also of those that have no name.
pub fn images() -> Vec<String> {
    Words::of(["image", "ls", "--all", "--quiet", "--no-trunc"]).0
}

/// The layers of images, a line for each: see [`super::docker_parse::chains`].
pub fn image_layers(images: &[String]) -> Vec<String> {
    let mut argv = Words::of(["image", "inspect", "--format", "{{json .RootFS.Layers}}"]);
    argv.0.extend(images.iter().cloned());
    argv.0
}

/// The ids of those of `images` that are there, a line for each.
pub fn image_ids(images: &[String]) -> Vec<String> {
    let mut argv = Words::of(["image", "inspect", "--format", "{{.Id}}"]);
    argv.0.extend(images.iter().cloned());
    argv.0
}

/// Reads an image from its input.
pub fn load() -> Vec<String> {
    Words::of(["load"]).0
}

/// A bind mount. Not `--volume`: that would make a directory that is missing on the node, and split at colons.
fn bind(source: &str, target: &str, read_only: bool) -> String {
    let mut fields = vec!["type=bind".to_owned(), csv(&format!("source={source}")), csv(&format!("target={target}"))];
    if read_only {
        fields.push("readonly".to_owned());
    }
    fields.join(",")
}

/// One field of Docker's CSV (RFC 4180): quoted where it holds something that would end it.
fn csv(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// An argument list in the making.
struct Words(Vec<String>);

impl Words {
    fn of<const N: usize>(words: [&str; N]) -> Self {
        Self(words.map(ToOwned::to_owned).to_vec())
    }

    fn word(&mut self, word: impl Into<String>) {
        self.0.push(word.into());
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.word(name);
        self.word(value);
    }

    fn only_ours(&mut self, owner: &Owner) {
        // Several label filters must all hold.
        self.option("--filter", format!("label={CLUSTER}={}", owner.cluster));
        self.option("--filter", format!("label={NODE}={}", owner.node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> ContainerRun {
        ContainerRun {
            owner: Owner { cluster: "c1".to_owned(), node: "node1".to_owned() },
            task: TaskId::from_u64(42),
            attempt: Attempt(1),
            image: "sha256:abc".to_owned(),
            vps: Some(("192.0.2.1".parse().expect("an address"), 30_001)),
            pinned: None,
            exclusive: false,
            memory: None,
            gpus: Vec::new(),
            privileged: false,
            mounts: Vec::new(),
            workdir: None,
            binary: "/s/bin/hakuriver-1".to_owned(),
            box_dir: "/s/tasks/42.1/box".to_owned(),
            out_dir: "/s/tasks/42.1/out".to_owned(),
        }
    }

    /// The words after `name`, each time it occurs.
    fn values<'a>(argv: &'a [String], name: &str) -> Vec<&'a str> {
        argv.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn a_plain_vps_word_by_word() {
        let expected = "run -d --name hakuriver-vps-42 --hostname vps-42 --label hakuriver.cluster=c1 \
            --label hakuriver.node=node1 --label hakuriver.task=42 --label hakuriver.attempt=1 --label hakuriver.kind=vps \
            --restart no --user 0:0 --stop-signal TERM --init=false --publish 192.0.2.1:30001:22 --cpu-shares 102 \
            --log-driver json-file --log-opt max-size=10m --log-opt max-file=2 \
            --mount type=bind,source=/s/bin/hakuriver-1,target=/.hakuriver/hakuriver,readonly \
            --mount type=bind,source=/s/tasks/42.1/box,target=/.hakuriver/task,readonly \
            --mount type=bind,source=/s/tasks/42.1/out,target=/.hakuriver/out \
            --entrypoint /.hakuriver/hakuriver sha256:abc supervise --in-container";
        assert_eq!(run_task(&plain()).join(" "), expected);
    }

    #[test]
    fn a_command_has_the_nodes_network_and_no_port() {
        let argv = run_task(&ContainerRun { vps: None, exclusive: true, ..plain() });
        assert_eq!(values(&argv, "--name"), ["hakuriver-task-42"]);
        assert_eq!(values(&argv, "--network"), ["host"]);
        assert!(values(&argv, "--label").contains(&"hakuriver.kind=command"));
        assert!(!argv.iter().any(|word| matches!(word.as_str(), "--publish" | "--hostname" | "--rm")), "{argv:?}");
    }

    #[test]
    fn a_pinned_vps_has_its_cores_and_no_low_weight() {
        let pinned = Pinned { cpus: "0-1,4".parse().expect("a list"), mems: "0".parse().expect("a list") };
        let argv =
            run_task(&ContainerRun { pinned: Some(pinned), exclusive: true, memory: Some(4_000_000_000), ..plain() });
        assert_eq!(values(&argv, "--cpuset-cpus"), ["0-1,4"]);
        assert_eq!(values(&argv, "--cpuset-mems"), ["0"]);
        assert_eq!(values(&argv, "--memory"), ["4000000000"]);
        assert_eq!(values(&argv, "--memory-swap"), ["4000000000"], "the limit includes swap");
        assert!(!argv.iter().any(|word| word == "--cpu-shares" || word == "--cpus"));
    }

    #[test]
    fn memory_of_all_numa_nodes_is_no_option() {
        let pinned = Pinned { cpus: "3".parse().expect("a list"), mems: "".parse().expect("a list") };
        let argv = run_task(&ContainerRun { pinned: Some(pinned), ..plain() });
        assert!(values(&argv, "--cpuset-mems").is_empty());
    }

    #[test]
    fn two_gpus_are_one_word_with_quotes_in_it() {
        let argv = run_task(&ContainerRun { gpus: vec!["GPU-a".to_owned(), "GPU-b".to_owned()], ..plain() });
        assert_eq!(values(&argv, "--gpus"), ["\"device=GPU-a,GPU-b\""]);
    }

    #[test]
    fn mounts_cannot_add_options_of_their_own() {
        let mount = |host: &str, container: &str, read_only| Mount {
            host: host.to_owned(),
            container: container.to_owned(),
            read_only,
        };
        let mounts = vec![mount("/data", "/d", true), mount("/a,readonly", "/x\"y", false), mount("/c d", "/e", false)];
        let argv = run_task(&ContainerRun { mounts, workdir: Some("/shared".to_owned()), privileged: true, ..plain() });
        assert_eq!(
            values(&argv, "--mount")[3..],
            [
                "type=bind,source=/data,target=/d,readonly",
                "type=bind,\"source=/a,readonly\",\"target=/x\"\"y\"",
                "type=bind,source=/c d,target=/e"
            ]
        );
        assert_eq!(values(&argv, "--workdir"), ["/shared"]);
        assert_eq!(argv.iter().filter(|word| *word == "--privileged").count(), 1);
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        let argv = run_task(&ContainerRun { vps: Some(("::1".parse().expect("an address"), 30_001)), ..plain() });
        assert_eq!(values(&argv, "--publish"), ["[::1]:30001:22"]);
    }

    #[test]
    fn only_containers_of_this_cluster_and_node_are_listed_and_followed() {
        let owner = plain().owner;
        for argv in [list(&owner), events(&owner, 17)] {
            let filters = values(&argv, "--filter");
            assert!(filters.contains(&"label=hakuriver.cluster=c1"), "{argv:?}");
            assert!(filters.contains(&"label=hakuriver.node=node1"), "{argv:?}");
        }
    }
}
