//! A VPS: finds or installs an SSH server, gives it keys and environment, and runs it. Can run any number of times in the
//! same container.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::box_file::{BoxFile, OUT, PHASE};
use super::packages::{ENVIRONMENT, MANAGERS, Manager};
use super::{accounts, sshd};
use crate::runner::host_key::HostKey;
use crate::sys::file;
use crate::sys::init::{Ended, Init};
use crate::sys::process;

/// No package manager needs longer; the Runner has a limit of its own.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);
/// Where servers stand, besides the PATH.
const SERVER_FOLDERS: [&str; 5] = ["/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/bin", "/bin"];
const NO_SERVER: &str =
    "no SSH server in this image: install openssh-server (or dropbear) in the environment and pack it again";

/// A variable of the sessions' environment.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
    /// Asked for by the user; else it is the image's.
    pub(super) of_task: bool,
}

/// A server that was found, with its path.
#[derive(Debug, PartialEq)]
enum Server {
    OpenSsh(PathBuf),
    Dropbear(PathBuf),
}

/// Makes this container a VPS until it ends; the answer is its exit status.
///
/// # Errors
/// What is wrong with the image, or with the task, and what to do.
pub(super) fn run(init: &Init, task: &BoxFile) -> Result<i32, String> {
    let root = Path::new("/");
    if !process::is_root() {
        return Err("the container does not run as root, so no SSH server can serve it".to_owned());
    }
    let key =
        HostKey::from_seed_hex(&task.host_key_seed).ok_or("the host key's seed in the task's box is not valid")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let server = match find_server(root, &path) {
        Some(server) => server,
        None => match install(init, &path)? {
            Some(stopped) => return Ok(stopped),
            None => find_server(root, &path).ok_or(NO_SERVER)?,
        },
    };
    let env = environment(
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        task,
    );
    let status = match server {
        Server::OpenSsh(program) => {
            prepare_openssh(root, &program, task, &key, &env)?;
            serve(init, openssh_argv(&program), &[])?
        }
        Server::Dropbear(program) => {
            let hands_on = hands_on_environment(&read_program(root, &program)?);
            if !hands_on && !task.env.is_empty() {
                return Err(format!(
                    "{} is older than 2022.82 and hands no environment to its sessions: install openssh-server in the \
                     environment, or submit without --env",
                    program.display()
                ));
            }
            prepare_dropbear(root, task, &key)?;
            let env: Vec<_> = env.into_iter().map(|variable| (variable.name, variable.value)).collect();
            serve(init, dropbear_argv(&program, hands_on), &env)?
        }
    };
    Ok(status)
}

fn serve(init: &Init, argv: Vec<String>, env: &[(String, String)]) -> Result<i32, String> {
    let ended = init.run(&argv, env, None).map_err(|fault| fault.to_string())?;
    init.farewell();
    match ended {
        Ended::Itself(status) => {
            eprintln!("hakuriver: the SSH server {} ended with status {status}", argv[0]);
            // A server that ends by itself has failed, whatever it says.
            Ok(if status == 0 { 1 } else { status })
        }
        Ended::Stopped(status) => Ok(status),
        Ended::TimedOut => Err("the SSH server ran into a limit that it does not have".to_owned()),
    }
}

/// sshd first: it is what the environment's maker meant to have.
fn find_server(root: &Path, path: &str) -> Option<Server> {
    let sshd = find_program(root, path, "sshd").map(Server::OpenSsh);
    sshd.or_else(|| find_program(root, path, "dropbear").map(Server::Dropbear))
}

