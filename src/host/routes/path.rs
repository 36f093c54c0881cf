//! What a path means. Every path is served as written and with `/api` in front.

use crate::domain::ids::{Attempt, TaskId};
use crate::domain::output::Stream;

/// One thing that can be asked, with the names in its path as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Version,
    Metrics,
    Nodes,
    Health,
    NodeVerb(String, NodeVerb),
    Submit,
    Status(String),
    Kill(String),
    Control(String, String),
    Output(String, Stream),
    /// A shell in a task's container.
    TaskTerminal(String),
    /// A shell in an environment's container on the Host.
    EnvironmentTerminal(String),
    Tasks,
    Vps,
    VpsStatus,
    Events,
    Containers,
    CreateContainer,
    ContainerVerb(String, ContainerVerb),
    CreateTar(String),
    Tarballs,
    Register,
    Heartbeat(String),
    Observed(String),
    Desired(String),
    /// A piece of what a task wrote, from its node.
    Ship(String, TaskId, Attempt, Stream),
    /// What is known of an environment's newest version.
    Environment(String),
    /// A version's archive.
    Archive(String, u64),
    /// A shell that a user waits for, from its node.
    NodeShell(String, String),
}

/// What a user can do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeVerb {
    Drain,
    Undrain,
    Forget,
}

/// What a user can do with the container of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerVerb {
    Delete,
    Stop,
    Start,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    Open,
    User,
    Node,
    /// A user or a node.
    Member,
}

impl Route {
    pub(super) const fn audience(&self) -> Audience {
        match self {
            Self::Healthz => Audience::Open,
            Self::Register
            | Self::Heartbeat(_)
            | Self::Observed(_)
            | Self::Desired(_)
            | Self::Ship(..)
            | Self::Environment(_)
            | Self::Archive(..)
            | Self::NodeShell(..) => Audience::Node,
            Self::Version => Audience::Member,
            Self::Metrics
            | Self::Nodes
            | Self::Health
            | Self::NodeVerb(..)
            | Self::Submit
            | Self::Status(_)
            | Self::Kill(_)
            | Self::Control(..)
            | Self::Output(..)
            | Self::TaskTerminal(_)
            | Self::EnvironmentTerminal(_)
            | Self::Tasks
            | Self::Vps
            | Self::VpsStatus
            | Self::Events
            | Self::Containers
            | Self::CreateContainer
            | Self::ContainerVerb(..)
            | Self::CreateTar(_)
            | Self::Tarballs => Audience::User,
        }
    }
}

/// The route of a path (percent-decoded, without query), and the one method that it takes.
pub(super) fn parse(path: &str) -> Option<(Route, &'static str)> {
    let path = path.strip_prefix('/')?;
    let mut parts: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    if parts.first() == Some(&"api") {
        parts.remove(0);
    }
    let text = |part: &str| part.to_owned();
    Some(match parts.as_slice() {
        ["healthz"] => (Route::Healthz, "GET"),
        ["version"] => (Route::Version, "GET"),
        ["metrics"] => (Route::Metrics, "GET"),
        ["nodes"] => (Route::Nodes, "GET"),
        ["health"] => (Route::Health, "GET"),
        ["node", name, "drain"] => (Route::NodeVerb(text(name), NodeVerb::Drain), "POST"),
        ["node", name, "undrain"] => (Route::NodeVerb(text(name), NodeVerb::Undrain), "POST"),
        ["node", name, "forget"] => (Route::NodeVerb(text(name), NodeVerb::Forget), "POST"),
        ["submit"] => (Route::Submit, "POST"),
        ["status", task] => (Route::Status(text(task)), "GET"),
        ["kill", task] => (Route::Kill(text(task)), "POST"),
        ["command", task, action] => (Route::Control(text(task), text(action)), "POST"),
        ["task", task, "terminal"] => (Route::TaskTerminal(text(task)), "GET"),
        ["docker", "host", "containers", name, "terminal"] => (Route::EnvironmentTerminal(text(name)), "GET"),
        ["task", task, stream] => (Route::Output(text(task), stream.parse().ok()?), "GET"),
        ["tasks"] => (Route::Tasks, "GET"),
        ["vps"] => (Route::Vps, "GET"),
        ["vps", "status"] => (Route::VpsStatus, "GET"),
        ["events"] => (Route::Events, "GET"),
        ["docker", "host", "containers"] => (Route::Containers, "GET"),
        ["docker", "host", "create"] => (Route::CreateContainer, "POST"),
        ["docker", "host", "delete", name] => (Route::ContainerVerb(text(name), ContainerVerb::Delete), "POST"),
        ["docker", "host", "stop", name] => (Route::ContainerVerb(text(name), ContainerVerb::Stop), "POST"),
        ["docker", "host", "start", name] => (Route::ContainerVerb(text(name), ContainerVerb::Start), "POST"),
        ["docker", "create_tar", name] => (Route::CreateTar(text(name)), "POST"),
        ["docker", "list"] => (Route::Tarballs, "GET"),
        ["register"] => (Route::Register, "POST"),
        ["heartbeat", name] => (Route::Heartbeat(text(name)), "PUT"),
        ["environments", name] => (Route::Environment(text(name)), "GET"),
        ["environments", name, version] => (Route::Archive(text(name), version.parse().ok()?), "GET"),
        ["runner", name, "observed"] => (Route::Observed(text(name)), "PUT"),
        ["runner", name, "desired"] => (Route::Desired(text(name)), "GET"),
        ["runner", name, "shell", id] => (Route::NodeShell(text(name), text(id)), "GET"),
        // Ids and attempts are parsed here: names of files are made of them.
        ["runner", name, "output", task, attempt, stream] => {
            let attempt = attempt.parse().ok().map(Attempt)?;
            (Route::Ship(text(name), task.parse().ok()?, attempt, stream.parse().ok()?), "PUT")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_served_with_and_without_api() {
        for (path, method) in [
            ("/nodes", "GET"),
            ("/nodes/", "GET"),
            ("/vps/status", "GET"),
            ("/status/17", "GET"),
            ("/kill/17", "POST"),
            ("/command/17/pause", "POST"),
            ("/node/n1/drain", "POST"),
            ("/runner/n1/desired", "GET"),
            ("/heartbeat/n1", "PUT"),
            ("/environments/base", "GET"),
            ("/environments/base/1700000000", "GET"),
            ("/task/17/stderr", "GET"),
            ("/runner/n1/output/17/1/stdout", "PUT"),
            ("/docker/host/containers", "GET"),
            ("/docker/host/create", "POST"),
            ("/docker/host/delete/my.env_1", "POST"),
            ("/docker/host/stop/x", "POST"),
            ("/docker/host/start/x", "POST"),
            ("/docker/create_tar/x", "POST"),
            ("/docker/list", "GET"),
            ("/task/17/terminal", "GET"),
            ("/docker/host/containers/my.env_1/terminal", "GET"),
            ("/runner/n1/shell/0123", "GET"),
        ] {
            let plain = parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(plain.1, method, "{path}");
            assert_eq!(parse(&format!("/api{path}")), Some(plain), "{path}");
        }
        for path in [
            "",
            "/",
            "/api",
            "/api/api/nodes",
            "/node/n1/destroy",
            "/environments/base/newest",
            "/status",
            "/status/1/2",
            "nodes",
            "/docker/host/pause/x",
            "/docker/create_tar",
            "/task/1/stdin",
            "/runner/n/output/x/1/stdout",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
