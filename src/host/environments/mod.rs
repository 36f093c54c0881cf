//! Environments on the Host: the containers that users set up by hand, and the tarballs that are packed of them.
//!
//! Only containers with our labels are listed and touched, but for those that a user names to be packed. It knows nothing of nodes
//! but what it is told: which versions they are loading.

mod binary;
mod containers;
mod docker;
mod first;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::host) mod fuzz;
mod owed;
mod pack;
mod tarballs;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::archive::{Manifest, names};
use crate::config;
use crate::domain::ids::EnvName;
use crate::sys::shutdown::Stop;
use crate::sys::{clock, thread};
use crate::warning;

use self::docker::Docker;
use super::directory::{Directory, Silent};
use super::engine::ActFault;
pub(super) use containers::Created;
pub(super) use pack::Packed;

/// How long a Host that stops waits for what it is doing to containers: less than a service manager waits for it. What is not done
/// then is done at the next start.
const LAST_WORK: Duration = Duration::from_secs(20);
/// Between two tries to put right what Docker did not let us.
const AGAIN: Duration = Duration::from_secs(10);

/// The container directory of the Host, and the door to its Docker.
#[derive(Debug)]
pub(super) struct Environments {
    directory: Arc<Directory>,
    docker: Docker,
    cluster: String,
    /// How many versions stay.
    keep: usize,
    /// Our own files: the copy of our binary, and what is owed.
    home: PathBuf,
    default: String,
    initial_image: String,
    stop: Stop,
    busy: Mutex<BTreeSet<EnvName>>,
    fewer: Condvar,
}

/// What lies in the container directory of one version of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) time: u64,
    /// File name.
    pub(super) tarball: String,
    /// Bytes.
    pub(super) size: u64,
    /// What the one who packed it wrote about it.
    pub(super) label: Option<String>,
}

/// While it lives, nobody else does anything to that environment.
struct Busy<'a> {
    environments: &'a Environments,
    name: EnvName,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.environments.lock().remove(&self.name);
        self.environments.fewer.notify_all();
    }
}

