//! What is said to Docker about environments, and what it answers. Pure.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::collections::BTreeMap;

use nanoserde::DeJson;

use crate::api::json;
use crate::archive::names;
use crate::domain::ids::EnvName;

/// On the container of an environment: its name. (An image that is made of it has the label too, so it is emptied there: what
/// runs in that image is no environment's container.)
pub(super) const ENV: &str = "hakuriver.env";
/// On all our containers: whose they are.
pub(super) const CLUSTER: &str = "hakuriver.cluster";
/// On tasks' containers: the task, and its node.
const TASK: &str = "hakuriver.task";
const NODE: &str = "hakuriver.node";
/// Where our binary is in our containers.
const BINARY: &str = "/.hakuriver/hakuriver";

/// A container in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// The first twelve digits.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image: String,
    /// In Docker's words: `Up 3 minutes`.
    pub(super) status: String,
}

/// A container, looked at closely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: String,
    /// The id of its image.
    pub(super) image: String,
    /// Its image, as it was asked for.
    pub(super) image_name: String,
    pub(super) state: State,
    labels: BTreeMap<String, String>,
    /// It runs our binary, so its entry point and command are ours, not its image's.
    pub(super) is_kept: bool,
    /// Docker removes it when it ends (`--rm`).
    pub(super) removes_itself: bool,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Never started.
    New,
    Running,
    Paused,
    Ended,
}

impl Found {
    /// It is the container of this cluster's environment `name`.
    pub(super) fn is_environment(&self, cluster: &str, name: &str) -> bool {
        self.has(ENV, name) && self.has(CLUSTER, cluster)
    }

    /// It is the container of another cluster's environment.
    pub(super) fn is_of_other_cluster(&self, cluster: &str, name: &str) -> bool {
        self.has(ENV, name) && !self.has(CLUSTER, cluster)
    }

    /// The task whose container it is.
    pub(super) fn task(&self) -> Option<&str> {
        self.labels.get(TASK).map(String::as_str).filter(|task| !task.is_empty())
    }

    fn has(&self, label: &str, value: &str) -> bool {
        self.labels.get(label).is_some_and(|found| found == value)
    }
}

/// An image on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) tags: Vec<String>,
    /// Bytes of its file system.
    pub(super) size: u64,
}

/// The tag of an environment's image, as version 0.3 gave it.
///
/// # Errors
/// One clause: Docker takes no such name for an image.
pub(super) fn tag(name: &EnvName) -> Result<String, String> {
    // Docker's grammar of a repository's component: lower-case letters and digits with '.', '_', '__' or dashes between.
    let mut gap = String::from(".");
    let valid = name.as_str().chars().all(|c| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            gap.clear();
            return true;
        }
        gap.push(c);
        matches!(gap.as_str(), "." | "_" | "__") || gap.chars().all(|c| c == '-')
    });
    if valid && gap.is_empty() && name.as_str().len() > 1 {
        return Ok(names::tag(name.as_str()));
    }
    Err(format!(
        "environment name '{name}' is no name for Docker: expected lower-case letters and digits, at least two in all, with \
         single '.' or '_' or dashes between"
    ))
}

pub(super) fn list(cluster: &str) -> Vec<String> {
    let format = format!("{{{{.ID}}}}\t{{{{.Names}}}}\t{{{{.Label \"{ENV}\"}}}}\t{{{{.Image}}}}\t{{{{.Status}}}}");
    let ours = format!("label={CLUSTER}={cluster}");
    words(["ps", "--all", "--filter", &ours, "--filter", &format!("label={ENV}"), "--format", &format])
}

