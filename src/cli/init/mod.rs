//! `hakuriver init`: what is written once on a machine.

mod config;
mod links;

use argh::{ArgsInfo, FromArgs};

use super::args;
use super::fault::Fault;
use super::role::Invocation;

/// Write a configuration, or make the links that give every role a command of its own.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(help_triggers("-h", "--help"), example = "{command_name} config\n{command_name} links --dir /usr/local/bin")]
struct InitArgs {
    #[argh(subcommand)]
    what: What,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum What {
    Config(config::ConfigArgs),
    Links(links::LinksArgs),
}

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    if invocation.args.first().is_some_and(|word| word == "service") {
        return Err(super::not_here("hakuriver init service"));
    }
    let (InitArgs { what }, path) = args::of(invocation)?;
    match what {
        What::Config(args) => config::run(&args, path.as_deref()),
        What::Links(args) => links::run(&args),
    }
}
