//! `task submit`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use super::request;
use super::wait::Watch;
use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::{output, submit};
use crate::domain::ids::TaskId;

/// Submit a command: to one node that the Host chooses, or to each --target; with --span, once for every combination of its arguments. The
/// tasks' ids are printed at once, one a line. The command goes to the node as it is; no shell reads it.
#[derive(Debug, Default, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "submit",
    help_triggers("-h", "--help"),
    usage = "[<options>] -- COMMAND ARGS...",
    example = "{command_name} -- echo hello\n\
               {command_name} --target node1 --target node2::0,1 --cores 4 --memory 8G --wait -- ./train.sh --fast\n\
               {command_name} --container NULL --time-limit 2h30m --env MODE=night -- make -C /shared/work all\n\
               {command_name} --wait --span -- ./render 'span:[sea,sky]' --frame 'span:{{001..240}}'\n\
               {command_name} -- sh -c 'sort big | uniq -c > counts'",
    note = "A target that is refused is told on stderr, the tasks for the others are submitted, and the exit status is\n\
            1. With --wait it is also 1 if any task did not complete; those are listed. A task whose node has fallen\n\
            silent counts as ended, unless the node returns before the others have ended. Ctrl-C ends the wait, not\n\
            the tasks.\n\
            --span reads ARGS as 'hakuriver run' does: span:{{1..3}} is 1, 2 and 3, span:[a,b] is a and b.\n\
            Quote spans: shells expand braces and brackets of their own accord."
)]
pub(super) struct SubmitArgs {
    /// HOST[:NUMA_ID][::GPU_ID,...]: a node, one of its NUMA nodes, and GPUs of it; repeatable, one task each (default: the Host
    /// chooses)
    #[argh(option, arg_name = "HOST[:NUMA_ID][::GPU_ID,...]")]
    pub(super) target: Vec<String>,
    /// cores of its own (default: 1; 0 shares the node's cores with others)
    #[argh(option, arg_name = "N")]
    pub(super) cores: Option<String>,
    /// memory limit, 1000-based: 512M, 4G (default: none)
    #[argh(option, arg_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// any N free GPUs, chosen by the Host
    #[argh(option, arg_name = "N")]
    pub(super) gpus: Option<String>,
    /// an environment variable of the task: NAME=VALUE; repeatable
    #[argh(option, arg_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// the container environment, or NULL to run straight on the node (default: the Host's docker.default_container_name)
    #[argh(option, arg_name = "NAME|NULL")]
    pub(super) container: Option<String>,
    /// run the container with --privileged: it can do everything that root on the node can
    #[argh(switch)]
    pub(super) privileged: bool,
    /// mount a directory of the node: HOST_PATH:CONTAINER_PATH[:ro|rw]; repeatable; replaces the default mounts
    #[argh(option, arg_name = "HOST_PATH:CONTAINER_PATH")]
    pub(super) mount: Vec<String>,
    /// a name that stands for the id while the task lives: letters, digits and '-'
    #[argh(option, arg_name = "NAME")]
    pub(super) name: Option<String>,
    /// every combination of the spans in ARGS is a task: span:{1..3}, span:[a,b]
    #[argh(switch)]
    pub(super) span: bool,
    /// wait until all tasks have ended
    #[argh(switch)]
    pub(super) wait: bool,
    /// how often --wait looks where the Host's events cannot be had (default: 1)
    #[argh(option, arg_name = "SECONDS")]
    pub(super) poll_interval: Option<String>,
    /// fail rather than wait for a place
    #[argh(switch)]
    pub(super) immediate: bool,
    /// wait also for a named node that is offline or draining
    #[argh(switch)]
    pub(super) queue: bool,
    /// give up if it has no place after this time: 90s, 5m, 2h30m
    #[argh(option, arg_name = "DURATION")]
    pub(super) max_wait: Option<String>,
    /// end it after this time: TERM, and 10 s later KILL
    #[argh(option, arg_name = "DURATION")]
    pub(super) time_limit: Option<String>,
    /// the directory it starts in, an absolute path
    #[argh(option, arg_name = "PATH")]
    pub(super) workdir: Option<String>,
    /// the user, and group, it runs as, in numbers
    #[argh(option, arg_name = "UID[:GID]")]
    pub(super) user: Option<String>,
    /// print the API's JSON and nothing else
    #[argh(switch)]
    pub(super) json: bool,
    /// the program with its arguments
    #[argh(positional, greedy, arg_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

pub(super) fn run(args: &SubmitArgs, config: Option<&Path>) -> Result<(), Fault> {
    let body = request::body(args).map_err(Fault::Usage)?;
    let pause = request::pause(args).map_err(Fault::Usage)?;
    if args.span {
        output::warn_of_unquoted_spans(&args.command);
    }
    let host = Host::of(config)?;
    let watch = args.wait.then(|| Watch::begin(&host.loaded, pause));
    let answered = submit::send(&host, body, "hakuriver task list")?;
    if let Some(watch) = &watch {
        watch.submitted();
    }
    let answer = &answered.answer;
    if args.json {
        output::body(&answered.json);
    } else {
        output::line(&answer.task_ids.join("\n"));
    }
    let refused = submit::refused(answer);
    for reason in &refused {
        output::error_line(&format!("warning: refused: {reason}"));
    }
    let Some(watch) = watch else {
        return match refused.len() {
            0 => Ok(()),
            count => {
                Err(Fault::Refused(format!("{count} of the targets were refused; the other tasks were submitted")))
            }
        };
    };
    let ids: Vec<TaskId> = answer
        .task_ids
        .iter()
        .map(|id| id.parse().map_err(|fault| Fault::Refused(format!("the Host's answer is not understood: {fault}"))))
        .collect::<Result<_, _>>()?;
    watch.until_ended(host, &ids)?;
    match refused.len() {
        0 => Ok(()),
        count => Err(Fault::Refused(format!("all tasks completed, but targets were refused: {count}"))),
    }
}
