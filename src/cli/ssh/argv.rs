//! What ssh is called with. Pure.

use std::path::PathBuf;

use crate::cli::words::shell_word;
use crate::domain::ids::TaskId;

/// Whom ssh talks to, and how it knows that it is the right one.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) id: TaskId,
    pub(super) name: Option<String>,
    pub(super) user: String,
    /// The file with the VPS's host keys.
    pub(super) known_hosts: PathBuf,
}

/// The way to the VPS.
#[derive(Clone, Debug)]
pub(super) enum Route {
    /// ssh starts this command line, by a shell.
    Proxy(String),
    /// A listener of ours on 127.0.0.1.
    LocalPort(u16),
}

/// The name under which the VPS's keys stand in its file; no machine has it.
pub(super) fn alias(id: TaskId) -> String {
    format!("hakuriver-{id}")
}

/// The whole argv. `rest` is what the user wrote after the task: ssh takes options also after the destination.
pub(super) fn ssh(access: &Access, route: &Route, rest: &[String]) -> Vec<String> {
    let mut argv = vec!["ssh".to_owned()];
    for (name, value) in options(access) {
        argv.extend(["-o".to_owned(), format!("{name}={value}")]);
    }
    match route {
        Route::Proxy(line) => argv.extend(["-o".to_owned(), format!("ProxyCommand={line}")]),
        // "none" keeps a ProxyCommand or ProxyJump of the user's own configuration out.
        Route::LocalPort(port) => {
            let to_port =
                ["-o", "ProxyCommand=none", "-o", "HostName=127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
            argv.extend(to_port);
        }
    }
    // ssh obeys the first that names a user: ours would take away the force of a later one.
    if !names_user(rest) {
        argv.extend(["-l".to_owned(), access.user.clone()]);
    }
    argv.push(alias(access.id));
    argv.extend_from_slice(rest);
    argv
}

/// Do ssh's own options in `rest` say whom to log in as? They end at the first word that is none: the command.
fn names_user(rest: &[String]) -> bool {
    /// The options of ssh(1) that take a value, in the same word or in the next.
    const WITH_VALUE: &str = "BbcDEeFIiJLlmOoPpQRSWw";
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty() && *letters != "-") else {
            return false;
        };
        let Some(at) = letters.find(|letter| WITH_VALUE.contains(letter)) else { continue };
        let (option, value) = letters[at..].split_at(1);
        let value = if value.is_empty() { words.next().map_or("", String::as_str) } else { value };
        let setting = value.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        if option == "l" || option == "o" && setting.eq_ignore_ascii_case("user") {
            return true;
        }
    }
    false
}

/// A block for `~/.ssh/config`.
pub(super) fn config_block(access: &Access, proxy: &str) -> String {
    let alias = alias(access.id);
    let names = access.name.iter().map(|name| format!("{name} ")).collect::<String>();
    let mut text =
        format!("Host {names}{alias}\n    HostName {alias}\n    User {}\n    ProxyCommand {proxy}\n", access.user);
    for (name, value) in options(access) {
        text.push_str(&format!("    {name} {value}\n"));
    }
    text
}

