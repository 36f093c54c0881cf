//! OpenSSH's server: its configuration, wholly our own. Pure.
//!
//! The hard part is the task's environment: sshd gives its sessions none of its own. `SetEnv` carries it, but its quoting
//! depends on the version, which stands as text in the program itself (asking with `sshd -V` costs a process start).

use super::vps::Variable;

/// Where our files stand in the container.
pub(super) const FOLDER: &str = "/etc/hakuriver";

/// What does not change. The image's own sshd_config is not used.
const SETTINGS: &str = "\
# Written by hakuriver at each start of the container.
Port 22
HostKey /etc/hakuriver/host_key
AuthorizedKeysFile /etc/hakuriver/authorized_keys .ssh/authorized_keys
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
ChallengeResponseAuthentication no
KbdInteractiveAuthentication no
UsePAM no
# The owner and mode of / and /root are the image's business; our keys stand in a folder that only root can enter.
StrictModes no
# Looking up who calls would wait for a name server that may not be there.
UseDNS no
# Many sessions at once come from one address, the Host's.
MaxStartups 500
MaxSessions 500
AcceptEnv LANG LC_*
X11Forwarding yes
PrintMotd no
Subsystem sftp internal-sftp
";

/// A version of OpenSSH, 9.2 as (9, 2).
pub(super) type Version = (u32, u32);

/// Brought in `SetEnv`.
const SET_ENV: Version = (7, 8);
/// Brought quoting with escapes, and `#` within quotes.
const ESCAPES: Version = (8, 7);
/// Brought penalties for an address that fails to log in, on by default. All our users come from one address.
const PENALTIES: Version = (9, 8);

/// sshd's children get the whole configuration in one message of 256 KiB at most.
const LARGEST_ENVIRONMENT: usize = 128 << 10;
/// Before it had escapes, OpenSSH also cut lines of authorized_keys at 8 KiB.
const LARGEST_OLD_LINE: usize = 8_000;

/// The version in the program's own text: `OpenSSH_9.2p1`. Other mentions (of versions with faults that it works around)
/// have no `p`.
pub(super) fn version_in(program: &[u8]) -> Option<Version> {
    const MARK: &[u8] = b"OpenSSH_";
    let mut rest = program;
    while let Some(at) = rest.iter().position(|byte| *byte == MARK[0]) {
        rest = &rest[at..];
        if let Some(version) = rest.strip_prefix(MARK).and_then(parse_version) {
            return Some(version);
        }
        rest = &rest[1..];
    }
    None
}

fn parse_version(text: &[u8]) -> Option<Version> {
    let text = &text[..text.len().min(16)];
    let dot = text.iter().position(|byte| *byte == b'.')?;
    let p = text.iter().position(|byte| *byte == b'p')?;
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    text.get(p + 1).filter(|byte| byte.is_ascii_digit())?;
    Some((number(&text[..dot])?, number(text.get(dot + 1..p)?)?))
}

/// What sshd is given.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) config: String,
    pub(super) authorized_keys: String,
    /// What could not be carried of the container's own environment.
    pub(super) warnings: Vec<String>,
}

/// Writes both files for that version (None = unknown: nothing of 9.8 and later, nothing before 7.8 is assumed).
///
/// # Errors
/// A variable of the task cannot be carried to its sessions.
pub(super) fn files(version: Option<Version>, keys: &[String], environment: &[Variable]) -> Result<Files, String> {
    let carried = carry(version, environment)?;
    let mut config = SETTINGS.to_owned();
    if version.is_some_and(|version| version >= PENALTIES) {
        config.push_str("PerSourcePenalties no\n");
    }
    if !carried.in_keys.is_empty() {
        config.push_str("PermitUserEnvironment yes\n");
    }
    if !carried.in_config.is_empty() {
        // One line: only the first SetEnv counts.
        config.push_str(&format!("SetEnv {}\n", carried.in_config.join(" ")));
    }
    let options = carried.in_keys.join(",");
    let line = |key: &String| if options.is_empty() { format!("{key}\n") } else { format!("{options} {key}\n") };
    Ok(Files { config, authorized_keys: keys.iter().map(line).collect(), warnings: carried.warnings })
}

#[derive(Debug, Default)]
struct Carried {
    /// `"NAME=value"`, for SetEnv.
    in_config: Vec<String>,
    /// `environment="NAME=value"`, for sessions that are opened with a key of the task.
    in_keys: Vec<String>,
    warnings: Vec<String>,
}

