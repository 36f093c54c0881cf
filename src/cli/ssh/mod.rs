//! `hakuriver ssh`: the system's ssh, through the Host, with the VPS's own host keys.

mod argv;
pub(super) mod known_hosts;
mod tunnel;

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use self::argv::{Access, Route};
use super::fault::Fault;
use super::host_api::{self, Host};
use super::role::{Invocation, Role};
use super::server_args::parse_port;
use super::task_ref::{TaskRef, id_of};
use super::{args, output};
use crate::api::public::TaskRecord;
use crate::config::{Loaded, address};
use crate::domain::ids::TaskId;
use crate::domain::state::{State, Want};
use crate::sys::command;

/// Open a shell in a running VPS, through the Host. Everything after TASK_ID goes to the system's ssh; its exit status is this
/// command's.
#[derive(Debug, Default, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    help_triggers("-h", "--help"),
    usage = "[<options>] TASK_ID [<ssh options>] [[--] <command>]",
    example = "{command_name} 7398471823749120000\n\
               {command_name} my-vps -- uname -a\n\
               {command_name} my-vps -L 8080:localhost:80 -i ~/.ssh/my_vps_key\n\
               {command_name} --print-config my-vps >> ~/.ssh/config"
)]
struct SshArgs {
    /// the Host's address (default: network.host_reachable_address)
    #[argh(option, arg_name = "ADDR")]
    host: Option<String>,
    /// the port of the Host's SSH proxy (default: network.host_ssh_proxy_port)
    #[argh(option, arg_name = "PORT", from_str_fn(parse_port))]
    proxy_port: Option<u16>,
    /// listen on this port of 127.0.0.1 for the tunnel, and connect ssh to it (default: 0, no port is opened)
    #[argh(option, arg_name = "PORT", from_str_fn(parse_port), default = "0")]
    local_port: u16,
    /// log in as this user (default: root)
    #[argh(option, arg_name = "USER", default = "String::from(\"root\")")]
    user: String,
    /// connect stdin and stdout with the VPS's SSH port; for ssh's ProxyCommand
    #[argh(switch)]
    stdio: bool,
    /// print a block for ~/.ssh/config, so that ssh, scp, rsync and editors find the VPS by its name
    #[argh(switch)]
    print_config: bool,
    /// the task's id or name, then what goes to ssh
    #[argh(positional, greedy, arg_name = "TASK_ID")]
    rest: Vec<String>,
}

pub(super) fn run(invocation: &Invocation) -> Result<(), Fault> {
    let (args, config) = args::of::<SshArgs>(invocation)?;
    let usage = |text: &str| Fault::Usage(format!("{text}; see '{} --help'", invocation.command.join(" ")));
    let Some((task, for_ssh)) = args.rest.split_first() else { return Err(usage("missing: TASK_ID")) };
    let task: TaskRef = task.parse().map_err(|fault: String| usage(&format!("argument '{task}': {fault}")))?;
    if args.user.is_empty() || args.user.starts_with('-') {
        return Err(usage("--user: expected a user's name"));
    }
    if (args.stdio || args.print_config) && !for_ssh.is_empty() {
        return Err(usage(&format!("unexpected argument '{}'", for_ssh[0])));
    }
    let loaded = with_options(host_api::load(config.as_deref())?, &args)?;
    if args.stdio {
        return stdio(loaded, &task);
    }
    let host = Host::from_loaded(loaded)?;
    let record = task.record(&host)?;
    let id = id_of(&record)?;
    check(&record, args.print_config)?;
    let access = Access {
        id,
        name: record.name.clone(),
        user: args.user.clone(),
        known_hosts: known_hosts::keep(id, &record.host_keys)?,
    };
    let proxy = proxy_command(&args, &host.loaded, id)?;
    if args.print_config {
        output::print(&argv::config_block(&access, &proxy));
        return Ok(());
    }
    if args.local_port == 0 {
        let argv = argv::ssh(&access, &Route::Proxy(proxy), for_ssh);
        // This process becomes ssh: signals, job control and the exit status are then exactly ssh's own.
        return Err(cannot_start(&command::exec(&argv, &[])));
    }
    let port = tunnel::listen(args.local_port, &host.loaded, id)?;
    let argv = argv::ssh(&access, &Route::LocalPort(port), for_ssh);
    match command::foreground(&argv, &[]) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Fault::Status(u8::try_from(status).unwrap_or(255))),
        Err(fault) => Err(cannot_start(&fault)),
    }
}

