//! The command lines of the roles that serve: `host`, `runner`, `up`, `supervise`.

use argh::{ArgsInfo, FromArgs};

/// The coordinator: HTTP API, database, scheduler, SSH proxy. Runs until SIGTERM or SIGINT; tasks go on meanwhile. Its commands work
/// on the Host's machine, with its configuration.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --config /etc/hakuriver/config.toml\n{command_name} backup /backup/hakuriver"
)]
pub struct HostArgs {
    #[argh(subcommand)]
    pub what: Option<HostVerb>,
}

/// What else can be done with a Host's files.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub enum HostVerb {
    Backup(BackupArgs),
    Restore(RestoreArgs),
}

/// Write a backup of the database, also while the Host runs: one file, whole or not at all, with a checksum. It holds what the Host
/// knows of tasks and nodes; not their output, the environments' tarballs, tokens and configuration, which are files already.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "backup",
    help_triggers("-h", "--help"),
    example = "{command_name} /backup/hakuriver-monday\n{command_name} --force /backup/hakuriver"
)]
pub struct BackupArgs {
    /// write over a file that is there, once the new one is whole
    #[argh(switch)]
    pub force: bool,
    /// the backup, as readable as the database: by the Host's user alone
    #[argh(positional, arg_name = "FILE")]
    pub file: String,
}

/// Put a backup in the place of the database; that is kept under another name. The Host has to be stopped. What ran when the backup
/// was made is 'lost' until its node tells what became of it; what waited is 'failed', as it may have run since; what nodes have that
/// the backup does not know is shown by 'client nodes', and left alone.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "restore",
    help_triggers("-h", "--help"),
    example = "{command_name} /backup/hakuriver-monday\n{command_name} --empty"
)]
pub struct RestoreArgs {
    /// no Host has run since the backup was made: tasks go on from there, and those that waited wait on
    #[argh(switch)]
    pub no_host_since: bool,
    /// begin with a database without tasks, where there is no backup
    #[argh(switch)]
    pub empty: bool,
    /// a file of 'hakuriver host backup'
    #[argh(positional, arg_name = "FILE")]
    pub file: Option<String>,
}

/// The agent on a node. Runs until SIGTERM or SIGINT; its tasks go on, and it finds them again. It listens on nothing.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} --config /etc/hakuriver/config.toml\n{command_name} --join 192.168.1.10 --token-file node-token"
)]
pub struct RunnerArgs {
    /// the Host's API; the port is 8000 if none is given; no configuration file is needed then
    #[argh(option, arg_name = "ADDR[:PORT]")]
    pub join: Option<String>,
    /// the file with the node token, made by the Host as node-token in its state directory
    #[argh(option, arg_name = "FILE")]
    pub token_file: Option<String>,
    /// this node's name (default: network.runner_hostname, else the machine's name)
    #[argh(option, arg_name = "NAME")]
    pub hostname: Option<String>,
    /// where its records are kept (default: ~/.hakuriver); not together with --config
    #[argh(option, arg_name = "DIR")]
    pub state_dir: Option<String>,
}

/// Host and Runner in one process on this machine: the way to begin, and the seed of a cluster. Writes config.toml in its state
/// directory if there is none; the options that follow are remembered there. Runs until SIGTERM or SIGINT; tasks go on meanwhile.
#[derive(Debug, Default, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --listen 192.168.1.10\n{command_name} --state-dir /srv/hakuriver --port 0 --ssh-port 0"
)]
pub struct UpArgs {
    /// configuration, database, keys and records stand in here (default: ~/.hakuriver)
    #[argh(option, arg_name = "DIR")]
    pub state_dir: Option<String>,
    /// listen on this address of the machine, so that others can join and use it (default: loopback only)
    #[argh(option, arg_name = "ADDR[:PORT]")]
    pub listen: Option<String>,
    /// the port of the API; 0 lets the system choose (default: 8000)
    #[argh(option, arg_name = "PORT", from_str_fn(parse_port))]
    pub port: Option<u16>,
    /// the port of the SSH proxy; 0 lets the system choose (default: 8002)
    #[argh(option, arg_name = "PORT", from_str_fn(parse_port))]
    pub ssh_port: Option<u16>,
}

/// Not for users: the first process of every container that HakuRiver starts, and the parent of a node's tasks without one.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} --in-container\n{command_name} --idle\n{command_name} --node n1 --cluster ID --folder /var/lib/hakuriver/runner/n1"
)]
pub struct SuperviseArgs {
    /// do what the task's box says, as process 1 of its container
    #[argh(switch)]
    pub in_container: bool,
    /// keep the container of an environment alive, as its process 1, for those who work in it
    #[argh(switch)]
    pub idle: bool,
    /// become the task whose plan comes over this descriptor, inside its systemd scope
    #[argh(option, hidden_help, arg_name = "FD")]
    pub enter: Option<i32>,
    /// be the parent of this node's tasks that run without a container
    #[argh(option, arg_name = "NAME")]
    pub node: Option<String>,
    /// the cluster's id
    #[argh(option, arg_name = "ID")]
    pub cluster: Option<String>,
    /// the Runner's folder
    #[argh(option, arg_name = "DIR")]
    pub folder: Option<String>,
}

/// A port on the command line.
///
/// # Errors
/// What would be right.
pub fn parse_port(text: &str) -> Result<u16, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or_else(|| "expected a port (0 to 65535)".to_owned())
}
