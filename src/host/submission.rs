//! A submission's body becomes specifications: every field parsed, defaults filled in, the cluster's rules applied.
//!
//! Pure: which environments exist is asked of a function.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::api::submit::SubmitRequest;
use crate::config;
use crate::domain::ids::{EnvName, GpuId, TaskName};
use crate::domain::size::Bytes;
use crate::domain::spec::{Container, EnvVar, GpuRequest, Mount, Patience, SpecFault, TaskKind, TaskSpec};
use crate::domain::ssh_key::PublicKey;
use crate::domain::target::{self, Target};

use super::engine::{ActFault, Idempotency, Submission};

/// What the configuration says of tasks.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) default_container: String,
    pub(super) default_mounts: Vec<Mount>,
    pub(super) privileged_by_default: bool,
    pub(super) allow_privileged: bool,
    /// Normalised.
    pub(super) allowed_mounts: Vec<PathBuf>,
}

impl Rules {
    pub(super) fn of(docker: &config::Docker) -> Self {
        Self {
            default_container: docker.default_container_name.clone(),
            default_mounts: docker.additional_mounts.clone(),
            privileged_by_default: docker.tasks_privileged && docker.allow_privileged,
            allow_privileged: docker.allow_privileged,
            allowed_mounts: docker.allowed_mounts.iter().map(|path| path.components().collect()).collect(),
        }
    }
}

/// Tasks of one submission at most.
const MOST_TASKS: usize = 100_000;
/// Bytes that their specifications hold at most, all together: a body of 16 MiB could else become tasks of terabytes.
const MOST_BYTES: usize = 256 << 20;
/// Bytes of a command, its arguments and its environment, each text with the NUL behind it and a pointer to it: Linux starts no
/// program with more, whatever its limits are (execve(2), "Limits on size of arguments and environment").
const LARGEST_EXEC: usize = 6 << 20;
/// Bytes of a path at most: Linux takes none that is longer (PATH_MAX), and an argument of Docker's can have 128 KiB.
const LONGEST_PATH: usize = 4096;
/// Seconds in `max_wait_seconds` and `time_limit_seconds` at most: a year.
const LONGEST: u64 = 365 * 86_400;

/// Checks everything that can be checked without the nodes. `body_hash` is of the body as it came.
///
/// # Errors
/// 400 with the sentence about the field; 403 for what the cluster forbids; what `has_environment` says.
pub(super) fn parse(
    mut body: SubmitRequest,
    body_hash: Vec<u8>,
    rules: &Rules,
    has_environment: &dyn Fn(&EnvName) -> Result<(), ActFault>,
) -> Result<Submission, ActFault> {
    let idempotency = match &body.idempotency_key {
        None => None,
        Some(key) if key.is_empty() || key.chars().count() > 128 => {
            return Err(bad("idempotency_key: expected 1 to 128 characters"));
        }
        Some(key) => Some(Idempotency { key: key.clone(), body_hash }),
    };
    bounded(&body)?;
    let name: Option<TaskName> = body.name.as_ref().map(|name| name.parse()).transpose().map_err(bad)?;
    let common = common(&body, name.clone(), rules, has_environment)?;
    let kinds = kinds(&mut body)?;
    let is_vps = matches!(kinds.first(), Some(TaskKind::Vps { .. }));
    let (places, refused) = places(&body, is_vps)?;
    let needs_container = |gpus: &GpuRequest| matches!(gpus, GpuRequest::Ids(_)) && common.container == Container::Null;
    if places.iter().any(|(_, _, gpus)| needs_container(gpus)) {
        return Err(bad(
            "required_gpus: a list of GPUs needs a container (container_name is NULL); without one, use gpu_count (--gpus N)",
        ));
    }
    let count = places.len().saturating_mul(kinds.len());
    if name.is_some() && count + refused.len() > 1 {
        return Err(bad("name: a name can be given to one task only, and this would be several"));
    }
    let mut tasks = Vec::with_capacity(count);
    let mut add = |label: &Arc<str>, kind: TaskKind, target: &Option<Target>, gpus: &GpuRequest| {
        let spec = TaskSpec { kind, target: target.clone(), gpus: gpus.clone(), ..common.clone() };
        tasks.push((label.clone(), Arc::new(spec)));
    };
    let mut places = places.into_iter();
    // The arguments of a hundred thousand tasks are copied for every target but the last.
    let last = places.next_back();
    for (label, target, gpus) in places {
        kinds.iter().for_each(|kind| add(&label, kind.clone(), &target, &gpus));
    }
    if let Some((label, target, gpus)) = last {
        kinds.into_iter().for_each(|kind| add(&label, kind, &target, &gpus));
    }
    Ok(Submission { tasks, refused, name, idempotency })
}

