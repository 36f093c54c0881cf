//! Which environments this node has: told to the Host, and remembered over an end of this Runner.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nanoserde::{DeJson, SerJson};

use crate::api::json;
use crate::api::node::NodeEnvironment;
use crate::sys::file;
use crate::warning;

/// What is on disk is no longer.
const LONGEST: usize = 4 << 20;

/// The version of each environment that was used last, and those on their way.
#[derive(Debug)]
pub(super) struct Standing {
    path: PathBuf,
    ready: BTreeMap<String, Ready>,
    loading: BTreeSet<(String, u64)>,
}

/// An environment whose image is here.
#[derive(Clone, Debug, PartialEq, Eq, DeJson, SerJson)]
struct Ready {
    name: String,
    version: u64,
    /// By which Docker knows it here.
    image: String,
}

impl Standing {
    /// As it was left in the file `path`. What is there and cannot be read is forgotten: it is learnt anew.
    pub(super) fn open(path: PathBuf) -> Self {
        let read = file::read_foreign(&path, LONGEST).ok().and_then(|text| json::decode::<Vec<Ready>>(&text).ok());
        let ready = read.unwrap_or_default().into_iter().map(|one| (one.name.clone(), one)).collect();
        Self { path, ready, loading: BTreeSet::new() }
    }

    /// Their images.
    pub(super) fn images(&self) -> Vec<String> {
        let all: BTreeSet<String> = self.ready.values().map(|ready| ready.image.clone()).collect();
        all.into_iter().collect()
    }

    /// Only those whose image is among `there` are ready.
    pub(super) fn keep(&mut self, there: &[String]) {
        let before = self.ready.len();
        self.ready.retain(|_, ready| there.contains(&ready.image));
        if self.ready.len() != before {
            self.write();
        }
    }

    /// This version is here.
    pub(super) fn is_ready(&mut self, name: &str, version: u64, image: &str) {
        let ready = Ready { name: name.to_owned(), version, image: image.to_owned() };
        if self.ready.get(name) != Some(&ready) {
            self.ready.insert(name.to_owned(), ready);
            self.write();
        }
    }

    /// This version is on its way.
    pub(super) fn begins(&mut self, name: &str, version: u64) {
        self.loading.insert((name.to_owned(), version));
    }

    /// It is not on its way any more.
    pub(super) fn ends(&mut self, name: &str, version: u64) {
        self.loading.remove(&(name.to_owned(), version));
    }

    /// As it is told to the Host.
    pub(super) fn told(&self) -> Vec<NodeEnvironment> {
        let row = |name: &str, version: u64, state: &str| NodeEnvironment {
            name: name.to_owned(),
            version,
            state: state.to_owned(),
        };
        let ready = self.ready.values().map(|ready| row(&ready.name, ready.version, "ready"));
        ready.chain(self.loading.iter().map(|(name, version)| row(name, *version, "loading"))).collect()
    }

    fn write(&self) {
        let all: Vec<Ready> = self.ready.values().cloned().collect();
        if let Err(fault) = file::write_atomic(&self.path, json::encode(&all).as_bytes(), 0o600) {
            warning!("which environments are here will not be known after a restart: {fault}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    fn told(standing: &Standing) -> Vec<String> {
        standing.told().into_iter().map(|one| format!("{} {} {}", one.name, one.version, one.state)).collect()
    }

    #[test]
    fn what_is_ready_is_remembered_and_what_was_on_its_way_is_not() {
        let scratch = Scratch::new();
        let path = scratch.path().join("ready.json");
        let mut standing = Standing::open(path.clone());
        assert!(standing.told().is_empty());
        standing.is_ready("x", 17, "sha256:1");
        standing.is_ready("y", 3, "sha256:2");
        standing.begins("x", 18);
        assert_eq!(told(&standing), ["x 17 ready", "y 3 ready", "x 18 loading"]);
        let mut again = Standing::open(path.clone());
        assert_eq!(told(&again), ["x 17 ready", "y 3 ready"]);
        assert_eq!(again.images(), ["sha256:1", "sha256:2"]);
        again.keep(&["sha256:2".to_owned()]);
        assert_eq!(told(&Standing::open(path.clone())), ["y 3 ready"]);
        standing.ends("x", 18);
        standing.is_ready("x", 18, "sha256:3");
        assert_eq!(told(&standing), ["x 18 ready", "y 3 ready"]);
        std::fs::write(&path, "{").expect("it can be written");
        assert!(Standing::open(path).told().is_empty());
    }
}