/// The absolute path of a program in the container whose root is `root`.
fn find_program(root: &Path, path: &str, name: &str) -> Option<PathBuf> {
    let folders = path.split(':').filter(|folder| folder.starts_with('/')).chain(SERVER_FOLDERS);
    folders.map(|folder| Path::new(folder).join(name)).find(|program| {
        let inside = root.join(program.strip_prefix("/").expect("the folders are absolute"));
        fs::metadata(inside).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Brings an SSH server into the container; Some(status) when it was asked to end meanwhile.
fn install(init: &Init, path: &str) -> Result<Option<i32>, String> {
    let root = Path::new("/");
    let found = MANAGERS.iter().find_map(|manager| Some((manager, find_program(root, path, manager.program)?)));
    let Some((manager, program)) = found else { return Err(NO_SERVER.to_owned()) };
    phase(&format!("installing openssh-server with {}", manager.program));
    let forbidden = forbid_service_start(root);
    let ended = install_with(init, manager, &program);
    if let Some(file) = forbidden {
        let _gone = fs::remove_file(file);
    }
    match ended? {
        Ended::Stopped(status) => return Ok(Some(status)),
        Ended::Itself(0) => phase("starting the SSH server"),
        Ended::Itself(status) => {
            eprintln!("hakuriver: {} could not install openssh-server (exit status {status})", manager.program);
            return Err(NO_SERVER.to_owned());
        }
        Ended::TimedOut => {
            let minutes = INSTALL_LIMIT.as_secs() / 60;
            eprintln!("hakuriver: {} did not install openssh-server within {minutes} minutes", manager.program);
            return Err(NO_SERVER.to_owned());
        }
    }
    Ok(None)
}

fn install_with(init: &Init, manager: &Manager, program: &Path) -> Result<Ended, String> {
    let env = ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let run = |arguments: &[&str]| {
        let argv: Vec<String> =
            std::iter::once(text_of(program)).chain(arguments.iter().map(|&part| part.to_owned())).collect();
        init.run(&argv, &env, Some(INSTALL_LIMIT)).map_err(|fault| fault.to_string())
    };
    if let Some(refresh) = manager.refresh
        && let Ended::Stopped(status) = run(refresh)?
    {
        return Ok(Ended::Stopped(status));
    }
    let mut last = Ended::Itself(1);
    for arguments in manager.install {
        last = run(arguments)?;
        if !matches!(last, Ended::Itself(status) if status != 0) {
            break;
        }
    }
    Ok(last)
}

/// Debian's package starts the server that it brings, with the image's configuration and with keys that nobody knows. Its
/// interface to forbid that is a program with this name that exits with 101; the file is removed afterwards. None: there
/// is one already, or the image is no Debian.
fn forbid_service_start(root: &Path) -> Option<PathBuf> {
    let policy = root.join("usr/sbin/policy-rc.d");
    if !root.join("etc/debian_version").exists() || policy.symlink_metadata().is_ok() {
        return None;
    }
    match file::replace(&policy, b"#!/bin/sh\nexit 101\n", 0o755) {
        Ok(()) => Some(policy),
        Err(fault) => {
            eprintln!("hakuriver: {fault}");
            None
        }
    }
}

/// Tells the Runner what takes so long. It is only information: a fault must not end the start.
fn phase(text: &str) {
    eprintln!("hakuriver: {text}");
    if let Err(fault) = file::replace(&Path::new(OUT).join(PHASE), format!("{text}\n").as_bytes(), 0o644) {
        eprintln!("hakuriver: {fault}");
    }
}

/// What sessions get: the container's own environment (without what belongs to a login), the task's, and its id; of two with the
/// same name the later.
fn environment(own: impl Iterator<Item = (String, String)>, task: &BoxFile) -> Vec<Variable> {
    let of_login = |name: &str| {
        const NAMES: [&str; 12] = [
            "HOME",
            "HOSTNAME",
            "LOGNAME",
            "MAIL",
            "OLDPWD",
            "PWD",
            "SHELL",
            "SHLVL",
            "TERM",
            "USER",
            "_",
            "NOTIFY_SOCKET",
        ];
        NAMES.contains(&name) || name.starts_with("SSH_")
    };
    let mut all: BTreeMap<String, (String, bool)> =
        own.filter(|(name, _)| !of_login(name)).map(|(name, value)| (name, (value, false))).collect();
    all.extend(task.env.iter().map(|(name, value)| (name.clone(), (value.clone(), true))));
    all.insert("HAKURIVER_TASK_ID".to_owned(), (task.task_id.clone(), true));
    all.into_iter().map(|(name, (value, of_task))| Variable { name, value, of_task }).collect()
}

/// `-D`: in the foreground. `-e`: the log goes to stderr. sshd starts itself anew for each connection, so it must be called by its
/// absolute path.
fn openssh_argv(program: &Path) -> Vec<String> {
    let config = format!("{}/sshd_config", sshd::FOLDER);
    vec![text_of(program), "-D".to_owned(), "-e".to_owned(), "-f".to_owned(), config]
}

/// `-F`: in the foreground. `-E`: the log goes to stderr. `-s`: no passwords. `-r`: this host key, and no other. `-e`: sessions get
/// its environment.
fn dropbear_argv(program: &Path, hands_on_environment: bool) -> Vec<String> {
    let host_key = format!("{}/host_key.dropbear", sshd::FOLDER);
    let mut argv = vec![text_of(program)];
    argv.extend(["-F", "-E", "-s", "-r", &host_key, "-p", "22"].map(str::to_owned));
    if hands_on_environment {
        argv.push("-e".to_owned());
    }
    argv
}

/// Does this dropbear have `-e` (2022.82 brought it)? Its help, a text in the program, says so.
fn hands_on_environment(program: &[u8]) -> bool {
    const HELP: &[u8] = b"Pass on server process environment";
    program.windows(HELP.len()).any(|text| text == HELP)
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn prepare_openssh(root: &Path, program: &Path, task: &BoxFile, key: &HostKey, env: &[Variable]) -> Result<(), String> {
    let files = sshd::files(sshd::version_in(&read_program(root, program)?), &task.keys, env)?;
    for warning in &files.warnings {
        eprintln!("hakuriver: {warning}");
    }
    let folder = own_folder(root)?;
    let write = |name: &str, content: &str| {
        file::replace(&folder.join(name), content.as_bytes(), 0o600).map_err(|fault| fault.to_string())
    };
    write("authorized_keys", &files.authorized_keys)?;
    write("host_key", &key.openssh_private())?;
    write("sshd_config", &files.config)?;
    // An empty folder in which the part of sshd without rights is locked up; packages leave it to the init system.
    make_dir(&root.join("run/sshd"), 0o755)?;
    prepare_accounts(root, true).map(|_home| ())
}

fn prepare_dropbear(root: &Path, task: &BoxFile, key: &HostKey) -> Result<(), String> {
    let folder = own_folder(root)?;
    file::replace(&folder.join("host_key.dropbear"), &key.dropbear_private(), 0o600)
        .map_err(|fault| fault.to_string())?;
    // It reads keys nowhere else, and only if nobody else can write there.
    let folder = prepare_accounts(root, false)?.join(".ssh");
    make_dir(&folder, 0o700)?;
    let file = folder.join("authorized_keys");
    let before = read_text(&file)?;
    match with_keys(&before, &task.keys) {
        Some(after) => file::write_atomic(&file, after.as_bytes(), 0o600).map_err(|fault| fault.to_string()),
        None => Ok(()),
    }
}

/// The keys that are missing, added; None if none is.
fn with_keys(before: &str, keys: &[String]) -> Option<String> {
    let mut after = before.to_owned();
    for key in keys {
        if !after.lines().any(|line| line.trim() == key.trim()) {
            if !after.is_empty() && !after.ends_with('\n') {
                after.push('\n');
            }
            after.push_str(key);
            after.push('\n');
        }
    }
    (after != before).then_some(after)
}

/// `/etc/hakuriver`, for root alone. An image that was packed from a VPS has it already.
pub(super) fn own_folder(root: &Path) -> Result<PathBuf, String> {
    let folder = root.join(sshd::FOLDER.trim_start_matches('/'));
    make_dir(&root.join("etc"), 0o755)?;
    make_dir(&folder, 0o700)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
        .map_err(|fault| format!("cannot set the mode of {}: {fault}", folder.display()))?;
    Ok(folder)
}

/// The home of root is the answer.
fn prepare_accounts(root: &Path, for_sshd: bool) -> Result<PathBuf, String> {
    let shells = ["/bin/bash", "/bin/sh", "/usr/bin/bash", "/usr/bin/sh"];
    let shell = shells.into_iter().find(|shell| root.join(&shell[1..]).exists()).unwrap_or("/bin/sh");
    let path = root.join("etc/passwd");
    let before = read_text(&path)?;
    let passwd = match accounts::passwd(&before, shell, for_sshd) {
        Some(after) => {
            rewrite(&path, &after, 0o644)?;
            let group = root.join("etc/group");
            if let Some(after) = accounts::group(&read_text(&group)?, &after) {
                rewrite(&group, &after, 0o644)?;
            }
            after
        }
        None => before,
    };
    let shadow = root.join("etc/shadow");
    if let Some(after) = accounts::unlocked(&read_text(&shadow)?) {
        rewrite(&shadow, &after, 0o600)?;
    }
    let home = passwd.lines().find(|line| line.starts_with("root:")).and_then(|line| line.split(':').nth(5));
    let home = root.join(home.and_then(|home| home.strip_prefix('/')).unwrap_or("root"));
    // An image without accounts lacks it too.
    make_dir(&home, 0o700)?;
    Ok(home)
}

/// The content of a program of the container.
fn read_program(root: &Path, program: &Path) -> Result<Vec<u8>, String> {
    let inside = root.join(program.strip_prefix("/").unwrap_or(program));
    fs::read(&inside).map_err(|fault| format!("cannot read {}: {fault}", inside.display()))
}

/// Empty where there is no such file.
fn read_text(path: &Path) -> Result<String, String> {
    match fs::read_to_string(path) {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|fault| format!("cannot read {}: {fault}", path.display())),
    }
}

/// Replaces a file, keeping its mode and owner, and the link that leads to it; `mode` if there is none.
fn rewrite(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let fault = |fault: io::Error| format!("cannot change {}: {fault}", path.display());
    let target = fs::canonicalize(path).unwrap_or_else(|_absent| path.to_owned());
    let before = fs::metadata(&target).ok();
    let mode = before.as_ref().map_or(mode, |before| before.mode() & 0o7777);
    file::write_atomic(&target, text.as_bytes(), mode).map_err(fault)?;
    match before {
        Some(before) => chown(&target, Some(before.uid()), Some(before.gid())).map_err(fault),
        None => Ok(()),
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), String> {
    file::make_dir(path, mode).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests;
