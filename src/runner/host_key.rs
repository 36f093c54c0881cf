//! The SSH host key of a VPS: Ed25519, made for it from a seed, never taken from an image.
//!
//! The Runner keeps the seed in the task's box and reports the public line; the supervisor in the container writes the
//! private key in the format of the SSH server that the image has.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_compact::{KeyPair, Seed};

use crate::sys::random;

const ALGORITHM: &[u8] = b"ssh-ed25519";

/// A host key.
pub struct HostKey {
    pair: KeyPair,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({})", self.public_line())
    }
}

/// A new random seed, as 64 hexadecimal digits.
pub fn new_seed() -> String {
    random::hex(32)
}

impl HostKey {
    /// From a seed of 64 hexadecimal digits; None if it is not that.
    pub fn from_seed_hex(seed: &str) -> Option<Self> {
        if seed.len() != 64 || !seed.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&seed[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self { pair: KeyPair::try_from_seed(Seed::new(bytes)).ok()? })
    }

    /// `ssh-ed25519 AAAA…`, as it stands in a known_hosts file after the name.
    pub fn public_line(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(self.public_blob()))
    }

    /// The private key as a file of OpenSSH, without a passphrase. Format: PROTOCOL.key of OpenSSH ("openssh-key-v1").
    pub fn openssh_private(&self) -> String {
        let mut secret = Vec::new();
        // Two equal numbers show a reader that it has decrypted well; without a cipher any number will do.
        secret.extend_from_slice(&[0x48, 0x61, 0x6b, 0x75, 0x48, 0x61, 0x6b, 0x75]);
        put(&mut secret, ALGORITHM);
        put(&mut secret, self.public());
        put(&mut secret, &*self.pair.sk);
        put(&mut secret, b"hakuriver");
        // Filled with 1, 2, 3 … to whole blocks of the cipher, which are 8 bytes where there is none.
        for pad in 1_u8.. {
            if secret.len().is_multiple_of(8) {
                break;
            }
            secret.push(pad);
        }

        let mut file = b"openssh-key-v1\0".to_vec();
        put(&mut file, b"none");
        put(&mut file, b"none");
        put(&mut file, b"");
        file.extend_from_slice(&1_u32.to_be_bytes());
        put(&mut file, &self.public_blob());
        put(&mut file, &secret);

        let mut text = "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned();
        let encoded = STANDARD.encode(file);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(70));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END OPENSSH PRIVATE KEY-----\n");
        text
    }

    /// The private key as a file of dropbear: the algorithm, then seed and public key in one string of 64 bytes
    /// (dropbear's ed25519.c, `buf_put_ed25519_priv_key`).
    pub fn dropbear_private(&self) -> Vec<u8> {
        let mut file = Vec::new();
        put(&mut file, ALGORITHM);
        put(&mut file, &*self.pair.sk);
        file
    }

    fn public(&self) -> &[u8] {
        &*self.pair.pk
    }

    /// The public key as it travels (RFC 8709).
    fn public_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put(&mut blob, ALGORITHM);
        put(&mut blob, self.public());
        blob
    }
}

/// A `string` of the SSH protocol (RFC 4251, section 5): its length in four bytes, then itself.
fn put(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("keys are short");
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::command::{CommandFault, Output, Program};
    use crate::sys::file::{Scratch, write_atomic};
    use std::time::Duration;

    /// RFC 8032, section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn key() -> HostKey {
        HostKey::from_seed_hex(SEED).expect("it is a seed")
    }

    #[test]
    fn the_public_key_is_that_of_the_standard() {
        let hex: String = key().public().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, PUBLIC);
        assert!(key().public_line().starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"), "{}", key().public_line());
    }

    #[test]
    fn what_is_no_seed_is_refused() {
        for bad in ["", "00", &"0".repeat(63), &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(HostKey::from_seed_hex(bad).is_none(), "{bad:?}");
        }
        assert!(HostKey::from_seed_hex(&new_seed()).is_some());
        assert_ne!(new_seed(), new_seed());
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", key()).contains(&SEED[..16]));
    }

    /// Key files of several lengths of padding are what the real programs read; skipped where they are not installed.
    fn read_by(argv: &[&str], file: &[u8]) -> Option<String> {
        let scratch = Scratch::new();
        let path = scratch.path().join("key");
        write_atomic(&path, file, 0o600).expect("it can be written");
        let argv = argv.iter().copied().chain([path.to_str().expect("a plain path")]);
        match Program::new(argv, Duration::from_secs(20)).run().and_then(Output::ok) {
            Ok(out) => Some(String::from_utf8(out).expect("text")),
            Err(CommandFault::CannotStart { .. }) => None,
            Err(fault) => panic!("{fault}"),
        }
    }

    #[test]
    fn openssh_reads_its_file() {
        if let Some(line) = read_by(&["ssh-keygen", "-y", "-f"], key().openssh_private().as_bytes()) {
            assert_eq!(line.trim(), format!("{} hakuriver", key().public_line()));
        }
    }

    #[test]
    fn dropbear_reads_its_file() {
        if let Some(text) = read_by(&["dropbearkey", "-y", "-f"], &key().dropbear_private()) {
            assert!(text.contains(&key().public_line()), "{text}");
        }
    }
}
