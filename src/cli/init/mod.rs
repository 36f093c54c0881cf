//! `hakuriver init`: what is written once on a machine.

mod config;
mod links;
mod service;
mod units;

use argh::{ArgsInfo, FromArgs};

use super::args;
use super::fault::Fault;
use super::role::Invocation;

/// Write a configuration, systemd units, or the links that give every role a command of its own.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} config\n{command_name} service --all\n{command_name} links --dir /usr/local/bin"
)]
struct InitArgs {
    #[argh(subcommand)]
    what: What,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum What {
    Config(config::ConfigArgs),
    Service(service::ServiceArgs),
    Links(links::LinksArgs),
}

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    let (InitArgs { what }, path) = args::of(invocation)?;
    match what {
        What::Config(args) => config::run(&args, path.as_deref()),
        What::Service(args) => service::run(&args, path.as_deref()),
        What::Links(args) => links::run(&args),
    }
}
