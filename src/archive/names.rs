//! The names of environments' archives: `<env>-<unix time>.tar`.

use std::fs;
use std::path::{Path, PathBuf};

/// Later than all times that are meant: JSON's numbers are exact up to here.
const LATEST: u64 = 1 << 53;

/// One version of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    pub path: PathBuf,
    /// The time in its name.
    pub stamp: u64,
    pub size: u64,
    /// Nanoseconds; with path and size it tells one version of the file from another.
    pub modified: u128,
}

impl Archive {
    /// A file that is there. None: it is not, or is no regular file.
    pub fn at(path: PathBuf, stamp: u64) -> Option<Self> {
        let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let modified = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
        Some(Self { path, stamp, size: metadata.len(), modified })
    }
}

impl Archive {
    /// Its file has been removed since.
    pub fn is_gone(&self) -> bool {
        fs::symlink_metadata(&self.path).is_err_and(|fault| fault.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Its file's name.
pub fn file_name(env: &str, stamp: u64) -> String {
    format!("{env}-{stamp}.tar")
}

/// The tag that version 0.3 gave to an environment's image.
pub fn tag(env: &str) -> String {
    format!("hakuriver/{env}:base")
}

/// The repository of an environment's image, where Docker allows it as a name: lower case, with single separators.
pub fn repository(env: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separated = env.split(|c: char| !is_plain(u8::try_from(c).unwrap_or(b'?')));
    let has_only_single = env.bytes().all(|byte| is_plain(byte) || b"._-".contains(&byte))
        && separated.clone().all(|part| !part.is_empty());
    has_only_single.then(|| format!("hakuriver/{env}"))
}

/// The name of what is known of it.
pub fn manifest_name(env: &str, stamp: u64) -> String {
    format!("{env}-{stamp}.json")
}

/// The newest version of `env` in `folder`, by the number in its name. None: there is none (or no such folder).
pub fn newest(folder: &Path, env: &str) -> Option<Archive> {
    let named = |entry: fs::DirEntry| Some((stamp_of(entry.file_name().to_str()?, env)?, entry.path()));
    let mut all: Vec<(u64, PathBuf)> = fs::read_dir(folder).ok()?.filter_map(Result::ok).filter_map(named).collect();
    all.sort_unstable();
    // A folder or a pipe of that name hides nothing.
    all.into_iter().rev().find_map(|(stamp, path)| Archive::at(path, stamp))
}

/// The environments that have a version in `folder`, sorted.
pub fn environments(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = all(folder).into_iter().map(|(env, _)| env).collect();
    names.sort();
    names.dedup();
    names
}

/// Environment and time of every archive in `folder`, in no order.
pub fn all(folder: &Path) -> Vec<(String, u64)> {
    let name = |entry: fs::DirEntry| split(&entry.file_name().into_string().ok()?);
    fs::read_dir(folder).map(|entries| entries.filter_map(Result::ok).filter_map(name).collect()).unwrap_or_default()
}

/// Environment and time in an archive's name.
pub fn split(name: &str) -> Option<(String, u64)> {
    let (env, _) = name.strip_suffix(".tar")?.rsplit_once('-')?;
    Some((env.to_owned(), stamp_of(name, env)?))
}

fn stamp_of(name: &str, env: &str) -> Option<u64> {
    let digits = name.strip_prefix(env)?.strip_prefix('-')?.strip_suffix(".tar")?;
    // A number that is written otherwise would name another file than it was read from.
    let stamp: u64 = digits.parse().ok()?;
    (stamp <= LATEST && stamp.to_string() == digits).then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn the_newest_is_the_highest_number_not_the_youngest_file() {
        let scratch = Scratch::new();
        for name in [
            "x-100.tar",
            "x-99.tar",
            "x-y-500.tar",
            "x-.tar",
            "x-1e9.tar",
            "x-700.tar.tmp",
            ".x-800.tar",
            "z-3.tar",
            "x-0900.tar",
            "x-+901.tar",
            "x-18446744073709551615.tar",
        ] {
            fs::write(scratch.path().join(name), name).expect("it can be written");
        }
        fs::create_dir(scratch.path().join("x-101.tar")).expect("it can be made");
        assert_eq!(newest(scratch.path(), "x").map(|tar| tar.stamp), Some(100), "a folder is no archive");
        assert_eq!(newest(scratch.path(), "x-y").map(|tar| tar.stamp), Some(500));
        assert_eq!(newest(scratch.path(), "w"), None);
        assert_eq!(newest(&scratch.path().join("missing"), "x"), None);
        assert_eq!(environments(scratch.path()), [".x", "x", "x-y", "z"]);
        assert_eq!(split(&file_name("x-y", 500)), Some(("x-y".to_owned(), 500)));
    }
}