impl Environments {
    /// Nothing is read or asked yet. `stop` ends what takes long.
    pub(super) fn new(config: &config::Config, directory: Arc<Directory>, cluster: &str, stop: Stop) -> Self {
        let docker = &config.docker;
        Self {
            directory,
            docker: Docker::new(&docker.command),
            cluster: cluster.to_owned(),
            keep: usize::try_from(docker.keep_versions).unwrap_or(usize::MAX),
            home: config.paths.state_dir.join("host"),
            default: docker.default_container_name.clone(),
            initial_image: docker.initial_base_image.clone(),
            stop,
            busy: Mutex::default(),
            fewer: Condvar::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn at(folder: PathBuf) -> Self {
        Self::new(&config::defaults(&folder), Directory::of_archives(&folder), "cluster", Stop::new())
    }

    /// Puts right what an earlier Host has left, then makes the default environment where there is none at all: in the background
    /// where Docker is needed, since that may be slow or away. To be called before anything is packed.
    pub(super) fn begin(self: &Arc<Self>) {
        let removed = self.look(tarballs::remove_unfinished).map_err(|silent| silent.to_string());
        if let Err(fault) = removed.and_then(|removed| removed.map_err(|fault| fault.to_string())) {
            warning!("half written tarballs of an earlier Host stay: {fault}");
        }
        let own = Arc::clone(self);
        let begun = thread::spawn("environments", move || {
            own.settle_all();
            own.make_first();
        });
        if let Err(fault) = begun {
            warning!("the environments are not looked after: no thread can be started for it: {fault}");
        }
    }

    /// Waits until nothing is being done any more, for a while at most; called when the Host stops.
    pub(super) fn end(&self) {
        let busy = self.lock();
        drop(self.fewer.wait_timeout_while(busy, LAST_WORK, |busy| !busy.is_empty()));
    }

    /// Is there a tarball of it?
    ///
    /// # Errors
    /// 400 with two lines: which ones there are, and the commands that make this one; 500: the container directory cannot be read;
    /// 503: it does not answer.
    pub(super) fn require(&self, name: &EnvName) -> Result<(), ActFault> {
        let known = self.versions()?;
        if known.contains_key(name) {
            return Ok(());
        }
        let known: Vec<&str> = known.keys().map(EnvName::as_str).take(20).collect();
        let known =
            if known.is_empty() { "there is none yet".to_owned() } else { format!("known: {}", known.join(", ")) };
        let text = format!(
            "environment '{name}' does not exist ({known}); make it: 'hakuriver docker create-container IMAGE {name}', \
             'hakuriver docker-shell {name}',\n'hakuriver docker create-tar {name}'; or put an image's archive there: \
             docker save IMAGE -o {}/{name}-$(date +%s).tar",
            self.folder().display()
        );
        Err(ActFault::new(400, text))
    }

    /// Every environment with its versions, the newest first; there is at least one of each.
    ///
    /// # Errors
    /// As [`Environments::require`], but for 400.
    pub(super) fn list(&self) -> Result<BTreeMap<EnvName, Vec<Version>>, ActFault> {
        let mut list = BTreeMap::new();
        for (name, times) in self.versions()? {
            // A look for each environment: a file server takes milliseconds for each version, and looks have a limit.
            let env = name.clone();
            let look = move |folder: &Path| times.into_iter().filter_map(|time| version(folder, &env, time)).collect();
            let versions: Vec<Version> = self.look(look)?;
            if !versions.is_empty() {
                list.insert(name, versions);
            }
        }
        Ok(list)
    }

    /// The times of the versions of each environment, the newest first.
    fn versions(&self) -> Result<BTreeMap<EnvName, Vec<u64>>, ActFault> {
        self.look(tarballs::versions)?.map_err(|fault| {
            let why = format!("cannot read the container directory {}: {fault}", self.folder().display());
            ActFault::new(500, why)
        })
    }

    /// Looks into the container directory.
    fn look<T: Send + 'static>(&self, look: impl FnOnce(&Path) -> T + Send + 'static) -> Result<T, Silent> {
        let folder = self.folder().to_owned();
        self.directory.at(move || look(&folder))
    }

    fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// Takes an environment for oneself.
    ///
    /// # Errors
    /// 409: somebody has it. 503: the Host stops; so nobody begins anything behind who waits for all to be over.
    fn take(&self, name: &EnvName) -> Result<Busy<'_>, ActFault> {
        let mut busy = self.lock();
        if self.stop.is_set() {
            return Err(ActFault::new(503, "the Host stops"));
        }
        if busy.insert(name.clone()) {
            return Ok(Busy { environments: self, name: name.clone() });
        }
        let text =
            format!("something is being done to '{name}' just now (created, packed …); try again when it is done");
        Err(ActFault::new(409, text))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<EnvName>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries again until nothing is owed any more, or the Host stops.
    fn settle_all(&self) {
        let mut told = false;
        loop {
            let mut rest = 0;
            for owed in owed::all(&self.owed_folder()) {
                // Who has it just now settles it.
                let settled = self.take(&owed.name).is_ok_and(|_busy| match self.settle(&owed) {
                    Ok(()) => true,
                    Err(fault) => {
                        if !told {
                            warning!("what was begun with the environment '{}' is put right later: {fault}", owed.name);
                        }
                        false
                    }
                });
                rest += usize::from(!settled);
            }
            told = true;
            if rest == 0 || self.stop.wait(AGAIN) {
                return;
            }
        }
    }

    /// In the background, when Docker went away in the middle.
    fn settle_later(self: &Arc<Self>) {
        let own = Arc::clone(self);
        if let Err(fault) = thread::spawn("settle", move || own.settle_all()) {
            warning!("what was begun is put right at the next start: no thread can be started for it: {fault}");
        }
    }

    fn owed_folder(&self) -> PathBuf {
        self.home.join("packing")
    }

    /// Seconds since 1970.
    fn now() -> u64 {
        clock::unix_ms() / 1_000
    }
}

/// None: it was removed this moment.
fn version(folder: &Path, name: &EnvName, time: u64) -> Option<Version> {
    let tarball = names::file_name(name.as_str(), time);
    let size = std::fs::metadata(folder.join(&tarball)).ok()?.len();
    let manifest = folder.join(names::manifest_name(name.as_str(), time));
    let label = Manifest::read(&manifest).ok().and_then(|manifest| manifest.label);
    Some(Version { time, tarball, size, label })
}

/// What a name in a path or a body must be.
///
/// # Errors
/// 400 with what is expected.
fn env_name(text: &str) -> Result<EnvName, ActFault> {
    text.parse().map_err(|fault: crate::domain::ids::NameFault| ActFault::new(400, fault.to_string()))
}

/// As [`std::fs::metadata`], for a plain yes or no.
fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn an_unknown_environment_is_refused_with_those_that_there_are() {
        let scratch = Scratch::new();
        let environments = Environments::at(scratch.path().to_owned());
        let (base, other): (EnvName, EnvName) = ("base".parse().expect("name"), "other".parse().expect("name"));
        let ActFault { status, detail: fault } = environments.require(&base).expect_err("none");
        assert_eq!(status, 400);
        let advice = format!("docker save IMAGE -o {}/base-$(date +%s).tar", scratch.path().display());
        assert!(fault.contains("(there is none yet)") && fault.ends_with(&advice), "{fault}");
        assert!(fault.contains("'hakuriver docker create-tar base'") && fault.lines().count() == 2, "{fault}");
        std::fs::write(scratch.path().join("base-17.tar"), "").expect("write");
        assert_eq!(environments.require(&base), Ok(()));
        assert!(environments.require(&other).expect_err("unknown").detail.contains("known: base"));
        std::fs::remove_dir_all(scratch.path()).expect("remove");
        assert!(environments.require(&base).expect_err("gone").detail.contains("cannot read"));
        assert_eq!(environments.list().expect_err("gone").status, 500);
    }

    #[test]
    fn the_list_has_sizes_and_labels() {
        let scratch = Scratch::new();
        let environments = Environments::at(scratch.path().to_owned());
        std::fs::write(scratch.path().join("base-17.tar"), "12345").expect("write");
        std::fs::write(scratch.path().join("base-18.tar"), "").expect("write");
        let digest = format!("sha256:{}", "0".repeat(64));
        let manifest = Manifest {
            format: 1,
            label: Some("with gcc".into()),
            sha256: digest.clone(),
            image_id: digest,
            ..Manifest::default()
        };
        std::fs::write(scratch.path().join("base-17.json"), manifest.to_json()).expect("write");
        std::fs::write(scratch.path().join("base-18.json"), "{").expect("write");
        let list = environments.list().expect("it is read");
        let base: EnvName = "base".parse().expect("a name");
        let versions: Vec<_> = list[&base].iter().map(|v| (v.time, v.size, v.label.as_deref())).collect();
        assert_eq!(versions, [(18, 0, None), (17, 5, Some("with gcc"))]);
    }

    #[test]
    fn an_environment_is_one_callers_at_a_time() {
        let environments = Environments::at("/nonexistent".into());
        let name = env_name("base").expect("a name");
        let busy = environments.take(&name).expect("it is free");
        assert_eq!(environments.take(&name).map(drop).expect_err("taken").status, 409);
        drop(busy);
        assert!(environments.take(&name).is_ok());
        environments.end();
        assert_eq!(env_name("a b").expect_err("no name").status, 400);
    }
}
