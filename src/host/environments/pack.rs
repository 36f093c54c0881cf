//! `create-tar`: an environment's container becomes a tarball.
//!
//! Stop, commit, start again as it was, save under a name that counts for nothing, check, sync, write the manifest, rename. Only then
//! older versions go. Whatever fails, and wherever the Host is killed, what was there before is there after ([`super::owed`]).

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::owed::{self, Owed};
use super::words::{self, Found, State};
use super::{Environments, env_name, tarballs};
use crate::archive::{Manifest, names};
use crate::domain::ids::EnvName;
use crate::host::engine::ActFault;
use crate::sys::{fault, file};
use crate::{info, warning};

/// Characters of a label at most.
const LONGEST_LABEL: usize = 500;

/// A new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) struct Packed {
    /// Of the tarball.
    pub(in crate::host) path: PathBuf,
    /// False: the container ran, and could not be started again.
    pub(in crate::host) is_as_before: bool,
}

/// Whether a node is loading a version of an environment now.
pub(in crate::host) type IsLoading<'a> = &'a dyn Fn(&EnvName, u64) -> bool;

impl Environments {
    /// Packs the container `name`, whoever made it, into a new version of the environment of that name. `progress` hears what is being done.
    ///
    /// # Errors
    /// 400: the name can be no environment's; 404: there is no such container; 409: it is a task's, or something is being done to
    /// it; 503: no Docker; 500: with the reason. Nothing has changed then, and older versions stay.
    pub(in crate::host) fn pack(
        self: &Arc<Self>,
        name: &str,
        label: Option<&str>,
        is_loading: IsLoading<'_>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Packed, ActFault> {
        let name = env_name(name)?;
        let tag = words::tag(&name).map_err(|why| ActFault::new(400, why))?;
        if label.is_some_and(|label| label.chars().count() > LONGEST_LABEL || label.chars().any(char::is_control)) {
            return Err(ActFault::new(400, format!("label: expected one line of at most {LONGEST_LABEL} characters")));
        }
        let busy = self.take(&name)?;
        if let Some(earlier) = owed::of(&self.owed_folder(), &name) {
            self.settle(&earlier)?;
        }
        let found = self.docker.look(name.as_str())?.ok_or_else(|| {
            let text =
                format!("container '{name}' not found; make it with 'hakuriver docker create-container IMAGE {name}'");
            ActFault::new(404, text)
        })?;
        if let Some(task) = found.task() {
            let text = format!("container '{name}' is that of task {task}, and no environment");
            return Err(ActFault::new(409, text));
        }
        if found.removes_itself && matches!(found.state, State::Running | State::Paused) {
            let text = format!(
                "container '{name}' was started with --rm: Docker would remove it, with all that was set up in it, as soon as it is \
                 stopped to be packed; keep it first: 'docker commit {name} IMAGE' on the Host, then \
                 'hakuriver docker create-container IMAGE NAME'"
            );
            return Err(ActFault::new(409, text));
        }
        // Two Hosts on one machine may have environments of one name.
        let working = tag.replace(":base", &format!(":packing-{}-", &self.cluster[..self.cluster.len().min(8)]));
        // The daemon ends a commit also when the one who asked for it was killed.
        for left in self.docker.names(&format!("{working}*"))? {
            self.docker.remove_image(&left)?;
        }
        let versions = self.times(&name)?;
        let version = tarballs::next(Self::now(), &versions);
        let owed = Owed {
            version,
            container: (found.state == State::Running).then(|| found.id.clone()),
            before: self.docker.image(&tag)?.map(|image| image.id),
            working_tag: format!("{working}{version}"),
            tag,
            name,
        };
        owed.keep(&self.owed_folder()).map_err(|fault| unpacked(&owed, "it is as it was", fault.to_string()))?;
        let made = self.make(&owed, &found, label, progress);
        let settled = self.settle(&owed);
        if let Err(fault) = &settled {
            warning!("what was begun with the environment '{}' is put right when Docker answers: {fault}", owed.name);
            self.settle_later();
        }
        let path = made.map_err(|fault| {
            let state = if settled.is_ok() { "it is as it was" } else { "it is put right when Docker answers" };
            ActFault { status: fault.status, ..unpacked(&owed, state, fault.detail) }
        })?;
        info!("packed the environment '{}' into {}", owed.name, path.display());
        self.tidy(&owed.name, is_loading);
        let is_as_before = self.is_as_before(&owed);
        drop(busy);
        Ok(Packed { path, is_as_before })
    }

    /// The container runs, if it ran before.
    fn is_as_before(&self, owed: &Owed) -> bool {
        let found = owed.container.as_ref().map(|_| self.docker.look(owed.name.as_str()));
        found.is_none_or(|found| found.is_ok_and(|found| found.is_some_and(|found| found.state == State::Running)))
    }

