//! `hakuriver task`: command tasks.

mod events;
mod list;
mod output;
mod request;
mod submit;
mod tally;
mod wait;

use argh::{ArgsInfo, FromArgs};

use super::command::Action;
use super::fault::Fault;
use super::role::Invocation;
use super::task_ref::TaskRef;
use super::{args, command, kill, shell};

/// Command tasks: any command, on the node that fits, in a container or straight on the node; its output and its exit status are kept.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} submit --cores 4 --wait -- make -j4\n\
               {command_name} stdout --follow TASK_ID\n\
               {command_name} list --status running\n\
               {command_name} kill TASK_ID"
)]
struct TaskArgs {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it, for a moment")]
enum Verb {
    Submit(submit::SubmitArgs),
    Stdout(output::StdoutArgs),
    Stderr(output::StderrArgs),
    List(list::ListArgs),
    Kill(KillArgs),
    Command(CommandArgs),
    Shell(ShellArgs),
}

/// End tasks: all that they have started gets TERM, and 10 s later KILL. The exit status is 1 if the Host refuses one of them; the
/// others are ended.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "kill",
    help_triggers("-h", "--help"),
    example = "{command_name} 7398471823749120000\n{command_name} 7398471823749120000 my-task"
)]
struct KillArgs {
    /// the tasks' ids or names
    #[argh(positional, arg_name = "TASK_ID")]
    tasks: Vec<TaskRef>,
}

/// Pause a task (all that it has started is frozen, its resources stay held) or resume it.
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

/// Open a shell in the container of a task that runs, as root. Its exit status is this command's.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "shell", help_triggers("-h", "--help"), example = "{command_name} 7398471823749120000")]
struct ShellArgs {
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
}

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    let (TaskArgs { verb }, config) = args::of(invocation)?;
    let config = config.as_deref();
    match verb {
        Verb::Submit(args) => submit::run(&args, config),
        Verb::Stdout(args) => output::stdout(&args, config),
        Verb::Stderr(args) => output::stderr(&args, config),
        Verb::List(args) => list::run(&args, config),
        Verb::Kill(args) if args.tasks.is_empty() => {
            Err(Fault::Usage(format!("missing: TASK_ID; see '{} kill --help'", invocation.command.join(" "))))
        }
        Verb::Kill(args) => kill::tasks(&args.tasks, config),
        Verb::Command(args) => command::run(&args.task, args.action, config),
        Verb::Shell(args) => shell::task(&args.task, config),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
