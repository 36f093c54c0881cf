//! What is known of an archive, in a file beside it: so that nobody has to read gigabytes to know it.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nanoserde::{DeJson, SerJson};

use super::image::{Image, Layer, MOST_LAYERS, digests};
use super::{ArchiveFault, is_digest, names};
use crate::api::json;
use crate::sys::file;

/// The form's version.
const FORMAT: u32 = 1;
/// A manifest is no longer, in bytes.
const LONGEST: usize = 1 << 20;
/// Where newer versions of Docker put what they name by its digest.
const BLOBS: &str = "blobs/sha256/";
/// Nothing in it is as large, in bytes: sums of sizes stay far from the end of their type.
const LARGEST: u64 = 1 << 50;

/// One version of an environment.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct Manifest {
    pub format: u32,
    /// The environment.
    pub name: String,
    /// The time in the archive's name, in seconds since 1970.
    pub version: u64,
    /// The archive's file name.
    pub tarball: String,
    /// Of the archive, in bytes.
    pub size: u64,
    /// Of the archive, `sha256:…`.
    pub sha256: String,
    /// `sha256:…` of the image's configuration.
    pub image_id: String,
    /// Of that configuration, in bytes.
    pub config_size: u64,
    /// What the one who packed it wrote about it.
    pub label: Option<String>,
    /// From the lowest on.
    pub layers: Vec<ManifestLayer>,
}

/// One layer.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct ManifestLayer {
    /// The digest of its content, `sha256:…`.
    pub diff_id: String,
    /// The digest of that content as it lies in the archive: another one only where it lies there compressed.
    pub digest: String,
    /// As it lies there, in bytes.
    pub size: u64,
    /// Its name in the archive.
    pub path: String,
}

impl Manifest {
    /// Reads the archive once, from end to end, and checks that all in it is what it says.
    ///
    /// # Errors
    /// One clause about the archive: it is truncated, none of an image, or what is in it has another digest than it should.
    pub fn describe(tar: &Path, name: &str, version: u64) -> Result<Self, ArchiveFault> {
        let mut file = File::open(tar).map_err(|fault| ArchiveFault(format!("it cannot be opened: {fault}")))?;
        let image = Image::read(&mut file, &names::tag(name))?;
        let parts: Vec<(u64, u64)> = image.layers.iter().map(|layer| (layer.content, layer.size)).collect();
        let found = digests(&mut file, &parts)?;
        let layers = image.layers.into_iter().zip(found.parts).map(|(layer, digest)| {
            if layer.diff_id != digest && !is_compressed(&file, &layer, &digest) {
                let text = format!("the layer {:?} in it is not what it should be: the digest differs", layer.path);
                return Err(ArchiveFault(text));
            }
            Ok(ManifestLayer { diff_id: layer.diff_id, digest, size: layer.size, path: layer.path })
        });
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self {
            format: FORMAT,
            name: name.to_owned(),
            version,
            tarball: names::file_name(name, version),
            size: found.size,
            sha256: found.whole,
            image_id: image.id,
            config_size: image.config.1,
            label: None,
            layers,
        })
    }

    /// What can be told from an archive's headers alone: the digests of its layers are those that they should have.
    /// `size` and `sha256` are left open.
    pub fn of_headers(image: &Image, name: &str, version: u64) -> Self {
        let layer = |layer: &Layer| {
            let digest = layer.path.strip_prefix(BLOBS).map_or(layer.diff_id.clone(), |hex| format!("sha256:{hex}"));
            ManifestLayer { diff_id: layer.diff_id.clone(), digest, size: layer.size, path: layer.path.clone() }
        };
        Self {
            format: FORMAT,
            name: name.to_owned(),
            version,
            tarball: names::file_name(name, version),
            image_id: image.id.clone(),
            config_size: image.config.1,
            layers: image.layers.iter().map(layer).collect(),
            ..Self::default()
        }
    }

    /// Reads one that was written. It may be anybody's.
    ///
    /// # Errors
    /// It is not there, or is none; one clause.
    pub fn read(path: &Path) -> Result<Self, ArchiveFault> {
        let text = file::read_foreign(path, LONGEST).map_err(|fault| ArchiveFault(fault.to_string()))?;
        Self::decode(&text)
    }

    /// As [`Manifest::read`], from its text.
    ///
    /// # Errors
    /// It is none; one clause.
    pub fn decode(text: &[u8]) -> Result<Self, ArchiveFault> {
        let manifest: Self =
            json::decode(text).map_err(|fault| ArchiveFault(format!("its manifest cannot be read: {fault}")))?;
        let mut digests: Vec<&String> = vec![&manifest.sha256, &manifest.image_id];
        digests.extend(manifest.layers.iter().flat_map(|layer| [&layer.diff_id, &layer.digest]));
        let is_known = manifest.format == FORMAT && digests.into_iter().all(|digest| is_digest(digest));
        let is_sane = manifest.layers.len() <= MOST_LAYERS
            && manifest
                .layers
                .iter()
                .map(|layer| layer.size)
                .chain([manifest.size, manifest.config_size])
                .all(|size| size < LARGEST);
        if !is_known || !is_sane {
            return Err("its manifest is of another version, or none".into());
        }
        Ok(manifest)
    }

    /// As it is written.
    pub fn to_json(&self) -> String {
        json::encode(self)
    }

    /// How many of the lowest layers are those of `chain`, in its order: whoever has that chain lacks only the others.
    pub fn shared(&self, chain: &[String]) -> usize {
        self.layers.iter().zip(chain).take_while(|(layer, had)| layer.diff_id == **had).count()
    }
}

/// Whether a layer lies compressed in the archive (Docker's containerd store saves it so, under the digest of what lies there). What
/// is in it then, Docker itself compares with the diff id.
fn is_compressed(file: &File, layer: &Layer, digest: &str) -> bool {
    let mut magic = [0; 4];
    let is_read = file.read_exact_at(&mut magic, layer.content).is_ok();
    let is_known = magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd];
    let named = layer.path.strip_prefix(BLOBS);
    layer.size >= 4 && is_read && is_known && named.is_none_or(|name| digest.strip_prefix("sha256:") == Some(name))
}