/// Only the keys that the Host told are believed, nothing is asked, and the user's own files stay as they are.
fn options(access: &Access) -> Vec<(&'static str, String)> {
    vec![
        ("HostKeyAlias", alias(access.id)),
        ("UserKnownHostsFile", quoted(&access.known_hosts.display().to_string())),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        // The address is that of the proxy, and means nothing.
        ("CheckHostIP", "no".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
    ]
}

/// A file name for OpenSSH's configuration: in double quotes (it may have blanks), `%` doubled (it begins a token).
fn quoted(path: &str) -> String {
    let mut text = String::from("\"");
    for c in path.chars() {
        match c {
            '%' => text.push_str("%%"),
            '"' | '\\' => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A command line for ssh's ProxyCommand: every word quoted for the shell that will read it, `%` doubled for ssh, which reads it
/// before.
pub(super) fn shell_line(words: &[String]) -> String {
    words.iter().map(|word| shell_word(word).replace('%', "%%")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(name: Option<&str>) -> Access {
        Access {
            id: TaskId::from_u64(42),
            name: name.map(str::to_owned),
            user: "root".to_owned(),
            known_hosts: "/home/u/.hakuriver/known_hosts.d/42".into(),
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell_and_for_ssh() {
        for (word, expected) in [
            ("/usr/bin/hakuriver", "/usr/bin/hakuriver"),
            ("--stdio", "--stdio"),
            ("", "''"),
            ("/my dir/haku", "'/my dir/haku'"),
            ("it's", "'it'\\''s'"),
            ("$(id)", "'$(id)'"),
            ("a;b", "'a;b'"),
            ("~root", "'~root'"),
            ("100%h", "'100%%h'"),
            ("a\\b", "'a\\b'"),
            ("a\"b", "'a\"b'"),
            ("*", "'*'"),
            ("ä", "'ä'"),
        ] {
            assert_eq!(shell_line(&[word.to_owned()]), expected, "{word:?}");
        }
        assert_eq!(shell_line(&["a b".into(), "c".into()]), "'a b' c");
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in
            ["", " ", "it's", "$(id >/tmp/x)", "a\nb", "'", "''", "\\", "\"", "`id`", "!x", "-n", "~", "a b", "*"]
        {
            let line = format!("printf %s {}", shell_word(word));
            let program =
                crate::sys::command::Program::new(["/bin/sh", "-c", &line], std::time::Duration::from_secs(10));
            let output = program.run().and_then(crate::sys::command::Output::ok).expect("sh is there");
            assert_eq!(String::from_utf8_lossy(&output), word, "{line}");
        }
    }

    #[test]
    fn paths_are_quoted_for_opensshs_configuration() {
        assert_eq!(quoted("/a b/c%d\"e\\f"), "\"/a b/c%%d\\\"e\\\\f\"");
    }

    #[test]
    fn the_rest_follows_the_destination_untouched() {
        let rest = ["-v", "-L", "1:h:2", "--", "uname", "-a"].map(str::to_owned);
        let argv = ssh(&access(None), &Route::Proxy("haku ssh --stdio 42".into()), &rest);
        assert_eq!(
            argv.join(" "),
            "ssh -o HostKeyAlias=hakuriver-42 \
            -o UserKnownHostsFile=\"/home/u/.hakuriver/known_hosts.d/42\" -o GlobalKnownHostsFile=/dev/null \
            -o StrictHostKeyChecking=yes -o CheckHostIP=no -o UpdateHostKeys=no -o ProxyCommand=haku ssh --stdio 42 \
            -l root hakuriver-42 -v -L 1:h:2 -- uname -a"
        );
        let argv = ssh(&access(None), &Route::LocalPort(2222), &[]);
        let text = argv.join(" ");
        assert!(text.ends_with("-o ProxyCommand=none -o HostName=127.0.0.1 -p 2222 -l root hakuriver-42"), "{text}");
    }

    #[test]
    fn a_user_named_to_ssh_itself_is_obeyed() {
        for (rest, expected) in [
            ("-l me", true),
            ("-lme -v", true),
            ("-v -i key -l me -- id", true),
            ("-vl me", true),
            ("-o User=me", true),
            ("-ouser=me", true),
            ("", false),
            ("-v", false),
            ("-o UserKnownHostsFile=/dev/null", false),
            ("-i -l", false),
            ("ls -l me", false),
            ("-- ls -l me", false),
            ("-v ls -o User=x", false),
            ("- -l me", false),
            ("-o", false),
        ] {
            let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            let argv = ssh(&access(None), &Route::LocalPort(1), &words).join(" ");
            assert_eq!(!argv.contains("-l root"), expected, "{argv}");
        }
    }

    #[test]
    fn the_block_has_all_that_ssh_needs() {
        let block = config_block(&access(Some("dev")), "haku ssh --stdio 42");
        assert_eq!(
            block,
            "Host dev hakuriver-42\n    HostName hakuriver-42\n    User root\n    ProxyCommand haku ssh --stdio 42\n    \
             HostKeyAlias hakuriver-42\n    UserKnownHostsFile \"/home/u/.hakuriver/known_hosts.d/42\"\n    \
             GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n    CheckHostIP no\n    UpdateHostKeys no\n"
        );
        assert!(config_block(&access(None), "x").starts_with("Host hakuriver-42\n"));
    }
}
