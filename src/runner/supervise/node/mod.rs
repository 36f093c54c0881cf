//! `hakuriver supervise --node`: the parent of all tasks of a node that run without a container. It outlives Runners, knows no
//! Host and no network, and waits in one place.
//!
//! Each turn: hear what is asked and who has ended; make that durable, once for all; then start what is to be started, and
//! tell. So a start is on disk before its process is there, and an end before anybody hears of it.

mod conn;
pub mod journal;
mod left;
mod starter;
mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::protocol::{Ask, End, TaskState, Tell, Which, socket_name};
use crate::runner::executor::process;
use crate::sys::cgroup::{Cgroups, Group, Limits};
use crate::sys::children::{Children, Gone};
use crate::sys::local::{self, Interest};
use crate::sys::process::Detached;
use crate::{error, info, warning};
use conn::{Conn, Strangers};
use journal::Journal;
use starter::{Done, Starter};
use task::Task;

/// What it is called with.
#[derive(Clone, Debug)]
struct Place {
    cluster: String,
    node: String,
    /// `<state>/runner/<hostname>`
    folder: PathBuf,
    boot_id: String,
}

/// How long one that holds nothing waits for its first Runner.
const FIRST_RUNNER: Duration = Duration::from_secs(30);
/// Starts in one turn: what has ended meanwhile is not to wait for all of ten thousand.
const STARTS: usize = 16;
/// How often what is left of a task is looked at, where nobody tells.
const LOOK: Duration = Duration::from_millis(200);
/// How often a journal that could not be written is tried again while a start waits for it.
const ROOM: Duration = Duration::from_secs(1);
/// The group that the supervisor itself is in.
const OWN_GROUP: &str = "supervisor";

type Key = (u64, u32);

/// The process's state.
struct Node {
    place: Place,
    children: Children,
    cgroups: Arc<Cgroups>,
    starter: Starter,
    journal: Journal,
    tasks: BTreeMap<Key, Task>,
    by_pid: HashMap<u32, Key>,
    /// Children that have ended while starts were not over: they may be of these.
    early: HashMap<u32, Gone>,
    /// Some of the journal could not be read.
    has_gaps: bool,
    /// In the journal, and to be started.
    to_start: Vec<Key>,
    /// The main process has ended; the rest may live.
    ending: BTreeSet<Key>,
    /// Those with a clock that runs.
    ticking: BTreeSet<Key>,
    /// To be told.
    changed: BTreeSet<Key>,
    /// The connection has not heard of all yet.
    owes_all: bool,
    conn: Option<Conn>,
    strangers: Strangers,
}

/// The process: leaves its caller, and serves.
///
/// # Errors
/// As [`run`]; it cannot detach itself.
pub fn main(node: String, cluster: String, folder: PathBuf) -> Result<(), String> {
    let own = folder.join(journal::FOLDER);
    crate::sys::file::make_dir(&own, 0o700).map_err(|fault| fault.to_string())?;
    let boot_id = crate::sys::process::boot_id(Path::new("/")).map_err(|fault| fault.to_string())?;
    let detached = crate::sys::process::detach(&own.join("log"))
        .map_err(|fault| format!("cannot become a process of its own: {fault}"))?;
    run(Place { cluster, node, folder, boot_id }, detached)
}

/// Serves until it holds nothing and nobody is connected.
///
/// # Errors
/// One line: another one serves this node already, or it cannot begin.
fn run(place: Place, detached: Detached) -> Result<(), String> {
    let (mut node, listener, own) = match begin(place) {
        Ok(begun) => begun,
        Err(fault) => {
            detached.failed(&fault);
            return Err(fault);
        }
    };
    detached.ready();
    node.serve(&listener);
    if let Some(group) = own {
        leave(&group);
    }
    node.cgroups.close();
    Ok(())
}

fn begin(place: Place) -> Result<(Node, UnixListener, Option<Group>), String> {
    let children = Children::begin().map_err(|fault| format!("cannot take over the signals: {fault}"))?;
    let name = socket_name(&place.cluster, &place.node);
    // Whoever has the name is the one. The loser of two that were started at once ends here.
    let listener = local::listen(&name).map_err(|fault| format!("another process listens on @{name}: {fault}"))?;
    let cgroups = Arc::new(Cgroups::find(Path::new("/"), &process::group_folder(&place.cluster, &place.node)));
    let own = enter_own_group(&cgroups);
    let (journal, found) = Journal::open(&place.folder, &place.boot_id).map_err(|fault| fault.to_string())?;
    found.warnings.iter().for_each(|text| warning!("{text}"));
    let mut node = Node {
        children,
        starter: Starter::new(Arc::clone(&cgroups)),
        cgroups,
        journal,
        tasks: BTreeMap::new(),
        by_pid: HashMap::new(),
        early: HashMap::new(),
        has_gaps: !found.warnings.is_empty(),
        to_start: Vec::new(),
        ending: BTreeSet::new(),
        ticking: BTreeSet::new(),
        changed: BTreeSet::new(),
        owes_all: false,
        conn: None,
        strangers: Strangers::default(),
        place,
    };
    node.take_over(found);
    Ok((node, listener, own))
}

