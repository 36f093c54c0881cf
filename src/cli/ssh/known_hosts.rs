//! The host keys of a VPS as a file that ssh reads: `~/.hakuriver/known_hosts.d/<id>`.
//!
//! One small file a VPS, written anew when its keys have changed, and removed when it is killed. It stays between calls, because
//! `ssh` replaces this process, and because blocks from `--print-config` name it.

use std::path::{Path, PathBuf};

use super::argv::alias;
use crate::cli::fault::Fault;
use crate::config;
use crate::domain::ids::TaskId;
use crate::sys::file;

/// Sees to it that the file has these keys; its path.
pub(super) fn keep(id: TaskId, host_keys: &[String]) -> Result<PathBuf, Fault> {
    let path = folder()?.join(id.to_string());
    write(&path, &content(id, host_keys)?)?;
    Ok(path)
}

/// Removes the file of a VPS that was killed. If it is not there, or cannot be removed, it does no harm.
pub(in crate::cli) fn forget(id: TaskId) {
    if let Ok(folder) = folder() {
        let _not_there = std::fs::remove_file(folder.join(id.to_string()));
    }
}

fn folder() -> Result<PathBuf, Fault> {
    Ok(config::default_dir()?.join("known_hosts.d"))
}

fn write(path: &Path, content: &str) -> Result<(), Fault> {
    if std::fs::read_to_string(path).is_ok_and(|before| before == content) {
        return Ok(());
    }
    let cannot = |fault: std::io::Error| Fault::Refused(format!("cannot keep the host keys of the VPS: {fault}"));
    if let Some(folder) = path.parent() {
        file::make_dir(folder, 0o700).map_err(cannot)?;
    }
    file::write_atomic(path, content.as_bytes(), 0o600).map_err(cannot)
}

/// One line a key. A key that is more than a type and base64 is refused: it could name other hosts.
fn content(id: TaskId, host_keys: &[String]) -> Result<String, Fault> {
    let mut text = String::new();
    for key in host_keys {
        let words: Vec<&str> = key.split(' ').collect();
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_@.+/=".contains(&b));
        if words.len() < 2 || !words[..2].iter().all(|word| is_word(word)) || key.chars().any(char::is_control) {
            return Err(Fault::Refused(format!("the Host told a host key of VPS {id} that is none: {key:?}")));
        }
        text.push_str(&format!("{} {} {}\n", alias(id), words[0], words[1]));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_lines_for_the_alias() {
        let id = TaskId::from_u64(42);
        let keys = ["ssh-ed25519 AAAAC3+/=".to_owned(), "ssh-rsa AAAAB3 comment".to_owned()];
        assert_eq!(
            content(id, &keys),
            Ok("hakuriver-42 ssh-ed25519 AAAAC3+/=\nhakuriver-42 ssh-rsa AAAAB3\n".to_owned())
        );
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 A\n* ssh-rsa B",
            "ssh-ed25519 A*",
            "@cert-authority,* A\tB",
        ] {
            assert!(content(id, &[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_file_is_private_and_written_when_it_changes() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = std::env::temp_dir().join(format!("hakuriver-known-hosts-{}", std::process::id()));
        let path = dir.join("d/42");
        write(&path, "a\n").expect("it can be written");
        let first = std::fs::metadata(&path).expect("it was written");
        assert_eq!(first.mode() & 0o777, 0o600);
        write(&path, "a\n").expect("nothing to do");
        assert_eq!(std::fs::metadata(&path).expect("it is there").ino(), first.ino());
        write(&path, "b\n").expect("it can be replaced");
        assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), Some("b\n"));
        std::fs::remove_dir_all(dir).expect("it was made");
    }
}
