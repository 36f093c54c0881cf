//! What readers see: the live tasks and the nodes as of the last commit. Readers never wait for the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::api::node::{NodeEnvironment, Usage};
use crate::api::public::GpuRow;
use crate::domain::ids::{NodeName, TaskId, TaskName};
use crate::domain::node::Conditions;
use crate::domain::queue::{ClassId, News};
use crate::domain::spec::TaskKind;
use crate::store::{NodeRecord, Task};

use super::outputs::Watchers;
use super::recent::Recent;
use super::signal::Signal;

/// A task that is not settled.
#[derive(Clone, Debug)]
pub(super) struct LiveTask {
    pub(super) task: Task,
    /// With whom a pending task waits (see [`View::reason`]). Not stored: it follows from the nodes as they are now.
    pub(super) class: Option<ClassId>,
}

/// A live task, with what it waits for if it does.
pub(super) type Told = (Arc<LiveTask>, Option<Arc<str>>);

/// A node, with what is known of it now.
#[derive(Clone, Debug)]
pub(super) struct NodeEntry {
    pub(super) record: Arc<NodeRecord>,
    pub(super) cores_in_use: u32,
    /// Milliseconds since 1970; None: none since this Host started.
    pub(super) last_heartbeat_ms: Option<u64>,
    pub(super) figures: Arc<Figures>,
    /// None: no heartbeat yet in this session.
    pub(super) conditions: Option<Conditions>,
    /// Tasks found there that the list has not.
    pub(super) unknown: Arc<BTreeSet<TaskId>>,
}

/// What the last heartbeat measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) usage: Usage,
    pub(super) gpus: Vec<GpuRow>,
    /// What of environments is there, or on its way.
    pub(super) environments: Vec<NodeEnvironment>,
}

impl NodeEntry {
    /// The word in `status`.
    pub(super) fn status(&self) -> &'static str {
        if self.record.silent {
            "offline"
        } else if self.record.draining {
            "draining"
        } else {
            "online"
        }
    }
}

/// What a turn of the engine changed; None: it is gone.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) tasks: Vec<(TaskId, Option<Arc<LiveTask>>)>,
    pub(super) nodes: Vec<(NodeName, Option<Arc<NodeEntry>>)>,
    /// What tasks wait for.
    pub(super) reasons: Vec<News>,
}

/// The published state.
#[derive(Debug, Default)]
pub(super) struct View {
    inner: RwLock<Inner>,
    nodes_json: Mutex<Cached>,
    vps_json: Mutex<Cached>,
    /// The number of the newest event.
    pub(super) events: Signal,
    /// The newest events themselves.
    pub(super) recent: Recent,
    /// Those who wait for single tasks: woken by each change of theirs.
    pub(super) watchers: Arc<Watchers>,
}

#[derive(Debug, Default)]
struct Inner {
    tasks: BTreeMap<TaskId, Arc<LiveTask>>,
    vps: BTreeSet<TaskId>,
    reasons: HashMap<ClassId, Arc<str>>,
    names: HashMap<TaskName, TaskId>,
    nodes: BTreeMap<NodeName, Arc<NodeEntry>>,
    nodes_version: u64,
    vps_version: u64,
}

/// A list's JSON, good for one version.
#[derive(Debug, Default)]
struct Cached {
    version: u64,
    body: Option<Arc<[u8]>>,
}

impl View {
    pub(super) fn new(last_event: u64) -> Self {
        Self { events: Signal::starting_at(last_event), ..Self::default() }
    }

    /// Makes a turn's changes visible, all at once. With `afresh`, they are all there is.
    pub(super) fn publish(&self, changes: Changes, afresh: bool) {
        let watched =
            if self.watchers.is_idle() { Vec::new() } else { changes.tasks.iter().map(|(id, _)| *id).collect() };
        self.apply(changes, afresh);
        if afresh {
            self.watchers.wake_all();
        } else {
            watched.into_iter().for_each(|id| self.watchers.wake(id));
        }
    }

    fn apply(&self, changes: Changes, afresh: bool) {
        let mut guard = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        if afresh {
            let versions = (inner.nodes_version + 1, inner.vps_version + 1);
            *inner = Inner { nodes_version: versions.0, vps_version: versions.1, ..Inner::default() };
        }
        inner.nodes_version += u64::from(!changes.nodes.is_empty());
        for (name, entry) in changes.nodes {
            match entry {
                Some(entry) => inner.nodes.insert(name, entry),
                None => inner.nodes.remove(&name),
            };
        }
        for news in changes.reasons {
            inner.vps_version += u64::from(news.vps);
            match news.reason {
                Some(reason) => inner.reasons.insert(news.class, reason),
                None => inner.reasons.remove(&news.class),
            };
        }
        for (id, task) in changes.tasks {
            if let Some(task) = task {
                inner.add(id, task);
            } else {
                inner.remove(id);
            }
        }
    }

