//! What image is in an archive, and where its layers lie.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use nanoserde::DeJson;
use sha2::{Digest as _, Sha256};

use super::tar::{Member, Members};
use super::{ArchiveFault, digest_text, is_digest};
use crate::api::json;

/// A configuration or a list of layers is no longer.
const LARGEST_TEXT: u64 = 8 << 20;
/// Docker itself has 127 at most. (Their ids have to fit into the head of a request.)
pub(super) const MOST_LAYERS: usize = 200;

/// An image in an archive.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:` and the digest of its configuration, by which Docker knows it.
    pub id: String,
    /// From the lowest on.
    pub layers: Vec<Layer>,
    /// Where its configuration begins, and how long that is.
    pub(super) config: (u64, u64),
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its content, unpacked: `sha256:…`.
    pub diff_id: String,
    /// The name in the archive that manifest.json gives it.
    pub path: String,
    /// Of its content in the archive, in bytes.
    pub size: u64,
    /// Where that begins.
    pub(super) content: u64,
}

#[derive(DeJson)]
struct Row {
    #[nserde(rename = "Config")]
    config: String,
    #[nserde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[nserde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

#[derive(DeJson)]
struct Config {
    rootfs: RootFs,
}

#[derive(DeJson)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

impl Image {
    /// Reads manifest.json and the configuration that it names, and finds the layers. Of several images that which is tagged
    /// `tag` counts.
    ///
    /// # Errors
    /// It is truncated, no tarball of an image, or says one thing here and another there. The layers' contents are not looked at:
    /// see [`Manifest::describe`](super::Manifest::describe).
    pub fn read(file: &mut File, tag: &str) -> Result<Self, ArchiveFault> {
        Self::read_rest(file, tag, 0)
    }

    /// As [`Image::read`], of a copy that lacks the `lowest` layers: `layers` are the others.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn read_rest(file: &mut File, tag: &str, lowest: usize) -> Result<Self, ArchiveFault> {
        let members = Members::read(file)?;
        let manifest =
            members.file("manifest.json").ok_or("it is not a tarball of an image (it has no manifest.json)")?;
        let rows: Vec<Row> = json::decode(&content(file, manifest)?)
            .map_err(|fault| ArchiveFault(format!("its manifest.json cannot be read: {fault}")))?;
        let is_tagged = |row: &&Row| row.tags.as_ref().is_some_and(|tags| tags.iter().any(|other| other == tag));
        let row = rows.iter().find(is_tagged).or(rows.first()).ok_or("there is no image in it")?;
        // "<digest>.json", or "blobs/sha256/<digest>" from newer versions of Docker.
        let name = row.config.rsplit('/').next().unwrap_or_default();
        let id = format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name).to_ascii_lowercase());
        if !is_digest(&id) {
            return Err("its manifest.json names no image".into());
        }
        let config = members.file(&row.config).ok_or("it lacks the configuration that its manifest.json names")?;
        let place = (config.content, config.size);
        let config = content(file, config)?;
        if digest_text(&Sha256::digest(&config)) != id {
            return Err("its configuration is not the one that its manifest.json names: the digest differs".into());
        }
        let config: Config = json::decode(&config)
            .map_err(|fault| ArchiveFault(format!("the image's configuration cannot be read: {fault}")))?;
        let (diff_ids, paths) = (config.rootfs.diff_ids.unwrap_or_default(), row.layers.clone().unwrap_or_default());
        if diff_ids.len() != paths.len() || paths.len() > MOST_LAYERS || !diff_ids.iter().all(|id| is_digest(id)) {
            return Err("its configuration and its manifest.json do not name the same layers".into());
        }
        let layers = diff_ids.into_iter().zip(paths).skip(lowest).map(|(diff_id, path)| {
            let member = members.file(&path).ok_or_else(|| ArchiveFault(format!("it lacks the layer {path:?}")))?;
            Ok(Layer { diff_id, path, size: member.size, content: member.content })
        });
        let layers = layers.collect::<Result<Vec<_>, ArchiveFault>>()?;
        Ok(Self { id, layers, config: place })
    }

    /// Reads the layers from the `first` on, and checks that each is what it should be.
    ///
    /// # Errors
    /// One is not; one clause.
    pub fn check(&self, file: &mut File, first: usize) -> Result<(), ArchiveFault> {
        let layers = self.layers.get(first..).unwrap_or_default();
        let parts: Vec<(u64, u64)> = layers.iter().map(|layer| (layer.content, layer.size)).collect();
        self.compare(first, &digests_of(file, &parts)?)
    }

    /// Whether the layers from the `first` on have these digests.
    pub(super) fn compare(&self, first: usize, digests: &[String]) -> Result<(), ArchiveFault> {
        let layers = self.layers.get(first..).unwrap_or_default();
        match layers.iter().zip(digests).find(|(layer, digest)| layer.diff_id != **digest) {
            Some((layer, _)) => {
                Err(format!("the layer {:?} in it is not what it should be: the digest differs", layer.path).into())
            }
            None => Ok(()),
        }
    }
}

fn content(file: &File, member: &Member) -> Result<Vec<u8>, ArchiveFault> {
    if member.size > LARGEST_TEXT {
        return Err(format!("{:?} in it is larger than any image's", member.name).into());
    }
    let mut bytes = vec![0; usize::try_from(member.size).expect("some MiB at most")];
    file.read_exact_at(&mut bytes, member.content)
        .map_err(|fault| ArchiveFault(format!("it cannot be read: {fault}")))?;
    Ok(bytes)
}

/// Digests of parts of a file, made in one pass over all of it.
pub(super) struct Digests {
    /// Of the whole file.
    pub(super) whole: String,
    pub(super) size: u64,
    /// In the order of the parts.
    pub(super) parts: Vec<String>,
}

/// The digests of parts alone, each (beginning, length).
fn digests_of(file: &File, parts: &[(u64, u64)]) -> Result<Vec<String>, ArchiveFault> {
    let mut buffer = vec![0; 256 << 10];
    let mut digests = Vec::new();
    for (begin, length) in parts {
        let (mut at, end) = (*begin, begin + length);
        let mut hasher = Sha256::new();
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let count = file
                .read_at(&mut buffer[..most], at)
                .map_err(|fault| ArchiveFault(format!("it cannot be read: {fault}")))?;
            if count == 0 {
                return Err("it is truncated".into());
            }
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        digests.push(digest_text(&hasher.finalize()));
    }
    Ok(digests)
}

/// Reads the file once, from its beginning; `parts` are (beginning, length).
pub(super) fn digests(file: &mut File, parts: &[(u64, u64)]) -> Result<Digests, ArchiveFault> {
    use std::io::{Seek as _, SeekFrom};
    let unreadable = |fault: std::io::Error| ArchiveFault(format!("it cannot be read: {fault}"));
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut whole = Sha256::new();
    let mut hashers: Vec<Sha256> = parts.iter().map(|_| Sha256::new()).collect();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0_u64;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(fault) if fault.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(fault) => return Err(unreadable(fault)),
        };
        let bytes = &buffer[..count];
        whole.update(bytes);
        let end = at + count as u64;
        for ((begin, length), hasher) in parts.iter().zip(&mut hashers) {
            let (from, to) = ((*begin).max(at), (begin + length).min(end));
            if from < to {
                let index = |offset: u64| usize::try_from(offset - at).expect("within the buffer");
                hasher.update(&bytes[index(from)..index(to)]);
            }
        }
        at = end;
    }
    let parts = hashers.into_iter().map(|hasher| digest_text(&hasher.finalize())).collect();
    Ok(Digests { whole: digest_text(&whole.finalize()), size: at, parts })
}
