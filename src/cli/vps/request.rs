//! From the options of `vps submit` to the request, checked as the Host will check it. Pure.

use super::submit::SubmitArgs;
use crate::api::public::SubmitBody;
use crate::domain::ids::{EnvName, TaskName};
use crate::domain::size::Bytes;
use crate::domain::spec::{EnvVar, Mount, parse_duration};
use crate::domain::target;

/// The body, without key and idempotency key.
pub(super) fn body(args: &SubmitArgs) -> Result<SubmitBody, String> {
    let mut body = SubmitBody { task_type: "vps".to_owned(), queue: args.queue, ..SubmitBody::default() };
    match args.target.as_slice() {
        [] => {}
        [target] => {
            let (target, gpus) = target::parse(target).map_err(|fault| format!("--target: {fault}"))?;
            body.targets = Some(vec![target.to_string()]);
            if !gpus.is_empty() {
                body.required_gpus = Some(vec![gpus.iter().map(|gpu| gpu.0).collect()]);
            }
        }
        several => {
            return Err(format!(
                "--target can be given once, because a VPS runs on one node; found {} ({})",
                several.len(),
                several.join(", ")
            ));
        }
    }
    if let Some(count) = &args.gpus {
        if body.required_gpus.is_some() {
            return Err("--gpus and GPU ids in --target exclude each other: give one of them".to_owned());
        }
        body.gpu_count = Some(
            number(count)
                .filter(|count| *count > 0)
                .ok_or_else(|| format!("--gpus: expected a whole number, at least 1, found {count:?}"))?,
        );
    }
    if let Some(cores) = &args.cores {
        let fault = || format!("--cores: expected a whole number, 0 or more, found {cores:?}");
        body.required_cores = Some(number(cores).ok_or_else(fault)?);
    }
    if let Some(memory) = &args.memory {
        let Bytes(bytes) = memory.parse().map_err(|fault| format!("--memory: {fault}"))?;
        body.required_memory_bytes = Some(bytes);
    }
    if let Some(container) = &args.container {
        if container == "NULL" {
            return Err(
                "--container NULL: a VPS lives in a container; name an environment, or leave the option out".into()
            );
        }
        let name: EnvName = container.parse().map_err(|fault| format!("--container: {fault}"))?;
        body.container_name = Some(name.to_string());
    }
    if args.privileged {
        body.privileged = Some(true);
    }
    if !args.mount.is_empty() {
        let mounts = args.mount.iter().map(|text| text.parse()).collect::<Result<Vec<Mount>, _>>();
        let mounts = mounts.and_then(|mounts| Mount::check_distinct(&mounts).map(|()| mounts));
        let mounts = mounts.map_err(|fault| format!("--mount: {fault}"))?;
        body.additional_mounts = Some(mounts.iter().map(ToString::to_string).collect());
    }
    if let Some(name) = &args.name {
        let name: TaskName = name.parse().map_err(|fault| format!("--name: {fault}"))?;
        body.name = Some(name.to_string());
    }
    for text in &args.env {
        let variable: EnvVar = text.parse().map_err(|fault| format!("--env: {fault}"))?;
        variable.check_for_vps().map_err(|fault| format!("--env: {fault}"))?;
        let EnvVar { name, value } = variable;
        if body.env_vars.insert(name.clone(), value).is_some() {
            return Err(format!("--env: {name} is given twice"));
        }
    }
    if let Some(text) = &args.max_wait {
        let max_wait = parse_duration(text).map_err(|fault| format!("--max-wait: {fault}"))?;
        body.max_wait_seconds = Some(max_wait.as_secs());
    }
    Ok(body)
}

/// Digits alone.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
