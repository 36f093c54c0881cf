//! From a version of an environment to its image: what the node lacks of it is brought, and given to Docker.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::{FetchFault, Hearer};
use super::source::Found;
use super::{ImageFault, Images, Loading};
use crate::archive::Part;
use crate::runner::executor::docker::DockerFault;
use crate::runner::executor::docker_parse::Complaint;
use crate::sys::file;
use crate::sys::shutdown::Stop;
use crate::{info, warning};

/// What Docker says where its disk is full.
const NO_ROOM: &str = "no space left on device";

/// Why an archive gave no image.
enum LoadFault {
    /// Docker was given it whole and undamaged, and has no image: it may take another one.
    NotTaken(ImageFault),
    Final(ImageFault),
}

impl Images {
    /// Brings the image of `found` into Docker. The answer is by what Docker knows it here.
    pub(super) fn bring(&self, found: &Found, loading: &Loading) -> Result<String, ImageFault> {
        let chains = match self.docker.image_layers() {
            Ok(chains) => chains,
            Err(fault) if fault.kind == Complaint::Down => return Err(ImageFault::Docker(fault)),
            // Then all of them are brought.
            Err(fault) => {
                warning!("which layers are here is not known: {fault}");
                Vec::new()
            }
        };
        let lowest = chains.iter().map(|chain| found.manifest.shared(chain)).max().unwrap_or(0);
        match self.try_without(found, lowest, loading) {
            Ok(image) => Ok(image),
            // Another storage backend; or somebody has removed a layer meanwhile.
            Err(LoadFault::NotTaken(ImageFault::Unusable(reason))) if lowest > 0 => {
                info!("the layers that are missing do not load alone, so all are brought: {reason}");
                self.try_without(found, 0, loading).map_err(LoadFault::into_inner)
            }
            Err(fault) => Err(fault.into_inner()),
        }
    }

    fn try_without(&self, found: &Found, lowest: usize, loading: &Loading) -> Result<String, LoadFault> {
        let part = Part::without(&found.manifest, lowest);
        info!(
            "{} of the {} layers of '{}' are here; {} bytes are to be loaded from {}",
            lowest,
            found.manifest.layers.len(),
            found.manifest.name,
            part.length(),
            found.place()
        );
        let Some(archive) = &found.archive else { return self.fetched(found, lowest, &part, loading) };
        let unusable = |reason: &str| LoadFault::Final(found.unusable(reason));
        let mut reading =
            Found::read(archive, &found.manifest.name, &part).map_err(|fault| match archive.is_gone() {
                // A newer version has taken its place: whoever still waits looks for that one.
                true => LoadFault::Final(ImageFault::Cancelled),
                false => unusable(&fault.to_string()),
            })?;
        let fed = self.feed(found, &mut reading, part.length(), loading);
        match reading.fault() {
            // Docker has complained of an end that came too soon.
            Some(fault) => Err(unusable(&fault.to_string())),
            None => fed,
        }
    }

    fn fetched(&self, found: &Found, lowest: usize, part: &Part, loading: &Loading) -> Result<String, LoadFault> {
        let mut hearer = Told { images: self, found, loading };
        let fetched = self.spool.fetch(&*self.sources.depot, &found.manifest, lowest, &mut hearer);
        let (path, mut file) = fetched.map_err(|fault| {
            LoadFault::Final(match fault {
                // Whoever still waits looks for the newest version again.
                FetchFault::Unwanted | FetchFault::Gone => ImageFault::Cancelled,
                FetchFault::Failed(reason) => found.unusable(&reason),
            })
        })?;
        let fed = self.feed(found, &mut file, part.length(), loading);
        // Where Docker only did not answer, it is there for the next try.
        if !matches!(fed, Err(LoadFault::Final(ImageFault::Docker(_)))) {
            let _kept = file::remove(&path);
        }
        fed
    }

