//! `hakuriver up`: Host and Runner in one process.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use crate::cli::fault::Fault;
use crate::cli::output;
use crate::cli::server_args::UpArgs;
use crate::config::auth::Bearer;
use crate::config::{self, Config, Loaded, address};
use crate::sys::shutdown::Stop;
use crate::{Part, begin_serving, host, listens, runner, serve_host, sys, until_stopped};

/// Runs until SIGTERM or SIGINT. `named` is the path of `--config`.
pub(crate) fn run(args: &UpArgs, named: Option<&Path>) -> Result<(), Fault> {
    let changes = changes(args).map_err(Fault::Usage)?;
    let file = config_file(args, named)?;
    let loaded = prepare(&file, &changes)?;
    begin_serving(&loaded, loaded.config.paths.host_log_file.as_deref())?;

    let (host_is_ready, readiness) = mpsc::channel::<host::Ready>();
    let (config, stop) = (loaded.config.clone(), Stop::new());
    let host: Part = Box::new(move |stop| {
        let mut ready = |ready: &host::Ready| {
            // Nobody waits for it any more when the process is about to end.
            let _waiting = host_is_ready.send(ready.clone());
        };
        serve_host(&config, stop, &mut ready).map_err(|fault| with_port_hint(&fault))
    });
    let runner: Part = Box::new(move |stop| {
        // An error here is the end of the Host, which says itself why.
        let Ok(listening) = readiness.recv() else { return Ok(()) };
        serve_runner(&loaded, &listening, stop)
    });
    until_stopped(&stop, vec![("host", host), ("runner", runner)])
}

fn serve_runner(loaded: &Loaded, listening: &host::Ready, stop: &Stop) -> Result<(), String> {
    let config = &loaded.config;
    // The Host has made the token by now, if there was none.
    let node_token = config.auth.token(Bearer::Node).map_err(|fault| fault.to_string())?;
    let join = runner::Join { host: own_api(listening), node_token };
    let mut is_first = true;
    let mut ready = |ready: &runner::Ready| {
        // Later ones are new registrations: the log has them.
        if std::mem::take(&mut is_first) {
            announce(loaded, listening, &ready.hostname);
        }
    };
    runner::run(config, &join, stop, &mut ready).map_err(|fault| fault.to_string())
}

/// Where this machine's own Runner reaches the Host.
fn own_api(listening: &host::Ready) -> String {
    let ip = listening.api.ip();
    let ip = match ip {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    address::join(&ip.to_string(), listening.api.port())
}

fn announce(loaded: &Loaded, listening: &host::Ready, hostname: &str) {
    let Config { paths, auth, .. } = &loaded.config;
    let state = paths.state_dir.display();
    output::error_line(&format!("hakuriver up: ready: {}, node '{hostname}', state {state}", listens(listening)));
    if listening.api.ip().is_loopback() {
        return;
    }
    let address = join_address(listening);
    let join = format!("hakuriver runner --join {address}");
    output::error_line(&match auth.mode {
        config::AuthMode::Token => format!(
            "hakuriver up: to join another machine, copy {} to it and start there: {join} --token-file node-token",
            auth.node_token_file.display()
        ),
        config::AuthMode::None => format!("hakuriver up: to join another machine, start there: {join}"),
    });
}

/// The address of this machine that others can use.
fn join_address(listening: &host::Ready) -> String {
    let ip = listening.api.ip();
    // A documentation address (RFC 5737): nothing is sent there, the kernel only says by which address it would go.
    let routed = || sys::socket::address_towards("192.0.2.1", 9).map(|ip| ip.to_string());
    let name = || sys::process::hostname(Path::new("/")).ok();
    let address = if ip.is_unspecified() { routed().or_else(name) } else { None };
    address::join(&address.unwrap_or_else(|| ip.to_string()), listening.api.port())
}

/// A port that is taken has a way out.
fn with_port_hint(fault: &str) -> String {
    if fault.contains("in use") {
        format!("{fault}\nwith 'hakuriver up': --port N --ssh-port N (0: the system chooses)")
    } else {
        fault.to_owned()
    }
}

/// The file that is used, and made if it is not there.
fn config_file(args: &UpArgs, named: Option<&Path>) -> Result<PathBuf, Fault> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|fault| Fault::Config(format!("{}: {fault}", path.display())));
    match (&args.state_dir, named, std::env::var_os(config::FILE_VARIABLE).filter(|path| !path.is_empty())) {
        (Some(_), Some(_), _) => {
            let text = "give --config or --state-dir, not both: a configuration names its own paths.state_dir";
            Err(Fault::Usage(text.to_owned()))
        }
        (Some(dir), None, _) => Ok(config::expand(dir)?.join("config.toml")),
        (None, Some(file), _) => absolute(file),
        (None, None, Some(file)) => absolute(Path::new(&file)),
        (None, None, None) => Ok(config::default_dir()?.join("config.toml")),
    }
}

