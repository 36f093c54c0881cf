//! Environments' archives, for nodes that do not see the shared directory: what there is, and the part of it that a node lacks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use super::directory::{Directory, Held};
use super::engine::ActFault;
use crate::archive::names::{self, Archive};
use crate::archive::{ArchiveFault, Image, Manifest, Part, swapped};
use crate::domain::ids::EnvName;
use crate::sys::file;
use crate::{info, warning};

/// The container directory of the Host.
#[derive(Debug)]
pub(super) struct Archives {
    directory: Arc<Directory>,
    /// What was read or made, for as long as the file is the same.
    known: Mutex<BTreeMap<(String, u64), Known>>,
    /// Gigabytes are read for one: never for two at once.
    making: Mutex<()>,
}

#[derive(Debug)]
struct Known {
    size: u64,
    modified: u128,
    manifest: Arc<Manifest>,
}

/// A part of an archive, opened to be read.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    image: Image,
    part: Part,
}

impl Opened {
    /// Bytes.
    pub(super) fn length(&self) -> u64 {
        self.part.length()
    }

    /// As [`Part::read_at`].
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.part.read_at(&self.file, &self.image, offset, buffer)
    }
}

impl Archives {
    pub(super) fn of(directory: Arc<Directory>) -> Self {
        Self { directory, known: Mutex::default(), making: Mutex::default() }
    }

    /// What is known of the newest version. None: there is none.
    ///
    /// # Errors
    /// 409, for the user: the archive is not what it should be, and somebody has to put another one there; 503: the directory does
    /// not answer.
    pub(super) fn newest(&self, env: &EnvName) -> Result<Option<Arc<Manifest>>, ActFault> {
        let (folder, name) = (self.directory.path().to_owned(), env.clone());
        let newest = self.directory.at(move || names::newest(&folder, name.as_str()))?;
        newest.map(|archive| self.manifest(env, &archive)).transpose()
    }

    /// A version's archive without the lowest layers that `have` names (diff ids), in their order. None: there is no such version.
    ///
    /// # Errors
    /// As [`Archives::newest`].
    pub(super) fn part(
        &self,
        env: &EnvName,
        version: u64,
        have: &[String],
    ) -> Result<Option<(u64, Held<Opened>)>, ActFault> {
        let path = self.directory.path().join(names::file_name(env.as_str(), version));
        let Some(archive) = self.directory.at(move || Archive::at(path, version))? else { return Ok(None) };
        let manifest = self.manifest(env, &archive)?;
        let part = Part::without(&manifest, manifest.shared(have));
        let (path, tag) = (archive.path.clone(), names::tag(env.as_str()));
        let beside = self.directory.path().join(names::manifest_name(env.as_str(), version));
        let opened = self.directory.at(move || {
            let mut file = File::open(&path).map_err(|fault| ArchiveFault(fault.to_string()))?;
            let image = Image::read(&mut file, &tag)?;
            if image.id != manifest.image_id {
                return Err(swapped(&beside));
            }
            Ok(Opened { file, image, part })
        })?;
        let opened = opened.map_err(|fault: ArchiveFault| unusable(&archive, &fault))?;
        Ok(Some((opened.length(), self.directory.hold(opened))))
    }

    /// What was written beside the archive, or what is found by reading it: somebody may have put it there by hand.
    ///
    /// The reading takes minutes, so it has no limit. A directory that dies meanwhile is met with one who reads and those who wait for
    /// him; who comes later has looked for the archive first, and is refused.
    fn manifest(&self, env: &EnvName, archive: &Archive) -> Result<Arc<Manifest>, ActFault> {
        let key = (env.as_str().to_owned(), archive.stamp);
        if let Some(known) = self.remembered(&key, archive) {
            return Ok(known);
        }
        let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever was before us may have made it.
        if let Some(known) = self.remembered(&key, archive) {
            return Ok(known);
        }
        let path = self.directory.path().join(names::manifest_name(env.as_str(), archive.stamp));
        let described = || {
            info!("reading {} to know what is in it", archive.path.display());
            Manifest::describe(&archive.path, env.as_str(), archive.stamp).map_err(|fault| unusable(archive, &fault))
        };
        let written =
            Manifest::read(&path).ok().filter(|found| found.name == env.as_str() && found.version == archive.stamp);
        let manifest = match written {
            Some(found) if found.size == archive.size && is_since(&path, archive) => found,
            Some(found) => {
                let made = described()?;
                // Copied or touched, or another one in its place?
                if made.sha256 != found.sha256 {
                    return Err(unusable(archive, &swapped(&path)));
                }
                found
            }
            None => {
                let made = described()?;
                if let Err(fault) = file::write_atomic(&path, made.to_json().as_bytes(), 0o644) {
                    warning!("what is known of {} is not kept: {fault}", archive.path.display());
                }
                made
            }
        };
        let manifest = Arc::new(manifest);
        let known = Known { size: archive.size, modified: archive.modified, manifest: manifest.clone() };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known);
        Ok(manifest)
    }

    fn remembered(&self, key: &(String, u64), archive: &Archive) -> Option<Arc<Manifest>> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(key)?;
        if (known.size, known.modified) == (archive.size, archive.modified) {
            return Some(known.manifest.clone());
        }
        all.remove(key);
        None
    }
}

/// Whether a file was written no earlier than the archive.
fn is_since(path: &Path, archive: &Archive) -> bool {
    let time = fs::metadata(path).and_then(|found| found.modified()).ok();
    let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.is_some_and(|time| time.as_nanos() >= archive.modified)
}

fn unusable(archive: &Archive, fault: &ArchiveFault) -> ActFault {
    ActFault::new(409, format!("the tarball {} cannot be used: {fault}", archive.path.display()))
}
