//! `hakuriver vps`: VPS tasks.

mod key;
mod request;
mod status;
mod submit;
mod wait;

use argh::{ArgsInfo, FromArgs};

use super::command::Action;
use super::fault::Fault;
use super::role::Invocation;
use super::task_ref::TaskRef;
use super::{args, command, kill, shell};

/// VPS tasks: persistent containers with an SSH server, on the node that fits.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} submit --cores 4 --memory 8G\n{command_name} status\n{command_name} kill TASK_ID"
)]
struct VpsArgs {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it, for a moment")]
enum Verb {
    Submit(submit::SubmitArgs),
    Status(status::StatusArgs),
    Kill(KillArgs),
    Command(CommandArgs),
    Shell(ShellArgs),
}

/// End a VPS. Its container is removed, and with it every file that is in no mounted directory.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "kill", help_triggers("-h", "--help"), example = "{command_name} 7398471823749120000")]
struct KillArgs {
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
}

/// Pause a VPS (all its processes are frozen, its resources stay held) or resume it.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "command",
    help_triggers("-h", "--help"),
    example = "{command_name} 7398471823749120000 pause"
)]
struct CommandArgs {
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
    /// pause or resume
    #[argh(positional, arg_name = "ACTION")]
    action: Action,
}

/// Open a shell in a VPS without SSH: the way in when its SSH server is dead. Its exit status is this command's.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "shell", help_triggers("-h", "--help"), example = "{command_name} 7398471823749120000")]
struct ShellArgs {
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
}

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    let (VpsArgs { verb }, config) = args::of(invocation)?;
    let config = config.as_deref();
    match verb {
        Verb::Submit(args) => submit::run(&args, config),
        Verb::Status(args) => status::run(&args, config),
        Verb::Kill(args) => kill::vps(&args.task, config),
        Verb::Command(args) => command::run(&args.task, args.action, config),
        Verb::Shell(args) => shell::vps(&args.task, config),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