/// Refuses what would be too many tasks, or too large ones, before any of them is made: each has what all share, and each
/// target has all sets of arguments.
fn bounded(body: &SubmitRequest) -> Result<(), ActFault> {
    let size = |texts: &[String]| texts.iter().map(|text| text.len() + size_of::<String>()).sum::<usize>();
    let places = body.targets.len().max(1);
    let (sets, arguments) = match &body.argument_sets {
        Some(sets) => (sets.len(), sets.iter().map(|set| size(set)).sum()),
        None => (1, size(&body.arguments)),
    };
    let count = places.saturating_mul(sets);
    if count > MOST_TASKS {
        return Err(bad(format!("this would be {count} tasks: at most {MOST_TASKS} in one submission")));
    }
    let env: usize = body.env_vars.iter().map(|(name, value)| name.len() + value.len()).sum();
    let mounts = body.additional_mounts.as_deref().unwrap_or_default();
    if mounts.len() > Mount::MOST {
        return Err(bad(format!("additional_mounts: these are {} mounts, at most {}", mounts.len(), Mount::MOST)));
    }
    // In memory each is two texts of its own.
    let mounts = size(mounts) + mounts.len() * size_of::<Mount>();
    let passed = |texts: &[String]| texts.iter().map(|text| text.len() + 9).sum::<usize>();
    let longest = match &body.argument_sets {
        Some(sets) => sets.iter().map(|set| passed(set)).max().unwrap_or_default(),
        None => passed(&body.arguments),
    };
    let exec = body.command.len() + longest + env + 10 * body.env_vars.len();
    if exec > LARGEST_EXEC {
        return Err(bad(format!(
            "arguments: a task's command, arguments and environment come to {exec} bytes, and Linux starts no program with more than \
             {LARGEST_EXEC}: put what is long into a file"
        )));
    }
    let shared = body.command.len() + env + mounts + body.workdir.as_ref().map_or(0, String::len);
    let bytes = count.saturating_mul(shared).saturating_add(places.saturating_mul(arguments));
    if bytes > MOST_BYTES {
        return Err(bad(format!(
            "arguments: these {count} tasks would hold {bytes} bytes of commands, arguments and environment, at most {MOST_BYTES} in one submission: \
             put what is long into a file"
        )));
    }
    Ok(())
}

