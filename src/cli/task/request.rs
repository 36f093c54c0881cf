//! From the options of `task submit` to the request, checked as the Host will check it. Pure.

use std::time::Duration;

use super::submit::SubmitArgs;
use crate::api::public::SubmitBody;
use crate::cli::submit::request::{self, Options, seconds};
use crate::domain::span::Combinations;
use crate::domain::spec::UserId;

/// Tasks of one submission at most, as the Host has it.
const MOST_TASKS: u64 = 100_000;

/// The body.
pub(super) fn body(args: &SubmitArgs) -> Result<SubmitBody, String> {
    let options = Options {
        target: &args.target,
        cores: args.cores.as_deref(),
        memory: args.memory.as_deref(),
        gpus: args.gpus.as_deref(),
        container: args.container.as_deref(),
        privileged: args.privileged,
        mount: &args.mount,
        name: args.name.as_deref(),
        env: &args.env,
        queue: args.queue,
        max_wait: args.max_wait.as_deref(),
    };
    let mut body = request::body("command", &options)?;
    if args.container.as_deref() == Some("NULL") {
        needs_no_container(args, &body)?;
    }
    if args.immediate && (args.queue || args.max_wait.is_some()) {
        let other = if args.queue { "--queue" } else { "--max-wait" };
        return Err(format!("--immediate means not to wait, and {other} to wait: give one of them"));
    }
    body.immediate = args.immediate;
    body.time_limit_seconds = args.time_limit.as_deref().map(|text| seconds("--time-limit", text)).transpose()?;
    if let Some(path) = &args.workdir {
        if !path.starts_with('/') {
            return Err(format!("--workdir: expected an absolute path, found {path:?}"));
        }
        body.workdir = Some(path.clone());
    }
    if let Some(user) = &args.user {
        let user: UserId = user.parse().map_err(|fault| format!("--user: {fault}"))?;
        body.user = Some(user.to_string());
    }
    command(args, &mut body)?;
    Ok(body)
}

/// What only a container can give.
fn needs_no_container(args: &SubmitArgs, body: &SubmitBody) -> Result<(), String> {
    if body.required_gpus.is_some() {
        return Err("--target: a list of GPUs needs a container, and --container is NULL; --gpus N works without one"
            .to_owned());
    }
    for (option, is_given) in [("--mount", !args.mount.is_empty()), ("--privileged", args.privileged)] {
        if is_given {
            return Err(format!("{option} needs a container, and --container is NULL"));
        }
    }
    Ok(())
}

/// The program with its arguments, or with many sets of them.
fn command(args: &SubmitArgs, body: &mut SubmitBody) -> Result<(), String> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err("missing: COMMAND, after '--'; see 'hakuriver task submit --help'".to_owned());
    };
    if program.is_empty() {
        return Err("COMMAND is empty: expected a program".to_owned());
    }
    body.command = program.clone();
    let combinations =
        if args.span { Some(Combinations::of(arguments).map_err(|fault| format!("--span: {fault}"))?) } else { None };
    let count = combinations.as_ref().map_or(1, Combinations::count).saturating_mul(args.target.len().max(1) as u64);
    if count > MOST_TASKS {
        return Err(format!("this would be {count} tasks: at most {MOST_TASKS} in one submission"));
    }
    if args.name.is_some() && count > 1 {
        return Err(format!("--name: a name can be given to one task only, and this would be {count}"));
    }
    match combinations {
        Some(combinations) => body.argument_sets = Some(combinations.iter().collect()),
        None => body.arguments = arguments.to_vec(),
    }
    Ok(())
}

/// How often to look where no events can be had.
pub(super) fn pause(args: &SubmitArgs) -> Result<Duration, String> {
    /// Often enough, and seldom enough for the Host.
    const BOUNDS: std::ops::RangeInclusive<f64> = 0.05..=3_600.0;
    let Some(text) = &args.poll_interval else { return Ok(Duration::from_secs(1)) };
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = text.parse::<f64>().ok().filter(|seconds| is_plain && BOUNDS.contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        format!("--poll-interval: expected seconds, from {} to {}, found {text:?}", BOUNDS.start(), BOUNDS.end())
    })
}
