//! OpenSSH public keys, as in `authorized_keys`, without its options.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use super::spec::SpecFault;

/// One checked public key: known algorithm, base64 that decodes to that algorithm, printable comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: &'static str,
    blob: Vec<u8>,
    comment: String,
}

/// How the fields after an algorithm's name are laid out.
#[derive(Clone, Copy)]
enum Shape {
    /// RFC 8709: 32 bytes.
    Ed25519,
    /// RFC 4253, 6.6: exponent, modulus.
    Rsa,
    /// RFC 5656, 3.1: the curve's name, and an uncompressed point of this many bytes.
    Ecdsa { curve: &'static str, point: usize },
    /// OpenSSH's PROTOCOL.u2f: as the first, then the application.
    SkEd25519,
    /// OpenSSH's PROTOCOL.u2f: as the third, then the application.
    SkEcdsa { curve: &'static str, point: usize },
}

/// What sshd takes by default, and we too. DSA is not in it: OpenSSH no longer has it.
const ALGORITHMS: [(&str, Shape); 7] = [
    ("ssh-ed25519", Shape::Ed25519),
    ("ssh-rsa", Shape::Rsa),
    ("ecdsa-sha2-nistp256", Shape::Ecdsa { curve: "nistp256", point: 65 }),
    ("ecdsa-sha2-nistp384", Shape::Ecdsa { curve: "nistp384", point: 97 }),
    ("ecdsa-sha2-nistp521", Shape::Ecdsa { curve: "nistp521", point: 133 }),
    ("sk-ssh-ed25519@openssh.com", Shape::SkEd25519),
    ("sk-ecdsa-sha2-nistp256@openssh.com", Shape::SkEcdsa { curve: "nistp256", point: 65 }),
];

/// Bits of an RSA modulus that sshd accepts: `RequiredRSASize`'s default, and `OPENSSL_RSA_MAX_MODULUS_BITS`.
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=16_384;

/// Keys in one text.
const MAX_KEYS: usize = 64;

/// Bytes of one line: an RSA key of 16,384 bits takes 2,800, a comment at most 1,024.
const MAX_LINE: usize = 8_192;

/// Bytes of one comment.
const MAX_COMMENT: usize = 1_024;

impl PublicKey {
    /// Parses one line.
    ///
    /// # Errors
    /// One sentence: what is wrong with the key (options before it, unknown algorithm, bad base64, another algorithm inside …).
    pub fn parse(line: &str) -> Result<Self, SpecFault> {
        Self::parse_line(line).map_err(|what| SpecFault(format!("the public key is not valid: {what}")))
    }

    /// Parses a file's or a request's text: one key a line; blank lines and `#` comments are passed over.
    ///
    /// # Errors
    /// The first bad line, with its number; or that there is no key at all; or that there are more than 64.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, SpecFault> {
        let mut keys = Vec::new();
        // Editors on Windows put a byte order mark in front.
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if keys.len() == MAX_KEYS {
                return Err(SpecFault(format!("there are more than {MAX_KEYS} public keys")));
            }
            let key = Self::parse_line(line)
                .map_err(|what| SpecFault(format!("the public key in line {} is not valid: {what}", index + 1)))?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(SpecFault(
                "there is no public key: expected lines such as 'ssh-ed25519 AAAA... name'".to_owned(),
            ));
        }
        Ok(keys)
    }

    fn parse_line(line: &str) -> Result<Self, String> {
        let line = line.trim_ascii();
        check_kind_of_text(line)?;
        let (word, rest) = split_word(line);
        let Some((algorithm, shape)) = ALGORITHMS.into_iter().find(|(name, _)| *name == word) else {
            return Err(unknown_algorithm(word, rest));
        };
        let (encoded, comment) = split_word(rest);
        if encoded.is_empty() {
            return Err(format!("after '{algorithm}' the key itself is missing"));
        }
        let blob = STANDARD
            .decode(encoded)
            .map_err(|_| format!("what stands after '{algorithm}' is not base64; is the key complete?"))?;
        check_blob(&blob, algorithm, shape)?;
        check_comment(comment)?;
        Ok(Self { algorithm, blob, comment: comment.to_owned() })
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
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }

    /// What is shown of a key where it was given: type, comment (if any) and fingerprint.
    pub fn summary(&self) -> String {
        let separator = if self.comment.is_empty() { "" } else { " " };
        format!("{}{separator}{} {}", self.algorithm, self.comment, self.fingerprint())
    }
}

impl fmt::Display for PublicKey {
    /// The line for `authorized_keys`: rebuilt from the parts, so nothing else of the input can be in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, STANDARD.encode(&self.blob))?;
        if self.comment.is_empty() { Ok(()) } else { write!(f, " {}", self.comment) }
    }
}

/// The first word, and what follows it without the blanks between.
fn split_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start_matches([' ', '\t']))
}

/// Texts that users give by mistake, and lines that are too much.
fn check_kind_of_text(line: &str) -> Result<(), String> {
    if line.is_empty() {
        return Err("it is empty".to_owned());
    }
    if line.contains("PRIVATE KEY") || line.starts_with("PuTTY-User-Key-File") {
        return Err(
            "this is a PRIVATE key, which must not leave its owner; give the public one, in the file that ends in .pub"
                .to_owned(),
        );
    }
    if line.starts_with("---- BEGIN SSH2 PUBLIC KEY") || line.starts_with("-----BEGIN") {
        return Err("it is not in OpenSSH's form; 'ssh-keygen -i -f FILE' converts it".to_owned());
    }
    if line.contains(['\n', '\r']) {
        return Err("it has more than one line".to_owned());
    }
    if line.len() > MAX_LINE {
        return Err(format!("it is longer than {MAX_LINE} bytes"));
    }
    Ok(())
}

