//! The images of environments on this node: found, or loaded once for everyone who waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::executor::docker::{Docker, DockerFault};
use super::executor::docker_parse::{Complaint, ImageConfig};
use super::gate::Cancelled;
use super::storage::Looks;
use super::tarball::{self, Tarball};
use crate::sys::shutdown::Stop;
use crate::sys::thread;
use crate::{info, warning};

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageFault {
    /// Something else was asked for.
    Cancelled,
    /// Docker does not answer: to be tried again when it does.
    Docker(DockerFault),
    /// One sentence for the user.
    Unusable(String),
}

impl From<Cancelled> for ImageFault {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Finds and loads images.
pub struct Images {
    docker: Arc<Docker>,
    folder: PathBuf,
    looks: Looks,
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Default)]
struct Known {
    /// The image in a version of a tarball: it is read once.
    ids: BTreeMap<(PathBuf, u64, u128), String>,
    /// Images that the node has under another id than the tarball says (Docker's containerd store names them otherwise).
    aliases: BTreeMap<String, String>,
    /// What images run by themselves: an id's content never changes.
    configs: BTreeMap<String, ImageConfig>,
    /// Images that the node was seen to have.
    present: BTreeSet<String>,
    /// Images that are being loaded: how far.
    loading: BTreeMap<String, Arc<Loading>>,
}

/// One load, for all who wait for it.
#[derive(Default)]
struct Loading {
    state: Mutex<LoadState>,
}

#[derive(Clone, Default)]
struct LoadState {
    percent: u64,
    ended: Option<Result<(), ImageFault>>,
}

impl Images {
    /// Tarballs are looked for in `folder`.
    pub fn new(docker: Arc<Docker>, folder: PathBuf, looks: Looks) -> Self {
        Self { docker, folder, looks, known: Mutex::default(), changed: Condvar::new() }
    }

    /// The id of the newest image of `env` on this node; loads it if need be, once for all who ask. `progress` hears what
    /// is being done.
    ///
    /// # Errors
    /// See [`ImageFault`].
    pub fn resolve(
        self: &Arc<Self>,
        env: &str,
        cancel: &Stop,
        progress: &mut dyn FnMut(&str),
    ) -> Result<String, ImageFault> {
        let Some(found) = self.newest(env) else { return self.without_tarball(env) };
        let id = self.id_of(&found, env)?;
        {
            let known = self.lock();
            if known.present.contains(&id) {
                return Ok(known.aliases.get(&id).unwrap_or(&id).clone());
            }
        }
        if !self.lock().loading.contains_key(&id) && self.docker.image_id(&id).map_err(ImageFault::Docker)?.is_some() {
            self.lock().present.insert(id.clone());
            return Ok(id);
        }
        self.load(env, &found, &id, cancel, progress)?;
        let known = self.lock();
        Ok(known.aliases.get(&id).unwrap_or(&id).clone())
    }

