//! Where the newest version of an environment is: in the shared directory, where this node sees it, else on the Host.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::ImageFault;
use crate::archive::names::{self, Archive};
use crate::archive::{ArchiveFault, Image, Manifest, Part, Reading, swapped};
use crate::runner::depot::{Depot, DepotFault};
use crate::runner::storage;
use crate::sys::looks::Looks;

/// A version of an environment, and where it is to be had.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) manifest: Arc<Manifest>,
    /// A file that this node sees; None: the Host has it.
    pub(super) archive: Option<Archive>,
}

impl Found {
    /// What messages call it.
    pub(super) fn place(&self) -> String {
        match &self.archive {
            Some(archive) => archive.path.display().to_string(),
            None => format!("{} on the Host", self.manifest.tarball),
        }
    }

    /// Why it gives no image.
    pub(super) fn unusable(&self, reason: &str) -> ImageFault {
        ImageFault::Unusable(format!("the tarball {} cannot be used: {reason}", self.place()))
    }

    /// A part of the file that this node sees.
    pub(super) fn read(archive: &Archive, env: &str, part: &Part) -> Result<Reading, ArchiveFault> {
        let mut file =
            File::open(&archive.path).map_err(|fault| ArchiveFault(format!("it cannot be opened: {fault}")))?;
        let image = Image::read(&mut file, &names::tag(env))?;
        Ok(Reading::new(file, image, part))
    }
}

/// Why the newest version is not known.
pub(super) enum SourceFault {
    /// The Host is not to be reached: to be tried again.
    Unreachable(String),
    Unusable(ImageFault),
}

/// The places.
pub struct Sources {
    /// `docker.container_dir`
    pub folder: PathBuf,
    /// It counts where it is this cluster's own.
    pub shared_dir: PathBuf,
    pub cluster: String,
    pub looks: Looks,
    pub depot: Arc<dyn Depot>,
    /// What is in a version of a file: its headers are read once.
    pub(super) read: Mutex<BTreeMap<(PathBuf, u64, u128), Arc<Manifest>>>,
}

impl Sources {
    /// Tarballs are looked for in `folder` if `shared_dir` is this cluster's, else `depot` is asked.
    pub fn new(folder: PathBuf, shared_dir: PathBuf, cluster: String, looks: Looks, depot: Arc<dyn Depot>) -> Self {
        Self { folder, shared_dir, cluster, looks, depot, read: Mutex::default() }
    }

    /// The newest version of `env`. None: there is none.
    pub(super) fn newest(&self, env: &str) -> Result<Option<Found>, SourceFault> {
        let (folder, name) = (self.folder.clone(), env.to_owned());
        let (shared_dir, cluster) = (self.shared_dir.clone(), self.cluster.clone());
        let look = move || storage::is_clusters(&shared_dir, &cluster).then(|| names::newest(&folder, &name)).flatten();
        // A file server that does not answer is no reason to wait: the Host has the same.
        match self.looks.at(look).flatten() {
            Some(archive) => {
                let manifest = self.headers(env, &archive)?;
                Ok(Some(Found { manifest, archive: Some(archive) }))
            }
            None => self.on_the_host(env),
        }
    }

    /// What the Host has. A copy of that very file which somebody has brought here is used.
    fn on_the_host(&self, env: &str) -> Result<Option<Found>, SourceFault> {
        let manifest = match self.depot.newest(env) {
            Ok(manifest) => Arc::new(manifest),
            Err(DepotFault::Gone) => return Ok(None),
            Err(DepotFault::Unreachable(text)) => return Err(SourceFault::Unreachable(text)),
            Err(DepotFault::Refused(text)) => return Err(SourceFault::Unusable(ImageFault::Unusable(text))),
        };
        // Names of files are made of it.
        if manifest.name != env {
            let text = format!("the Host was asked for the environment '{env}' and gave '{}'", manifest.name);
            return Err(SourceFault::Unusable(ImageFault::Unusable(text)));
        }
        let (path, version) = (self.folder.join(names::file_name(env, manifest.version)), manifest.version);
        let copy = self.looks.at(move || Archive::at(path, version)).flatten();
        let archive = copy.filter(|copy| copy.size == manifest.size);
        Ok(Some(Found { manifest, archive }))
    }

    /// What the headers of a file say, and the manifest beside it does not deny.
    fn headers(&self, env: &str, archive: &Archive) -> Result<Arc<Manifest>, SourceFault> {
        let version = (archive.path.clone(), archive.size, archive.modified);
        if let Some(manifest) = self.lock().get(&version) {
            return Ok(Arc::clone(manifest));
        }
        let read = {
            let (env, archive, folder) = (env.to_owned(), archive.clone(), self.folder.clone());
            self.looks.at(move || {
                let fault = |fault| ArchiveFault(format!("it cannot be opened: {fault}"));
                let image = Image::read(&mut File::open(&archive.path).map_err(fault)?, &names::tag(&env))?;
                let beside = folder.join(names::manifest_name(&env, archive.stamp));
                match Manifest::read(&beside) {
                    Ok(told) if told.image_id != image.id || told.size != archive.size => Err(swapped(&beside)),
                    _ => Ok(Manifest::of_headers(&image, &env, archive.stamp)),
                }
            })
        };
        let silent = || SourceFault::Unreachable(format!("{} does not answer", self.folder.display()));
        let read = read.ok_or_else(silent)?;
        let gone = archive.clone();
        let manifest = read.map(Arc::new).map_err(|fault| match self.looks.at(move || gone.is_gone()) {
            Some(true) => SourceFault::Unreachable(format!("{} was removed meanwhile", archive.path.display())),
            None => silent(),
            Some(false) => {
                let text = format!("the tarball {} cannot be used: {fault}", archive.path.display());
                SourceFault::Unusable(ImageFault::Unusable(text))
            }
        })?;
        self.lock().insert(version, Arc::clone(&manifest));
        Ok(manifest)
    }

    /// The environments in the folder, for a message.
    pub(super) fn known(&self) -> String {
        let folder = self.folder.clone();
        match self.looks.at(move || names::environments(&folder)) {
            None => "the folder does not answer".to_owned(),
            Some(known) if known.is_empty() => "there is none".to_owned(),
            Some(known) => format!("there are: {}", known.join(", ")),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(PathBuf, u64, u128), Arc<Manifest>>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
