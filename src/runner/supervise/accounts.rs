//! What an SSH server needs of `/etc/passwd`, `/etc/group` and `/etc/shadow`. Pure: text in, text out; None = as it is.

/// The account under which sshd does what needs no rights.
const SSHD: &str = "sshd";

/// `/etc/passwd` with root in it (whose password, if it stands there, is not locked), and with the user that sshd needs
/// if `for_sshd`.
pub(super) fn passwd(text: &str, shell: &str, for_sshd: bool) -> Option<String> {
    let mut wanted = unlocked(text).unwrap_or_else(|| text.to_owned());
    if !has(&wanted, "root") {
        add_line(&mut wanted, &format!("root:x:0:0:root:/root:{shell}"));
    }
    if for_sshd && !has(&wanted, SSHD) {
        let id = free_id(&wanted);
        // What Debian's package adds, but for the number.
        add_line(&mut wanted, &format!("{SSHD}:x:{id}:{id}:sshd privilege separation:/run/sshd:/usr/sbin/nologin"));
    }
    (wanted != text).then_some(wanted)
}

/// `/etc/group` with the groups of the accounts that [`passwd`] adds. `passwd` is its text afterwards.
pub(super) fn group(text: &str, passwd: &str) -> Option<String> {
    let mut wanted = text.to_owned();
    for user in ["root", SSHD] {
        let Some(gid) = entry(passwd, user).and_then(|entry| entry.split(':').nth(3)) else { continue };
        let known = |line: &str| line.split(':').nth(2) == Some(gid);
        if !has(&wanted, user) && !wanted.lines().any(known) {
            add_line(&mut wanted, &format!("{user}:x:{gid}:"));
        }
    }
    (wanted != text).then_some(wanted)
}

/// The file with root's entry unlocked: without PAM, sshd refuses accounts whose password begins with `!`, also to those
/// who have a key. `*` is no password either, but no lock.
pub(super) fn unlocked(text: &str) -> Option<String> {
    let root = entry(text, "root")?;
    let mut fields: Vec<&str> = root.split(':').collect();
    let password = fields.get_mut(1).filter(|password| password.starts_with('!'))?;
    *password = "*";
    let fixed = fields.join(":");
    let mut lines: Vec<&str> = text.split('\n').collect();
    let line = lines.iter_mut().find(|line| line.trim_end_matches('\r') == root)?;
    *line = &fixed;
    Some(lines.join("\n"))
}

/// The line of a name.
fn entry<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| line.split_once(':').is_some_and(|(first, _)| first == name))
}

fn has(text: &str, name: &str) -> bool {
    entry(text, name).is_some()
}

fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

/// A number for a system account that nobody has, as user or as group: 74 is Red Hat's for sshd.
fn free_id(passwd: &str) -> u32 {
    let taken = |id: u32| {
        let id = id.to_string();
        passwd.lines().any(|line| line.split(':').skip(2).take(2).any(|field| field == id))
    };
    std::iter::once(74).chain((100..1000).rev()).find(|id| !taken(*id)).unwrap_or(74)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n";

    #[test]
    fn what_is_whole_is_left_alone() {
        assert_eq!(passwd(DEBIAN, "/bin/sh", true), None);
        assert_eq!(group("root:x:0:\nnogroup:x:65534:\n", DEBIAN), None);
        for shadow in ["root:*:1:0:::::\n", "root:$6$x:1::::::\ndaemon:!:1::::::\n", "root::1::::::\n", ""] {
            assert_eq!(unlocked(shadow), None, "{shadow:?}");
        }
    }

    #[test]
    fn an_image_without_accounts_gets_two() {
        let made = passwd("", "/bin/sh", true).expect("it had none");
        assert_eq!(
            made,
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:74:74:sshd privilege separation:/run/sshd:/usr/sbin/nologin\n"
        );
        assert_eq!(group("", &made).as_deref(), Some("root:x:0:\nsshd:x:74:\n"));
        assert_eq!(passwd("", "/bin/sh", false).as_deref(), Some("root:x:0:0:root:/root:/bin/sh\n"));
        assert_eq!(passwd(&made, "/bin/sh", true), None, "the second time there is nothing to do");
    }

    #[test]
    fn the_number_is_free_and_the_last_line_may_lack_its_end() {
        let made = passwd("root:x:0:0::/root:/bin/sh\na:x:74:5::/:/x\nb:x:5:999::/:/x", "/bin/sh", true);
        assert!(made.expect("sshd was missing").contains(":/x\nsshd:x:998:998:"));
    }

    #[test]
    fn only_roots_lock_is_taken_away() {
        for (before, after) in [
            ("root:!:19000:0:99999:7:::\nbin:!:1::::::\n", "root:*:19000:0:99999:7:::\nbin:!:1::::::\n"),
            ("root:!!:1::::::\n", "root:*:1::::::\n"),
            ("toor:!:1::::::\nroot:!$6$hash:1::::::", "toor:!:1::::::\nroot:*:1::::::"),
        ] {
            assert_eq!(unlocked(before).as_deref(), Some(after));
        }
        assert!(
            passwd("root:!:0:0::/root:/bin/sh\n", "/bin/sh", false).expect("it was locked").starts_with("root:*:0")
        );
    }
}