/// Sorted by name. A container that merely runs in an image made of an environment is passed over.
pub(super) fn listed(out: &[u8]) -> Vec<Listed> {
    let text = String::from_utf8_lossy(out);
    let mut all: Vec<Listed> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (id, name, env, image) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let listed = Listed {
                id: id.to_owned(),
                name: name.to_owned(),
                image: image.to_owned(),
                status: fields.next()?.to_owned(),
            };
            (name == env).then_some(listed)
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

const LOOK: &str = concat!(
    r#"{"id":{{json .Id}},"name":{{json .Name}},"image":{{json .Image}},"image_name":{{json .Config.Image}},"#,
    r#""status":{{json .State.Status}},"labels":{{json .Config.Labels}},"path":{{json .Path}},"auto_remove":{{json .HostConfig.AutoRemove}}}"#
);

pub(super) fn look(name: &str) -> Vec<String> {
    words(["container", "inspect", "--format", LOOK, name])
}

#[derive(DeJson)]
struct LookLine {
    id: String,
    name: String,
    image: String,
    image_name: String,
    status: String,
    labels: Option<BTreeMap<String, String>>,
    path: String,
    auto_remove: bool,
}

/// None where Docker took the name for the beginning of another one's id.
///
/// # Errors
/// One sentence: Docker printed something that we do not know.
pub(super) fn found(out: &[u8], name: &str) -> Result<Option<Found>, String> {
    let line: LookLine =
        json::decode(out).map_err(|fault| format!("docker inspect printed what this program cannot read: {fault}"))?;
    let state = match line.status.as_str() {
        "running" | "restarting" => State::Running,
        "paused" => State::Paused,
        "created" => State::New,
        _ => State::Ended,
    };
    let found = Found {
        id: line.id,
        image: line.image,
        image_name: line.image_name,
        state,
        labels: line.labels.unwrap_or_default(),
        is_kept: line.path == BINARY,
        removes_itself: line.auto_remove,
    };
    Ok((line.name.trim_start_matches('/') == name).then_some(found))
}

const IMAGE: &str = concat!(
    r#"{"id":{{json .Id}},"entrypoint":{{json .Config.Entrypoint}},"cmd":{{json .Config.Cmd}},"#,
    r#""tags":{{json .RepoTags}},"size":{{json .Size}}}"#
);

pub(super) fn image(image: &str) -> Vec<String> {
    words(["image", "inspect", "--format", IMAGE, image])
}

#[derive(DeJson)]
struct ImageLine {
    id: String,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    size: u64,
}

/// # Errors
/// As [`found`].
pub(super) fn image_of(out: &[u8]) -> Result<Image, String> {
    let line: ImageLine = json::decode(out)
        .map_err(|fault| format!("docker image inspect printed what this program cannot read: {fault}"))?;
    Ok(Image {
        id: line.id,
        entrypoint: line.entrypoint.unwrap_or_default(),
        cmd: line.cmd.unwrap_or_default(),
        tags: line.tags.unwrap_or_default(),
        size: line.size,
    })
}

pub(super) fn names(pattern: &str) -> Vec<String> {
    words(["image", "ls", "--filter", &format!("reference={pattern}"), "--format", "{{.Repository}}:{{.Tag}}"])
}

pub(super) fn pull(image: &str) -> Vec<String> {
    words(["pull", image])
}

/// How far a pull is, by the lines that Docker prints where nobody looks on: one for each layer's beginning and end.
#[derive(Debug, Default)]
pub(super) struct Pull {
    layers: u32,
    done: u32,
}

impl Pull {
    /// What there is to say after a line; None: nothing new.
    pub(super) fn line(&mut self, line: &str) -> Option<String> {
        let (_, news) = line.split_once(": ")?;
        match news.trim() {
            "Pulling fs layer" => self.layers += 1,
            "Already exists" => {
                self.layers += 1;
                self.done += 1;
            }
            "Pull complete" => self.done += 1,
            _ => return None,
        }
        Some(format!("{} of {} layers", self.done, self.layers))
    }
}

/// The container of an environment: our binary keeps it alive, so the image needs to bring nothing for that.
pub(super) fn run(name: &EnvName, cluster: &str, binary: &str, image_name: &str, image: &Image) -> Vec<String> {
    let (env, cluster) = (format!("{ENV}={name}"), format!("{CLUSTER}={cluster}"));
    let mount = format!("type=bind,{},target={BINARY},readonly", csv(&format!("source={binary}")));
    let mut argv = words(["run", "--detach", "--name", name.as_str(), "--label", &env, "--label", &cluster]);
    // Its image may have been made of a task's container: a Runner must not take it for that.
    argv.extend(words(["--label", &format!("{TASK}="), "--label", &format!("{NODE}=")]));
    // It is there again after a restart of the machine, unless the user has stopped it.
    argv.extend(words(["--restart", "unless-stopped", "--mount", &mount]));
    // Its image is here: what a registry has under that name is not asked.
    argv.extend(words(["--pull", "never"]));
    // An image without an entry point must not be given one here: `docker commit` cannot take it away again.
    if image.entrypoint.is_empty() {
        argv.extend(words([image_name, BINARY, "supervise", "--idle"]));
    } else {
        argv.extend(words(["--entrypoint", BINARY, image_name, "supervise", "--idle"]));
    }
    argv
}

/// Makes an image of a container. `own` is the image that it was made of, where entry point and command of the container are
/// ours and must be the image's again. The image is called `tag`.
pub(super) fn commit(container: &str, own: Option<&Image>, tag: &str) -> Vec<String> {
    let mut argv = words(["commit", "--change", &format!("LABEL {ENV}= {CLUSTER}= {TASK}= {NODE}=")]);
    if let Some(own) = own {
        if !own.entrypoint.is_empty() {
            argv.extend(words(["--change", &format!("ENTRYPOINT {}", json::encode(&own.entrypoint))]));
        }
        argv.extend(words(["--change", &format!("CMD {}", json::encode(&own.cmd))]));
    }
    argv.extend(words([container, tag]));
    argv
}

/// One field of Docker's CSV (RFC 4180): quoted where it holds something that would end it.
fn csv(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(ToOwned::to_owned).to_vec()
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