/// The configuration with `--host` and `--proxy-port` in it.
fn with_options(mut loaded: Loaded, args: &SshArgs) -> Result<Loaded, Fault> {
    if let Some(host) = &args.host {
        let (address, port) =
            address::parse_endpoint(host).map_err(|fault| Fault::Usage(format!("--host: {fault}")))?;
        if port.is_some() {
            let text = "--host: expected an address without a port; --proxy-port names the port of the SSH proxy";
            return Err(Fault::Usage(text.to_owned()));
        }
        loaded.config.network.host_reachable_address = address;
    }
    if let Some(port) = args.proxy_port {
        loaded.config.network.host_ssh_proxy_port = port;
    }
    Ok(loaded)
}

/// ssh's ProxyCommand: this program, with the same Host.
fn proxy_command(args: &SshArgs, loaded: &Loaded, id: TaskId) -> Result<String, Fault> {
    let program = own_path()?;
    let mut words = vec![program.clone()];
    // A copy (not a link) under the name of a role is that role already.
    if Role::of_program(&program) != Some(Role::Ssh) {
        words.push(Role::Ssh.word().to_owned());
    }
    if loaded.exists {
        words.extend(["--config".to_owned(), loaded.file.display().to_string()]);
    }
    if let Some(host) = &args.host {
        words.extend(["--host".to_owned(), host.clone()]);
    }
    if let Some(port) = args.proxy_port {
        words.extend(["--proxy-port".to_owned(), port.to_string()]);
    }
    words.extend(["--stdio".to_owned(), id.to_string()]);
    Ok(argv::shell_line(&words))
}

/// The absolute path of this program; of its new version, if it was replaced while it runs.
fn own_path() -> Result<String, Fault> {
    let cannot = |reason: String| Fault::Refused(format!("cannot tell the path of this program: {reason}"));
    let path = std::env::current_exe().map_err(|fault| cannot(fault.to_string()))?;
    let path =
        path.into_os_string().into_string().map_err(|path| cannot(format!("{} is not UTF-8", path.display())))?;
    match path.strip_suffix(" (deleted)") {
        Some(new) if !Path::new(&path).exists() => Ok(new.to_owned()),
        _ => Ok(path),
    }
}

fn cannot_start(fault: &command::CommandFault) -> Fault {
    Fault::Refused(format!(
        "{fault}\nhakuriver ssh needs OpenSSH's client: install the package openssh-client (Debian, Ubuntu) or openssh-clients (Fedora)"
    ))
}

/// Is it a VPS that ssh can reach? A configuration can also be printed while it is paused.
fn check(record: &TaskRecord, print_config: bool) -> Result<(), Fault> {
    let TaskRecord { task_id: id, status, .. } = record;
    if record.task_type != "vps" {
        return Err(Fault::Refused(format!(
            "task {id} is a {} task, not a VPS: there is no SSH in it",
            record.task_type
        )));
    }
    let reason = record.error_message.as_ref().or(record.reason.as_ref());
    let because = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let node = record.assigned_node.as_deref().unwrap_or("-");
    let refused = match (State::from_word(status), Want::from_word(&record.want)) {
        // A frozen sshd would only hang, and one that is being ended not last.
        (Some(State::Running), Some(Want::Pause)) if !print_config => {
            Some(format!("it is being paused; resume it with 'hakuriver vps command {id} resume'"))
        }
        (Some(State::Running), Some(Want::Stop)) => Some("it is being killed".to_owned()),
        (Some(State::Running), _) => None,
        (Some(State::Paused), _) if print_config => None,
        (Some(State::Paused), _) => Some(format!("resume it with 'hakuriver vps command {id} resume'")),
        (Some(State::Pending | State::Assigning), _) => {
            Some(format!("connect when it is running; see 'hakuriver client status {id}'"))
        }
        (Some(State::Lost), _) => Some(format!("its node '{node}' is silent; see 'hakuriver client nodes'")),
        (Some(State::Completed | State::Failed | State::Killed | State::KilledOom) | None, _) => {
            Some("submit another with 'hakuriver vps submit'".to_owned())
        }
    };
    match refused {
        Some(next) => Err(Fault::Refused(format!("no SSH to VPS {id}: it is {status}{because}\n{next}"))),
        None if record.host_keys.is_empty() => Err(Fault::Refused(format!(
            "VPS {id} has no host keys yet, so it cannot be told from another machine; try again"
        ))),
        None => Ok(()),
    }
}

/// The ProxyCommand itself.
fn stdio(loaded: Loaded, task: &TaskRef) -> Result<(), Fault> {
    let (id, loaded) = match task {
        TaskRef::Id(id) => (*id, loaded),
        TaskRef::Name(_) => {
            let host = Host::from_loaded(loaded)?;
            (task.id(&host)?, host.loaded)
        }
    };
    tunnel::stdio(&loaded, id)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