/// Beside the groups of tasks, and away from the Runner's: what ends all of that does not end us.
fn enter_own_group(cgroups: &Cgroups) -> Option<Group> {
    let entered = cgroups.make(OWN_GROUP, &Limits::default()).and_then(|group| {
        group.enter()?;
        Ok(group)
    });
    entered.map_err(|fault| warning!("no control group of its own for the supervisor: {fault}")).ok()
}

fn leave(group: &Group) {
    if let Err(fault) = group.leave() {
        warning!("{fault}");
    }
}

impl Node {
    /// What an earlier supervisor has left: it was killed, or the machine was started anew.
    fn take_over(&mut self, found: journal::Found) {
        // A journal without a readable header says nothing of the machine's start.
        let is_same_boot = found.boot_id.is_empty() || found.boot_id == self.place.boot_id;
        let lived = found.tasks.values().filter(|state| is_same_boot && state.end.is_none());
        left::end(left::found(&self.cgroups, lived));
        let fault = if is_same_boot {
            "result unknown: the supervisor of this node's tasks was killed, and they were ended"
        } else {
            "node restarted while it ran: result unknown"
        };
        for (key, state) in found.tasks {
            let mut task = Task::known(state);
            if !task.has_ended() {
                // With control groups all of it is gone. Only without them its mark has to do.
                if is_same_boot
                    && !self.cgroups.freezes()
                    && let Err(fault) = task.kill_marked()
                {
                    warning!("task {}: {fault}", key.0);
                }
                task.end(End { fault: Some(fault.to_owned()), stopped: task.state.stopping, ..End::default() });
                self.journal.note(&task.state);
            }
            self.tasks.insert(key, task);
        }
        self.sync();
    }

    fn serve(&mut self, listener: &UnixListener) {
        let since = Instant::now();
        let mut had_runner = false;
        let mut is_to_end = false;
        loop {
            had_runner |= self.conn.is_some();
            if self.tasks.is_empty() && self.conn.is_none() && (had_runner || since.elapsed() >= FIRST_RUNNER) {
                self.journal.remove();
                return;
            }
            let (accepts, reads, starts) = self.wait(listener, since + FIRST_RUNNER);
            if starts {
                let over = self.starter.over();
                self.started(over);
            }
            if accepts {
                self.accept(listener);
            }
            if reads {
                self.read();
            }
            let heard = self.children.hear();
            // Remembered: when the machine is shut down the tasks hear the same, and end a moment later.
            is_to_end |= heard.ending;
            heard.gone.into_iter().for_each(|gone| self.gone(gone));
            self.tick();
            self.sync();
            self.start();
            self.tell();
            if is_to_end && self.tasks.values().all(Task::has_ended) {
                info!("asked to end, and nothing runs: the results are in the journal");
                return;
            }
        }
    }

    /// Waits for something to do.
    fn wait(&self, listener: &UnixListener, first_runner: Instant) -> (bool, bool, bool) {
        use std::os::fd::AsFd as _;
        let mut sources = vec![
            (listener.as_fd(), Interest::Read),
            (self.children.fd(), Interest::Read),
            (self.starter.fd(), Interest::Read),
        ];
        if let Some(conn) = &self.conn {
            sources.push((conn.fd(), if conn.is_busy() { Interest::ReadAndWrite } else { Interest::Read }));
        }
        let now = Instant::now();
        let end = if !self.to_start.is_empty() {
            Some(if self.journal.is_well() { now } else { now + ROOM })
        } else {
            let ticks = self.ticking.iter().filter_map(|key| self.tasks.get(key)).filter_map(Task::next_tick).min();
            let look = (!self.ending.is_empty()).then(|| now + LOOK);
            let first = self.tasks.is_empty().then_some(first_runner).filter(|_| self.conn.is_none());
            [ticks, look, first, self.starter.relief()].into_iter().flatten().min()
        };
        let ready = local::ready(&sources, end);
        let starts = ready[2] || self.starter.relief().is_some_and(|at| at <= Instant::now());
        (ready[0], ready.get(3).copied().unwrap_or(false), starts)
    }

