//! What must be put right when the packing of an environment does not come to its end: on disk before anything is changed, so that
//! neither a kill of the Host nor one of Docker leaves a container stopped, or half a version behind.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::io;
use std::path::{Path, PathBuf};

use nanoserde::{DeJson, SerJson};

use super::docker::DockerFault;
use super::{Environments, is_there, tarballs};
use crate::api::json;
use crate::archive::names;
use crate::domain::docker_words::Complaint;
use crate::domain::ids::EnvName;
use crate::sys::file;
use crate::warning;

/// More is none of ours.
const LONGEST: usize = 64 << 10;

/// One packing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) name: EnvName,
    /// Of the tarball that is being made.
    pub(super) version: u64,
    /// The container that was stopped, and is to run again.
    pub(super) container: Option<String>,
    /// The environment's tag.
    pub(super) tag: String,
    /// The image that had the tag before.
    pub(super) before: Option<String>,
    /// A name that the new image has until its tarball is there, so that it is found again.
    pub(super) working_tag: String,
}

#[derive(DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
struct Line {
    name: String,
    version: u64,
    container: Option<String>,
    tag: String,
    before: Option<String>,
    working_tag: String,
}

impl Owed {
    /// Keeps it in `folder`, in place of what was kept for that environment.
    pub(super) fn keep(&self, folder: &Path) -> io::Result<()> {
        let line = Line {
            name: self.name.to_string(),
            version: self.version,
            container: self.container.clone(),
            tag: self.tag.clone(),
            before: self.before.clone(),
            working_tag: self.working_tag.clone(),
        };
        file::make_dir(folder, 0o700)?;
        file::write_atomic(&path(folder, &self.name), json::encode(&line).as_bytes(), 0o600)
    }

    fn forget(&self, folder: &Path) -> io::Result<()> {
        tarballs::remove(&path(folder, &self.name))
    }

    fn read(path: &Path) -> Result<Self, String> {
        let text = file::read_foreign(path, LONGEST).map_err(|fault| fault.to_string())?;
        let line: Line = json::decode(&text).map_err(|fault| format!("{}: {fault}", path.display()))?;
        Ok(Self {
            name: line.name.parse().map_err(|fault| format!("{}: {fault}", path.display()))?,
            version: line.version,
            container: line.container,
            tag: line.tag,
            before: line.before,
            working_tag: line.working_tag,
        })
    }
}

fn path(folder: &Path, name: &EnvName) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// What is kept for one environment.
pub(super) fn of(folder: &Path, name: &EnvName) -> Option<Owed> {
    let path = path(folder, name);
    if is_there(&path) { readable(&path) } else { None }
}

/// All that is kept. What cannot be read is told of, and left.
pub(super) fn all(folder: &Path) -> Vec<Owed> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .filter_map(|path| readable(&path))
        .collect()
}

fn readable(path: &Path) -> Option<Owed> {
    Owed::read(path).map_err(|fault| warning!("what was begun with an environment is not known: {fault}")).ok()
}

impl Environments {
    /// Brings a packing to its end, or takes it back: its container runs again as it did; its tag is the new image's if the tarball
    /// is there, else the old one's; nothing half written stays. May be repeated. The caller has the environment for himself.
    ///
    /// # Errors
    /// Docker does not answer: it stays owed.
    pub(super) fn settle(&self, owed: &Owed) -> Result<(), DockerFault> {
        if let Some(container) = &owed.container {
            // That it was removed meanwhile is somebody's wish.
            self.unless_down(self.docker.start(container), &format!("container '{}' does not start again", owed.name))?;
        }
        let tarball = self.folder().join(names::file_name(owed.name.as_str(), owed.version));
        if is_there(&tarball) {
            if let Some(before) = &owed.before {
                self.discard(before)?;
            }
        } else {
            self.take_back(owed)?;
        }
        // Of several names it takes one away; with the last one the image goes.
        self.unless_down(self.docker.remove_image(&owed.working_tag), "an image that was half packed stays")?;
        if let Err(fault) = owed.forget(&self.owed_folder()) {
            warning!("{fault}");
        }
        Ok(())
    }

    fn take_back(&self, owed: &Owed) -> Result<(), DockerFault> {
        let is_new = |image: &super::words::Image| image.tags.contains(&owed.working_tag);
        // The tag may have been given to another image by a user's hand: then it is left alone.
        if self.docker.image(&owed.tag)?.is_some_and(|image| is_new(&image)) {
            let restored = match &owed.before {
                Some(before) => self.docker.tag(before, &owed.tag),
                None => self.docker.remove_image(&owed.tag),
            };
            self.unless_down(restored, &format!("the tag {} is not what it was", owed.tag))?;
        }
        let unfinished = self.folder().join(tarballs::unfinished(&owed.name, owed.version));
        let manifest = self.folder().join(names::manifest_name(owed.name.as_str(), owed.version));
        for path in [unfinished, manifest] {
            if let Err(fault) = tarballs::remove(&path) {
                warning!("{fault}");
            }
        }
        Ok(())
    }

    /// Removes an image that has lost its name to a newer one, unless something is made of it, or it has another name.
    fn discard(&self, image: &str) -> Result<(), DockerFault> {
        if self.docker.image(image)?.is_some_and(|image| image.tags.is_empty()) {
            // In use is the usual reason why it stays: then it goes with its user.
            match self.docker.remove_image(image) {
                Err(fault) if fault.kind == Complaint::Down => return Err(fault),
                _ => {}
            }
        }
        Ok(())
    }

    /// What Docker refuses for good is told of; that it does not answer is the caller's business.
    fn unless_down(&self, done: Result<(), DockerFault>, otherwise: &str) -> Result<(), DockerFault> {
        match done {
            Ok(()) => Ok(()),
            Err(fault) if fault.kind == Complaint::Down => Err(fault),
            Err(fault) if fault.kind == Complaint::NoSuchContainer => Ok(()),
            Err(fault) => {
                warning!("{otherwise}: {}", fault.text);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn what_is_owed_is_kept_until_it_is_settled() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("packing");
        assert_eq!(all(&folder), []);
        let owed = Owed {
            name: "env".parse().expect("a name"),
            version: 17,
            container: Some("c1".into()),
            tag: "hakuriver/env:base".into(),
            before: None,
            working_tag: "hakuriver/env:packing-17".into(),
        };
        owed.keep(&folder).expect("it can be kept");
        let later = Owed { container: None, before: Some("sha256:1".into()), ..owed.clone() };
        later.keep(&folder).expect("it can be replaced");
        std::fs::write(folder.join("other.json"), "{").expect("written");
        assert_eq!(all(&folder), std::slice::from_ref(&later));
        assert_eq!(of(&folder, &owed.name), Some(later.clone()));
        later.forget(&folder).expect("it is forgotten");
        assert_eq!(of(&folder, &owed.name), None);
        assert_eq!(all(&folder), []);
    }
}