/// Section, key and value of a setting that an option asks for.
type Change = (&'static str, &'static str, String);

/// What the options change in the file.
fn changes(args: &UpArgs) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    let mut port = args.port;
    if let Some(listen) = &args.listen {
        let (address, listen_port) = address::parse_endpoint(listen).map_err(|fault| format!("--listen: {fault}"))?;
        let ip: IpAddr = address.parse().map_err(|_| {
            format!("--listen: expected an IP address of this machine (0.0.0.0 for all), found {address:?}")
        })?;
        changes.push(("network", "host_bind_ip", format!("\"{ip}\"")));
        // On all addresses, loopback is among them.
        let reachable = if ip.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { ip };
        changes.push(("network", "host_reachable_address", format!("\"{reachable}\"")));
        if let (Some(a), Some(b)) = (port, listen_port)
            && a != b
        {
            return Err(format!("--listen says port {b}, and --port says {a}"));
        }
        port = port.or(listen_port);
    }
    changes.extend(port.map(|port| ("network", "host_port", port.to_string())));
    changes.extend(args.ssh_port.map(|port| ("network", "host_ssh_proxy_port", port.to_string())));
    Ok(changes)
}

/// Writes the file if it is not there, with the settings that the options ask for; loads it.
fn prepare(file: &Path, changes: &[Change]) -> Result<Loaded, Fault> {
    let shown = file.display();
    let (before, exists) = match std::fs::read_to_string(file) {
        Ok(text) => (text, true),
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => (config::commented_default(), false),
        Err(fault) => return Err(Fault::Config(format!("cannot read the configuration {shown}: {fault}"))),
    };
    let mut text = before.clone();
    for (section, key, value) in changes {
        text = config::edit::set(&text, section, key, value)
            .map_err(|fault| Fault::Config(format!("{shown}: {fault}")))?;
    }
    if !exists || text != before {
        if let Some(folder) = file.parent() {
            sys::file::make_dir(folder, 0o700).map_err(|fault| Fault::Config(fault.to_string()))?;
        }
        sys::file::write_atomic(file, text.as_bytes(), 0o600).map_err(|fault| Fault::Config(fault.to_string()))?;
    }
    Ok(config::load_if_there(file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(listen: Option<&str>, port: Option<u16>, ssh_port: Option<u16>) -> UpArgs {
        UpArgs { state_dir: None, listen: listen.map(str::to_owned), port, ssh_port }
    }

    #[test]
    fn options_become_settings() {
        for (args, expected) in [
            (up(None, None, None), Ok("")),
            (up(None, Some(0), Some(0)), Ok("host_port=0 host_ssh_proxy_port=0")),
            (up(Some("10.0.0.5"), None, None), Ok("host_bind_ip=\"10.0.0.5\" host_reachable_address=\"10.0.0.5\"")),
            (
                up(Some("0.0.0.0:9000"), None, None),
                Ok("host_bind_ip=\"0.0.0.0\" host_reachable_address=\"127.0.0.1\" host_port=9000"),
            ),
            (up(Some("[::1]:9"), Some(9), None), Ok("host_bind_ip=\"::1\" host_reachable_address=\"::1\" host_port=9")),
            (up(Some("10.0.0.5:9"), Some(8), None), Err("--listen says port 9, and --port says 8")),
            (
                up(Some("head"), None, None),
                Err("--listen: expected an IP address of this machine (0.0.0.0 for all), found \"head\""),
            ),
        ] {
            let found = changes(&args).map(|changes| {
                changes.iter().map(|(_, key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{args:?}");
        }
    }

    #[test]
    fn a_configuration_is_made_once_and_options_are_remembered_in_it() {
        let dir = std::env::temp_dir().join(format!("hakuriver-up-{}", std::process::id()));
        let file = dir.join("state/config.toml");
        let fresh = prepare(&file, &[]).expect("it can be made");
        assert_eq!(fresh.config, config::defaults(&dir.join("state")));
        let text = std::fs::read_to_string(&file).expect("it was made");
        std::fs::write(&file, text + "# mine\n").expect("it can be written");
        let changed = prepare(&file, &changes(&up(None, Some(0), None)).expect("good")).expect("it can be changed");
        assert_eq!((changed.config.network.host_port, changed.config.network.host_ssh_proxy_port), (0, 8002));
        let again = prepare(&file, &[]).expect("it is there");
        assert_eq!(again.config, changed.config);
        assert!(std::fs::read_to_string(&file).expect("it is there").ends_with("# mine\n"));
        std::fs::remove_dir_all(dir).expect("it was made");
    }

    #[test]
    fn a_taken_port_is_answered_with_a_way_out() {
        assert!(with_port_hint("cannot listen on 127.0.0.1:8000: Address already in use").contains("--port N"));
        assert_eq!(with_port_hint("no"), "no");
    }
}