    /// A Runner has come; the one before is over.
    fn accept(&mut self, listener: &UnixListener) {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(fault) => {
                warning!("cannot take a connection: {fault}");
                // No descriptor is free: asking again at once would only burn the CPU.
                std::thread::sleep(Duration::from_millis(50));
                return;
            }
        };
        match local::is_ours(&socket).and_then(|ours| if ours { Conn::new(socket).map(Some) } else { Ok(None) }) {
            Ok(Some(conn)) => {
                self.conn = Some(conn);
                self.owes_all = false;
                self.changed.clear();
            }
            Ok(None) => {
                if let Some(text) = self.strangers.note(Instant::now()) {
                    warning!("{text}");
                }
            }
            Err(fault) => warning!("a connection is given up: {fault}"),
        }
    }

    fn read(&mut self) {
        let Some(conn) = &mut self.conn else { return };
        conn.flush();
        let asks = conn.read();
        asks.into_iter().for_each(|ask| self.ask(ask));
        self.conn.take_if(|conn| conn.is_over());
    }

    fn ask(&mut self, ask: Ask) {
        let now = Instant::now();
        match ask {
            Ask::Hello(hello) => {
                let folder = PathBuf::from(hello.folder);
                if !self.journal.is_at(&folder) {
                    warning!("the journal is not in {} any more, and is written there anew", folder.display());
                    if let Err(fault) = self.journal.move_to(&folder, self.tasks.values().map(|task| &task.state)) {
                        error!("{fault}");
                    }
                    self.place.folder = folder;
                }
                self.owes_all = true;
            }
            Ask::Start(start) => {
                let key = (start.task, start.attempt);
                if self.tasks.contains_key(&key) {
                    return;
                }
                let task = Task::new(start);
                self.journal.note(&task.state);
                self.tasks.insert(key, task);
                self.to_start.push(key);
            }
            Ask::Stop(which) => self.with(&which, |task| task.stop(now)),
            Ask::Pause(which) => self.with(&which, |task| task.freeze(true)),
            Ask::Resume(which) => self.with(&which, |task| task.freeze(false)),
            Ask::Forget(which) => {
                let key = (which.task, which.attempt);
                if self.tasks.get(&key).is_some_and(Task::has_ended) {
                    self.tasks.remove(&key);
                    self.changed.remove(&key);
                    self.journal.forget(&which);
                }
            }
        }
    }

    fn with(&mut self, which: &Which, act: impl FnOnce(&mut Task)) {
        let key = (which.task, which.attempt);
        let Some(task) = self.tasks.get_mut(&key) else { return };
        let before = task.state.clone();
        act(task);
        if task.state != before {
            // That it is to stop, and that it ended before it began, are remembered.
            self.journal.note(&task.state);
            self.changed.insert(key);
            self.ticking.insert(key);
        }
    }

    /// A process has ended: a task's main one, or one of those that tasks leave behind.
    fn gone(&mut self, gone: Gone) {
        let Some(key) = self.by_pid.remove(&gone.pid) else {
            if self.starter.is_busy() {
                self.early.insert(gone.pid, gone);
            }
            return;
        };
        if let Some(task) = self.tasks.get_mut(&key) {
            task.main_ended(gone);
            self.ending.insert(key);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let tasks = &mut self.tasks;
        self.ticking.retain(|key| match tasks.get_mut(key) {
            Some(task) => {
                task.tick(now);
                task.next_tick().is_some()
            }
            None => false,
        });
        for key in std::mem::take(&mut self.ending) {
            let Some(task) = self.tasks.get_mut(&key) else { continue };
            if task.try_end(now) {
                self.journal.note(&task.state);
                self.changed.insert(key);
            } else if task.is_ending() {
                self.ending.insert(key);
                self.ticking.insert(key);
            }
        }
    }

    fn sync(&mut self) {
        self.journal.sync(self.tasks.values().map(|task| &task.state));
    }

    /// Starts what is in the journal. While that cannot be written, nothing is started: nobody would know of it after a crash.
    fn start(&mut self) {
        if self.to_start.is_empty() || !self.journal.is_well() {
            return;
        }
        let mut jobs = Vec::new();
        for key in self.to_start.drain(..self.to_start.len().min(STARTS)) {
            jobs.extend(self.tasks.get_mut(&key).and_then(Task::launch).map(|start| (key, start)));
        }
        if !jobs.is_empty() {
            let over = self.starter.start(jobs);
            self.started(over);
        }
        // Starts that failed are ends.
        self.sync();
    }

    /// These starts are over.
    fn started(&mut self, over: Vec<Done>) {
        for Done { key, result } in over {
            let Some(task) = self.tasks.get_mut(&key) else { continue };
            task.started(result, Instant::now());
            if let Some(pid) = task.state.pid {
                self.by_pid.insert(pid, key);
                self.ticking.insert(key);
            } else {
                self.journal.note(&task.state);
            }
            self.changed.insert(key);
            if let Some(gone) = self.tasks[&key].state.pid.and_then(|pid| self.early.remove(&pid)) {
                self.gone(gone);
            }
        }
        if !self.starter.is_busy() {
            self.early.clear();
        }
    }

    fn tell(&mut self) {
        let Some(conn) = self.conn.as_mut().filter(|conn| !conn.is_busy()) else { return };
        let state = |key: &Key| self.tasks.get(key).map(|task| task.state.clone());
        if self.owes_all {
            self.owes_all = false;
            self.changed.clear();
            let all: Vec<TaskState> = self.tasks.values().map(|task| task.state.clone()).collect();
            if self.has_gaps {
                conn.tell(&Tell::Gaps);
            }
            conn.tell(&Tell::All(all));
        } else if self.changed.is_empty() {
            return;
        } else {
            let changed = std::mem::take(&mut self.changed);
            conn.tell(&Tell::Changed(changed.iter().filter_map(state).collect()));
        }
        self.conn.take_if(|conn| conn.is_over());
    }
}
