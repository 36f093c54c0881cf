//! The one configuration file, its defaults and its errors; and where tokens and the Host's chosen ports are found.
//!
//! It reads files, and writes none. It knows nothing of what the values are for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub mod address;
pub mod auth;
pub mod edit;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod keys;
mod parse;
mod value;

/// Everything, with defaults filled in and relative paths resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub network: Network,
    pub paths: Paths,
    pub timing: Timing,
    pub docker: Docker,
    pub auth: Auth,
    /// User of tasks that run without a container; empty = the Runner's own.
    pub runner_user: String,
    /// `database.db_file`
    pub db_file: PathBuf,
    /// `retention.days`
    pub retention_days: u32,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub host_bind_ip: std::net::IpAddr,
    /// 0 lets the system choose.
    pub host_port: u16,
    pub host_ssh_proxy_port: u16,
    pub host_reachable_address: String,
    /// None = the address that routes to the Host.
    pub runner_address: Option<std::net::IpAddr>,
    /// None = the machine's name.
    pub runner_hostname: Option<String>,
    /// First and last, both included.
    pub vps_ports: (u16, u16),
}

/// `[paths]`
#[derive(Clone, Debug, PartialEq)]
pub struct Paths {
    pub state_dir: PathBuf,
    pub shared_dir: PathBuf,
    pub local_temp_dir: PathBuf,
    pub host_log_file: Option<PathBuf>,
    pub runner_log_file: Option<PathBuf>,
}

/// `[timing]`
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    pub heartbeat_interval: Duration,
    pub heartbeat_timeout_factor: u32,
    pub cleanup_check_interval: Duration,
    pub resource_check_interval: Duration,
}

impl Timing {
    /// How long a node may be silent before it is `offline`.
    pub fn heartbeat_timeout(&self) -> Duration {
        self.heartbeat_interval * self.heartbeat_timeout_factor
    }
}

/// `[docker]`
#[derive(Clone, Debug, PartialEq)]
pub struct Docker {
    /// The program, `docker`.
    pub command: String,
    /// Where tarballs lie (absolute; `docker.container_dir` in shared_dir).
    pub container_dir: PathBuf,
    pub default_container_name: String,
    /// Empty: no first environment is made.
    pub initial_base_image: String,
    /// How many tarballs of an environment stay when a new one is packed; at least 1.
    pub keep_versions: u32,
    pub tasks_privileged: bool,
    pub allow_privileged: bool,
    /// `HOST:CONTAINER[:ro|rw]`, checked.
    pub additional_mounts: Vec<crate::domain::spec::Mount>,
    /// Host paths that tasks may mount.
    pub allowed_mounts: Vec<PathBuf>,
    pub start_timeout: Duration,
    /// Where a package manager must run first.
    pub install_timeout: Duration,
}

/// `[auth]`
#[derive(Clone, PartialEq)]
pub struct Auth {
    pub mode: AuthMode,
    /// `auth.token`; where it is None, `token_file` is read.
    pub token: Option<String>,
    pub token_file: PathBuf,
    pub node_token: Option<String>,
    pub node_token_file: PathBuf,
    pub insecure_network: bool,
    /// The file has no `[auth]` table: it may be one of 0.3.
    pub absent: bool,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("mode", &self.mode).field("token_file", &self.token_file).finish_non_exhaustive()
    }
}

/// `auth.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    Token,
    None,
}

/// A configuration, where it came from, and what was odd about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Unknown keys, with their lines.
    pub warnings: Vec<String>,
    /// The file, absolute, whether it exists or not.
    pub file: PathBuf,
    /// False: there is no file, and everything is a default.
    pub exists: bool,
}

/// A fault in the file: file, line, key, and what was expected. Exit status 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault(pub String);

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "HAKURIVER_CONFIG";

