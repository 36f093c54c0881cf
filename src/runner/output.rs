//! What tasks write, on its way to the Host: shipped as it grows, repeated until the Host has it, in constant memory.
//!
//! A task writes to files of its own; nothing of ours stands in between, so it is never slowed, and what it
//! wrote is there whatever becomes of Runner and Host. One thread ships ([`ship`]), over a connection of its own. A task
//! that ends within a moment is never watched: what little it wrote goes with the report of its end ([`Outputs::rest`]).
//!
//! Each byte is taken as it stands at its offset when it is read. So a task that truncates its output takes nothing back:
//! what was shipped stays, and what it writes below that is not shipped; beyond it, it goes on. The files of a task in a
//! container are its own to replace: only regular files are read ([`place`]), and what is none is output that is missing.

mod flow;
mod place;
mod ship;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::flow::Flow;
pub use self::place::Place;
use self::place::Size;
use super::link::Link;
use super::message::Message;
use crate::api::node::{OutputChunk, OutputHave};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::output::Stream;
use crate::sys::inotify::{WatchId, Watcher};
use crate::sys::shutdown::Stop;
use crate::sys::{clock, thread};
use crate::warning;

/// So long a task has to run before its files are looked at.
const MOMENT: Duration = Duration::from_millis(250);
/// Of one task, no more often than this.
const PACE: Duration = Duration::from_millis(100);
/// What goes with the report of an end.
const LITTLE: u64 = 32 << 10;
/// What goes with one call, of all tasks together.
const LITTLE_OF_ALL: usize = 4 << 20;
/// How long the report has for that; then it is shipped like any other.
const REST_TIME: Duration = Duration::from_secs(3);

/// Shared by the agent (which says what there is) and the conversations with the Host (which carry it).
pub struct Outputs {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    watcher: Watcher,
    tell: Mutex<Sender<Message>>,
}

#[derive(Default)]
struct Inner {
    flows: HashMap<TaskId, Flow>,
    /// When which of them is looked at: the shipper's work.
    due: BTreeSet<(Instant, TaskId)>,
    watches: HashMap<WatchId, TaskId>,
    /// The shipper waits, until then at the latest (None: without end).
    waits: Option<Option<Instant>>,
}

/// How much a task has written in the end, in bytes; None: its file is not there (any more), so it cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub stdout: Option<u64>,
    pub stderr: Option<u64>,
}