    pub(super) fn task(&self, id: TaskId) -> Option<Arc<LiveTask>> {
        self.read().tasks.get(&id).cloned()
    }

    /// The live task that holds a name.
    pub(super) fn holder(&self, name: &TaskName) -> Option<Arc<LiveTask>> {
        let inner = self.read();
        inner.names.get(name).and_then(|id| inner.tasks.get(id)).cloned()
    }

    /// What a task waits for. Kept once for all that wait for the same, so that a change of it costs no more for a
    /// hundred thousand than for one.
    pub(super) fn reason(&self, live: &LiveTask) -> Option<Arc<str>> {
        self.read().reason(live)
    }

    /// The same for each of these tasks, as far as they live.
    pub(super) fn reasons(&self, tasks: impl Iterator<Item = TaskId>) -> Vec<Option<Arc<str>>> {
        let inner = self.read();
        tasks.map(|id| inner.tasks.get(&id).and_then(|live| inner.reason(live))).collect()
    }

    pub(super) fn node(&self, name: &NodeName) -> Option<Arc<NodeEntry>> {
        self.read().nodes.get(name).cloned()
    }

    /// Every node, by name.
    pub(super) fn nodes(&self) -> Vec<Arc<NodeEntry>> {
        self.read().nodes.values().cloned().collect()
    }

    /// How many live tasks there are in each state's word.
    pub(super) fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for live in self.read().tasks.values() {
            *counts.entry(live.task.standing.state.word()).or_default() += 1;
        }
        counts
    }

    /// The list of nodes as JSON, encoded once a version.
    pub(super) fn nodes_json(&self, encode: impl FnOnce(&[Arc<NodeEntry>]) -> String) -> Arc<[u8]> {
        let version = self.read().nodes_version;
        cached(
            &self.nodes_json,
            version,
            || {
                let inner = self.read();
                (inner.nodes_version, inner.nodes.values().cloned().collect())
            },
            encode,
        )
    }

    /// The live VPS tasks, newest first.
    pub(super) fn vps(&self) -> Vec<Told> {
        self.read().vps()
    }

    /// The list of live VPS tasks as JSON, newest first, encoded once a version.
    pub(super) fn vps_json(&self, encode: impl FnOnce(&[Told]) -> String) -> Arc<[u8]> {
        let version = self.read().vps_version;
        cached(
            &self.vps_json,
            version,
            || {
                let inner = self.read();
                (inner.vps_version, inner.vps())
            },
            encode,
        )
    }

    /// Wakes everyone who waits for a change: the Host stops.
    pub(super) fn close(&self) {
        self.events.close();
        self.watchers.close();
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn reason(&self, live: &LiveTask) -> Option<Arc<str>> {
        live.class.and_then(|class| self.reasons.get(&class)).cloned()
    }

    fn vps(&self) -> Vec<Told> {
        let live = self.vps.iter().rev().filter_map(|id| self.tasks.get(id));
        live.map(|live| (live.clone(), self.reason(live))).collect()
    }

    fn add(&mut self, id: TaskId, live: Arc<LiveTask>) {
        if let Some(name) = &live.task.spec.name {
            self.names.insert(name.clone(), id);
        }
        if matches!(live.task.spec.kind, TaskKind::Vps { .. }) {
            self.vps.insert(id);
            self.vps_version += 1;
        }
        self.tasks.insert(id, live);
    }

    fn remove(&mut self, id: TaskId) {
        let Some(live) = self.tasks.remove(&id) else { return };
        // A task that ended and a younger one of the same name can be in one turn.
        if let Some(name) = live.task.spec.name.as_ref().filter(|name| self.names.get(name) == Some(&id)) {
            self.names.remove(name);
        }
        if self.vps.remove(&id) {
            self.vps_version += 1;
        }
    }
}

/// The cached body if it is of this version; else a new one, made while others wait for it rather than make their own.
fn cached<T>(
    cache: &Mutex<Cached>,
    version: u64,
    collect: impl FnOnce() -> (u64, Vec<T>),
    encode: impl FnOnce(&[T]) -> String,
) -> Arc<[u8]> {
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(body) = cache.body.as_ref().filter(|_| cache.version >= version) {
        return body.clone();
    }
    let (version, items) = collect();
    let body: Arc<[u8]> = Arc::from(encode(&items).into_bytes());
    *cache = Cached { version, body: Some(body.clone()) };
    body
}
