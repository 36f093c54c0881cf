//! From the text of the file to a [`Config`]. Pure.

use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::keys::{self, KEYS};
use super::value::{Document, Section};
use super::{Auth, AuthMode, Config, ConfigFault, Docker, Network, Paths, Timing};
use crate::domain::ids::{EnvName, NodeName};
use crate::domain::spec::Mount;

/// Parses `text`, which stands in `file` (an absolute path). The strings are warnings.
pub(super) fn parse(text: &str, file: &Path, home: Option<&Path>) -> Result<(Config, Vec<String>), ConfigFault> {
    let document = Document { file, text, home };
    let root = DeTable::parse(text).map_err(|fault| {
        let message = format!("this is not TOML: {}", fault.message().replace('\n', ", "));
        document.fault(fault.span().map_or(0, |span| span.start), &message)
    })?;
    let root = root.get_ref();
    let warnings = unknown(&document, root);
    let config = build(&document, root)?;
    Ok((config, warnings))
}

/// One warning for each section and key that does not exist.
fn unknown(document: &Document<'_>, root: &DeTable<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (section, value) in root {
        let at = section.span().start;
        let section = section.get_ref().as_ref();
        let Some(table) = value.get_ref().as_table().filter(|_| keys::is_section(section)) else {
            let known = KEYS.iter().map(|key| key.section);
            let known = keys::suggestion(section, known);
            let what = if value.get_ref().is_table() { "section" } else { "key" };
            // A known section that is no table is a fault of its own: see `section`.
            if !keys::is_section(section) {
                warnings.push(document.at_line(at, &format!("unknown {what} '{section}' is ignored{known}")));
            }
            continue;
        };
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if !keys::is_key(section, name) {
                let known = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
                let known = keys::suggestion(name, known);
                let message = format!("unknown key {section}.{name} is ignored{known}");
                warnings.push(document.at_line(key.span().start, &message));
            }
        }
    }
    warnings
}

fn section<'a>(
    document: &'a Document<'a>,
    root: &'a DeTable<'a>,
    name: &'static str,
) -> Result<Section<'a>, ConfigFault> {
    let table = match root.iter().find(|(key, _)| key.get_ref() == name) {
        None => None,
        Some((_, value)) => Some(value.get_ref().as_table().ok_or_else(|| {
            document.fault(value.span().start, &format!("{name}: expected a section, [{name}], found a value"))
        })?),
    };
    Ok(Section { document, name, table })
}

fn build(document: &Document<'_>, root: &DeTable<'_>) -> Result<Config, ConfigFault> {
    let section = |name| section(document, root, name);
    let folder = document.file.parent().unwrap_or(Path::new("/"));
    let paths = paths(&section("paths")?, folder)?;
    let (environment, database, retention) = (section("environment")?, section("database")?, section("retention")?);
    Ok(Config {
        network: network(&section("network")?)?,
        timing: timing(&section("timing")?)?,
        docker: docker(&section("docker")?, &paths.shared_dir)?,
        auth: auth(&section("auth")?, folder, &paths.state_dir)?,
        runner_user: environment.text("runner_user")?.unwrap_or_default(),
        db_file: database.path("db_file", folder)?.unwrap_or_else(|| paths.state_dir.join("cluster.db")),
        retention_days: retention.count("days", 30)?,
        paths,
    })
}

fn network(section: &Section<'_>) -> Result<Network, ConfigFault> {
    let _unused_in_this_version = section.port("runner_port", 8001)?;
    let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
    let hostname = section.parsed::<NodeName>("runner_hostname", "a node's name (letters, digits, '.' and '-')")?;
    Ok(Network {
        host_bind_ip: section.ip("host_bind_ip")?.unwrap_or(loopback),
        host_port: section.port("host_port", 8000)?,
        host_ssh_proxy_port: section.port("host_ssh_proxy_port", 8002)?,
        host_reachable_address: section.word("host_reachable_address")?.unwrap_or_else(|| loopback.to_string()),
        runner_address: section.ip("runner_address")?,
        runner_hostname: hostname.map(|name| name.as_str().to_owned()),
        vps_ports: section.ports("vps_ports", (30_000, 32_767))?,
    })
}

