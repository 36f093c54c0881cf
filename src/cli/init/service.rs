//! `init service`

use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::units::{self, Unit, Writes};
use crate::cli::fault::Fault;
use crate::cli::output;
use crate::config::{self, Config};
use crate::sys::command::Program;
use crate::sys::{file, process};

/// Write systemd units for the Host, the Runner, or both. As root they are installed, for systemd to know at once; with
/// --output-dir, or as another user, they are only written. Can be called again.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "service",
    help_triggers("-h", "--help"),
    example = "{command_name} --all\n{command_name} --runner --runner-config /etc/hakuriver/config.toml\n{command_name} --host --output-dir ."
)]
pub(super) struct ServiceArgs {
    /// the unit of the Host
    #[argh(switch)]
    host: bool,
    /// the unit of the Runner
    #[argh(switch)]
    runner: bool,
    /// both
    #[argh(switch)]
    all: bool,
    /// the Host's configuration (default: the one that every command takes)
    #[argh(option, arg_name = "FILE")]
    host_config: Option<String>,
    /// the Runner's (default: the same)
    #[argh(option, arg_name = "FILE")]
    runner_config: Option<String>,
    /// where they are written (default: /etc/systemd/system as root, else the current directory)
    #[argh(option, arg_name = "DIR")]
    output_dir: Option<String>,
}

/// Where an administrator's units stand (systemd.unit(5)).
const INSTALLED: &str = "/etc/systemd/system";
/// For a call of systemctl.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(args: &ServiceArgs, named: Option<&Path>) -> Result<(), Fault> {
    let (host, runner) = (args.host || args.all, args.runner || args.all);
    if !host && !runner {
        return Err(Fault::Usage("say which one: --host, --runner, or --all".to_owned()));
    }
    let program = std::env::current_exe()
        .map_err(|fault| Fault::Refused(format!("cannot tell the path of this program: {fault}")))?;
    let mut units = Vec::new();
    if host {
        let (config, file) = configuration(args.host_config.as_deref(), named)?;
        let (unit, writes) = (Unit { program: program.clone(), config: file }, writes(&config));
        units::check(&unit, &writes).map_err(Fault::Refused)?;
        units.push((units::HOST, units::host(&unit, &writes), Some(writes)));
    }
    if runner {
        let (_, file) = configuration(args.runner_config.as_deref(), named)?;
        let unit = Unit { program, config: file };
        units::check(&unit, &Writes::default()).map_err(Fault::Refused)?;
        units.push((units::RUNNER, units::runner(&unit), None));
    }
    let is_installed = args.output_dir.is_none() && process::is_root();
    let folder = match &args.output_dir {
        Some(dir) => config::expand(dir)?,
        None if is_installed => PathBuf::from(INSTALLED),
        None => PathBuf::from("."),
    };
    let cannot = |fault: std::io::Error| Fault::Refused(fault.to_string());
    for (name, text, writes) in &units {
        if let Some(writes) = writes.as_ref().filter(|_| is_installed) {
            // systemd passes over what is not there when the unit starts, and the Host could not make it then.
            writes.folders.iter().try_for_each(|folder| file::make_dir(folder, 0o755)).map_err(cannot)?;
        }
        if !folder.is_dir() {
            return Err(Fault::Usage(format!(
                "there is no directory {}: make it, or name another one with --output-dir",
                folder.display()
            )));
        }
        let path = folder.join(name);
        file::write_atomic(&path, text.as_bytes(), 0o644).map_err(cannot)?;
        output::line(&format!("wrote {}", path.display()));
    }
    let names = units.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(" ");
    if !is_installed {
        output::line(&format!("to install: sudo cp {names} {INSTALLED}/ && sudo systemctl daemon-reload"));
    } else if Path::new("/run/systemd/system").is_dir() {
        let reload = Program::new(["systemctl", "daemon-reload"], PATIENCE).run().and_then(|output| output.ok());
        reload.map_err(|fault| {
            Fault::Refused(format!("the units are written, and systemd does not take them: {fault}"))
        })?;
    } else {
        output::error_line("warning: systemd does not run here: it will know the units when it does");
    }
    output::line(&format!("to start now and at every boot: systemctl enable --now {names}"));
    Ok(())
}

/// The configuration and its absolute path. A unit names its file, so there has to be one.
fn configuration(option: Option<&str>, named: Option<&Path>) -> Result<(Config, PathBuf), Fault> {
    let option = option.map(config::expand).transpose()?;
    let loaded = config::load(option.as_deref().or(named))?;
    if !loaded.exists {
        return Err(Fault::Config(format!(
            "there is no configuration {}: write one with 'hakuriver init config', or name one",
            loaded.file.display()
        )));
    }
    Ok((loaded.config, loaded.file))
}

/// Where the Host writes, each place once.
fn writes(config: &Config) -> Writes {
    let parent = |file: &Path| file.parent().map(Path::to_owned);
    let files = [Some(config.db_file.as_path()), config.paths.host_log_file.as_deref()];
    let tokens = [config.auth.token_file.as_path(), config.auth.node_token_file.as_path()];
    let mut folders =
        vec![config.paths.state_dir.clone(), config.paths.shared_dir.clone(), config.docker.container_dir.clone()];
    folders.extend(files.into_iter().flatten().chain(tokens).filter_map(parent));
    folders.sort();
    // What lies within another one is written to anyway.
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if !all.iter().any(|outer| folder.starts_with(outer)) {
            all.push(folder);
        }
    }
    Writes { folders: all }
}
