//! The reconcile loop: one thread that owns what is known of every task, and starts operations until what is here is what
//! the Host wants. It waits for messages, and for nothing else.

mod docker;
mod rounds;
mod supervised;
mod task;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::home::{self, Home};
use super::message::{Message, Next};
use super::node::Node;
use super::observed::{Absent, Outbox, row};
use super::order::{Order, Wanted};
use super::output::Outputs;
use super::record::Record;
use super::supervisor::Supervisor;
use super::work::{Job, Work};
use crate::domain::ids::{Attempt, TaskId};
use crate::sys::shutdown::Stop;
use crate::sys::{clock, thread};
use crate::warning;
use task::{Kind, Running, Task, fell_short, kind, takes_cores};
use tasks::Tasks;

/// When to look again at what is between two states, or could not be done.
const AGAIN: Duration = Duration::from_secs(2);
/// How many messages are heard before something is done about them.
const BATCH: usize = 1_000;

/// The thread's state.
pub struct Agent {
    node: Arc<Node>,
    outbox: Arc<Outbox>,
    tell: Sender<Message>,
    tasks: Tasks,
    /// None: not heard yet.
    wanted: Option<BTreeMap<TaskId, Wanted>>,
    /// Here and not in the list.
    unknown: BTreeSet<TaskId>,
    /// Containers (ids) that have our labels and are users' own: they need not be looked at again.
    copies: BTreeSet<String>,
    /// In the list, and neither here nor to be started: reported as such.
    absent: BTreeMap<TaskId, (Attempt, Absent)>,
    /// Those that wait here for their cores, in the order of their ids.
    line: BTreeSet<TaskId>,
    home: Arc<Home>,
    supervisor: Supervisor,
    outputs: Arc<Outputs>,
    /// The supervisor has told all that it has, since this process started.
    supervisor_heard: bool,
    /// Why the supervisor cannot be had now.
    unsupervised: Option<String>,
    /// Docker's truth was seen since this process started.
    truth: bool,
    /// What is known here is all that there is: see [`Agent::allow_complete`].
    whole: bool,
    /// What has a later id than this was given to the node since its records began: see [`Home::first_list`]. None: not heard yet.
    since: Option<TaskId>,
}

impl Agent {
    /// Reads the records.
    ///
    /// # Errors
    /// The folder of records cannot be read.
    pub fn load(
        node: Arc<Node>,
        outbox: Arc<Outbox>,
        tell: Sender<Message>,
        home: Arc<Home>,
        supervisor: Supervisor,
        outputs: Arc<Outputs>,
    ) -> std::io::Result<Self> {
        let found = node.records.load()?;
        let since = home.first_list(&node.docker.owner().cluster);
        let has_gaps = !found.warnings.is_empty();
        for warning in found.warnings {
            warning!("a task's record is passed over: {warning}");
        }
        let mut tasks = Tasks::default();
        found.records.into_iter().for_each(|record| tasks.insert(Task::new(record)));
        let mut agent = Self {
            home,
            supervisor,
            outputs,
            supervisor_heard: false,
            unsupervised: None,
            node,
            outbox,
            tell,
            tasks,
            wanted: None,
            unknown: BTreeSet::new(),
            copies: BTreeSet::new(),
            absent: BTreeMap::new(),
            line: BTreeSet::new(),
            truth: false,
            whole: false,
            since,
        };
        if has_gaps {
            agent.records_have_gaps();
        }
        for task in agent.tasks.values() {
            agent.hold(&task.record);
            agent.show(&task.record);
            if task.record.writes() {
                let (id, attempt) = (task.record.task, task.record.attempt);
                agent.outputs.watch(id, attempt, agent.node.records.container_output(id, attempt));
                if task.record.outcome().is_some() {
                    agent.outputs.ended(id, attempt);
                }
            }
        }
        agent.allow_complete();
        Ok(agent)
    }

    /// The copies of our binary that tasks on this node use.
    pub fn binaries(&self) -> Vec<PathBuf> {
        self.tasks.values().map(|task| PathBuf::from(&task.record.binary)).collect()
    }