/// Loads `path`, else `$HAKURIVER_CONFIG`, else `~/.hakuriver/config.toml` (which may be absent: all defaults).
///
/// # Errors
/// See [`ConfigFault`]. A file that was named (by option or variable) must exist.
pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigFault> {
    let variable = std::env::var_os(FILE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (file, named_by) = match (path, variable) {
        (Some(path), _) => (path.to_owned(), "--config"),
        (None, Some(path)) => (path, FILE_VARIABLE),
        (None, None) => return load_if_there(&default_dir()?.join("config.toml")),
    };
    load_file(&file, Some(named_by))
}

/// Loads `file`, which may be absent: all defaults then.
///
/// # Errors
/// See [`ConfigFault`].
pub fn load_if_there(file: &Path) -> Result<Loaded, ConfigFault> {
    load_file(file, None)
}

/// Loads a file; `named_by` says what named it, and then it must exist.
fn load_file(file: &Path, named_by: Option<&str>) -> Result<Loaded, ConfigFault> {
    let file = std::path::absolute(file)
        .map_err(|fault| ConfigFault(format!("cannot make the path {} absolute: {fault}", file.display())))?;
    let (text, exists) = match std::fs::read_to_string(&file) {
        Ok(text) => (text, true),
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound && named_by.is_none() => (String::new(), false),
        Err(fault) => {
            let named_by = named_by.map_or_else(String::new, |name| format!(" (named by {name})"));
            return Err(ConfigFault(format!("cannot read the configuration {}{named_by}: {fault}", file.display())));
        }
    };
    let (mut config, warnings) = parse::parse(&text, &file, home().as_deref())?;
    // Where there is no file, there is none of 0.3.
    config.auth.absent &= exists;
    Ok(Loaded { config, warnings, file, exists })
}

/// `~/.hakuriver`
///
/// # Errors
/// `HOME` is not set.
pub fn default_dir() -> Result<PathBuf, ConfigFault> {
    let home = home().ok_or_else(|| {
        ConfigFault(format!(
            "HOME is not set, so there is no ~/.hakuriver: name a file with --config or {FILE_VARIABLE}"
        ))
    })?;
    Ok(home.join(".hakuriver"))
}

/// The user's home directory, by `HOME`.
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// `path` with a leading `~` replaced by the home directory, absolute from the current directory.
///
/// # Errors
/// There is no home, or no current directory.
pub fn expand(path: &str) -> Result<PathBuf, ConfigFault> {
    let here =
        std::env::current_dir().map_err(|fault| ConfigFault(format!("cannot tell the current directory: {fault}")))?;
    value::absolute(path, &here, home().as_deref())
        .ok_or_else(|| ConfigFault(format!("{path:?} needs HOME, which is not set")))
}

/// The defaults of a state directory, as if its `config.toml` were empty.
pub fn defaults(state_dir: &Path) -> Config {
    let (mut config, _) =
        parse::parse("", &state_dir.join("config.toml"), None).expect("an empty file has nothing that could be wrong");
    config.auth.absent = false;
    config
}

/// The text of a commented configuration file with every key and its default; the secrets are left out
/// (they stand in files of their own).
pub fn commented_default() -> String {
    keys::commented()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_named_must_exist_and_the_default_one_need_not() {
        let missing = Path::new("/nonexistent-hakuriver/config.toml");
        let fault = load_file(missing, Some("--config")).expect_err("it does not exist").to_string();
        assert!(fault.contains("/nonexistent-hakuriver/config.toml (named by --config): No such file"), "{fault}");
        let loaded = load_file(missing, None).expect("all defaults");
        assert!(!loaded.exists);
        assert_eq!(loaded.config.paths.state_dir, Path::new("/nonexistent-hakuriver"));
    }

    #[test]
    fn the_defaults_of_a_state_directory_are_those_of_an_empty_file_there() {
        let config = defaults(Path::new("/s"));
        assert_eq!(
            (config.db_file.as_path(), config.paths.shared_dir.as_path()),
            (Path::new("/s/cluster.db"), Path::new("/s/shared"))
        );
    }
}