    /// What an image runs by itself, and as whom; Docker is asked once for each image.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn config(&self, image: &str) -> Result<ImageConfig, DockerFault> {
        if let Some(config) = self.lock().configs.get(image) {
            return Ok(config.clone());
        }
        let config = self.docker.image_config(image)?;
        self.lock().configs.insert(image.to_owned(), config.clone());
        Ok(config)
    }

    /// Docker said that it does not have this image: look again before the next use.
    pub fn forget(&self, image: &str) {
        let mut known = self.lock();
        known.aliases.retain(|_, alias| alias != image);
        known.present.clear();
    }

    /// Makes everyone who waits look at their `cancel` again.
    pub fn nudge(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    fn newest(&self, env: &str) -> Option<Tarball> {
        let (folder, env) = (self.folder.clone(), env.to_owned());
        self.looks.at(move || tarball::newest(&folder, &env)).flatten()
    }

    /// The image of the tag that version 0.3 gave, where no tarball can be seen.
    fn without_tarball(&self, env: &str) -> Result<String, ImageFault> {
        let tag = tag(env);
        if let Some(id) = self.docker.image_id(&tag).map_err(ImageFault::Docker)? {
            return Ok(id);
        }
        let folder = self.folder.clone();
        let known = match self.looks.at(move || tarball::environments(&folder)) {
            None => "the folder does not answer".to_owned(),
            Some(known) if known.is_empty() => "there is none".to_owned(),
            Some(known) => format!("there are: {}", known.join(", ")),
        };
        Err(ImageFault::Unusable(format!(
            "the environment '{env}' is not on this node: no tarball {env}-<time>.tar in {} ({known}), and no local image \
             {tag}; copy the Host's tarball there, or let both share docker.container_dir in paths.shared_dir",
            self.folder.display()
        )))
    }

    fn id_of(&self, found: &Tarball, env: &str) -> Result<String, ImageFault> {
        let version = (found.path.clone(), found.size, found.modified);
        if let Some(id) = self.lock().ids.get(&version) {
            return Ok(id.clone());
        }
        let (path, tag) = (found.path.clone(), tag(env));
        let read = self.looks.at(move || tarball::image_id(&path, &tag));
        let read = read.unwrap_or_else(|| Err("its file system does not answer".to_owned()));
        let id = read.map_err(|reason| ImageFault::Unusable(unusable(found, &reason)))?;
        self.lock().ids.insert(version, id.clone());
        Ok(id)
    }

    /// Joins the load of `id`, or begins it.
    fn load(
        self: &Arc<Self>,
        env: &str,
        found: &Tarball,
        id: &str,
        cancel: &Stop,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), ImageFault> {
        let mut known = self.lock();
        let loading = match known.loading.get(id) {
            Some(loading) => Arc::clone(loading),
            None => {
                let loading = Arc::new(Loading::default());
                self.begin(env, found, id, &loading)?;
                known.loading.insert(id.to_owned(), Arc::clone(&loading));
                loading
            }
        };
        let mut told = None;
        loop {
            if cancel.is_set() {
                return Err(ImageFault::Cancelled);
            }
            let state = loading.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(ended) = state.ended {
                return ended;
            }
            if told != Some(state.percent) {
                told = Some(state.percent);
                drop(known);
                progress(&format!("loading image {env} ({}%)", state.percent));
                known = self.lock();
                continue;
            }
            known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts the thread that loads. It goes on when nobody waits any more: the next one will want it.
    fn begin(self: &Arc<Self>, env: &str, found: &Tarball, id: &str, loading: &Arc<Loading>) -> Result<(), ImageFault> {
        let work = {
            let (images, loading) = (Arc::clone(self), Arc::clone(loading));
            let (env, found, id) = (env.to_owned(), found.clone(), id.to_owned());
            move || {
                info!("loading the image of the environment '{env}' from {}", found.path.display());
                let began = Instant::now();
                let ended = images.feed(&found, &id, &loading);
                match &ended {
                    Ok(()) => info!("loaded '{env}' in {:.1} s", began.elapsed().as_secs_f64()),
                    Err(ImageFault::Docker(fault)) => warning!("the image of '{env}' could not be loaded: {fault}"),
                    Err(ImageFault::Unusable(reason)) => warning!("{reason}"),
                    Err(ImageFault::Cancelled) => {}
                }
                images.end(&id, &loading, ended);
            }
        };
        let started = thread::spawn("image-load", work);
        let reason = |fault| unusable(found, &format!("no thread can be started to load it: {fault}"));
        started.map(drop).map_err(|fault| ImageFault::Unusable(reason(fault)))
    }

    /// Gives the tarball to Docker, and finds the image.
    fn feed(&self, found: &Tarball, id: &str, loading: &Loading) -> Result<(), ImageFault> {
        let unusable = |reason: &str| ImageFault::Unusable(unusable(found, reason));
        let mut file = File::open(&found.path).map_err(|fault| unusable(&format!("it cannot be opened: {fault}")))?;
        let never = Stop::new();
        let said = self.docker.load(&mut file, found.size, &never, &mut |taken| {
            let percent = (taken.saturating_mul(100) / found.size.max(1)).min(100);
            let mut state = loading.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.percent != percent {
                state.percent = percent;
                drop(state);
                self.nudge();
            }
        });
        let said = said.map_err(|fault| match fault.kind {
            Complaint::Down => ImageFault::Docker(fault),
            _ => unusable(&format!("Docker does not take it: {fault}")),
        })?;
        if self.docker.image_id(id).map_err(ImageFault::Docker)?.is_some() {
            return Ok(());
        }
        // "Loaded image: NAME" or "Loaded image ID: sha256:…"
        let name = said.lines().filter_map(|line| line.split_once(": ")).map(|(_, name)| name.trim()).next_back();
        let alias = match name {
            Some(name) => self.docker.image_id(name).map_err(ImageFault::Docker)?,
            None => None,
        };
        let alias = alias.ok_or_else(|| unusable(&format!("Docker took it ({said}) and has no image {id}")))?;
        self.lock().aliases.insert(id.to_owned(), alias);
        Ok(())
    }

    fn end(&self, id: &str, loading: &Loading, ended: Result<(), ImageFault>) {
        let mut known = self.lock();
        known.loading.remove(id);
        if ended.is_ok() {
            known.present.insert(id.to_owned());
        }
        loading.state.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended);
        drop(known);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tag that version 0.3 gave to an environment's image.
fn tag(env: &str) -> String {
    format!("hakuriver/{env}:base")
}

fn unusable(found: &Tarball, reason: &str) -> String {
    format!("the tarball {} cannot be used: {reason}", found.path.display())
}

#[cfg(test)]
mod tests;
