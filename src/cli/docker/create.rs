//! `docker create-container` and `create-tar`: what takes long, and shows how far it is.

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use super::follow;
use crate::api::environment::{CreateBody, PackBody};
use crate::api::json;
use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::output;
use crate::domain::ids::EnvName;

/// Make and start a container on the Host for an environment to be set up in. An image that is on the Host is used as it is, another
/// one is pulled; without a registry bring it by hand ('docker load').
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "create-container",
    help_triggers("-h", "--help"),
    example = "{command_name} debian:12 my-env"
)]
pub(super) struct CreateArgs {
    /// the image, as Docker names it
    #[argh(positional, arg_name = "IMAGE")]
    image: String,
    /// the container's name, and the environment's
    #[argh(positional, arg_name = "NAME")]
    name: EnvName,
}

/// Pack a container into a new version of the environment of its name. It is stopped for the moment in which its files are taken, and
/// started again as it was. Older versions go, but for docker.keep_versions.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "create-tar",
    help_triggers("-h", "--help"),
    example = "{command_name} my-env\n{command_name} my-env --label 'with gcc 14'"
)]
pub(super) struct PackArgs {
    /// the container's name; any container on the Host but a task's can be packed
    #[argh(positional, arg_name = "NAME")]
    name: EnvName,
    /// what this version is to be known by in 'list-tars'
    #[argh(option, arg_name = "TEXT")]
    label: Option<String>,
}

pub(super) fn container(args: &CreateArgs, config: Option<&Path>) -> Result<(), Fault> {
    let body = CreateBody { image_name: args.image.clone(), container_name: args.name.to_string() };
    let done = follow::post(&Host::of(config)?, "/docker/host/create", &json::encode(&body), super::LOOK)?;
    output::line(&done.message.unwrap_or_default());
    Ok(())
}

pub(super) fn tar(args: &PackArgs, config: Option<&Path>) -> Result<(), Fault> {
    let body = PackBody { label: args.label.clone() };
    let done = follow::post(
        &Host::of(config)?,
        &format!("/docker/create_tar/{}", args.name),
        &json::encode(&body),
        "hakuriver docker list-tars",
    )?;
    output::line(&done.message.unwrap_or_default());
    output::line(&done.tarball_path.unwrap_or_default());
    Ok(())
}
