//! The text of the systemd units. Pure.

use std::path::{Path, PathBuf};

/// What a unit starts.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// This program, absolute.
    pub(super) program: PathBuf,
    /// Absolute.
    pub(super) config: PathBuf,
}

/// What the Host writes to, as its configuration says.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    /// Directories; those that are no mount and are missing are made before the unit is installed.
    pub(super) folders: Vec<PathBuf>,
}

/// The name of the Host's unit.
pub(super) const HOST: &str = "hakuriver-host.service";
/// The name of the Runner's.
pub(super) const RUNNER: &str = "hakuriver-runner.service";

/// The Host keeps a database and copies bytes: it needs nothing of the machine but its own directories and Docker's socket.
pub(super) fn host(unit: &Unit, writes: &Writes) -> String {
    let Unit { program, config } = unit;
    let mut text = format!(
        "# Written by 'hakuriver init service'; change it with 'systemctl edit {HOST}'.\n\
         [Unit]\n\
         Description=HakuRiver Host\n\
         Wants=network-online.target\n\
         After=network-online.target remote-fs.target docker.service\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={} host --config {}\n\
         Restart=on-failure\n\
         RestartSec=2\n\
         # A configuration that is wrong does not become right by itself.\n\
         RestartPreventExitStatus=2\n\
         TimeoutStopSec=30\n\
         LimitNOFILE=65536\n\
         OOMScoreAdjust=-500\n\
         \n\
         NoNewPrivileges=yes\n\
         ProtectSystem=strict\n",
        path_word(program),
        word(config),
    );
    for folder in &writes.folders {
        text.push_str(&format!("ReadWritePaths=-{}\n", path_word(folder)));
    }
    let has_own_tmp = [Path::new("/tmp"), Path::new("/var/tmp")]
        .iter()
        .all(|tmp| !writes.folders.iter().chain([config, program]).any(|path| path.starts_with(tmp)));
    if has_own_tmp {
        text.push_str("PrivateTmp=yes\n");
    }
    text.push_str(
        "ProtectKernelTunables=yes\n\
         ProtectKernelModules=yes\n\
         ProtectKernelLogs=yes\n\
         ProtectControlGroups=yes\n\
         ProtectClock=yes\n\
         ProtectHostname=yes\n\
         RestrictSUIDSGID=yes\n\
         RestrictRealtime=yes\n\
         RestrictNamespaces=yes\n\
         LockPersonality=yes\n\
         SystemCallArchitectures=native\n\
         RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
    );
    text
}

/// The Runner starts programs of users, so what it may not do, they could not do either.
pub(super) fn runner(unit: &Unit) -> String {
    let Unit { program, config } = unit;
    format!(
        "# Written by 'hakuriver init service'; change it with 'systemctl edit {RUNNER}'.\n\
         [Unit]\n\
         Description=HakuRiver Runner\n\
         Wants=network-online.target\n\
         # Ordered after these, and not bound to them: a shared directory that is away is no reason not to run.\n\
         After=network-online.target remote-fs.target docker.service\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={} runner --config {}\n\
         Restart=on-failure\n\
         RestartSec=2\n\
         # A configuration that is wrong does not become right by itself.\n\
         RestartPreventExitStatus=2\n\
         # What ends with it is itself and the docker commands that it has just called. Containers are Docker's, and commands\n\
         # without one live in scopes of their own: a restart finds both again.\n\
         KillMode=mixed\n\
         TimeoutStopSec=30\n\
         # Where tasks have control groups below its own, systemd leaves those alone.\n\
         Delegate=yes\n\
         LimitNOFILE=1048576\n\
         TasksMax=infinity\n\
         # The tasks go first when memory runs out; they are started without this.\n\
         OOMScoreAdjust=-900\n\
         # No sandbox here: a task is started from within this unit and would be in it, with a file system that it cannot\n\
         # write to, or a sudo that does nothing. Limits of tasks are their own (--cores, --memory, --user, containers).\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        path_word(program),
        word(config),
    )
}