    /// All that may fail.
    fn make(
        &self,
        owed: &Owed,
        found: &Found,
        label: Option<&str>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, ActFault> {
        let Owed { name, version, .. } = owed;
        // What our own containers run by themselves is not what their image runs.
        let own = if found.is_kept { self.docker.image(&found.image)? } else { None };
        if found.is_kept && own.is_none() {
            return Err(ActFault::new(
                500,
                format!("the image that container '{name}' was made of is gone: {}", found.image),
            ));
        }
        if let Some(container) = &owed.container {
            progress(&format!("stopping container {name}"));
            self.docker.stop(container)?;
        }
        progress(&format!("committing container {name}"));
        let argv = words::commit(&found.id, own.as_ref(), &owed.working_tag);
        let image = self.docker.commit(argv, &self.stop).map_err(|fault| self.stopped(fault.into()))?;
        if let Some(container) = &owed.container {
            progress(&format!("starting container {name} again"));
            // If that fails, it is tried again at the end, and told of there.
            let _tried = self.docker.start(container);
        }
        self.docker.tag(&image, &owed.tag)?;
        let size = self.docker.image(&image)?.map_or(0, |image| image.size);
        let unfinished = self.folder().join(tarballs::unfinished(name, *version));
        self.save(&owed.tag, &unfinished, size, &mut |percent| progress(&format!("saving {name} ({percent}%)")))
            .map_err(|fault| self.stopped(fault))?;
        progress(&format!("checking {name}"));
        self.publish(owed, &unfinished, label)
    }

    /// Writes what Docker saves, and syncs it.
    fn save(&self, tag: &str, path: &Path, size: u64, percent: &mut dyn FnMut(u64)) -> Result<(), ActFault> {
        let fault = |fault: &io::Error| unwritten(path, fault);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map_err(|e| fault(&e))?;
        let (mut written, mut told, mut broken) = (0_u64, None, None);
        let saved = self.docker.save(tag, &self.stop, &mut |bytes| {
            file.write_all(bytes).inspect_err(|e| broken = Some(fault(e)))?;
            written += bytes.len() as u64;
            // The archive is a little longer than what it holds.
            let now = (written.saturating_mul(100) / size.max(1)).min(99);
            if told != Some(now) {
                told = Some(now);
                percent(now);
            }
            Ok(())
        });
        match broken {
            Some(fault) => return Err(fault),
            None => saved?,
        }
        let _step = fault::step("sync", || "archive".to_owned());
        file.sync_all().map_err(|e| fault(&e))
    }

    /// Checks the archive, writes what is known of it beside it, and gives it its name.
    fn publish(&self, owed: &Owed, unfinished: &Path, label: Option<&str>) -> Result<PathBuf, ActFault> {
        let Owed { name, version, .. } = owed;
        let described = Manifest::describe(unfinished, name.as_str(), *version);
        let described =
            described.map_err(|fault| ActFault::new(500, format!("what Docker saved cannot be used: {fault}")))?;
        let manifest = Manifest { label: label.map(str::to_owned), ..described };
        let beside = self.folder().join(names::manifest_name(name.as_str(), *version));
        let path = self.folder().join(names::file_name(name.as_str(), *version));
        let fault = |fault: io::Error| unwritten(&path, &fault);
        file::write_atomic(&beside, manifest.to_json().as_bytes(), 0o644).map_err(fault)?;
        file::rename(unfinished, &path).and_then(|()| file::sync_dir(self.folder())).map_err(fault)?;
        Ok(path)
    }

    /// Removes older versions. That one cannot be removed makes no new one worse.
    fn tidy(&self, name: &EnvName, is_loading: IsLoading<'_>) {
        let Ok(versions) = self.times(name) else { return };
        for version in tarballs::surplus(&versions, self.keep, &|version| is_loading(name, version)) {
            match tarballs::remove_version(self.folder(), name, version) {
                Ok(()) => info!("removed {} (docker.keep_versions)", names::file_name(name.as_str(), version)),
                Err(fault) => warning!("an older version of '{name}' stays: {fault}"),
            }
        }
        if let Err(fault) = tarballs::remove_orphans(self.folder(), name) {
            warning!("{fault}");
        }
    }

    /// The versions of an environment, the newest first.
    fn times(&self, name: &EnvName) -> Result<Vec<u64>, ActFault> {
        let all = self.versions()?;
        Ok(all.get(name).cloned().unwrap_or_default())
    }

    /// What was broken off because the Host stops says so.
    fn stopped(&self, fault: ActFault) -> ActFault {
        if self.stop.is_set() { ActFault::new(503, "the Host stops") } else { fault }
    }

    /// Packs, or says why not, where nobody waits for the answer.
    pub(super) fn pack_first(self: &Arc<Self>, name: &str) {
        match self.pack(name, None, &|_, _| false, &mut |_| ()) {
            Ok(_) => {}
            Err(_) if self.stop.is_set() => {}
            Err(fault) => warning!("the default environment was not made: {}", fault.detail),
        }
    }
}

fn unwritten(path: &Path, fault: &io::Error) -> ActFault {
    let status = if fault.kind() == io::ErrorKind::StorageFull { 507 } else { 500 };
    ActFault::new(status, format!("cannot write {}: {fault}", path.display()))
}

fn unpacked(owed: &Owed, state: &str, reason: String) -> ActFault {
    ActFault::new(500, format!("environment '{}' was not packed, and {state}: {reason}", owed.name))
}
