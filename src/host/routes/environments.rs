//! Environments: containers on the Host, and the tarballs that are packed of them.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::api::environment::{
    ContainerRow, CreateBody, PackAnswer, PackBody, ProgressLine, Tarballs, TarballsRow, VersionRow,
};
use crate::api::json;
use crate::api::node::NodeEnvironment;
use crate::api::public::Message;
use crate::domain::ids::EnvName;
use crate::host::engine::ActFault;
use crate::host::environments::{Created, Environments, Packed};
use crate::host::view::View;
use crate::net::http::{Head, Reply};
use crate::sys::thread;

use super::path::ContainerVerb;
use super::{Api, answer, message};

/// While nothing happens, an empty line says that we live.
const BEAT: Duration = Duration::from_secs(15);

/// What was done, for the answer.
enum Done {
    Made(String),
    Packed(String, String),
}

/// Something that takes long, and tells how far it is.
type Work = Box<dyn FnOnce(&mut dyn FnMut(&str)) -> Result<Done, ActFault> + Send>;

impl Api {
    /// `GET /docker/host/containers`
    pub(super) fn containers(&self) -> Result<Reply, ActFault> {
        let all = self.environments.containers()?;
        let rows: Vec<ContainerRow> =
            all.into_iter().map(|[id, name, image, status]| ContainerRow { id, name, image, status }).collect();
        Ok(answer(200, &rows))
    }

    /// `POST /docker/host/create`
    pub(super) fn create_container(&self, head: &Head, body: &[u8]) -> Result<Reply, ActFault> {
        let CreateBody { image_name, container_name: name } = json::decode(body).map_err(unread)?;
        let environments = Arc::clone(&self.environments);
        let work: Work = Box::new(move |progress| {
            let said = match environments.create(&image_name, &name, progress)? {
                Created::Now => format!("Container '{name}' created of {image_name}, and runs."),
                Created::Before => {
                    format!("Container '{name}' exists already, made of {image_name}; nothing was changed.")
                }
            };
            Ok(Done::Made(said))
        });
        long(head, work)
    }

    /// `POST /docker/host/{delete, stop or start}/{name}`
    pub(super) fn container_verb(&self, name: &str, verb: ContainerVerb) -> Result<Reply, ActFault> {
        let environments: &Environments = &self.environments;
        let said = match verb {
            ContainerVerb::Delete => {
                environments.delete(name)?;
                format!("Container '{name}' deleted; its tarballs stay.")
            }
            ContainerVerb::Stop if environments.stop(name)? => format!("Container '{name}' stopped."),
            ContainerVerb::Stop => format!("Container '{name}' did not run."),
            ContainerVerb::Start if environments.start(name)? => format!("Container '{name}' started."),
            ContainerVerb::Start => format!("Container '{name}' runs already."),
        };
        Ok(message(200, said))
    }

    /// `POST /docker/create_tar/{name}`
    pub(super) fn create_tar(&self, name: &str, head: &Head, body: &[u8]) -> Result<Reply, ActFault> {
        let PackBody { label } =
            if body.is_empty() { PackBody::default() } else { json::decode(body).map_err(unread)? };
        let (environments, view) = (Arc::clone(&self.environments), Arc::clone(&self.engine.view));
        let name = name.to_owned();
        let work: Work = Box::new(move |progress| {
            let Packed { path, is_as_before } = environments.pack(
                &name,
                label.as_deref(),
                &|env, version| is_loading(&view, env, version),
                progress,
            )?;
            let but = if is_as_before { "" } else { " Its container does not run again: see the Host's log." };
            Ok(Done::Packed(format!("Environment '{name}' packed.{but}"), path.to_string_lossy().into_owned()))
        });
        long(head, work)
    }

    /// `GET /docker/list`
    pub(super) fn tarballs(&self) -> Result<Reply, ActFault> {
        let list = self.environments.list()?;
        let rows = list.into_iter().filter_map(|(name, versions)| {
            let newest = versions.first()?;
            let row = TarballsRow {
                latest_timestamp: newest.time,
                latest_tarball: newest.tarball.clone(),
                nodes: nodes_with(&self.engine.view, &name, newest.time, READY),
                all_versions: versions
                    .into_iter()
                    .map(|version| VersionRow {
                        timestamp: version.time,
                        tarball: version.tarball,
                        size: version.size,
                        label: version.label,
                    })
                    .collect(),
            };
            Some((name.to_string(), row))
        });
        Ok(answer(200, &rows.collect::<Tarballs>()))
    }
}

/// How a node says that it has a version, and that it is to have it.
const READY: &str = "ready";
const LOADING: &str = "loading";

/// The names of the nodes that say so of a version; those that are silent have said it last.
fn nodes_with(view: &View, env: &EnvName, version: u64, state: &str) -> Vec<String> {
    let says = |said: &NodeEnvironment| said.version == version && said.state == state && said.name == env.as_str();
    let nodes = view.nodes();
    let nodes = nodes.iter().filter(|node| node.figures.environments.iter().any(says));
    nodes.map(|node| node.record.name.to_string()).collect()
}

fn is_loading(view: &View, env: &EnvName, version: u64) -> bool {
    !nodes_with(view, env, version, LOADING).is_empty()
}

fn unread(fault: json::JsonFault) -> ActFault {
    ActFault::new(fault.status(), fault.to_string())
}

/// One answer when all is done, as 0.3 gives it; with `?progress=1` a line for each step, and then the answer.
fn long(head: &Head, work: Work) -> Result<Reply, ActFault> {
    if head.query("progress") != Some("1") {
        return Ok(match work(&mut |_| ())? {
            Done::Made(said) => answer(201, &Message { message: said }),
            Done::Packed(said, tarball_path) => answer(200, &PackAnswer { message: said, tarball_path }),
        });
    }
    let (tell, told) = mpsc::channel::<String>();
    // In a thread of its own, so that it goes on when the client goes.
    let started = thread::spawn("environment", move || {
        let done = work(&mut |step| {
            let line = ProgressLine { progress: Some(step.to_owned()), ..ProgressLine::default() };
            // Err: nobody listens any more.
            let _gone = tell.send(json::encode(&line));
        });
        let _gone = tell.send(json::encode(&last_line(done)));
    });
    started.map_err(|fault| ActFault::new(503, format!("no thread can be started for it: {fault}; try again")))?;
    Ok(Reply::Stream {
        status: 200,
        content_type: "application/x-ndjson",
        headers: Vec::new(),
        write: Box::new(move |out| {
            loop {
                match told.recv_timeout(BEAT) {
                    Ok(line) => out.write_all(format!("{line}\n").as_bytes())?,
                    Err(RecvTimeoutError::Timeout) => out.write_all(b"\n")?,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        }),
    })
}

fn last_line(done: Result<Done, ActFault>) -> ProgressLine {
    match done {
        Ok(Done::Made(said)) => ProgressLine { status: Some(201), message: Some(said), ..ProgressLine::default() },
        Ok(Done::Packed(said, path)) => {
            ProgressLine { status: Some(200), message: Some(said), tarball_path: Some(path), ..ProgressLine::default() }
        }
        Err(fault) => {
            ProgressLine { status: Some(fault.status), detail: Some(fault.detail), ..ProgressLine::default() }
        }
    }
}