/// What all tasks of the submission share; kind, target and GPUs are filled in later.
fn common(
    body: &SubmitRequest,
    name: Option<TaskName>,
    rules: &Rules,
    has_environment: &dyn Fn(&EnvName) -> Result<(), ActFault>,
) -> Result<TaskSpec, ActFault> {
    let is_vps = body.task_type == "vps";
    let memory = match body.required_memory_bytes {
        Some(0) => return Err(bad("required_memory_bytes: expected more than 0")),
        Some(bytes) if bytes > i64::MAX as u64 => return Err(bad("required_memory_bytes: too large")),
        other => other.map(Bytes),
    };
    let env: Arc<[EnvVar]> =
        body.env_vars.iter().map(|(name, value)| EnvVar::new(name, value)).collect::<Result<_, _>>().map_err(bad)?;
    if is_vps {
        env.iter().try_for_each(EnvVar::check_for_vps).map_err(bad)?;
    }
    if body.immediate && (body.queue || body.max_wait_seconds.is_some()) {
        return Err(bad("immediate: it means not to wait, so it goes with neither queue nor max_wait_seconds"));
    }
    let time_limit = seconds("time_limit_seconds", body.time_limit_seconds)?;
    let user = body.user.as_ref().map(|text| text.parse()).transpose().map_err(bad)?;
    let workdir = body.workdir.clone();
    if is_vps && (time_limit.is_some() || user.is_some() || workdir.is_some()) {
        return Err(bad("time_limit_seconds, workdir and user are for command tasks, not for a VPS"));
    }
    if workdir.as_ref().is_some_and(|path| !path.starts_with('/') || path.contains('\0')) {
        return Err(bad("workdir: expected an absolute path"));
    }
    if workdir.as_ref().is_some_and(|path| path.len() > LONGEST_PATH) {
        return Err(bad(format!("workdir: expected at most {LONGEST_PATH} bytes")));
    }
    Ok(TaskSpec {
        kind: TaskKind::Vps { keys: Vec::new() },
        cores: body.required_cores.unwrap_or(if is_vps { 0 } else { 1 }),
        memory,
        gpus: GpuRequest::None,
        target: None,
        container: container(body, is_vps, rules, has_environment)?,
        name,
        env,
        patience: Patience {
            immediate: body.immediate,
            queue: body.queue,
            max_wait: seconds("max_wait_seconds", body.max_wait_seconds)?,
        },
        time_limit,
        workdir,
        user,
    })
}

/// One kind for each set of arguments.
fn kinds(body: &mut SubmitRequest) -> Result<Vec<TaskKind>, ActFault> {
    match body.task_type.as_str() {
        "vps" => {
            if !body.arguments.is_empty() || body.argument_sets.is_some() {
                return Err(bad("arguments: a VPS takes none"));
            }
            Ok(vec![TaskKind::Vps { keys: PublicKey::parse_all(&body.command).map_err(bad)? }])
        }
        "command" => {
            let sets = match body.argument_sets.take() {
                Some(sets) if sets.is_empty() => return Err(bad("argument_sets: expected at least one set")),
                Some(_) if !body.arguments.is_empty() => {
                    return Err(bad("argument_sets: give either this or arguments"));
                }
                Some(sets) => sets,
                None => vec![std::mem::take(&mut body.arguments)],
            };
            let nul = |text: &String| text.contains('\0');
            if body.command.is_empty() || nul(&body.command) || sets.iter().flatten().any(nul) {
                return Err(bad("command: expected a program and arguments without NUL characters"));
            }
            Ok(sets
                .into_iter()
                .map(|arguments| TaskKind::Command { program: body.command.clone(), arguments })
                .collect())
        }
        other => Err(bad(format!("task_type: expected 'vps' or 'command', not {other:?}"))),
    }
}

/// As written, as understood, and the GPUs there.
type Place = (Arc<str>, Option<Target>, GpuRequest);
/// As written, and why it was refused.
type Refused = (String, String);

/// Where the tasks are to go, with the targets whose text was refused. One bad target alone is a 400; among others it
/// is only itself refused, as in 0.3.
fn places(body: &SubmitRequest, is_vps: bool) -> Result<(Vec<Place>, Vec<Refused>), ActFault> {
    let targets = &body.targets;
    let gpu_lists = &body.required_gpus;
    if is_vps && targets.len() > 1 {
        return Err(bad("targets: a VPS takes at most one"));
    }
    let any = match body.gpu_count {
        None | Some(0) => GpuRequest::None,
        Some(count) => GpuRequest::Any(count),
    };
    if targets.is_empty() {
        if gpu_lists.iter().any(|ids| !ids.is_empty()) {
            return Err(bad("required_gpus: GPU ids are those of a target; without one, use gpu_count (--gpus N)"));
        }
        return Ok((vec![("auto".into(), None, any)], Vec::new()));
    }
    if !gpu_lists.is_empty() && gpu_lists.len() != targets.len() {
        return Err(bad(format!(
            "required_gpus: expected one list for each of the {} targets, not {}",
            targets.len(),
            gpu_lists.len()
        )));
    }
    let (mut places, mut refused) = (Vec::new(), Vec::new());
    for (index, text) in targets.iter().enumerate() {
        match place(text, gpu_lists.get(index).map_or(&[], Vec::as_slice), &any) {
            Ok((target, gpus)) => places.push((text.as_str().into(), Some(target), gpus)),
            Err(fault) if targets.len() == 1 => return Err(bad(fault)),
            Err(fault) => refused.push((text.clone(), fault.0)),
        }
    }
    Ok((places, refused))
}