    /// Gives an archive to Docker, and finds the image.
    fn feed(&self, found: &Found, source: &mut dyn Read, size: u64, loading: &Loading) -> Result<String, LoadFault> {
        let name = &found.manifest.name;
        let said = self.docker.load(source, size, &Stop::new(), &mut |taken| {
            self.tell(loading, format!("loading image {name} ({}%)", percent(taken, size)));
        });
        let said = said.map_err(|fault| match fault.kind {
            Complaint::Down => LoadFault::Final(ImageFault::Docker(fault)),
            // All of it would have even less room.
            _ if fault.text.contains(NO_ROOM) => {
                LoadFault::Final(found.unusable(&format!("Docker does not take it: {fault}")))
            }
            _ => LoadFault::NotTaken(found.unusable(&format!("Docker does not take it: {fault}"))),
        })?;
        let docker = |fault: DockerFault| LoadFault::Final(of_docker(found, fault));
        let id = &found.manifest.image_id;
        if self.docker.image_id(id).map_err(docker)?.is_some() {
            return Ok(id.clone());
        }
        // "Loaded image: NAME" or "Loaded image ID: sha256:…"
        let name = said.lines().filter_map(|line| line.split_once(": ")).map(|(_, name)| name.trim()).next_back();
        let alias = match name {
            Some(name) => self.docker.image_id(name).map_err(docker)?,
            None => None,
        };
        let none = || found.unusable(&format!("Docker took it ({said}) and has no image {id}"));
        alias.ok_or_else(|| LoadFault::NotTaken(none()))
    }

    /// Those who wait hear what is being done.
    fn tell(&self, loading: &Loading, text: String) {
        let mut state = loading.lock();
        if *state.text != text {
            state.text = Arc::from(text);
            drop(state);
            self.nudge();
        }
    }
}

impl LoadFault {
    fn into_inner(self) -> ImageFault {
        match self {
            Self::NotTaken(fault) | Self::Final(fault) => fault,
        }
    }
}

/// A transfer's hearer: the tasks that wait for it.
struct Told<'a> {
    images: &'a Images,
    found: &'a Found,
    loading: &'a Loading,
}

impl Hearer for Told<'_> {
    fn came(&mut self, bytes: u64, all: u64) {
        let text = format!("fetching image {} ({}% of {})", self.found.manifest.name, percent(bytes, all), size(all));
        self.images.tell(self.loading, text);
    }

    fn wait(&mut self, reason: &str, pause: Duration) -> bool {
        self.images
            .tell(self.loading, format!("fetching image {}: waiting for the Host: {reason}", self.found.manifest.name));
        if self.loading.is_wanted() {
            self.images.ending.wait(pause);
        }
        self.loading.is_wanted() && !self.images.ending.is_set()
    }
}

fn of_docker(found: &Found, fault: DockerFault) -> ImageFault {
    match fault.kind {
        Complaint::Down => ImageFault::Docker(fault),
        _ => found.unusable(&fault.text),
    }
}

fn percent(taken: u64, size: u64) -> u64 {
    (taken.saturating_mul(100) / size.max(1)).min(100)
}

/// Bytes for a person, 1000-based.
fn size(bytes: u64) -> String {
    let (unit, one) = match bytes {
        0..1_000_000 => return format!("{} kB", bytes.div_ceil(1_000)),
        1_000_000..1_000_000_000 => ("MB", 100_000),
        _ => ("GB", 100_000_000),
    };
    let tenths = bytes.div_ceil(one);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_with_one_digit_after_the_point() {
        for (bytes, text) in [
            (0, "0 kB"),
            (1, "1 kB"),
            (999_999, "1000 kB"),
            (1_000_000, "1.0 MB"),
            (5_249_024, "5.3 MB"),
            (1_000_000_000, "1.0 GB"),
            (12_345_678_901, "12.4 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((percent(0, 0), percent(1, 3), percent(9, 3), percent(u64::MAX, 1)), (0, 33, 100, 100));
    }
}
