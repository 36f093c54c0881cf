//! OpenSSH public keys, as in `authorized_keys`, without its options.

use std::fmt;

use super::spec::SpecFault;

/// One checked public key: known algorithm, base64 that decodes to that algorithm, printable comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: &'static str,
    blob: Vec<u8>,
    comment: String,
}

impl PublicKey {
    /// Parses one line.
    ///
    /// # Errors
    /// One sentence: what is wrong with the key (options before it, unknown algorithm, bad base64, another algorithm inside …).
    pub fn parse(_line: &str) -> Result<Self, SpecFault> {
        unimplemented!("domain")
    }

    /// Parses a file's or a request's text: one key a line; blank lines and `#` comments are passed over.
    ///
    /// # Errors
    /// The first bad line, with its number; or that there is no key at all; or that there are more than 64.
    pub fn parse_all(_text: &str) -> Result<Vec<Self>, SpecFault> {
        unimplemented!("domain")
    }

    /// `ssh-ed25519`, `ssh-rsa`, …
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The comment, empty if there is none.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// The wire form (RFC 4253, 6.6), whose SHA-256 is the fingerprint.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        unimplemented!("domain")
    }
}

impl fmt::Display for PublicKey {
    /// The line for `authorized_keys`: rebuilt from the parts, so nothing else of the input can be in it.
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!("domain")
    }
}
