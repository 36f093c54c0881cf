//! The container directory: which versions of which environments lie there, which may go, and what was never finished.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::archive::names;
use crate::domain::ids::EnvName;
use crate::sys::file;

/// The times of the versions of each environment, the newest first. What no task can name is passed over, and so is what is no file:
/// it must not stand for a version, or older ones would go in its favour.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn versions(folder: &Path) -> io::Result<BTreeMap<EnvName, Vec<u64>>> {
    let mut all: BTreeMap<EnvName, Vec<u64>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Some((name, version)) = entry.file_name().to_str().and_then(names::split)
            && let Ok(name) = name.parse()
            && std::fs::metadata(entry.path()).is_ok_and(|file| file.is_file())
        {
            all.entry(name).or_default().push(version);
        }
    }
    for versions in all.values_mut() {
        versions.sort_unstable_by(|a, b| b.cmp(a));
    }
    Ok(all)
}

/// The version of what is packed now: the time, but later than all that there is, also where the clock has stepped back.
pub(super) fn next(now: u64, versions: &[u64]) -> u64 {
    versions.iter().map(|version| version.saturating_add(1)).max().unwrap_or(0).max(now)
}

/// The versions that may go: all but the newest `keep`, and none that a node is loading. `versions` has the newest first.
pub(super) fn surplus(versions: &[u64], keep: usize, is_loading: &dyn Fn(u64) -> bool) -> Vec<u64> {
    versions.iter().copied().skip(keep).filter(|version| !is_loading(*version)).collect()
}

/// The name under which a tarball is written: one that nobody takes for a tarball.
pub(super) fn unfinished(name: &EnvName, version: u64) -> String {
    format!(".{}.part", names::file_name(name.as_str(), version))
}

/// Removes what a Host that was killed has left half written. Only one Host packs into a folder (its cluster's mark is checked, and
/// the database is locked), and it calls this before it packs anything.
///
/// # Errors
/// The folder cannot be read, or a file not removed.
pub(super) fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.file_name();
        let of_ours = |name: &str| names::split(name.strip_prefix('.')?.strip_suffix(".part")?).map(drop);
        if file.to_str().and_then(of_ours).is_some() {
            remove(&folder.join(&file))?;
        }
    }
    Ok(())
}

/// Removes one version: first the tarball, for without it what is known of it means nothing.
///
/// # Errors
/// A file is there and cannot be removed.
pub(super) fn remove_version(folder: &Path, name: &EnvName, version: u64) -> io::Result<()> {
    remove(&folder.join(names::file_name(name.as_str(), version)))?;
    remove(&folder.join(names::manifest_name(name.as_str(), version)))
}

/// Removes what is known of versions of `name` that are no more: somebody may have asked for one in the moment it went.
///
/// # Errors
/// The folder cannot be read, or a file not removed.
pub(super) fn remove_orphans(folder: &Path, name: &EnvName) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.file_name();
        let tarball = file.to_str().and_then(|file| Some(format!("{}.tar", file.strip_suffix(".json")?)));
        if let Some(tarball) = tarball
            && names::split(&tarball).is_some_and(|(env, _)| env == name.as_str())
            && !folder.join(&tarball).exists()
        {
            remove(&folder.join(&file))?;
        }
    }
    Ok(())
}

/// That it is not there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    file::remove(path)
        .map_err(|fault| io::Error::new(fault.kind(), format!("cannot remove {}: {fault}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    fn name(text: &str) -> EnvName {
        text.parse().expect("a name")
    }

    #[test]
    fn tarballs_are_known_by_their_names() {
        let scratch = Scratch::new();
        for file in [
            "base-1700000000.tar",
            "base-1800000000.tar",
            "my-env-2-17.tar",
            "base-.tar",
            "base-1x.tar",
            "-17.tar",
            "base-18.tar.part",
            ".base-19.tar",
            ".base-20.tar.part",
            "base.tar",
            "NULL-17.tar",
            "base-1700000000.json",
            "base-16.json",
            "other-16.json",
            "base-x.json",
        ] {
            std::fs::write(scratch.path().join(file), "").expect("write");
        }
        let expected =
            BTreeMap::from([(name("base"), vec![1_800_000_000, 1_700_000_000]), (name("my-env-2"), vec![17])]);
        assert_eq!(versions(scratch.path()).expect("it is there"), expected);
        remove_unfinished(scratch.path()).expect("it is there");
        let is_there = |file: &str| scratch.path().join(file).exists();
        assert!(!is_there(".base-20.tar.part") && is_there("base-18.tar.part") && is_there(".base-19.tar"));
        remove_version(scratch.path(), &name("base"), 1_700_000_000).expect("removed");
        remove_version(scratch.path(), &name("base"), 1_700_000_000).expect("that it is gone is no fault");
        assert!(
            !is_there("base-1700000000.tar") && !is_there("base-1700000000.json") && is_there("base-1800000000.tar")
        );
        remove_orphans(scratch.path(), &name("base")).expect("it is there");
        assert!(!is_there("base-16.json") && is_there("other-16.json") && is_there("base-x.json"));
        assert_eq!(unfinished(&name("base"), 20), ".base-20.tar.part");
    }

    #[test]
    fn a_version_is_later_than_all_before_it() {
        for (now, versions, expected) in
            [(100, &[][..], 100), (100, &[99, 5], 100), (100, &[100], 101), (100, &[500, 99], 501)]
        {
            assert_eq!(next(now, versions), expected, "{now} {versions:?}");
        }
    }

    #[test]
    fn the_newest_stay_and_what_a_node_is_loading() {
        let loading = |version| version == 3;
        for (versions, keep, expected) in [
            (&[5, 4, 3, 2, 1][..], 2, vec![2, 1]),
            (&[5, 4], 2, vec![]),
            (&[5], 1, vec![]),
            (&[5, 4, 3], 1, vec![4]),
            (&[], 2, vec![]),
        ] {
            assert_eq!(surplus(versions, keep, &loading), expected, "{versions:?} {keep}");
        }
    }
}
