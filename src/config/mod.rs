//! The one configuration file, its defaults and its errors. Spec: README, "Configuration".

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything, with defaults filled in and relative paths resolved.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct Paths {
    pub state_dir: PathBuf,
    pub shared_dir: PathBuf,
    pub local_temp_dir: PathBuf,
    pub host_log_file: Option<PathBuf>,
    pub runner_log_file: Option<PathBuf>,
}

/// `[timing]`
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct Docker {
    /// The program, `docker`.
    pub command: String,
    /// Where tarballs lie (absolute; `docker.container_dir` in shared_dir).
    pub container_dir: PathBuf,
    pub default_container_name: String,
    pub initial_base_image: String,
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
#[derive(Clone)]
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

/// A configuration and what was odd about it (unknown keys, with their lines).
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
}

/// A fault in the file: file, line, key, and what was expected. Exit status 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault(pub String);

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Loads `path`, else `$HAKURIVER_CONFIG`, else `~/.hakuriver/config.toml` (which may be absent: all defaults).
///
/// # Errors
/// See [`ConfigFault`]. A file that was named (by option or variable) must exist.
pub fn load(_path: Option<&Path>) -> Result<Loaded, ConfigFault> {
    unimplemented!("config")
}

/// The defaults of a state directory, as if its `config.toml` were empty.
pub fn defaults(_state_dir: &Path) -> Config {
    unimplemented!("config")
}

/// The text of a commented configuration file with every key and its default; the secrets are left out
/// (they stand in files of their own).
pub fn commented_default() -> String {
    unimplemented!("config")
}
