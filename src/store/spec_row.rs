//! A task's specification as JSON in its row. This type changes only with the schema; the domain's may change freely.
//!
//! The text was written by ourselves, and is checked with SQLite's `json_valid` when it is read, so it may go to
//! nanoserde as it is.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::time::Duration;

use nanoserde::{DeJson, SerJson};

use crate::domain::ids::GpuId;
use crate::domain::size::Bytes;
use crate::domain::spec::{Container, EnvVar, GpuRequest, Mount, Patience, SpecFault, TaskKind, TaskSpec, UserId};
use crate::domain::ssh_key::PublicKey;
use crate::domain::target;

/// What the `spec` column holds. Fields that a later version adds are absent in older rows.
#[derive(Default, DeJson, SerJson)]
#[nserde(default)]
struct SpecRow {
    kind: String,
    keys: Vec<String>,
    program: String,
    arguments: Vec<String>,
    cores: u32,
    memory: Option<u64>,
    gpu_ids: Vec<u32>,
    gpu_count: u32,
    target: Option<String>,
    container: Option<String>,
    privileged: bool,
    mounts: Vec<String>,
    name: Option<String>,
    env: Vec<EnvRow>,
    immediate: bool,
    queue: bool,
    max_wait_ms: Option<u64>,
    time_limit_ms: Option<u64>,
    workdir: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Default, DeJson, SerJson)]
struct EnvRow {
    name: String,
    value: String,
}

/// The column's text.
pub(super) fn encode(spec: &TaskSpec) -> String {
    let mut row = SpecRow {
        kind: spec.kind.word().to_owned(),
        cores: spec.cores,
        memory: spec.memory.map(|bytes| bytes.0),
        target: spec.target.as_ref().map(ToString::to_string),
        name: spec.name.as_ref().map(ToString::to_string),
        env: spec.env.iter().map(|var| EnvRow { name: var.name.clone(), value: var.value.clone() }).collect(),
        immediate: spec.patience.immediate,
        queue: spec.patience.queue,
        max_wait_ms: spec.patience.max_wait.map(millis),
        time_limit_ms: spec.time_limit.map(millis),
        workdir: spec.workdir.clone(),
        uid: spec.user.map(|user| user.uid),
        gid: spec.user.and_then(|user| user.gid),
        ..SpecRow::default()
    };
    match &spec.kind {
        TaskKind::Vps { keys } => row.keys = keys.iter().map(ToString::to_string).collect(),
        TaskKind::Command { program, arguments } => {
            row.program = program.clone();
            row.arguments = arguments.clone();
        }
    }
    match &spec.gpus {
        GpuRequest::None => {}
        GpuRequest::Ids(ids) => row.gpu_ids = ids.iter().map(|id| id.0).collect(),
        GpuRequest::Any(count) => row.gpu_count = *count,
    }
    if let Container::Environment { name, privileged, mounts } = &spec.container {
        row.container = Some(name.to_string());
        row.privileged = *privileged;
        row.mounts = mounts.iter().map(ToString::to_string).collect();
    }
    row.serialize_json()
}

/// The specification in a column's text.
pub(super) fn decode(text: &str) -> Result<TaskSpec, String> {
    let row = SpecRow::deserialize_json(text).map_err(|error| error.to_string())?;
    let kind = match row.kind.as_str() {
        "vps" => TaskKind::Vps { keys: parsed(&row.keys, PublicKey::parse)? },
        "command" => TaskKind::Command { program: row.program, arguments: row.arguments },
        other => return Err(format!("unknown kind of task {other:?}")),
    };
    let gpus = match (row.gpu_ids.is_empty(), row.gpu_count) {
        (false, _) => GpuRequest::Ids(row.gpu_ids.into_iter().map(GpuId).collect()),
        (true, 0) => GpuRequest::None,
        (true, count) => GpuRequest::Any(count),
    };
    let container = match row.container {
        None => Container::Null,
        Some(name) => Container::Environment {
            name: name.parse().map_err(|fault| format!("{fault}"))?,
            privileged: row.privileged,
            mounts: parsed(&row.mounts, |text| text.parse::<Mount>())?,
        },
    };
    Ok(TaskSpec {
        kind,
        cores: row.cores,
        memory: row.memory.map(Bytes),
        gpus,
        target: row
            .target
            .map(|text| target::parse(&text))
            .transpose()
            .map_err(|fault| fault.0)?
            .map(|(target, _)| target),
        container,
        name: row.name.map(|name| name.parse()).transpose().map_err(|fault| format!("{fault}"))?,
        env: row.env.into_iter().map(|var| EnvVar { name: var.name, value: var.value }).collect(),
        patience: Patience {
            immediate: row.immediate,
            queue: row.queue,
            max_wait: row.max_wait_ms.map(Duration::from_millis),
        },
        time_limit: row.time_limit_ms.map(Duration::from_millis),
        workdir: row.workdir,
        user: row.uid.map(|uid| UserId { uid, gid: row.gid }),
    })
}

fn parsed<T>(texts: &[String], parse: impl Fn(&str) -> Result<T, SpecFault>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| parse(text).map_err(|fault| fault.0)).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_survives_its_row() {
        let spec = TaskSpec {
            kind: TaskKind::Command {
                program: "/bin/\"sh\"".into(),
                arguments: vec!["-c".into(), "a\nb\u{1}ü".into()],
            },
            cores: 3,
            memory: Some(Bytes(4_000_000_000)),
            gpus: GpuRequest::Ids(vec![GpuId(0), GpuId(2)]),
            target: Some(target::parse("node-1:1").expect("target").0),
            container: Container::Environment {
                name: "base".parse().expect("name"),
                privileged: true,
                mounts: vec!["/data:/data:ro".parse().expect("mount")],
            },
            name: Some("dev".parse().expect("name")),
            env: [EnvVar { name: "A".into(), value: "x=\n\\\"".into() }].into(),
            patience: Patience { immediate: true, queue: true, max_wait: Some(Duration::from_secs(90)) },
            time_limit: Some(Duration::from_secs(3600)),
            workdir: Some("/shared/x".into()),
            user: Some(UserId { uid: 1000, gid: None }),
        };
        assert_eq!(decode(&encode(&spec)), Ok(spec.clone()));
        let bare = TaskSpec {
            kind: TaskKind::Command { program: "true".into(), arguments: Vec::new() },
            gpus: GpuRequest::Any(2),
            container: Container::Null,
            memory: None,
            target: None,
            name: None,
            env: [].into(),
            patience: Patience::default(),
            time_limit: None,
            workdir: None,
            user: None,
            ..spec
        };
        assert_eq!(decode(&encode(&bare)), Ok(bare));
    }
}
