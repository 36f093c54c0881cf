//! `hakuriver task`: command tasks.

mod output;

use argh::{ArgsInfo, FromArgs};

use super::args;
use super::fault::Fault;
use super::role::Invocation;

/// Command tasks: any command, on the node that fits.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"), example = "{command_name} stdout --follow TASK_ID")]
struct TaskArgs {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    Stdout(output::StdoutArgs),
    Stderr(output::StderrArgs),
}

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    let (TaskArgs { verb }, config) = args::of(invocation)?;
    let config = config.as_deref();
    match verb {
        Verb::Stdout(args) => output::stdout(&args, config),
        Verb::Stderr(args) => output::stderr(&args, config),
    }
}
