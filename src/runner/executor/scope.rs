//! systemd scopes.

use std::path::Path;

/// systemd is this machine's init, and takes scopes.
pub fn is_there() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What stands before a command line to have it in a scope of its own; nothing where systemd does not run.
pub fn own_scope(unit: &str) -> Vec<String> {
    if !is_there() {
        return Vec::new();
    }
    let random = crate::sys::random::hex(4);
    let mut argv = vec!["systemd-run".to_owned()];
    if !crate::sys::process::is_root() {
        argv.push("--user".to_owned());
    }
    argv.extend(["--scope", "--quiet", "--collect"].map(ToOwned::to_owned));
    argv.extend(["--unit".to_owned(), format!("{unit}-{random}"), "--".to_owned()]);
    argv
}
