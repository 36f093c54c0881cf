//! From options to a request, checked as the Host will check it. Pure.
//!
//! Every fault begins with its option.

use crate::api::public::SubmitBody;
use crate::domain::ids::{EnvName, TaskName};
use crate::domain::size::Bytes;
use crate::domain::spec::{EnvVar, Mount, parse_duration};
use crate::domain::target;

/// The options of both kinds of task, as typed.
pub(in crate::cli) struct Options<'a> {
    pub(in crate::cli) target: &'a [String],
    pub(in crate::cli) cores: Option<&'a str>,
    pub(in crate::cli) memory: Option<&'a str>,
    pub(in crate::cli) gpus: Option<&'a str>,
    pub(in crate::cli) container: Option<&'a str>,
    pub(in crate::cli) privileged: bool,
    pub(in crate::cli) mount: &'a [String],
    pub(in crate::cli) name: Option<&'a str>,
    pub(in crate::cli) env: &'a [String],
    pub(in crate::cli) queue: bool,
    pub(in crate::cli) max_wait: Option<&'a str>,
}

/// The body with what both kinds have in common. What is not right for one kind of task alone is for its command to refuse.
pub(in crate::cli) fn body(kind: &str, options: &Options<'_>) -> Result<SubmitBody, String> {
    let mut body = SubmitBody { task_type: kind.to_owned(), queue: options.queue, ..SubmitBody::default() };
    places(options, &mut body)?;
    if let Some(cores) = options.cores {
        let fault = || format!("--cores: expected a whole number, 0 or more, found {cores:?}");
        body.required_cores = Some(number(cores).ok_or_else(fault)?);
    }
    if let Some(memory) = options.memory {
        let Bytes(bytes) = memory.parse().map_err(|fault| format!("--memory: {fault}"))?;
        body.required_memory_bytes = Some(bytes);
    }
    body.container_name = match options.container {
        Some("NULL") => Some("NULL".to_owned()),
        Some(container) => {
            let name: EnvName = container.parse().map_err(|fault| format!("--container: {fault}"))?;
            Some(name.to_string())
        }
        None => None,
    };
    if options.privileged {
        body.privileged = Some(true);
    }
    if !options.mount.is_empty() {
        let mounts = options.mount.iter().map(|text| text.parse()).collect::<Result<Vec<Mount>, _>>();
        let mounts = mounts.and_then(|mounts| Mount::check_distinct(&mounts).map(|()| mounts));
        let mounts = mounts.map_err(|fault| format!("--mount: {fault}"))?;
        body.additional_mounts = Some(mounts.iter().map(ToString::to_string).collect());
    }
    if let Some(name) = options.name {
        let name: TaskName = name.parse().map_err(|fault| format!("--name: {fault}"))?;
        body.name = Some(name.to_string());
    }
    for text in options.env {
        let variable: EnvVar = text.parse().map_err(|fault| format!("--env: {fault}"))?;
        if kind == "vps" {
            variable.check_for_vps().map_err(|fault| format!("--env: {fault}"))?;
        }
        let EnvVar { name, value } = variable;
        if body.env_vars.insert(name.clone(), value).is_some() {
            return Err(format!("--env: {name} is given twice"));
        }
    }
    body.max_wait_seconds = options.max_wait.map(|text| seconds("--max-wait", text)).transpose()?;
    Ok(body)
}

/// Targets with their GPUs, or how many GPUs.
fn places(options: &Options<'_>, body: &mut SubmitBody) -> Result<(), String> {
    let (mut targets, mut gpus) = (Vec::new(), Vec::new());
    for text in options.target {
        let (target, ids) = target::parse(text).map_err(|fault| format!("--target: {fault}"))?;
        targets.push(target.to_string());
        gpus.push(ids.iter().map(|gpu| gpu.0).collect::<Vec<u32>>());
    }
    if !targets.is_empty() {
        body.targets = Some(targets);
    }
    if gpus.iter().any(|ids| !ids.is_empty()) {
        body.required_gpus = Some(gpus);
    }
    let Some(count) = options.gpus else { return Ok(()) };
    if body.required_gpus.is_some() {
        return Err("--gpus and GPU ids in --target exclude each other: give one of them".to_owned());
    }
    let count = number(count)
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("--gpus: expected a whole number, at least 1, found {count:?}"))?;
    body.gpu_count = Some(count);
    Ok(())
}

/// A duration in whole seconds.
pub(in crate::cli) fn seconds(option: &str, text: &str) -> Result<u64, String> {
    parse_duration(text).map(|duration| duration.as_secs()).map_err(|fault| format!("{option}: {fault}"))
}

/// Digits alone.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