impl Outputs {
    /// Starts the thread that ships. [`Message::OutputSettled`] is told for each task that has ended and whose output the
    /// Host has, or will never get. The thread ends with `stop`, once the link is closed too.
    ///
    /// # Errors
    /// No thread can be started, or the kernel has no room for another inotify instance.
    pub fn open(link: Arc<Link>, tell: Sender<Message>, stop: &Stop) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared { inner: Mutex::default(), watcher: Watcher::new()?, tell: Mutex::new(tell) });
        let (of_thread, stop) = (shared.clone(), stop.clone());
        thread::spawn_vital("output", move || ship::run(&of_thread, &link, &stop));
        Ok(Arc::new(Self { shared }))
    }

    /// Without the thread that ships: see [`Outputs::ship_all`].
    #[cfg(test)]
    pub(crate) fn to_a_test(tell: Sender<Message>) -> std::io::Result<Arc<Self>> {
        let shared = Shared { inner: Mutex::default(), watcher: Watcher::new()?, tell: Mutex::new(tell) };
        Ok(Arc::new(Self { shared: Arc::new(shared) }))
    }

    /// The Host has all that there is of tasks that have ended.
    #[cfg(test)]
    pub(crate) fn ship_all(&self) {
        let have: Vec<OutputHave> = self
            .shared
            .lock()
            .flows
            .iter()
            .filter(|(_, flow)| flow.ended && !flow.is_settled())
            .flat_map(|(task, flow)| {
                flow.parts().into_iter().map(|part| OutputHave {
                    task_id: task.to_string(),
                    attempt: flow.attempt.0,
                    stream: part.stream.word().to_owned(),
                    have: part.offset + part.length as u64,
                })
            })
            .collect();
        self.received(&have);
    }

    /// A task that writes (or wrote, before this Runner was started) to `place`. Told again, nothing changes.
    pub fn watch(&self, task: TaskId, attempt: Attempt, place: Place) {
        let mut inner = self.shared.lock();
        if inner.flows.get(&task).is_some_and(|known| known.attempt >= attempt) {
            return;
        }
        inner.remove(task, &self.shared.watcher);
        inner.flows.insert(task, Flow::new(attempt, place));
        inner.look_at(task, clock::now() + MOMENT, &self.shared.watcher);
    }

    /// Nothing of it lives, so its files do not grow any more. The answer is for its report.
    pub fn ended(&self, task: TaskId, attempt: Attempt) -> Totals {
        let place = match self.shared.lock().flows.get(&task).filter(|flow| flow.attempt == attempt) {
            None => return Totals::default(),
            Some(flow) if flow.ended => return flow.totals(),
            Some(flow) => flow.place.clone(),
        };
        let sizes = Stream::ALL.map(|stream| place.size(stream));
        let mut inner = self.shared.lock();
        let Some(flow) = inner.flows.get_mut(&task).filter(|flow| flow.attempt == attempt) else {
            return Totals::default();
        };
        flow.end(sizes);
        for (stream, size) in Stream::ALL.into_iter().zip(sizes) {
            if flow.lane(stream).is_lost() {
                warning!("task {task}: what it wrote to {stream} is missing: {}", size.why());
            }
        }
        let (totals, settled, rest) = (flow.totals(), flow.is_settled(), flow.rest());
        let watches = std::mem::take(&mut flow.watches);
        inner.forget_watches(watches, &self.shared.watcher);
        if settled {
            inner.do_not_look_at(task);
            self.shared.settle(&mut inner, task);
        } else {
            let wait = if rest <= LITTLE { REST_TIME } else { Duration::ZERO };
            inner.look_at(task, clock::now() + wait, &self.shared.watcher);
        }
        totals
    }

    /// The rest of a task's output, if it is so little that it goes with the report of its end: both streams together at
    /// most 32 KiB. Called by the thread that reports; what it gives counts as shipped only when
    /// [`Outputs::received`] says so.
    pub fn rest(&self, task: TaskId) -> Vec<OutputChunk> {
        let (attempt, place, parts) = match self.shared.lock().flows.get(&task) {
            Some(flow) if flow.ended && !flow.is_settled() && flow.rest() <= LITTLE => {
                (flow.attempt, flow.place.clone(), flow.parts())
            }
            _ => return Vec::new(),
        };
        let mut chunks = Vec::new();
        let mut bytes = Vec::new();
        for part in parts {
            // What cannot be read is the shipper's to report.
            if place.read(part.stream, part.offset, part.length, &mut bytes).is_ok() && !bytes.is_empty() {
                chunks.push(OutputChunk {
                    task_id: task.to_string(),
                    attempt: attempt.0,
                    stream: part.stream.word().to_owned(),
                    offset: part.offset,
                    data: STANDARD.encode(&bytes),
                });
            }
        }
        chunks
    }

    /// The rests of the tasks of one report, as far as one call carries them. Those that are left out are shipped.
    pub fn rests(&self, tasks: impl IntoIterator<Item = TaskId>) -> Vec<OutputChunk> {
        let mut all: Vec<OutputChunk> = Vec::new();
        let mut size = 0;
        for task in tasks {
            if size >= LITTLE_OF_ALL {
                break;
            }
            let chunks = self.rest(task);
            size += chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>();
            all.extend(chunks);
        }
        all
    }

    /// What the Host has of it by now.
    pub fn received(&self, have: &[OutputHave]) {
        let mut inner = self.shared.lock();
        for have in have {
            let (Ok(task), Ok(stream)) = (have.task_id.parse(), have.stream.parse()) else { continue };
            let Some(flow) = inner.flows.get_mut(&task).filter(|flow| flow.attempt.0 == have.attempt) else { continue };
            flow.lane_mut(stream).received(have.have);
            if flow.is_settled() {
                inner.do_not_look_at(task);
                self.shared.settle(&mut inner, task);
            }
        }
    }

    /// Nothing is to be remembered of it.
    pub fn forget(&self, task: TaskId, attempt: Attempt) {
        let mut inner = self.shared.lock();
        if inner.flows.get(&task).is_some_and(|flow| flow.attempt == attempt) {
            inner.remove(task, &self.shared.watcher);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a task's output is settled, once.
    fn settle(&self, inner: &mut Inner, task: TaskId) {
        let Some(flow) = inner.flows.get_mut(&task).filter(|flow| !flow.told) else { return };
        flow.told = true;
        let message = Message::OutputSettled(task, flow.attempt);
        // Err: the Runner ends.
        let _ended = self.tell.lock().unwrap_or_else(PoisonError::into_inner).send(message);
    }
}

impl Inner {
    /// The shipper looks at it then, and not before.
    fn look_at(&mut self, task: TaskId, at: Instant, watcher: &Watcher) {
        self.do_not_look_at(task);
        let Some(flow) = self.flows.get_mut(&task) else { return };
        flow.due = Some(at);
        self.due.insert((at, task));
        if self.waits.is_some_and(|until| until.is_none_or(|until| at < until)) {
            self.waits = None;
            watcher.ring();
        }
    }

    fn do_not_look_at(&mut self, task: TaskId) {
        if let Some(at) = self.flows.get_mut(&task).and_then(|flow| flow.due.take()) {
            self.due.remove(&(at, task));
        }
    }

    fn remove(&mut self, task: TaskId, watcher: &Watcher) {
        self.do_not_look_at(task);
        if let Some(flow) = self.flows.remove(&task) {
            self.forget_watches(flow.watches, watcher);
        }
    }

    fn forget_watches(&mut self, watches: Vec<WatchId>, watcher: &Watcher) {
        for watch in watches {
            if self.watches.remove(&watch).is_some() {
                watcher.forget(watch);
            }
        }
    }
}

impl Size {
    fn why(self) -> &'static str {
        match self {
            Self::Known(_) | Self::Absent | Self::Removed => "its file was removed",
            Self::Foreign => "it is no regular file any more",
        }
    }
}
