//! `vps submit`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use super::{key, request, wait};
use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::task_ref::TaskRef;
use crate::cli::{output, submit};

/// Submit a VPS: a persistent container with an SSH server, on one node. Its id is printed at once; then the command waits until it
/// accepts SSH, and says how to connect.
#[derive(Debug, Default, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "submit",
    help_triggers("-h", "--help"),
    usage = "[<options>]",
    example = "{command_name}\n\
               {command_name} --target nodeA --cores 4 --memory 8G --public-key-file ~/.ssh/my_vps_key.pub\n\
               {command_name} --target nodeB:0 --public-key-string \"ssh-rsa AAAA...\" --container my-ubuntu-vps\n\
               {command_name} --target nodeC::0,1 --container my-cuda-vps --name train --no-wait",
    note = "Interrupting the wait (Ctrl-C) does not end the VPS."
)]
pub(super) struct SubmitArgs {
    /// HOST[:NUMA_ID][::GPU_ID,...]: the node, one of its NUMA nodes, and GPUs of it; once at most (default: the Host chooses)
    #[argh(option, arg_name = "HOST[:NUMA_ID][::GPU_ID,...]")]
    pub(super) target: Vec<String>,
    /// your SSH public key itself
    #[argh(option, arg_name = "KEY_STRING")]
    pub(super) public_key_string: Option<String>,
    /// the file with your SSH public key (default: ~/.ssh/id_rsa.pub, id_ed25519.pub or id_ecdsa.pub)
    #[argh(option, arg_name = "PATH")]
    pub(super) public_key_file: Option<String>,
    /// cores of its own (default: 0, shares the node's cores with others)
    #[argh(option, arg_name = "N")]
    pub(super) cores: Option<String>,
    /// memory limit, 1000-based: 512M, 4G (default: none)
    #[argh(option, arg_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// the container environment (default: the Host's docker.default_container_name)
    #[argh(option, arg_name = "NAME")]
    pub(super) container: Option<String>,
    /// run the container with --privileged: it can do everything that root on the node can
    #[argh(switch)]
    pub(super) privileged: bool,
    /// mount a directory of the node: HOST_PATH:CONTAINER_PATH[:ro|rw]; repeatable; replaces the default mounts
    #[argh(option, arg_name = "HOST_PATH:CONTAINER_PATH")]
    pub(super) mount: Vec<String>,
    /// a name that stands for the id while the VPS lives: letters, digits and '-'
    #[argh(option, arg_name = "NAME")]
    pub(super) name: Option<String>,
    /// an environment variable in the VPS: NAME=VALUE; repeatable
    #[argh(option, arg_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// any N free GPUs, chosen by the Host
    #[argh(option, arg_name = "N")]
    pub(super) gpus: Option<String>,
    /// wait also for a named node that is offline or draining
    #[argh(switch)]
    pub(super) queue: bool,
    /// give up if it has no place after this time: 90s, 5m, 2h30m
    #[argh(option, arg_name = "DURATION")]
    pub(super) max_wait: Option<String>,
    /// print the id and return at once
    #[argh(switch)]
    pub(super) no_wait: bool,
}

pub(super) fn run(args: &SubmitArgs, config: Option<&Path>) -> Result<(), Fault> {
    let mut body = request::body(args).map_err(Fault::Usage)?;
    let keys = key::find(args.public_key_string.as_deref(), args.public_key_file.as_deref())?;
    // Rebuilt from what was understood: nothing else of the text goes to the Host.
    body.command = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");

    let host = Host::of(config)?;
    let answered = submit::send(&host, body, "hakuriver vps status")?;
    let id = &answered.answer.task_ids[0];
    output::line(id);
    if args.no_wait {
        return Ok(());
    }
    let id = id.parse::<TaskRef>().map_err(Fault::Refused)?;
    wait::until_running(host, &id)
}
