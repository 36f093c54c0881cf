//! Tarballs of environments: which is the newest, and which image is in it. Nothing is unpacked.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nanoserde::DeJson;

use crate::api::json;

/// A tarball `<env>-<unix time>.tar`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tarball {
    pub path: PathBuf,
    /// The time in its name.
    pub stamp: u64,
    pub size: u64,
    /// Nanoseconds; with path and size it tells one version of the file from another.
    pub modified: u128,
}

/// The newest tarball of `env` in `folder`, by the number in its name. None: there is none (or no such folder).
pub fn newest(folder: &Path, env: &str) -> Option<Tarball> {
    let newest = fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((stamp(entry.file_name().to_str()?, env)?, entry.path())))
        .max()?;
    let metadata = fs::metadata(&newest.1).ok().filter(fs::Metadata::is_file)?;
    let modified = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
    Some(Tarball { path: newest.1, stamp: newest.0, size: metadata.len(), modified })
}

/// The environments that have a tarball in `folder`, sorted.
pub fn environments(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| {
            let name = |entry: fs::DirEntry| {
                let name = entry.file_name().into_string().ok()?;
                let (env, _) = name.strip_suffix(".tar")?.rsplit_once('-')?;
                stamp(&name, env).map(|_| env.to_owned())
            };
            entries.filter_map(Result::ok).filter_map(name).collect()
        })
        .unwrap_or_default();
    names.sort();
    names.dedup();
    names
}

/// The time in a tarball's name, if it is one of `env`.
fn stamp(name: &str, env: &str) -> Option<u64> {
    let digits = name.strip_prefix(env)?.strip_prefix('-')?.strip_suffix(".tar")?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

#[derive(DeJson)]
struct ManifestRow {
    #[nserde(rename = "Config")]
    config: String,
    #[nserde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
}

/// The id of the image in a tarball that `docker save` made: the digest of its configuration, by which Docker knows it.
/// Of several images that which is tagged `tag` counts.
///
/// # Errors
/// One clause: it is truncated, or no tarball of an image.
pub fn image_id(path: &Path, tag: &str) -> Result<String, String> {
    let mut file = File::open(path).map_err(|fault| format!("it cannot be opened: {fault}"))?;
    let manifest = manifest(&mut file).map_err(|fault| fault.to_string())?;
    let rows: Vec<ManifestRow> =
        json::decode(&manifest).map_err(|fault| format!("its manifest.json cannot be read: {fault}"))?;
    let tagged = |row: &&ManifestRow| row.tags.as_ref().is_some_and(|tags| tags.iter().any(|other| other == tag));
    let row = rows.iter().find(tagged).or(rows.first()).ok_or("there is no image in it")?;
    // "<digest>.json", or "blobs/sha256/<digest>" from newer versions of Docker.
    let digest = row.config.rsplit('/').next().unwrap_or_default();
    let digest = digest.strip_suffix(".json").unwrap_or(digest);
    if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("its manifest.json names no image".to_owned());
    }
    Ok(format!("sha256:{}", digest.to_ascii_lowercase()))
}

const BLOCK: u64 = 512;

/// The bytes of `manifest.json`: seeks from header to header (format: POSIX ustar).
fn manifest(tar: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
    let foreign = || io::Error::other("it is not a tarball of an image (it has no manifest.json)");
    let truncated = |_| io::Error::other("it is truncated");
    let length = tar.seek(SeekFrom::End(0))?;
    let mut at = 0;
    // An image has tens of members; more than this is something else.
    for _ in 0..100_000 {
        if at + BLOCK > length {
            return Err(if at == 0 { foreign() } else { io::Error::other("it is truncated") });
        }
        tar.seek(SeekFrom::Start(at))?;
        let mut header = [0; 512];
        tar.read_exact(&mut header).map_err(truncated)?;
        if header.iter().all(|byte| *byte == 0) {
            return Err(foreign());
        }
        let size = number(&header[124..136]).filter(|_| header[257..].starts_with(b"ustar")).ok_or_else(foreign)?;
        let name = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let end = at.checked_add(BLOCK).and_then(|start| start.checked_add(size)).ok_or_else(foreign)?;
        if end > length {
            return Err(io::Error::other("it is truncated"));
        }
        if name == b"manifest.json" && matches!(header[156], b'0' | 0) {
            if size > 1 << 20 {
                return Err(foreign());
            }
            let mut content = vec![0; usize::try_from(size).expect("at most a mebibyte")];
            tar.read_exact(&mut content).map_err(truncated)?;
            return Ok(content);
        }
        at = end.next_multiple_of(BLOCK);
    }
    Err(foreign())
}