fn place(text: &str, listed: &[u32], any: &GpuRequest) -> Result<(Target, GpuRequest), SpecFault> {
    let (target, mut ids) = target::parse(text)?;
    let mut listed: Vec<GpuId> = listed.iter().copied().map(GpuId).collect();
    listed.sort_unstable();
    if listed.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(SpecFault(format!("required_gpus: a GPU stands twice in the list for target '{text}'")));
    }
    ids.sort_unstable();
    // Our own grammar has GPUs in the target, 0.3's clients send them beside it.
    if !ids.is_empty() && !listed.is_empty() && ids != listed {
        return Err(SpecFault(format!("required_gpus: target '{text}' names other GPUs than its list")));
    }
    let ids = if ids.is_empty() { listed } else { ids };
    match (ids.is_empty(), any) {
        (true, any) => Ok((target, any.clone())),
        (false, GpuRequest::None) => Ok((target, GpuRequest::Ids(ids))),
        (false, _) => Err(SpecFault("gpu_count: give either GPU ids or a number of GPUs".to_owned())),
    }
}

fn container(
    body: &SubmitRequest,
    is_vps: bool,
    rules: &Rules,
    has_environment: &dyn Fn(&EnvName) -> Result<(), ActFault>,
) -> Result<Container, ActFault> {
    let asked = body.container_name.as_deref().unwrap_or(&rules.default_container);
    if asked == "NULL" {
        if is_vps {
            return Err(bad("container_name: a VPS needs a container, so it cannot be NULL"));
        }
        if body.additional_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty()) || body.privileged == Some(true) {
            return Err(bad("additional_mounts and privileged need a container (container_name is NULL)"));
        }
        return Ok(Container::Null);
    }
    let name: EnvName = asked.parse().map_err(bad)?;
    has_environment(&name)?;
    let privileged = body.privileged.unwrap_or(rules.privileged_by_default);
    if privileged && !rules.allow_privileged {
        return Err(ActFault::new(
            403,
            "privileged: this cluster forbids privileged containers (docker.allow_privileged = false)",
        ));
    }
    let mounts = match &body.additional_mounts {
        None => rules.default_mounts.clone(),
        Some(texts) => {
            let mounts: Vec<Mount> = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(bad)?;
            Mount::check_distinct(&mounts).map_err(bad)?;
            for mount in &mounts {
                allowed(mount, rules)?;
            }
            mounts
        }
    };
    Ok(Container::Environment { name, privileged, mounts })
}

/// A mount's path is normalised, so whole components are compared.
fn allowed(mount: &Mount, rules: &Rules) -> Result<(), ActFault> {
    if rules.allowed_mounts.iter().any(|allowed| Path::new(&mount.host).starts_with(allowed)) {
        return Ok(());
    }
    let list: Vec<String> = rules.allowed_mounts.iter().map(|path| path.display().to_string()).collect();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    Err(ActFault::new(
        403,
        format!("additional_mounts: {} may not be mounted (docker.allowed_mounts: {list})", mount.host),
    ))
}

fn seconds(field: &str, value: Option<u64>) -> Result<Option<Duration>, ActFault> {
    match value {
        None => Ok(None),
        Some(seconds) if (1..=LONGEST).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => Err(bad(format!("{field}: expected 1 to {LONGEST} seconds"))),
    }
}

fn bad(why: impl std::fmt::Display) -> ActFault {
    ActFault::new(400, why.to_string())
}

#[cfg(test)]
mod tests;
