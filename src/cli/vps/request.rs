//! From the options of `vps submit` to the request, checked as the Host will check it. Pure.

use super::submit::SubmitArgs;
use crate::api::public::SubmitBody;
use crate::cli::submit::request::{self, Options};

/// The body, without the keys.
pub(super) fn body(args: &SubmitArgs) -> Result<SubmitBody, String> {
    if let several @ [_, _, ..] = args.target.as_slice() {
        return Err(format!(
            "--target can be given once, because a VPS runs on one node; found {} ({})",
            several.len(),
            several.join(", ")
        ));
    }
    if args.container.as_deref() == Some("NULL") {
        return Err("--container NULL: a VPS lives in a container; name an environment, or leave the option out".into());
    }
    request::body(
        "vps",
        &Options {
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
        },
    )
}