/// Why a line that does not begin with a known algorithm is no key.
fn unknown_algorithm(word: &str, rest: &str) -> String {
    let shown: String = word.chars().take(60).collect();
    if rest.split([' ', '\t', '"']).any(|later| ALGORITHMS.iter().any(|(name, _)| *name == later)) {
        return format!("options before the key ({shown:?}) are not taken; the line must begin with the key's type");
    }
    if word == "ssh-dss" {
        return "DSA keys are no longer taken by OpenSSH; make a new one with 'ssh-keygen -t ed25519'".to_owned();
    }
    if word.contains("-cert-v") {
        return "this is a certificate; give the plain public key".to_owned();
    }
    let known: Vec<&str> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
    format!("{shown:?} is no known type of key (known: {})", known.join(", "))
}

fn check_comment(comment: &str) -> Result<(), String> {
    if comment.len() > MAX_COMMENT {
        return Err(format!("its comment is longer than {MAX_COMMENT} bytes"));
    }
    // Beside control characters: what changes the direction or the lines of a terminal, or is not seen at all.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    match comment.chars().find(|c| hidden(*c)) {
        Some(c) => Err(format!("its comment contains the character U+{:04X}, which cannot be printed", u32::from(c))),
        None => Ok(()),
    }
}

/// Checks the whole structure: the algorithm's name inside, every field's length, and that nothing follows.
fn check_blob(blob: &[u8], algorithm: &str, shape: Shape) -> Result<(), String> {
    let mut fields = Fields { rest: blob };
    let inner = fields.next().ok_or_else(truncated)?;
    if inner != algorithm.as_bytes() {
        let shown: String = String::from_utf8_lossy(inner).chars().take(60).collect();
        return Err(format!("it says '{algorithm}', but inside it is {shown:?}"));
    }
    match shape {
        Shape::Ed25519 => fields.exactly(32)?,
        Shape::Rsa => fields.rsa()?,
        Shape::Ecdsa { curve, point } => fields.ecdsa(curve, point)?,
        Shape::SkEd25519 => {
            fields.exactly(32)?;
            fields.application()?;
        }
        Shape::SkEcdsa { curve, point } => {
            fields.ecdsa(curve, point)?;
            fields.application()?;
        }
    }
    if fields.rest.is_empty() { Ok(()) } else { Err("something follows the key inside its base64".to_owned()) }
}

fn truncated() -> String {
    "it is cut short".to_owned()
}

/// The fields of a blob, each with its length in four bytes before it (RFC 4251, 5).
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.rest = rest;
        Some(field)
    }

    fn exactly(&mut self, length: usize) -> Result<(), String> {
        let field = self.next().ok_or_else(truncated)?;
        if field.len() == length { Ok(()) } else { Err(format!("it has {} bytes instead of {length}", field.len())) }
    }

    fn rsa(&mut self) -> Result<(), String> {
        let exponent = positive(self.next().ok_or_else(truncated)?)?;
        let modulus = positive(self.next().ok_or_else(truncated)?)?;
        let bits = bits(modulus);
        if !RSA_BITS.contains(&bits) {
            return Err(format!(
                "its RSA modulus has {bits} bits; sshd takes {} to {}",
                RSA_BITS.start(),
                RSA_BITS.end()
            ));
        }
        // OpenSSL takes no exponent above 64 bits for large keys, and 1 would be no encryption at all.
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        if !odd(modulus) || !odd(exponent) || exponent == [1] || self::bits(exponent) > 64 {
            return Err("its RSA numbers make no key".to_owned());
        }
        Ok(())
    }

    fn ecdsa(&mut self, curve: &str, point: usize) -> Result<(), String> {
        let named = self.next().ok_or_else(truncated)?;
        if named != curve.as_bytes() {
            return Err(format!("its curve is not {curve}"));
        }
        let q = self.next().ok_or_else(truncated)?;
        // 4: uncompressed (SEC 1, 2.3.3), the only form that OpenSSH writes and reads.
        if q.len() == point && q[0] == 4 { Ok(()) } else { Err(format!("its point is not one of {curve}")) }
    }

    fn application(&mut self) -> Result<(), String> {
        let name = self.next().ok_or_else(truncated)?;
        let plain = name.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
        if !name.is_empty() && name.len() <= 255 && plain {
            Ok(())
        } else {
            Err("its application is not a plain text".to_owned())
        }
    }
}

/// The bytes of a positive number in its shortest form (RFC 4251, 5: mpint), without the zero that keeps it positive.
fn positive(field: &[u8]) -> Result<&[u8], String> {
    match field {
        [0, rest @ ..] if rest.first().is_some_and(|first| first & 0x80 != 0) => Ok(rest),
        [first, ..] if (1..0x80).contains(first) => Ok(field),
        _ => Err("one of its numbers is not positive, or not in its shortest form".to_owned()),
    }
}

/// Bits of a number without leading zero bytes.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests;
