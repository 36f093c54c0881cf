//! The images of environments on this node: found, or brought here once for everyone who waits.
//!
//! Where an environment comes from is [`source`]'s, how it comes over the network [`fetch`]'s, how it gets into Docker
//! [`load`]'s business.

mod fetch;
mod load;
mod source;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use source::Sources;

use self::fetch::Spool;
use self::source::{Found, SourceFault};
use self::standing::Standing;
use super::backoff::Backoff;
use super::executor::docker::{Docker, DockerFault};
use super::executor::docker_parse::ImageConfig;
use super::gate::Cancelled;
use crate::api::node::NodeEnvironment;
use crate::archive::names::tag;
use crate::sys::shutdown::Stop;
use crate::sys::thread;
use crate::{info, warning};

/// How long to wait before the Host is asked again.
const ASK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

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
    sources: Sources,
    spool: Spool,
    /// Set when the Runner ends.
    ending: Stop,
    known: Mutex<Known>,
    changed: Condvar,
}

struct Known {
    /// Images that the node has under another id than the tarball says (Docker's containerd store names them otherwise).
    aliases: BTreeMap<String, String>,
    /// What images run by themselves: an id's content never changes.
    configs: BTreeMap<String, ImageConfig>,
    /// Images that the node was seen to have.
    present: BTreeSet<String>,
    /// Images that are being brought: how far.
    loading: BTreeMap<String, Arc<Loading>>,
    standing: Standing,
}

/// One load, for all who wait for it.
#[derive(Default)]
struct Loading {
    state: Mutex<LoadState>,
    waiters: AtomicUsize,
}

#[derive(Clone)]
struct LoadState {
    /// What is being done.
    text: Arc<str>,
    ended: Option<Result<(), ImageFault>>,
}

impl Default for LoadState {
    fn default() -> Self {
        Self { text: Arc::from(""), ended: None }
    }
}

impl Loading {
    fn lock(&self) -> MutexGuard<'_, LoadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0
    }
}

impl Images {
    /// `folder` is this Runner's own, for what is on its way and what is remembered.
    pub fn new(docker: Arc<Docker>, sources: Sources, folder: &Path, ending: Stop) -> Self {
        let spool = Spool::at(folder.to_owned());
        spool.tidy();
        let known = Known {
            aliases: BTreeMap::new(),
            configs: BTreeMap::new(),
            present: BTreeSet::new(),
            loading: BTreeMap::new(),
            standing: Standing::open(folder.join("ready.json")),
        };
        Self { docker, sources, spool, ending, known: Mutex::new(known), changed: Condvar::new() }
    }

    /// Looks which of the images that were here still are; where Docker does not answer, they are taken to be.
    pub fn recall(&self) {
        let images = self.lock().standing.images();
        if !images.is_empty()
            && let Ok(there) = self.docker.image_ids(&images)
        {
            self.lock().standing.keep(&there);
        }
    }

    /// Which environments are here, and which on their way.
    pub fn standing(&self) -> Vec<NodeEnvironment> {
        self.lock().standing.told()
    }

