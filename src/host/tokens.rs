//! The two secrets of a cluster: what users send, and what nodes send. Made at the first start.

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::{Auth, AuthMode};
use crate::sys::{file, random};

use super::HostFault;

/// Who sends a request, by its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// A person's client or dashboard.
    User,
    /// A Runner.
    Node,
}

/// What is compared with the token of each request: never the tokens themselves.
#[derive(Clone)]
pub(super) struct Tokens {
    /// None: `auth.mode = "none"`.
    digests: Option<Digests>,
}

#[derive(Clone)]
struct Digests {
    user: [u8; 32],
    node: [u8; 32],
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// What a token is worth where one of `wanted` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Welcome,
    /// A right token, but of the other kind.
    WrongKind,
    /// Missing or wrong.
    Nobody,
}

impl Tokens {
    /// Reads the token files, making those that are missing.
    ///
    /// # Errors
    /// A file cannot be read or written, or holds no token.
    pub(super) fn prepare(auth: &Auth) -> Result<Self, HostFault> {
        // Also in mode "none": the files are there when the mode is changed, and clients that send a token find one.
        let user = token(auth.token.as_deref(), &auth.token_file)?;
        let node = token(auth.node_token.as_deref(), &auth.node_token_file)?;
        Ok(match auth.mode {
            AuthMode::None => Self { digests: None },
            AuthMode::Token => Self { digests: Some(Digests { user: digest(&user), node: digest(&node) }) },
        })
    }

    /// Tokens that are known already.
    #[cfg(test)]
    pub(super) fn of(user: &str, node: &str) -> Self {
        Self { digests: Some(Digests { user: digest(user), node: digest(node) }) }
    }

    /// Is a token asked for at all?
    pub(super) fn asked_for(&self) -> bool {
        self.digests.is_some()
    }

    /// Compares digests, and all of them: the time that it takes tells nothing of how much of a token was right.
    pub(super) fn check(&self, token: Option<&str>, wanted: Audience) -> Standing {
        let Some(digests) = &self.digests else { return Standing::Welcome };
        let Some(token) = token else { return Standing::Nobody };
        let given = digest(token);
        let (is_user, is_node) = (same(&given, &digests.user), same(&given, &digests.node));
        match (wanted, is_user, is_node) {
            (Audience::User, true, _) | (Audience::Node, _, true) => Standing::Welcome,
            (Audience::User, false, true) | (Audience::Node, true, false) => Standing::WrongKind,
            (_, false, false) => Standing::Nobody,
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

/// The token of the configuration, else of its file, which is made where there is none.
fn token(given: Option<&str>, path: &Path) -> Result<String, HostFault> {
    if let Some(token) = given {
        return Ok(token.to_owned());
    }
    let io_fault = |what: &str, error: &dyn fmt::Display| {
        HostFault(format!("cannot {what} the token file {}: {error}", path.display()))
    };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let token = text.trim();
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let why = "expected one line of printable characters; remove the file to have a new one made";
                return Err(io_fault("use", &why));
            }
            Ok(token.to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let token = random::hex(32);
            if let Some(folder) = path.parent() {
                file::make_dir(folder, 0o700).map_err(|error| io_fault("make", &error))?;
            }
            file::write_atomic(path, format!("{token}\n").as_bytes(), 0o600)
                .map_err(|error| io_fault("make", &error))?;
            Ok(token)
        }
        Err(error) => Err(io_fault("read", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_opens_its_own_doors() {
        let tokens = Tokens::of("user", "node");
        for (token, wanted, standing) in [
            (Some("user"), Audience::User, Standing::Welcome),
            (Some("node"), Audience::Node, Standing::Welcome),
            (Some("user"), Audience::Node, Standing::WrongKind),
            (Some("node"), Audience::User, Standing::WrongKind),
            (Some("use"), Audience::User, Standing::Nobody),
            (Some(""), Audience::User, Standing::Nobody),
            (None, Audience::User, Standing::Nobody),
        ] {
            assert_eq!(tokens.check(token, wanted), standing, "{token:?} {wanted:?}");
        }
        assert_eq!(Tokens { digests: None }.check(None, Audience::Node), Standing::Welcome);
    }

    #[test]
    fn a_token_file_is_made_once_and_is_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("hakuriver-tokens-{}", random::hex(8)));
        let path = folder.join("state/token");
        let first = token(None, &path).expect("made");
        assert_eq!(first.len(), 64);
        assert_eq!(token(None, &path).expect("read"), first);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(token(Some("given"), &path).expect("given"), "given");
        std::fs::write(&path, "\n").expect("write");
        assert!(token(None, &path).expect_err("empty").0.contains("state/token"));
        let _ = std::fs::remove_dir_all(&folder);
    }
}
