//! `hakuriver docker`: environments, set up in containers on the Host and packed into tarballs.

mod containers;
mod create;
mod follow;
mod tars;

use argh::{ArgsInfo, FromArgs};

use super::fault::Fault;
use super::role::Invocation;
use super::{args, host_api::Host, output};
use crate::domain::ids::EnvName;

/// Environments: containers on the Host, set up by hand and packed into tarballs, which every node gets when a task needs them.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} create-container debian:12 my-env\n\
               {command_name} create-tar my-env\n\
               {command_name} list-tars"
)]
struct DockerArgs {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    ListContainers(containers::ListArgs),
    CreateContainer(create::CreateArgs),
    DeleteContainer(DeleteArgs),
    StopContainer(StopArgs),
    StartContainer(StartArgs),
    ListTars(tars::ListArgs),
    CreateTar(create::PackArgs),
}

/// Remove an environment's container from the Host, with all in it that was not packed. Its tarballs stay.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "delete-container", help_triggers("-h", "--help"), example = "{command_name} my-env")]
struct DeleteArgs {
    /// the container's name, as 'docker list-containers' shows it
    #[argh(positional, arg_name = "NAME")]
    name: EnvName,
}

/// Stop an environment's container on the Host; what is in it stays.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "stop-container", help_triggers("-h", "--help"), example = "{command_name} my-env")]
struct StopArgs {
    /// the container's name, as 'docker list-containers' shows it
    #[argh(positional, arg_name = "NAME")]
    name: EnvName,
}

/// Start an environment's container on the Host.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "start-container", help_triggers("-h", "--help"), example = "{command_name} my-env")]
struct StartArgs {
    /// the container's name, as 'docker list-containers' shows it
    #[argh(positional, arg_name = "NAME")]
    name: EnvName,
}

/// What shows how the containers stand.
const LOOK: &str = "hakuriver docker list-containers";

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    let (DockerArgs { verb }, config) = args::of(invocation)?;
    let config = config.as_deref();
    let path = match verb {
        Verb::ListContainers(args) => return containers::run(&args, config),
        Verb::CreateContainer(args) => return create::container(&args, config),
        Verb::ListTars(args) => return tars::run(&args, config),
        Verb::CreateTar(args) => return create::tar(&args, config),
        Verb::DeleteContainer(DeleteArgs { name }) => format!("/docker/host/delete/{name}"),
        Verb::StopContainer(StopArgs { name }) => format!("/docker/host/stop/{name}"),
        Verb::StartContainer(StartArgs { name }) => format!("/docker/host/start/{name}"),
    };
    // A stop has ten seconds of grace, and Docker its own.
    let message = Host::of(config)?.post_slow(&path, LOOK)?;
    output::line(&message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Exit, parse};

    fn parsed(line: &str) -> Result<Verb, Exit> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse::<DockerArgs>(&["hakuriver", "docker"], &args).map(|(args, _)| args.verb)
    }

    #[test]
    fn the_commands_are_those_of_0_3() {
        let name: EnvName = "my-env".parse().expect("a name");
        for (line, expected) in [
            ("delete-container my-env", Verb::DeleteContainer(DeleteArgs { name: name.clone() })),
            ("stop-container my-env", Verb::StopContainer(StopArgs { name: name.clone() })),
            ("start-container my-env", Verb::StartContainer(StartArgs { name })),
        ] {
            assert_eq!(parsed(line), Ok(expected), "{line}");
        }
        for line in ["list-containers", "create-container debian:12 my-env", "list-tars --json", "create-tar my-env"] {
            assert!(parsed(line).is_ok(), "{line}");
        }
        for line in
            ["create-container debian:12", "create-tar", "delete-container ../x", "delete-container a b", "prune"]
        {
            assert!(matches!(parsed(line), Err(Exit::Usage(_))), "{line}");
        }
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        let verbs = [
            "list-containers",
            "create-container",
            "delete-container",
            "stop-container",
            "start-container",
            "list-tars",
            "create-tar",
        ];
        for verb in verbs {
            let Err(Exit::Help(help)) = parsed(&format!("{verb} --help")) else { panic!("{verb}") };
            assert!(help.contains(&format!("\nExamples:\n  hakuriver docker {verb}")), "{help}");
        }
    }
}