    /// Serves messages until [`Message::Stop`].
    pub fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let message = match self.next_timer() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(clock::now())),
            };
            match message {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.hear(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // What else has come: one comparison is enough for all of it.
            for _ in 0..BATCH {
                match inbox.try_recv() {
                    Ok(Message::Stop) => return,
                    Ok(message) => self.hear(message),
                    Err(_) => break,
                }
            }
            self.turn();
        }
    }

    /// Does what follows from all that was heard.
    fn turn(&mut self) {
        self.reconcile();
        // What was begun just now may be what the inventory lacked; and then more may be begun.
        if !self.whole && self.allow_complete() {
            self.reconcile();
        }
    }

    /// One turn, with these messages.
    #[cfg(test)]
    pub(crate) fn hear_all(&mut self, messages: impl IntoIterator<Item = Message>) {
        messages.into_iter().for_each(|message| self.hear(message));
        self.turn();
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Desired(news) => {
                let wanted = self.wanted.get_or_insert_default();
                if news.whole {
                    wanted.keys().for_each(|id| self.tasks.touch(*id));
                    self.tasks.touch_all();
                    wanted.clear();
                }
                news.wanted.iter().for_each(|(id, _)| self.tasks.touch(*id));
                wanted.extend(news.wanted);
                for id in &news.removed {
                    self.tasks.touch(*id);
                    wanted.remove(id);
                }
                if news.whole && self.since.is_none() {
                    self.records_begin();
                }
                self.allow_complete();
            }
            Message::Truth(containers) => self.truth(containers),
            Message::Found { looked_at, found } => {
                let copies = looked_at.into_iter().filter(|id| found.iter().all(|container| container.id != *id));
                self.copies.extend(copies);
                found.into_iter().for_each(|container| self.found(container));
            }
            Message::Glance(list) => self.glance(&list),
            Message::Event(event) => self.event(&event),
            Message::Changed(record) => self.changed(*record),
            Message::Done(record, next) => self.done(*record, next),
            Message::Acknowledged(receipts) => {
                receipts.into_iter().for_each(|(id, attempt, rev)| self.acknowledged(id, attempt, rev));
            }
            Message::Supervised { states, complete } => self.supervised(states, complete),
            Message::Gaps => self.records_have_gaps(),
            Message::Unsupervised(reason) => self.unsupervised(reason),
            Message::OutputSettled(id, attempt) => {
                if let Some(task) = self.tasks.get_mut(id) {
                    task.output_settled |= task.record.attempt == attempt;
                }
            }
            Message::Stop => {}
        }
    }

    /// From now on this node's records are there for all that it is given.
    fn records_begin(&mut self) {
        let last = self.wanted.as_ref().and_then(|wanted| wanted.keys().next_back().copied());
        let highest = last.unwrap_or(TaskId::from_u64(0));
        match self.home.note_first_list(&self.node.docker.owner().cluster, highest) {
            Ok(()) => self.since = Some(highest),
            // The next list is as good.
            Err(fault) => warning!("{fault}"),
        }
    }

    /// A record, or some of the supervisor's journal, could not be read: what was given to this node until now, and is not here, may
    /// have been begun all the same. The next whole list tells again from where on the records are.
    fn records_have_gaps(&mut self) {
        self.since = None;
        if let Err(fault) = home::forget_first_list(self.home.folder()) {
            warning!("{fault}");
        }
    }

    /// Whether a task that is not here was never begun here.
    fn never_began(&self, id: TaskId) -> bool {
        self.since.is_some_and(|since| id > since)
    }

    /// The Host has this revision of it.
    fn acknowledged(&mut self, id: TaskId, attempt: Attempt, rev: u64) {
        let Some(task) = self.tasks.get_mut(id) else { return self.outbox.surpass(id, rev) };
        if task.record.attempt != attempt || rev < task.record.rev {
            return;
        }
        if rev == task.record.rev {
            task.acknowledged = true;
            return;
        }
        // An earlier Runner has told a later one, and its record was lost, or the clock set back since: the Host takes what this
        // one tells for old, until it is later than that.
        task.record.rev = rev + 1;
        task.acknowledged = false;
        let record = task.record.clone();
        self.show(&record);
    }

    /// An operation has stored a change.
    fn changed(&mut self, record: Record) {
        self.show(&record);
        if let Some(task) = self.tasks.get_mut(record.task) {
            task.acknowledged = false;
            task.record = record;
        }
    }

    /// An operation has ended.
    fn done(&mut self, record: Record, next: Next) {
        let id = record.task;
        self.node.holdings.promise_over(id);
        if next == Next::Forgotten {
            // A Host that has dropped it since lists its container as unknown, until an inventory lacks it.
            let may_be_listed = self.tasks.get(id).is_some_and(|task| task.retired);
            self.outputs.forget(id, record.attempt);
            self.tasks.remove(id);
            self.outbox.remove(id);
            if may_be_listed {
                self.outbox.complete_due();
            }
            return;
        }
        let now = clock::now();
        let Some(task) = self.tasks.get_mut(id) else { return };
        let kind = task.running.take().map(|running| running.kind);
        task.record = record;
        // Otherwise it was removed, or is one like any other now.
        task.leftover &= kind == Some(Kind::Look) || next == Next::NotAtOnce;
        if kind.is_some_and(|kind| fell_short(kind, &task.record.phase)) {
            task.not_before = Some(now + AGAIN);
        }
        match next {
            Next::LookAgain => {
                task.between.get_or_insert(now);
                task.look = Some(task.look.map_or(now + AGAIN, |look| look.min(now + AGAIN)));
            }
            Next::NotAtOnce => task.not_before = Some(now + AGAIN),
            Next::Nothing | Next::Forgotten => task.between = None,
        }
    }

    /// Starts the thread of an operation.
    fn start(&mut self, id: TaskId, job: Job) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let running = Running { kind: kind(&job), cancel: Stop::new(), died: Stop::new() };
        if takes_cores(&job) {
            self.node.holdings.promise(id);
        }
        let work = Work {
            node: Arc::clone(&self.node),
            record: task.record.clone(),
            cancel: running.cancel.clone(),
            died: running.died.clone(),
            tell: self.tell.clone(),
            outputs: Arc::clone(&self.outputs),
        };
        match thread::detached("task", move || work.run(job)) {
            Ok(()) => task.running = Some(running),
            Err(fault) => {
                self.node.holdings.promise_over(id);
                warning!("task {id} has to wait: no thread can be started: {fault}");
                task.not_before = Some(clock::now() + AGAIN);
            }
        }
    }

    /// Puts the latest of a task where it is reported from.
    fn show(&self, record: &Record) {
        let mut row = row(record, self.unknown.contains(&record.task));
        row.nothing_left |= self.tasks.get(record.task).is_some_and(|task| task.kept_is_gone);
        self.outbox.put(record.task, row);
    }

    /// The same for what its end may overtake.
    fn show_soon(&self, record: &Record) {
        self.outbox.put_soon(record.task, row(record, self.unknown.contains(&record.task)));
    }

    /// Notes what a task holds that was found again.
    fn hold(&self, record: &Record) {
        let (port, cores) = match record.outcome() {
            Some(outcome) if outcome.kept => (record.port, None),
            Some(_) => (None, None),
            None => (record.port, Some(&record.cpus).filter(|_| record.exclusive)),
        };
        self.node.holdings.note(record.task, port, cores);
    }

    /// An inventory is complete when Docker's truth was seen; or when this folder has served the cluster before, so that
    /// its records are whole; or when everything that the Host expects here, and the supervisor does not know, is here.
    /// True: it has become so.
    fn allow_complete(&mut self) -> bool {
        if self.whole {
            return false;
        }
        let cluster = &self.node.docker.owner().cluster;
        let is_supervised = |wanted: &Wanted| matches!(wanted.order, Ok(Order::OnNode(_)));
        let all_here = self
            .wanted
            .as_ref()
            .is_some_and(|wanted| wanted.iter().all(|(id, wanted)| is_supervised(wanted) || self.tasks.contains(*id)));
        if self.supervisor_heard && (self.truth || all_here || self.home.is_of(cluster)) {
            self.whole = true;
            self.tasks.touch_all();
            if let Err(fault) = self.home.belongs_to(cluster) {
                warning!("{fault}");
            }
            self.outbox.complete_allowed();
        }
        self.whole
    }

    /// When something is to be done next without a message.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let is_free = |task: &&Task| task.running.is_none();
        let (ended, idle): (Vec<&Task>, Vec<&Task>) = self
            .tasks
            .contained()
            .map(|(_, task)| task)
            .filter(is_free)
            .partition(|task| task.record.outcome().is_some());
        let waiting = idle.iter().filter_map(|task| task.not_before.or(task.look));
        waiting.chain(ended.iter().filter_map(|task| task.not_before)).min()
    }
}
