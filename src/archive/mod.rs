//! Archives of images as `docker save` writes them: read by seeking, described, checked, and served in part. Nothing is unpacked.
//!
//! An environment's versions are files `<env>-<unix time>.tar`, each with what is known of it beside it, in
//! `<env>-<unix time>.json` ([`Manifest`]). Docker's loader passes over layers whose chain it has already, so an archive that lacks
//! just these loads as well as the whole ([`Part`]).

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod image;
mod manifest;
pub mod names;
mod part;
#[cfg(test)]
pub(crate) mod samples;
mod tar;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

pub use image::{Image, Layer};
pub use manifest::{Manifest, ManifestLayer};
pub use part::{Check, Part, Reading};

/// Why an archive is not used: one clause, to stand after its name ("it is truncated").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFault(pub String);

impl fmt::Display for ArchiveFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for ArchiveFault {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for ArchiveFault {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// What is to be said of an archive that is not the one of which the manifest beside it, `path`, tells.
pub fn swapped(path: &Path) -> ArchiveFault {
    ArchiveFault(format!(
        "it is not the one that {} tells of; if it was replaced on purpose, remove that file",
        path.display()
    ))
}

/// `sha256:` and 64 digits.
fn digest_text(digest: &[u8]) -> String {
    use fmt::Write as _;
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every text");
        text
    })
}

/// Whether a text is such a digest.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}