fn carry(version: Option<Version>, environment: &[Variable]) -> Result<Carried, String> {
    let has_set_env = version.is_none_or(|version| version >= SET_ENV);
    let has_escapes = version.is_some_and(|version| version >= ESCAPES);
    let mut carried = Carried::default();
    let mut size = 0;
    for Variable { name, value, of_task } in environment {
        let plain = !value.contains(['"', '\\', '#']);
        size += name.len() + value.len() + 20;
        let obstacle = if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            Some("has a name that is more than letters, digits and '_'")
        } else if value.contains(['\n', '\0']) {
            Some("has a line break, which an SSH server cannot hand to its sessions")
        } else if size > LARGEST_ENVIRONMENT {
            Some("makes the environment longer than 128 KiB")
        } else if has_set_env && (plain || has_escapes) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            carried.in_config.push(format!("\"{name}={escaped}\""));
            None
        } else if value.ends_with('\\') {
            // In authorized_keys a backslash before the closing quote would take it away.
            Some("ends with a backslash, which OpenSSH before 8.7 cannot carry")
        } else {
            carried.in_keys.push(format!("environment=\"{name}={}\"", value.replace('"', "\\\"")));
            let length: usize = carried.in_keys.iter().map(|option| option.len() + 1).sum();
            (length > LARGEST_OLD_LINE).then(|| {
                carried.in_keys.pop();
                "makes the environment longer than OpenSSH before 8.7 can carry"
            })
        };
        match obstacle {
            None => {}
            Some(obstacle) if *of_task => return Err(format!("the environment variable {name:?} {obstacle}")),
            Some(obstacle) => carried.warnings.push(format!("left out: the image's variable {name:?} {obstacle}")),
        }
    }
    Ok(carried)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> Variable {
        Variable { name: name.into(), value: value.into(), of_task: true }
    }

    #[test]
    fn the_version_is_found_among_others() {
        for (program, version) in [
            (b"\0OpenSSH_2.*,OpenSSH_6.6.1*\0OpenSSH_9.2p1 Debian-2\0".as_slice(), Some((9, 2))),
            (b"OpenSSH_10.0p2", Some((10, 0))),
            (b"OOpenSSH_7.4p1", Some((7, 4))),
            (b"OpenSSH_9.2", None),
            (b"OpenSSH_9.p1 OpenSSH_.2p1 OpenSSH_p1.2 OpenSSH_9.2px", None),
            (b"OpenSSH_", None),
            (b"", None),
        ] {
            assert_eq!(version_in(program), version, "{}", String::from_utf8_lossy(program));
        }
    }

    #[test]
    fn each_version_gets_what_it_understands() {
        let env = [variable("A", "b c"), variable("B", "x\"y\\z#'"), variable("C", "")];
        let keys = ["ssh-ed25519 AAAA me".to_owned()];
        let of = |version| files(version, &keys, &env).expect("all can be carried");

        for version in [(8, 7), (9, 2), (9, 8), (10, 0)] {
            let files = of(Some(version));
            assert!(files.config.ends_with("SetEnv \"A=b c\" \"B=x\\\"y\\\\z#'\" \"C=\"\n"), "{}", files.config);
            assert_eq!(files.authorized_keys, "ssh-ed25519 AAAA me\n");
            assert_eq!(files.config.contains("PerSourcePenalties no"), version >= (9, 8));
        }
        for version in [None, Some((7, 8)), Some((8, 4))] {
            let files = of(version);
            assert!(files.config.ends_with("PermitUserEnvironment yes\nSetEnv \"A=b c\" \"C=\"\n"), "{}", files.config);
            assert_eq!(files.authorized_keys, "environment=\"B=x\\\"y\\z#'\" ssh-ed25519 AAAA me\n");
        }
        let files = of(Some((7, 4)));
        assert!(!files.config.contains("SetEnv") && files.config.contains("PermitUserEnvironment yes"));
        assert_eq!(
            files.authorized_keys,
            "environment=\"A=b c\",environment=\"B=x\\\"y\\z#'\",environment=\"C=\" ssh-ed25519 AAAA me\n"
        );
    }

    #[test]
    fn without_an_environment_nothing_is_said_of_it() {
        let files = files(Some((8, 4)), &["k1".into(), "k2".into()], &[]).expect("there is nothing to carry");
        assert!(!files.config.contains("SetEnv") && !files.config.contains("UserEnv"), "{}", files.config);
        assert_eq!(files.authorized_keys, "k1\nk2\n");
    }

    #[test]
    fn what_cannot_be_carried_is_refused_for_the_task_and_left_out_for_the_image() {
        let long = "x".repeat(200_000);
        for (version, name, value) in [
            ((9, 2), "A", "b\nPermitEmptyPasswords yes"),
            ((7, 4), "A", "b\nssh-ed25519 AAAA"),
            ((9, 2), "A", "b\0"),
            ((9, 2), "A B", "c"),
            ((9, 2), "A\"", "c"),
            ((9, 2), "", "c"),
            ((9, 2), "A", &long),
            ((8, 4), "A", "C:\\"),
            ((7, 4), "A", &long[..9_000]),
        ] {
            let fault = files(Some(version), &[], &[variable(name, value)]).expect_err(name);
            assert!(fault.contains(&format!("{name:?}")), "{fault}");
            let of_image = Variable { of_task: false, ..variable(name, value) };
            let left = files(Some(version), &["key".into()], &[of_image]).expect("it is left out");
            assert_eq!((left.warnings.len(), left.authorized_keys.as_str()), (1, "key\n"));
            assert!(!left.config.contains("SetEnv"));
        }
    }
}
