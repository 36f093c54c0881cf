//! The reconcile loop: one thread that owns what is known of every task, and starts operations until what is here is what
//! the Host wants. It waits for messages, and for nothing else.

mod docker;
mod supervised;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::home::Home;
use super::message::{Message, Next};
use super::node::Node;
use super::observed::{Outbox, gone, row};
use super::order::{Order, Wanted};
use super::output::Outputs;
use super::record::Record;
use super::supervisor::Supervisor;
use super::work::{Job, Work};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::reconcile::{Action, Desired, diff};
use crate::sys::shutdown::Stop;
use crate::sys::{clock, thread};
use crate::{info, warning};
use task::{Asked, Kind, Running, Task, gives_way, kind, own_job};

/// When to look again at what is between two states, or could not be done.
const AGAIN: Duration = Duration::from_secs(2);
/// How many messages are heard before something is done about them.
const BATCH: usize = 1_000;
/// Deaths of a container count for this long.
const OFTEN: Duration = Duration::from_secs(60);

/// The thread's state.
pub struct Agent {
    node: Arc<Node>,
    outbox: Arc<Outbox>,
    tell: Sender<Message>,
    tasks: BTreeMap<TaskId, Task>,
    /// None: not heard yet.
    wanted: Option<BTreeMap<TaskId, Wanted>>,
    /// Here and not in the list.
    unknown: BTreeSet<TaskId>,
    /// Asked to stop, and not here: reported as gone.
    gone: BTreeMap<TaskId, Attempt>,
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
        for warning in found.warnings {
            warning!("a task's record is passed over: {warning}");
        }
        let tasks = found.records.into_iter().map(|record| (record.task, Task::new(record))).collect();
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
            gone: BTreeMap::new(),
            truth: false,
            whole: false,
        };
        for task in agent.tasks.values() {
            agent.hold(&task.record);
            agent.show(&task.record);
            if task.record.writes() {
                let (id, attempt) = (task.record.task, task.record.attempt);
                agent.outputs.watch(id, attempt, agent.node.records.container_outputs(id, attempt));
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
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
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
            self.reconcile();
            // What was begun just now may be what the inventory lacked; and then more may be begun.
            if !self.whole && self.allow_complete() {
                self.reconcile();
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Desired(news) => {
                let wanted = self.wanted.get_or_insert_default();
                if news.whole {
                    wanted.clear();
                }
                wanted.extend(news.wanted);
                news.removed.iter().for_each(|id| drop(wanted.remove(id)));
                self.allow_complete();
            }
            Message::Truth(containers) => self.truth(containers),
            Message::Found(containers) => containers.into_iter().for_each(|container| self.found(container)),
            Message::Glance(list) => self.glance(&list),
            Message::Event(event) => self.event(&event),
            Message::Changed(record) => self.changed(*record),
            Message::Done(record, next) => self.done(*record, next),
            Message::Acknowledged(receipts) => {
                for (id, attempt, rev) in receipts {
                    if let Some(task) = self.tasks.get_mut(&id) {
                        task.acknowledged |= task.record.attempt == attempt && task.record.rev <= rev;
                    }
                }
            }
            Message::Supervised { states, complete } => self.supervised(states, complete),
            Message::Unsupervised(reason) => self.unsupervised(reason),
            Message::OutputSettled(id, attempt) => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.output_settled |= task.record.attempt == attempt;
                }
            }
            Message::Stop => {}
        }
    }

    /// An operation has stored a change.
    fn changed(&mut self, record: Record) {
        self.show(&record);
        if let Some(task) = self.tasks.get_mut(&record.task) {
            task.acknowledged = false;
            task.record = record;
        }
    }

    /// An operation has ended.
    fn done(&mut self, record: Record, next: Next) {
        let id = record.task;
        if next == Next::Forgotten {
            self.outputs.forget(id, record.attempt);
            self.tasks.remove(&id);
            self.outbox.remove(id);
            return;
        }
        let now = Instant::now();
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.running = None;
        task.record = record;
        match next {
            Next::LookAgain => {
                task.between.get_or_insert(now);
                task.look = Some(task.look.map_or(now + AGAIN, |look| look.min(now + AGAIN)));
            }
            Next::NotAtOnce => task.not_before = Some(now + AGAIN),
            Next::Nothing | Next::Forgotten => task.between = None,
        }
    }

    /// Does what is to be done now.
    fn reconcile(&mut self) {
        let actions = match &self.wanted {
            Some(wanted) => {
                let desired = |wanted: &Wanted| Desired { attempt: wanted.attempt, want: wanted.want };
                let desired = wanted.iter().map(|(id, wanted)| (*id, desired(wanted))).collect();
                diff(&desired, &self.tasks.iter().map(|(id, task)| (*id, task.had())).collect())
            }
            None => Vec::new(),
        };
        let mut unknown = BTreeSet::new();
        let mut gone = BTreeMap::new();
        for action in actions {
            match action {
                Action::Start(id, attempt) => self.begin(id, attempt),
                Action::Pause(id) => self.want(id, Job::Pause),
                Action::Resume(id) => self.want(id, Job::Resume),
                Action::Stop(id) => self.want(id, Job::Stop),
                Action::Forget(id) => self.forget(id),
                Action::ReportUnknown(id) => drop(unknown.insert(id)),
                Action::ReportGone(id, attempt) => drop(gone.insert(id, attempt)),
            }
        }
        self.report_gone(gone);
        self.report_unknown(unknown);
        self.ask_again();
        self.go_on();
    }

    /// Starts a task that is not here.
    fn begin(&mut self, id: TaskId, attempt: Attempt) {
        let Some(wanted) = self.wanted.as_ref().and_then(|wanted| wanted.get(&id)) else { return };
        let order = wanted.order.clone();
        if let Ok(Order::OnNode(command)) = &order {
            return self.begin_supervised(id, attempt, command.needs.cores > 0);
        }
        // Where records were lost its container may be here already; and cores may be held by what was not told yet.
        if !self.whole {
            return;
        }
        let record = Record::new(id, attempt, &wanted.kind, &self.node.boot_id);
        info!("task {id} (attempt {attempt}) is to be started");
        self.show(&record);
        self.tasks.insert(id, Task::new(record));
        self.start(id, Job::Start(Box::new(order)));
    }

    /// Something is wanted of a task that is here: interrupts what stands in its way, then does it.
    fn want(&mut self, id: TaskId, job: Job) {
        let Some(task) = self.tasks.get(&id) else { return };
        if task.record.supervised {
            let asked = match kind(&job) {
                Kind::Pause => Asked::Pause,
                Kind::Resume => Asked::Resume,
                _ => Asked::Stop,
            };
            return self.want_supervised(id, asked);
        }
        if let Some(running) = &task.running {
            if gives_way(running.kind, kind(&job)) && !running.cancel.is_set() {
                running.cancel.set();
                self.node.nudge();
            }
            return;
        }
        // A stop is not put off: what failed before it has no say.
        if task.not_before.is_some_and(|then| then > Instant::now()) && kind(&job) != Kind::End {
            return;
        }
        self.start(id, job);
    }

    fn forget(&mut self, id: TaskId) {
        if self.tasks.get(&id).is_some_and(|task| task.record.supervised) {
            return self.forget_supervised(id);
        }
        let Some(task) = self.tasks.get_mut(&id).filter(|task| task.running.is_none() && !task.retired) else { return };
        if task.not_before.is_some_and(|then| then > Instant::now()) {
            return;
        }
        if task.record.outcome().is_some_and(|outcome| outcome.kept) {
            // Its container stays, so it is remembered whose it is; but there is nothing more to say of it.
            task.retired = true;
            self.outbox.remove(id);
        } else {
            self.start(id, Job::Forget);
        }
    }

    /// What follows from the tasks themselves, whatever the list says.
    fn go_on(&mut self) {
        let now = Instant::now();
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for id in ids {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            if task.running.is_some() || task.not_before.is_some_and(|then| then > now) {
                continue;
            }
            task.not_before = None;
            while task.deaths.front().is_some_and(|death| now.duration_since(*death) > OFTEN) {
                task.deaths.pop_front();
            }
            let due = task.look.is_some_and(|look| look <= now);
            let wanted = self.wanted.as_ref().and_then(|wanted| wanted.get(&id));
            let job = own_job(task, wanted, due, now);
            if due {
                task.look = None;
            }
            if matches!(job, Some(Job::GiveUp)) {
                task.deaths.clear();
            }
            match job {
                // It takes cores, and those of commands without a container are not known yet.
                Some(Job::Start(_)) if !self.supervisor_heard => {}
                Some(job) => self.start(id, job),
                None => {}
            }
        }
    }

    /// Starts the thread of an operation.
    fn start(&mut self, id: TaskId, job: Job) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let running = Running { kind: kind(&job), cancel: Stop::new(), died: Stop::new() };
        let work = Work {
            node: Arc::clone(&self.node),
            record: task.record.clone(),
            cancel: running.cancel.clone(),
            died: running.died.clone(),
            tell: self.tell.clone(),
            outputs: Arc::clone(&self.outputs),
        };
        match thread::spawn("task", move || work.run(job)) {
            Ok(_) => task.running = Some(running),
            Err(fault) => {
                warning!("task {id} has to wait: no thread can be started: {fault}");
                task.not_before = Some(Instant::now() + AGAIN);
            }
        }
    }

    fn report_gone(&mut self, gone_now: BTreeMap<TaskId, Attempt>) {
        for (id, attempt) in &gone_now {
            if self.gone.get(id) != Some(attempt) {
                info!("task {id} is to be stopped, and is not here");
                self.outbox.put(*id, gone(*id, *attempt, clock::unix_ms()));
            }
        }
        for id in self.gone.keys().filter(|id| !gone_now.contains_key(id) && !self.tasks.contains_key(id)) {
            self.outbox.remove(*id);
        }
        self.gone = gone_now;
    }

    fn report_unknown(&mut self, unknown: BTreeSet<TaskId>) {
        let changed: Vec<TaskId> = self.unknown.symmetric_difference(&unknown).copied().collect();
        self.unknown = unknown;
        for task in changed.iter().filter_map(|id| self.tasks.get(id)) {
            if self.unknown.contains(&task.record.task) {
                warning!("task {} is here and not in the Host's list: it is left alone", task.record.task);
            }
            self.show(&task.record);
        }
    }

    /// Puts the latest of a task where it is reported from.
    fn show(&self, record: &Record) {
        self.outbox.put(record.task, row(record, self.unknown.contains(&record.task)));
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
    /// its records are whole; or when everything that the Host expects here is here.
    /// True: it has become so.
    fn allow_complete(&mut self) -> bool {
        if self.whole {
            return false;
        }
        let cluster = &self.node.docker.owner().cluster;
        let all_here = self.wanted.as_ref().is_some_and(|wanted| wanted.keys().all(|id| self.tasks.contains_key(id)));
        if self.supervisor_heard && (self.truth || all_here || self.home.is_of(cluster)) {
            self.whole = true;
            if let Err(fault) = self.home.belongs_to(cluster) {
                warning!("{fault}");
            }
            self.outbox.complete_allowed();
        }
        self.whole
    }

    /// When something is to be done next without a message.
    fn next_timer(&self) -> Option<Instant> {
        let idle = self.tasks.values().filter(|task| task.running.is_none() && task.record.outcome().is_none());
        let waiting = idle.filter_map(|task| task.not_before.or(task.look));
        let ended = self.tasks.values().filter(|task| task.running.is_none() && task.record.outcome().is_some());
        waiting.chain(ended.filter_map(|task| task.not_before)).min()
    }
}
