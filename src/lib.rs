//! HakuRiver: one static binary that turns a handful of Linux machines into one computer.
//!
//! This file is the map of the house. Imports point down only (a test reads the `use crate::` lines):
//! `domain` ← nothing; `sys`, `api`, `config` ← domain; `archive`, `net` ← api, sys; `store` ← domain, sys; `terminal` ← domain,
//! sys, api, net; `host` ← all of these; `runner` ← all but store; `cli` ← domain, api, config, net, sys; `up` sees Host and Runner.

pub mod api;
pub mod archive;
pub mod cli;
pub mod config;
pub mod domain;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod host;
#[cfg(test)]
mod model;
pub mod net;
pub mod runner;
pub mod store;
pub mod sys;
pub mod terminal;
mod up;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use cli::args;
use cli::fault::{DONE, Fault};
use cli::output;
use cli::role::{self, Invocation, Role, Wanted};
use cli::server_args::{HostArgs, HostVerb, RunnerArgs, SuperviseArgs, UpArgs};
use config::auth::Bearer;
use config::{Config, Loaded, address};
use domain::raw_text;
use sys::shutdown::{self, Stop};

/// The program: finds out which role is wanted, and is it.
pub fn main() -> ExitCode {
    sys::at_start();
    // The one place where a command line's bytes become text.
    let words: Vec<String> = std::env::args_os().map(|word| raw_text::encode(word.as_bytes()).into_owned()).collect();
    let (program, args) = words.split_first().map_or(("hakuriver", &[][..]), |(program, args)| (program, args));
    match role::wanted(program, args) {
        Wanted::Help => output::print(&role::help()),
        Wanted::Version => output::line(concat!("hakuriver ", env!("CARGO_PKG_VERSION"))),
        Wanted::Usage(text) => return Fault::Usage(text).report().into(),
        Wanted::Role(invocation) => {
            return match role::check_text(&invocation, args) {
                Ok(()) => be(&invocation).into(),
                Err(fault) => fault.report().into(),
            };
        }
    }
    DONE.into()
}

fn be(invocation: &Invocation) -> u8 {
    let done = match invocation.role {
        Role::Host => be_host(invocation),
        Role::Runner => be_runner(invocation),
        Role::Up => args::of::<UpArgs>(invocation).and_then(|(args, config)| up::run(&args, config.as_deref())),
        Role::Supervise => be_supervisor(invocation),
        _ => cli::run(invocation),
    };
    match (done, output::lost()) {
        (Ok(()) | Err(Fault::Status(DONE)), None) => DONE,
        (Ok(()) | Err(Fault::Status(DONE)), Some(reason)) => Fault::Refused(reason.to_owned()).report(),
        (Err(fault), _) => fault.report(),
    }
}

fn be_host(invocation: &Invocation) -> Result<(), Fault> {
    sys::fault::be("host");
    let (HostArgs { what }, path) = args::of_host(invocation)?;
    let loaded = config::load(path.as_deref())?;
    if let Some(what) = what {
        return keep_database(&loaded, &what);
    }
    begin_serving(&loaded, loaded.config.paths.host_log_file.as_deref())?;
    tell_of_0_3(&loaded);
    let config = loaded.config;
    let host: Part = Box::new(move |stop| {
        let mut ready = |ready: &host::Ready| {
            output::error_line(&format!("hakuriver host: ready: {}", listens(ready)));
            if let Err(fault) = sys::notify::ready() {
                warning!("systemd cannot be told that the Host is ready: {fault}");
            }
        };
        serve_host(&config, stop, &mut ready)
    });
    until_stopped(&Stop::new(), vec![("host", host)])
}

/// `host backup` and `host restore`.
fn keep_database(loaded: &Loaded, what: &HostVerb) -> Result<(), Fault> {
    let config = &loaded.config;
    let done = match what {
        HostVerb::Backup(args) => host::back_up(config, Path::new(&args.file), args.force),
        HostVerb::Restore(args) => match (&args.file, args.empty) {
            (Some(file), false) => host::restore(config, Some(Path::new(file)), args.no_host_since),
            (None, true) if !args.no_host_since => host::restore(config, None, false),
            (None, false) => return Err(Fault::Usage("give the backup's FILE, or --empty".to_owned())),
            (Some(_), true) | (None, true) => {
                return Err(Fault::Usage("--empty stands alone: it takes no backup".to_owned()));
            }
        },
    };
    let told = done.map_err(|fault| Fault::Refused(fault.to_string()))?;
    told.iter().for_each(|line| output::line(&output::printable(line)));
    Ok(())
}