fn paths(section: &Section<'_>, folder: &Path) -> Result<Paths, ConfigFault> {
    let _unused_in_this_version = section.text("numactl_path")?;
    let state_dir = section.path("state_dir", folder)?.unwrap_or_else(|| folder.to_owned());
    Ok(Paths {
        shared_dir: section.path("shared_dir", folder)?.unwrap_or_else(|| state_dir.join("shared")),
        local_temp_dir: section.path("local_temp_dir", folder)?.unwrap_or_else(|| state_dir.join("tmp")),
        host_log_file: section.path("host_log_file", folder)?,
        runner_log_file: section.path("runner_log_file", folder)?,
        state_dir,
    })
}

fn timing(section: &Section<'_>) -> Result<Timing, ConfigFault> {
    Ok(Timing {
        heartbeat_interval: section.seconds("heartbeat_interval", 5)?,
        heartbeat_timeout_factor: section.count("heartbeat_timeout_factor", 6)?,
        cleanup_check_interval: section.seconds("cleanup_check_interval", 10)?,
        resource_check_interval: section.seconds("resource_check_interval", 1)?,
    })
}

fn docker(section: &Section<'_>, shared_dir: &Path) -> Result<Docker, ConfigFault> {
    /// Where sshd must be installed first, less would only cut off a slow mirror.
    const INSTALL: Duration = Duration::from_secs(600);
    let start_timeout = section.seconds("start_timeout", 60)?;
    let environment = section.parsed::<EnvName>("default_container_name", "an environment's name")?;
    let mount = |text: &str| text.parse::<Mount>().map_err(|fault| fault.to_string());
    let host_path = |text: &str| {
        let path = Path::new(text);
        if path.is_absolute() { Ok(path.to_owned()) } else { Err(format!("expected an absolute path, found {text:?}")) }
    };
    let container_dir = section.path("container_dir", shared_dir)?;
    Ok(Docker {
        command: section.word("command")?.unwrap_or_else(|| "docker".to_owned()),
        container_dir: container_dir.unwrap_or_else(|| shared_dir.join("hakuriver-containers")),
        default_container_name: environment.map_or_else(|| "hakuriver-base".to_owned(), |name| name.to_string()),
        initial_base_image: section
            .text("initial_base_image")?
            .unwrap_or_else(|| "python:3.12.10-alpine3.21".to_owned()),
        keep_versions: section.count("keep_versions", 2)?,
        tasks_privileged: section.bool("tasks_privileged", false)?,
        allow_privileged: section.bool("allow_privileged", true)?,
        additional_mounts: section
            .list("additional_mounts", "a list of \"HOST:CONTAINER\"", mount)?
            .unwrap_or_default(),
        allowed_mounts: section
            .list("allowed_mounts", "a list of paths", host_path)?
            .unwrap_or_else(|| vec!["/".into()]),
        start_timeout,
        install_timeout: start_timeout.max(INSTALL),
    })
}

fn auth(section: &Section<'_>, folder: &Path, state_dir: &Path) -> Result<Auth, ConfigFault> {
    Ok(Auth {
        mode: section.choice("mode", &[("token", AuthMode::Token), ("none", AuthMode::None)], AuthMode::Token)?,
        token: section.token("token")?,
        token_file: section.path("token_file", folder)?.unwrap_or_else(|| state_dir.join("token")),
        node_token: section.token("node_token")?,
        node_token_file: section.path("node_token_file", folder)?.unwrap_or_else(|| state_dir.join("node-token")),
        insecure_network: section.bool("insecure_network", false)?,
        absent: section.table.is_none(),
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
