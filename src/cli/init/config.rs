//! `init config`

use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};

use crate::cli::fault::Fault;
use crate::cli::output;
use crate::config;
use crate::sys::{file, random};

/// Write a configuration file in which every key is explained, with fresh tokens, readable by you alone. The same file serves
/// Host, Runners and clients: copy it to the other machines, and set network.host_reachable_address.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "config",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --config /etc/hakuriver/config.toml --force"
)]
pub(super) struct ConfigArgs {
    /// write over a file that is there; its tokens are lost
    #[argh(switch)]
    force: bool,
}

pub(super) fn run(args: &ConfigArgs, named: Option<&Path>) -> Result<(), Fault> {
    let variable = || std::env::var_os(config::FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match named.map(Path::to_owned).or_else(variable) {
        Some(path) => path,
        None => config::default_dir()?.join("config.toml"),
    };
    write(&path, args.force)?;
    output::line(&format!("wrote {}", path.display()));
    Ok(())
}

fn write(path: &Path, force: bool) -> Result<(), Fault> {
    // A dangling link counts as something that is there.
    if path.symlink_metadata().is_ok() && !force {
        return Err(Fault::Config(format!("{} is there already; --force writes over it", path.display())));
    }
    let mut text = config::commented_default();
    for key in ["token", "node_token"] {
        // 256 bits: cannot be guessed by anyone.
        text = config::edit::set(&text, "auth", key, &format!("\"{}\"", random::hex(32)))?;
    }
    let cannot = |fault: std::io::Error| Fault::Config(fault.to_string());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        file::make_dir(folder, 0o700).map_err(cannot)?;
    }
    file::write_atomic(path, text.as_bytes(), 0o600).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_written_once_private_and_with_tokens_of_its_own() {
        let dir = std::env::temp_dir().join(format!("hakuriver-init-config-{}", std::process::id()));
        let path = dir.join("new/config.toml");
        write(&path, false).expect("it can be written");
        let mode = std::fs::metadata(&path).expect("it was written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let first = config::load(Some(&path)).expect("it can be loaded");
        assert!(first.warnings.is_empty());
        let auth = &first.config.auth;
        assert!(auth.token.is_some() && auth.node_token.is_some() && auth.token != auth.node_token);
        let fault = write(&path, false).expect_err("it is there");
        assert_eq!(fault.status(), 2);
        assert_eq!(config::load(Some(&path)).expect("it is as it was").config, first.config);
        write(&path, true).expect("it may be replaced");
        assert_ne!(config::load(Some(&path)).expect("it can be loaded").config.auth.token, first.config.auth.token);
        std::fs::remove_dir_all(dir).expect("it was made");
    }
}