    /// The id of the newest image of `env` on this node; brings it if need be, once for all who ask. `progress` hears what
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
        let mut backoff = Backoff::new(ASK.0, ASK.1);
        loop {
            let found = match self.sources.newest(env) {
                Ok(Some(found)) => found,
                Ok(None) => return self.without_tarball(env),
                Err(SourceFault::Unusable(fault)) => return Err(fault),
                Err(SourceFault::Unreachable(reason)) => {
                    progress(&format!("finding image {env}: waiting for the Host: {reason}"));
                    if cancel.wait(backoff.wait()) {
                        return Err(ImageFault::Cancelled);
                    }
                    continue;
                }
            };
            let id = &found.manifest.image_id;
            if !self.has(id)? {
                match self.load(&found, cancel, progress) {
                    // Given up because nobody else waited, or since there is a newer version by now.
                    Err(ImageFault::Cancelled) if !cancel.is_set() && !self.ending.is_set() => {
                        if cancel.wait(backoff.wait()) {
                            return Err(ImageFault::Cancelled);
                        }
                        continue;
                    }
                    other => other?,
                }
            }
            let mut known = self.lock();
            let image = known.aliases.get(id).unwrap_or(id).clone();
            known.standing.is_ready(env, found.manifest.version, &image);
            return Ok(image);
        }
    }

    /// Whether the node has an image, and nobody is about to load it.
    fn has(&self, id: &str) -> Result<bool, ImageFault> {
        {
            let known = self.lock();
            if known.present.contains(id) {
                return Ok(true);
            }
            if known.loading.contains_key(id) {
                return Ok(false);
            }
        }
        let is_there = self.docker.image_id(id).map_err(ImageFault::Docker)?.is_some();
        if is_there {
            self.lock().present.insert(id.to_owned());
        }
        Ok(is_there)
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
        let others: Vec<String> = known.standing.images().into_iter().filter(|other| other != image).collect();
        known.standing.keep(&others);
    }

    /// Makes everyone who waits look at their `cancel` again.
    pub fn nudge(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// The image of the tag that version 0.3 gave, where no tarball can be seen.
    fn without_tarball(&self, env: &str) -> Result<String, ImageFault> {
        let tag = tag(env);
        if let Some(id) = self.docker.image_id(&tag).map_err(ImageFault::Docker)? {
            return Ok(id);
        }
        Err(ImageFault::Unusable(format!(
            "the environment '{env}' is not to be had: the Host has no tarball of it, there is none in {} ({}), and no local \
             image {tag}; see 'hakuriver docker list-tars'",
            self.sources.folder.display(),
            self.sources.known()
        )))
    }

    /// Joins the load of an image, or begins it.
    fn load(self: &Arc<Self>, found: &Found, cancel: &Stop, progress: &mut dyn FnMut(&str)) -> Result<(), ImageFault> {
        let id = &found.manifest.image_id;
        let mut known = self.lock();
        let loading = match known.loading.get(id) {
            Some(loading) => Arc::clone(loading),
            // It came meanwhile.
            None if known.present.contains(id) => return Ok(()),
            None => {
                let loading = Arc::new(Loading::default());
                loading.lock().text = Arc::from(format!("loading image {} (0%)", found.manifest.name));
                self.begin(found, &loading)?;
                known.loading.insert(id.clone(), Arc::clone(&loading));
                known.standing.begins(&found.manifest.name, found.manifest.version);
                loading
            }
        };
        loading.waiters.fetch_add(1, Ordering::SeqCst);
        let ended = self.await_end(known, &loading, cancel, progress);
        loading.waiters.fetch_sub(1, Ordering::SeqCst);
        ended
    }

    fn await_end<'a>(
        &'a self,
        mut known: MutexGuard<'a, Known>,
        loading: &Loading,
        cancel: &Stop,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), ImageFault> {
        let mut told = None;
        loop {
            if cancel.is_set() {
                return Err(ImageFault::Cancelled);
            }
            let LoadState { text, ended } = loading.lock().clone();
            if let Some(ended) = ended {
                return ended;
            }
            if told.as_ref() != Some(&text) {
                drop(known);
                progress(&text);
                told = Some(text);
                known = self.lock();
                continue;
            }
            known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts the thread that brings it. It goes on when nobody waits any more: the next one will want it.
    fn begin(self: &Arc<Self>, found: &Found, loading: &Arc<Loading>) -> Result<(), ImageFault> {
        let work = {
            let (images, loading, found) = (Arc::clone(self), Arc::clone(loading), found.clone());
            move || {
                let env = &found.manifest.name;
                let began = Instant::now();
                let ended = images.bring(&found, &loading);
                match &ended {
                    Ok(_) => info!("loaded '{env}' in {:.1} s", began.elapsed().as_secs_f64()),
                    Err(ImageFault::Docker(fault)) => warning!("the image of '{env}' could not be loaded: {fault}"),
                    Err(ImageFault::Unusable(reason)) => warning!("{reason}"),
                    Err(ImageFault::Cancelled) => info!("the image of '{env}' is not brought any more"),
                }
                images.end(&found, &loading, ended);
            }
        };
        let started = thread::spawn("image-load", work);
        let reason = |fault| found.unusable(&format!("no thread can be started to load it: {fault}"));
        started.map(drop).map_err(reason)
    }

    fn end(&self, found: &Found, loading: &Loading, ended: Result<String, ImageFault>) {
        let id = &found.manifest.image_id;
        let mut known = self.lock();
        known.loading.remove(id);
        known.standing.ends(&found.manifest.name, found.manifest.version);
        if let Ok(image) = &ended {
            known.present.insert(id.clone());
            known.standing.is_ready(&found.manifest.name, found.manifest.version, image);
            if image != id {
                known.aliases.insert(id.clone(), image.clone());
            }
        }
        loading.lock().ended = Some(ended.map(drop));
        drop(known);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