/// Whether systemd can be told these paths at all.
///
/// # Errors
/// Which one it cannot, and what to do.
pub(super) fn check(unit: &Unit, writes: &Writes) -> Result<(), String> {
    let is_told = |path: &Path| path.to_str().is_some_and(|text| !text.contains(char::is_control));
    if let Some(path) = [&unit.program, &unit.config].into_iter().chain(&writes.folders).find(|path| !is_told(path)) {
        return Err(format!("a unit cannot name {path:?}, which is not text or has control characters: rename it"));
    }
    // "Executable name contains special characters", says systemd, however they are written.
    if unit.program.to_string_lossy().contains(['"', '\'', '\\']) {
        let program = unit.program.display();
        return Err(format!("systemd starts no program with quotes or a backslash in its path: move {program}"));
    }
    Ok(())
}

/// A path as one word of a unit's line that is a program's argument: there `$` begins a variable (systemd.service(5)).
fn word(path: &Path) -> String {
    path_word(path).replace('$', "$$")
}

/// A path as one word of a unit's line: systemd.syntax(7) for quotes, systemd.unit(5) for `%`. A `$` is itself, also in the path of
/// the program that is started.
fn path_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,=".contains(c);
    if text.chars().all(is_plain) {
        return text.into_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.extend([c, c]),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(program: &str, config: &str) -> Unit {
        Unit { program: program.into(), config: config.into() }
    }

    #[test]
    fn paths_are_one_word() {
        for (path, expected) in [
            ("/usr/bin/hakuriver", "/usr/bin/hakuriver"),
            ("/opt/my tools/h", "\"/opt/my tools/h\""),
            ("/a%n/$b", "\"/a%%n/$$b\""),
            ("/a\"b\\c", "\"/a\\\"b\\\\c\""),
            ("/é", "\"/é\""),
        ] {
            assert_eq!(word(Path::new(path)), expected);
        }
        // Only in an argument is `$` doubled: elsewhere systemd would look for a path with two.
        let text = host(&unit("/o$p/h", "/e$c"), &Writes { folders: vec!["/s$t %".into()] });
        for line in ["ExecStart=\"/o$p/h\" host --config \"/e$$c\"", "ReadWritePaths=-\"/s$t %%\""] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn what_systemd_cannot_be_told_is_refused() {
        let with = |program: &str, config: &str, folder: &str| {
            check(&unit(program, config), &Writes { folders: vec![folder.into()] }).is_ok()
        };
        assert!(with("/opt/my $tools %/h", "/e\"t'c\\", "/s r\"v"));
        for (program, config, folder) in [
            ("/a\"b", "/c", "/d"),
            ("/a'b", "/c", "/d"),
            ("/a\\b", "/c", "/d"),
            ("/a", "/c\n", "/d"),
            ("/a", "/c", "/\t"),
        ] {
            assert!(!with(program, config, folder), "{program:?} {config:?} {folder:?}");
        }
        let bytes = std::os::unix::ffi::OsStrExt::from_bytes(b"/\xff");
        let no_text = Unit { program: "/a".into(), config: PathBuf::from(<std::ffi::OsStr>::to_owned(bytes)) };
        assert!(check(&no_text, &Writes::default()).is_err());
    }

    #[test]
    fn the_host_may_write_where_its_configuration_says_and_nowhere_else() {
        let writes = Writes { folders: vec!["/var/lib/hakuriver".into(), "/srv/my share".into()] };
        let text = host(&unit("/usr/bin/hakuriver", "/etc/hakuriver/config.toml"), &writes);
        for line in [
            "ExecStart=/usr/bin/hakuriver host --config /etc/hakuriver/config.toml",
            "ProtectSystem=strict",
            "ReadWritePaths=-/var/lib/hakuriver",
            "ReadWritePaths=-\"/srv/my share\"",
            "PrivateTmp=yes",
            "Type=notify",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let in_tmp = Writes { folders: vec!["/tmp/state".into()] };
        assert!(!host(&unit("/usr/bin/hakuriver", "/etc/c"), &in_tmp).contains("PrivateTmp"), "it would not be seen");
    }

    #[test]
    fn nothing_of_the_runners_unit_would_bind_its_tasks() {
        let text = runner(&unit("/usr/bin/hakuriver", "/etc/c"));
        for directive in
            ["Protect", "Private", "NoNewPrivileges", "Restrict", "ReadOnly", "SystemCall", "User=", "MemoryMax"]
        {
            assert!(
                !text.lines().any(|line| line.starts_with(directive) && !line.starts_with("RestartPrevent")),
                "{directive}"
            );
        }
        assert!(text.contains("KillMode=mixed\n") && text.contains("Delegate=yes\n"));
    }
}