/// A number of a header: octal digits; or, with the first bit set, binary (GNU, for 8 GiB and more).
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let fits = high[0] == 0x80 && high[1..].iter().all(|byte| *byte == 0);
        return fits.then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(text, 8).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    const DIGEST: &str = "39c5e4afab97a4f2f0cc18a6cd5fc0b77ebcc2d75f72149d6e833adb340aa964";

    fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..262].copy_from_slice(b"ustar");
        let mut bytes = [header.to_vec(), content.to_vec()].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn saved(config: &str) -> Vec<u8> {
        let manifest = format!(
            r#"[{{"Config":"{}.json","RepoTags":["other:1"],"Layers":[]}},{{"Config":"{config}","RepoTags":["hakuriver/x:base"],"Layers":["a/layer.tar"]}}]"#,
            "0".repeat(64)
        );
        [member("a/layer.tar", &[7; 3000]), member("manifest.json", manifest.as_bytes()), vec![0; 1024]].concat()
    }

    /// Writes a small tarball of an image.
    pub(in crate::runner) fn write(path: &Path, digest: &str) {
        fs::write(path, saved(&format!("{digest}.json"))).expect("it can be written");
    }

    #[test]
    fn the_newest_is_the_highest_number_not_the_youngest_file() {
        let scratch = Scratch::new();
        for name in
            ["x-100.tar", "x-99.tar", "x-y-500.tar", "x-.tar", "x-1e9.tar", "x-700.tar.tmp", ".x-800.tar", "z-3.tar"]
        {
            fs::write(scratch.path().join(name), name).expect("it can be written");
        }
        assert_eq!(newest(scratch.path(), "x").map(|tar| tar.stamp), Some(100));
        assert_eq!(newest(scratch.path(), "x-y").map(|tar| tar.stamp), Some(500));
        assert_eq!(newest(scratch.path(), "w"), None);
        assert_eq!(newest(&scratch.path().join("missing"), "x"), None);
        assert_eq!(environments(scratch.path()), [".x", "x", "x-y", "z"]);
    }

    #[test]
    fn the_image_is_known_by_its_configurations_digest_in_both_layouts() {
        let scratch = Scratch::new();
        let path = scratch.path().join("x-1.tar");
        for config in [format!("{DIGEST}.json"), format!("blobs/sha256/{DIGEST}")] {
            fs::write(&path, saved(&config)).expect("it can be written");
            assert_eq!(image_id(&path, "hakuriver/x:base"), Ok(format!("sha256:{DIGEST}")));
        }
        assert_eq!(image_id(&path, "unknown:tag"), Ok(format!("sha256:{}", "0".repeat(64))), "else the first");
    }

    #[test]
    fn truncated_and_foreign_files_are_told_apart() {
        let scratch = Scratch::new();
        let path = scratch.path().join("x-1.tar");
        let whole = saved(&format!("{DIGEST}.json"));
        for (content, expected) in [
            (whole[..2000].to_vec(), "truncated"),
            (whole[..3584].to_vec(), "truncated"),
            (whole[..4200].to_vec(), "truncated"),
            (Vec::new(), "not a tarball of an image"),
            (b"hello".repeat(1000), "not a tarball of an image"),
            ([member("readme", b"x"), vec![0; 1024]].concat(), "not a tarball of an image"),
            (saved("../../etc/passwd"), "names no image"),
        ] {
            fs::write(&path, content).expect("it can be written");
            let fault = image_id(&path, "hakuriver/x:base").expect_err(expected);
            assert!(fault.contains(expected), "{fault}");
        }
    }

    #[test]
    fn sizes_above_eight_gibibytes_are_read() {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(9_u64 << 30).to_be_bytes());
        assert_eq!(number(&field), Some(9 << 30));
        assert_eq!(number(b"00000001750\0"), Some(1000));
        assert_eq!(number(b"xyz         "), None);
    }
}
