//! `shell TASK_ID`: a shell in a task's container, without SSH. And `hakuriver docker-shell NAME`.

use std::path::Path;
use std::str::FromStr;

use argh::{ArgsInfo, FromArgs};

use super::fault::Fault;
use super::host_api::Host;
use super::role::Invocation;
use super::task_ref::{TaskRef, id_of};
use super::{args, terminal};

/// Open a shell in a running container on the Host, in which an environment is made. Its exit status is this command's.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"), example = "{command_name} my-env")]
struct DockerShellArgs {
    /// the container's name; see 'hakuriver docker list-containers'
    #[argh(positional, arg_name = "NAME")]
    container: ContainerName,
}

/// A container's name as Docker takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ContainerName(String);

impl FromStr for ContainerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_first = |c: char| c.is_ascii_alphanumeric();
        let is_name = |c: char| is_first(c) || matches!(c, '_' | '.' | '-');
        if text.starts_with(is_first) && text.chars().all(is_name) {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected a container's name (letters, digits, '_', '.' and '-')".to_owned())
        }
    }
}

/// Is `hakuriver docker-shell`.
pub(super) fn docker(invocation: &Invocation) -> Result<(), Fault> {
    let (DockerShellArgs { container }, config) = args::of(invocation)?;
    let host = Host::of(config.as_deref())?;
    terminal::run(&host, &format!("/docker/host/containers/{}/terminal", container.0))
}

/// A shell in a VPS; another kind of task is left alone.
pub(super) fn vps(task: &TaskRef, config: Option<&Path>) -> Result<(), Fault> {
    of_kind(task, "vps", "task shell", config)
}

/// A shell in a command task's container.
pub(super) fn task(task: &TaskRef, config: Option<&Path>) -> Result<(), Fault> {
    of_kind(task, "command", "vps shell", config)
}

fn of_kind(task: &TaskRef, kind: &str, other: &str, config: Option<&Path>) -> Result<(), Fault> {
    let host = Host::of(config)?;
    let record = task.record(&host)?;
    let id = id_of(&record)?;
    if record.task_type != kind {
        let what = format!("task {id} is a {} task", record.task_type);
        return Err(Fault::Refused(format!("{what}; its shell is opened with 'hakuriver {other} {id}'")));
    }
    terminal::run(&host, &format!("/task/{id}/terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_docker_takes() {
        for good in ["a", "my-env", "A1_b.c"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "a?x=1", "é"] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad:?}");
        }
    }
}