fn be_runner(invocation: &Invocation) -> Result<(), Fault> {
    sys::fault::be("runner");
    let (args, path) = args::of::<RunnerArgs>(invocation)?;
    let loaded = match (&args.state_dir, path) {
        (Some(_), Some(_)) => {
            let text = "give --config or --state-dir, not both: a configuration names its own paths.state_dir";
            return Err(Fault::Usage(text.to_owned()));
        }
        (Some(dir), None) => config::load_if_there(&config::expand(dir)?.join("config.toml"))?,
        (None, path) => config::load(path.as_deref())?,
    };
    begin_serving(&loaded, loaded.config.paths.runner_log_file.as_deref())?;
    let mut config = loaded.config;
    if let Some(name) = args.hostname {
        let name = name.parse::<domain::ids::NodeName>().map_err(|fault| Fault::Usage(fault.to_string()))?;
        config.network.runner_hostname = Some(name.as_str().to_owned());
    }
    let host = match &args.join {
        Some(join) => {
            let (address, port) =
                address::parse_endpoint(join).map_err(|fault| Fault::Usage(format!("--join: {fault}")))?;
            address::join(&address, port.unwrap_or(address::DEFAULT_API_PORT))
        }
        None => address::api(&config)?,
    };
    let node_token = match &args.token_file {
        Some(file) => Some(config::auth::read_token_file(&config::expand(file)?)?),
        None => config.auth.token(Bearer::Node)?,
    };
    let join = runner::Join { host, node_token };
    let runner: Part = Box::new(move |stop| {
        let mut ready = |ready: &runner::Ready| {
            let runner::Ready { hostname, address } = ready;
            output::error_line(&format!(
                "hakuriver runner: ready: node '{hostname}' at {address}, registered with http://{}",
                join.host
            ));
        };
        runner::run(&config, &join, stop, &mut ready).map_err(|fault| fault.to_string())
    });
    until_stopped(&Stop::new(), vec![("runner", runner)])
}

fn be_supervisor(invocation: &Invocation) -> Result<(), Fault> {
    let (args, _) = args::of::<SuperviseArgs>(invocation)?;
    if let Some(plan) = args.enter {
        let status = runner::executor::scope::enter(plan);
        return Err(Fault::Status(u8::try_from(status).unwrap_or(1)));
    }
    if args.idle {
        let init = sys::init::Init::begin();
        let init = init.map_err(|fault| Fault::Refused(format!("cannot take over the signals: {fault}")))?;
        init.idle();
        return Ok(());
    }
    match (args.in_container, args.node, args.cluster, args.folder) {
        (true, None, None, None) => {
            sys::fault::be("container");
            let status = runner::supervise::in_container::main();
            // A status that no process can have is a fault, not a success.
            Err(Fault::Status(u8::try_from(status).unwrap_or(1)))
        }
        (false, Some(node), Some(cluster), Some(folder)) => {
            sys::fault::be("supervisor");
            runner::supervise::node::main(node, cluster, folder.into()).map_err(Fault::Refused)
        }
        _ => Err(Fault::Usage(
            "'hakuriver supervise' is started by a Runner, with --in-container or with --node, --cluster and --folder"
                .to_owned(),
        )),
    }
}

/// Tells what is odd about the configuration, and prepares a process that serves: signals, then the log.
fn begin_serving(loaded: &Loaded, log_file: Option<&Path>) -> Result<(), Fault> {
    shutdown::block_signals();
    for warning in &loaded.warnings {
        output::error_line(&format!("warning: {warning}"));
    }
    match log_file {
        Some(file) => sys::log::to_file(file).map_err(|fault| Fault::Config(fault.to_string())),
        None => Ok(()),
    }
}

/// A file without `[auth]` may be one of 0.3, whose clients know no tokens: says what they need. (`up` writes such a file itself,
/// and says nothing.)
fn tell_of_0_3(loaded: &Loaded) {
    if loaded.exists && loaded.config.auth.absent {
        output::error_line(&format!(
            "note: {} has no [auth] section, so every call needs a token; clients of 0.3 have none, and need these lines:\n\
             auth.mode = \"none\"\n\
             auth.insecure_network = true   # to listen on more than loopback",
            loaded.file.display()
        ));
    }
}

/// Runs the Host, and keeps the file that tells clients its ports.
fn serve_host(config: &Config, stop: &Stop, ready: &mut dyn FnMut(&host::Ready)) -> Result<(), String> {
    let file = address::file(config);
    let mut is_written = false;
    let ended = host::run(config, stop, &mut |listening| {
        let content = address::content(listening.api, listening.tunnel);
        let folder = file.parent().unwrap_or(&config.paths.state_dir);
        match sys::file::make_dir(folder, 0o700)
            .and_then(|()| sys::file::write_atomic(&file, content.as_bytes(), 0o644))
        {
            Ok(()) => is_written = true,
            Err(fault) => crate::warning!("clients will not find a port that the system chose: {fault}"),
        }
        ready(listening);
    });
    if is_written {
        // Someone else may listen there next, and must not be sent a token.
        let _gone = sys::file::remove(&file);
    }
    ended.map_err(|fault| fault.to_string())
}

fn listens(ready: &host::Ready) -> String {
    format!("API http://{}, SSH proxy {}", ready.api, ready.tunnel)
}

/// One of the things that a process serves.
type Part = Box<dyn FnOnce(&Stop) -> Result<(), String> + Send>;

/// Runs all parts, each in a thread of its own, until SIGTERM or SIGINT, or until one of them ends; then stops them all.
fn until_stopped(stop: &Stop, parts: Vec<(&'static str, Part)>) -> Result<(), Fault> {
    let (sender, ends) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for (name, part) in parts {
        let (stop, sender) = (stop.clone(), sender.clone());
        threads.push(sys::thread::spawn_vital(name, move || {
            let ended = part(&stop);
            stop.set();
            // The receiver lives until all threads have been joined.
            let _received = sender.send(ended);
        }));
    }
    drop(sender);
    shutdown::wait_for_signal(stop);
    stop.set();
    for thread in threads {
        // A panic has ended the process already.
        let _ended = thread.join();
    }
    ends.into_iter().collect::<Result<(), String>>().map_err(Fault::Refused)
}
