//! `hakuriver client`: the nodes, and any task by its id.

mod health;
mod node_order;
mod nodes;
mod status;

use argh::{ArgsInfo, FromArgs};

use super::command::Action;
use super::fault::Fault;
use super::role::Invocation;
use super::task_ref::TaskRef;
use super::{args, command, kill};
use crate::domain::ids::NodeName;

/// The nodes and their health, and any task by its id.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} nodes\n{command_name} status TASK_ID\n{command_name} drain node1"
)]
struct ClientArgs {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    Nodes(nodes::NodesArgs),
    Health(health::HealthArgs),
    Status(status::StatusArgs),
    Kill(KillArgs),
    Command(CommandArgs),
    Drain(DrainArgs),
    Undrain(UndrainArgs),
    Forget(ForgetArgs),
}

/// End a task of any kind. A VPS's container is removed, and with it every file that is in no mounted directory.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "kill", help_triggers("-h", "--help"), example = "{command_name} 7398471823749120000")]
struct KillArgs {
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
}

/// Pause a task of any kind (all its processes are frozen, its resources stay held) or resume it.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "command",
    help_triggers("-h", "--help"),
    example = "{command_name} 7398471823749120000 resume"
)]
struct CommandArgs {
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
    /// pause or resume
    #[argh(positional, arg_name = "ACTION")]
    action: Action,
}

/// Give a node no new tasks; those that it has go on.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "drain", help_triggers("-h", "--help"), example = "{command_name} node1")]
struct DrainArgs {
    /// the node's name, as 'client nodes' shows it
    #[argh(positional, arg_name = "HOSTNAME")]
    hostname: NodeName,
}

/// Give a drained node tasks again.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "undrain", help_triggers("-h", "--help"), example = "{command_name} node1")]
struct UndrainArgs {
    /// the node's name, as 'client nodes' shows it
    #[argh(positional, arg_name = "HOSTNAME")]
    hostname: NodeName,
}

/// Remove a node that will not return from the list; the Host refuses while tasks hold something on it.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "forget", help_triggers("-h", "--help"), example = "{command_name} node1")]
struct ForgetArgs {
    /// the node's name, as 'client nodes' shows it
    #[argh(positional, arg_name = "HOSTNAME")]
    hostname: NodeName,
}

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    let (ClientArgs { verb }, config) = args::of(invocation)?;
    let config = config.as_deref();
    match verb {
        Verb::Nodes(args) => nodes::run(&args, config),
        Verb::Health(args) => health::run(&args, config),
        Verb::Status(args) => status::run(&args, config),
        Verb::Kill(args) => kill::any(&args.task, config),
        Verb::Command(args) => command::run(&args.task, args.action, config),
        Verb::Drain(args) => node_order::run(&args.hostname, "drain", config),
        Verb::Undrain(args) => node_order::run(&args.hostname, "undrain", config),
        Verb::Forget(args) => node_order::run(&args.hostname, "forget", config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Exit, parse};

    fn read(line: &str) -> Result<Verb, Exit> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse::<ClientArgs>(&["hakuriver", "client"], &args).map(|(args, _)| args.verb)
    }

    #[test]
    fn every_verb_is_taken() {
        for line in [
            "nodes",
            "nodes --json",
            "health",
            "health node1",
            "health node1 --json",
            "status 42",
            "status dev --json",
            "kill 42",
            "command 42 pause",
            "command dev resume",
            "drain node1",
            "undrain node1",
            "forget node1.lab",
        ] {
            assert!(read(line).is_ok(), "{line}: {:?}", read(line));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, expected) in [
            (
                "",
                "'hakuriver client' needs a command (nodes, health, status, kill, command, drain, undrain, forget); see",
            ),
            ("node", "unknown command 'node' (known: nodes, health, "),
            ("drain", "missing: HOSTNAME; see 'hakuriver client drain --help'"),
            ("drain a_b", "argument 'a_b': node name \"a_b\" is not valid"),
            ("forget ../x", "argument '../x': node name"),
            ("status", "missing: TASK_ID; see 'hakuriver client status --help'"),
            (
                "kill 1 --force",
                "unknown option '--force' (known: --help, --config); see 'hakuriver client kill --help'",
            ),
        ] {
            let Err(Exit::Usage(text)) = read(line) else { panic!("{line:?} was taken") };
            assert!(text.starts_with(expected), "{line:?}: {text}");
        }
    }

    #[test]
    fn every_level_has_help_and_an_example() {
        for line in ["", "nodes", "health", "status", "kill", "command", "drain", "undrain", "forget"] {
            let Err(Exit::Help(help)) = read(&format!("{line} --help")) else { panic!("{line} has no help") };
            assert!(help.contains("\nExamples:\n  hakuriver client "), "{help}");
        }
    }
}
