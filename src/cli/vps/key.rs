//! The public keys of a VPS: from an option, or from where OpenSSH keeps the user's own.

use std::path::{Path, PathBuf};

use crate::cli::fault::Fault;
use crate::config;
use crate::domain::ssh_key::PublicKey;

/// Tried in this order, in `~/.ssh`.
const DEFAULTS: [&str; 3] = ["id_rsa.pub", "id_ed25519.pub", "id_ecdsa.pub"];
/// More than any set of keys needs; what is longer is another file.
const LIMIT: u64 = 1 << 20;

/// The keys, checked. At most one of the two options is given.
pub(super) fn find(string: Option<&str>, file: Option<&str>) -> Result<Vec<PublicKey>, Fault> {
    match (string, file) {
        (Some(_), Some(_)) => {
            Err(Fault::Usage("--public-key-string and --public-key-file exclude each other: give one of them".into()))
        }
        (Some(text), None) => {
            PublicKey::parse_all(text).map_err(|fault| Fault::Usage(format!("--public-key-string: {fault}")))
        }
        (None, Some(file)) => read(&config::expand(file)?),
        (None, None) => default(config::home().as_deref()),
    }
}

fn default(home: Option<&Path>) -> Result<Vec<PublicKey>, Fault> {
    let missing = |tried: &str| {
        Fault::Usage(format!(
            "no public key found ({tried})\n\
             make one with 'ssh-keygen -t ed25519', or name it with --public-key-file or --public-key-string"
        ))
    };
    let Some(home) = home else { return Err(missing("HOME is not set")) };
    let tried: Vec<PathBuf> = DEFAULTS.iter().map(|name| home.join(".ssh").join(name)).collect();
    match tried.iter().find(|path| path.exists()) {
        Some(path) => read(path),
        None => {
            let tried = tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            Err(missing(&format!("tried {tried}")))
        }
    }
}

fn read(path: &Path) -> Result<Vec<PublicKey>, Fault> {
    use std::io::Read as _;
    let shown = path.display();
    let cannot = |fault: std::io::Error| Fault::Usage(format!("cannot read the public key file {shown}: {fault}"));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(cannot)?.take(LIMIT).read_to_end(&mut bytes).map_err(cannot)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Fault::Usage(format!("the public key file {shown} is not text; is it a public key?")))?;
    if text.contains("PRIVATE KEY-----") {
        return Err(Fault::Usage(format!("{shown} is a private key: name the public one, {shown}.pub")));
    }
    PublicKey::parse_all(&text).map_err(|fault| Fault::Usage(format!("the public key file {shown}: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made for this test.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f a@b";

    fn home(name: &str) -> PathBuf {
        let home = std::env::temp_dir().join(format!("hakuriver-key-{name}-{}", std::process::id()));
        std::fs::create_dir_all(home.join(".ssh")).expect("the temporary directory can be written");
        home
    }

    #[test]
    fn keys_are_searched_in_their_order() {
        let home = home("order");
        let fault = default(Some(&home)).expect_err("there is none");
        for name in DEFAULTS {
            assert!(fault.message().is_some_and(|text| text.contains(&format!("/.ssh/{name}"))), "{fault:?}");
        }
        assert_eq!(fault.status(), 2);
        for (name, comment) in [("id_ecdsa.pub", "third"), ("id_ed25519.pub", "second"), ("id_rsa.pub", "first")] {
            std::fs::write(home.join(".ssh").join(name), format!("{KEY}-{comment}\n")).expect("it can be written");
            let keys = default(Some(&home)).expect("there is one");
            assert_eq!(keys[0].comment(), format!("a@b-{comment}"));
        }
        std::fs::write(home.join(".ssh/id_rsa.pub"), "nonsense\n").expect("it can be written");
        let fault = default(Some(&home)).expect_err("the first is broken");
        assert!(fault.message().is_some_and(|text| text.contains("/.ssh/id_rsa.pub: ")), "{fault:?}");
        std::fs::remove_dir_all(home).expect("it was made");
    }

    #[test]
    fn what_is_no_key_is_refused_before_it_is_sent() {
        let home = home("bad");
        let file = home.join("id");
        std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n").expect("it can be written");
        let file = file.to_str().expect("it is UTF-8");
        for (string, path, expected) in [
            (Some(KEY), Some(file), "exclude each other"),
            (Some("'; touch /pwned; '"), None, "--public-key-string: "),
            (Some(""), None, "--public-key-string: "),
            (None, Some(file), "is a private key: name the public one"),
            (None, Some("/nonexistent-hakuriver.pub"), "cannot read the public key file /nonexistent-hakuriver.pub: "),
            (None, Some("/dev/null"), "the public key file /dev/null: "),
        ] {
            let fault = find(string, path).expect_err(expected);
            assert!(fault.message().is_some_and(|text| text.contains(expected)), "{expected}: {fault:?}");
            assert_eq!(fault.status(), 2);
        }
        let two = format!("{KEY}\n{KEY}2");
        assert_eq!(find(Some(&two), None).map(|keys| keys.len()), Ok(2));
        std::fs::remove_dir_all(home).expect("it was made");
    }
}
