//! The reconcile loop: one thread that owns what is known of every task, and starts operations until what is here is what
//! the Host wants. It waits for messages, and for nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::executor::docker_parse::{Container, ContainerState, DockerAction, DockerEvent, Glimpse};
use super::home::Home;
use super::judge::{Verdict, is_odd, judge};
use super::message::{Message, Next};
use super::node::Node;
use super::observed::{Outbox, gone, row};
use super::order::Wanted;
use super::record::{Phase, Record};
use super::work::{Job, Work};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::reconcile::{self, Action, Desired, Had, diff};
use crate::domain::state::Want;
use crate::sys::shutdown::Stop;
use crate::sys::{clock, thread};
use crate::{info, warning};

/// A container that Docker is to start again may be seen ended for this long: also a daemon that was itself restarted
/// brings back its containers one after the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// When to look again at what is between two states, or could not be done.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a container may end within [`OFTEN`] before it is given up.
const DEATHS: usize = 5;
const OFTEN: Duration = Duration::from_secs(60);
/// After a death, the start that follows is waited for; if none comes, this long until a look.
const AFTER_DEATH: Duration = Duration::from_millis(500);

/// One task, as the agent knows it.
struct Task {
    record: Record,
    running: Option<Running>,
    /// When to look at its container.
    look: Option<Instant>,
    /// Since when its container has been between two states.
    between: Option<Instant>,
    /// When its container ended, lately.
    deaths: VecDeque<Instant>,
    /// Nothing is tried before then.
    not_before: Option<Instant>,
    /// The Host has stored its end.
    acknowledged: bool,
    /// Nothing is said of it any more; its container is kept.
    retired: bool,
}

/// The operation on a task.
struct Running {
    kind: Kind,
    cancel: Stop,
    died: Stop,
}

/// What an operation is for, as far as another one may interrupt it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Start,
    Look,
    Pause,
    Resume,
    /// Never interrupted.
    End,
}

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
    pub fn load(node: Arc<Node>, outbox: Arc<Outbox>, tell: Sender<Message>, home: Arc<Home>) -> std::io::Result<Self> {
        let found = node.records.load()?;
        for warning in found.warnings {
            warning!("a task's record is passed over: {warning}");
        }
        let tasks = found.records.into_iter().map(|record| (record.task, Task::new(record))).collect();
        let mut agent = Self {
            home,
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
            self.reconcile();
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Desired(wanted) => {
                self.wanted = Some(wanted);
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
            Message::Stop => {}
        }
    }

    /// All that Docker has of us: what is not in it does not exist.
    fn truth(&mut self, containers: Vec<Container>) {
        let seen: BTreeSet<TaskId> = containers.iter().map(|container| container.labels.task).collect();
        containers.into_iter().for_each(|container| self.found(container));
        let now = Instant::now();
        for (id, task) in &mut self.tasks {
            if !seen.contains(id) && task.running.is_none() && judge(&task.record, None, false) != Verdict::AsRecorded {
                task.look = Some(now);
            }
        }
        // A kept container that the user has removed: nothing is left to remember.
        let kept = |task: &Task| task.retired && task.running.is_none();
        let removed: Vec<_> =
            self.tasks.iter().filter(|(id, task)| kept(task) && !seen.contains(id)).map(|(id, _)| *id).collect();
        removed.into_iter().for_each(|id| self.start(id, Job::Forget));
        if !self.truth {
            self.truth = true;
            self.allow_complete();
        }
    }

    /// One container of ours.
    fn found(&mut self, container: Container) {
        let id = container.labels.task;
        let Some(task) = self.tasks.get_mut(&id) else { return self.adopt(&container) };
        if task.running.is_some() {
            // The operation sees for itself, or has an event waiting.
            return;
        }
        let ended = task.record.outcome();
        if container.labels.attempt < task.record.attempt
            || (container.labels.attempt == task.record.attempt && ended.is_some_and(|outcome| !outcome.kept))
        {
            self.start(id, Job::Sweep { container: container.id });
        } else if container.labels.attempt > task.record.attempt {
            warning!("task {id}: its container {} is of a later attempt than its record, and left alone", container.id);
        } else if judge(&task.record, Some(&container), false) != Verdict::AsRecorded {
            task.look = Some(Instant::now());
        }
    }

    /// A container whose record was lost: the record is made again from what Docker knows.
    fn adopt(&mut self, container: &Container) {
        let record = rebuilt(container, &self.node.boot_id, clock::unix_ms());
        info!("task {}: its record was lost, and is made again from its container {}", record.task, container.id);
        if let Err(fault) = self.node.records.save(&record) {
            warning!("task {}: {fault}", record.task);
        }
        self.hold(&record);
        self.show(&record);
        let mut task = Task::new(record);
        task.look = Some(Instant::now());
        self.tasks.insert(container.labels.task, task);
    }

    /// Finds what the stream of events has not told.
    fn glance(&mut self, list: &[(String, Glimpse)]) {
        let mut by_id: BTreeMap<&str, Glimpse> = list.iter().map(|(id, glimpse)| (id.as_str(), *glimpse)).collect();
        let now = Instant::now();
        let mut busy = false;
        for task in self.tasks.values_mut() {
            busy |= task.running.is_some();
            let Some(container) = &task.record.container else { continue };
            let glimpse = by_id.remove(container.as_str());
            if task.running.is_none() && task.look.is_none() && is_odd(&task.record, glimpse) {
                task.look = Some(now);
            }
        }
        // While something is being started, a new container is most likely its own.
        let strange: Vec<String> = by_id.into_keys().map(ToOwned::to_owned).collect();
        if strange.is_empty() || busy {
            return;
        }
        let (node, tell) = (Arc::clone(&self.node), self.tell.clone());
        let started = thread::spawn("inspect", move || match node.docker.inspect(&strange) {
            // The agent ends before this only when the process does.
            Ok(found) => drop(tell.send(Message::Found(found))),
            Err(fault) => warning!("cannot look at the containers {}: {fault}", strange.join(", ")),
        });
        if let Err(fault) = started {
            warning!("cannot look at containers: no thread can be started: {fault}");
        }
    }

    fn event(&mut self, event: &DockerEvent) {
        let now = Instant::now();
        let Some(task) = self.tasks.get_mut(&event.labels.task) else { return };
        if event.labels.attempt != task.record.attempt {
            return;
        }
        if event.action == DockerAction::Die
            && let Some(running) = &task.running
        {
            running.died.set();
        }
        if event.action == DockerAction::Destroy && task.retired && task.running.is_none() {
            // The user has removed a container that was kept.
            return self.start(event.labels.task, Job::Forget);
        }
        if task.record.stopping || task.record.outcome().is_some() {
            return;
        }
        let ran = !matches!(task.record.phase, Phase::Starting { .. });
        match event.action {
            DockerAction::Die if ran => {
                task.deaths.push_back(now);
                task.look = Some(now + AFTER_DEATH);
            }
            DockerAction::Start | DockerAction::Destroy if ran => task.look = Some(now),
            // Our own pause is told too.
            DockerAction::Pause if matches!(task.record.phase, Phase::Running { .. }) && task.running.is_none() => {
                task.look = Some(now);
            }
            DockerAction::Unpause if task.record.phase == Phase::Paused && task.running.is_none() => {
                task.look = Some(now);
            }
            _ => {}
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
        self.go_on();
    }

    /// Starts a task that is not here.
    fn begin(&mut self, id: TaskId, attempt: Attempt) {
        let Some(wanted) = self.wanted.as_ref().and_then(|wanted| wanted.get(&id)) else { return };
        let record = Record::new(id, attempt, &wanted.kind, &self.node.boot_id);
        let order = wanted.order.clone();
        info!("task {id} (attempt {attempt}) is to be started");
        self.show(&record);
        self.tasks.insert(id, Task::new(record));
        self.start(id, Job::Start(Box::new(order)));
    }

    /// Something is wanted of a task that is here: interrupts what stands in its way, then does it.
    fn want(&mut self, id: TaskId, job: Job) {
        let Some(task) = self.tasks.get(&id) else { return };
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
            if let Some(job) = job {
                self.start(id, job);
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
    fn allow_complete(&mut self) {
        if self.whole {
            return;
        }
        let cluster = &self.node.docker.owner().cluster;
        let all_here = self.wanted.as_ref().is_some_and(|wanted| wanted.keys().all(|id| self.tasks.contains_key(id)));
        if self.truth || all_here || self.home.is_of(cluster) {
            self.whole = true;
            if let Err(fault) = self.home.belongs_to(cluster) {
                warning!("{fault}");
            }
            self.outbox.complete_allowed();
        }
    }

    /// When something is to be done next without a message.
    fn next_timer(&self) -> Option<Instant> {
        let idle = self.tasks.values().filter(|task| task.running.is_none() && task.record.outcome().is_none());
        let waiting = idle.filter_map(|task| task.not_before.or(task.look));
        let ended = self.tasks.values().filter(|task| task.running.is_none() && task.record.outcome().is_some());
        waiting.chain(ended.filter_map(|task| task.not_before)).min()
    }
}

impl Task {
    fn new(record: Record) -> Self {
        Self {
            record,
            running: None,
            look: None,
            between: None,
            deaths: VecDeque::new(),
            not_before: None,
            acknowledged: false,
            retired: false,
        }
    }

    /// As the difference wants it.
    fn had(&self) -> Had {
        let phase = match &self.record.phase {
            Phase::Ended(_) => reconcile::Phase::Ended { acknowledged: self.acknowledged },
            _ if self.record.stopping => reconcile::Phase::Stopping,
            Phase::Starting { .. } => reconcile::Phase::Starting,
            Phase::Running { .. } => reconcile::Phase::Running,
            Phase::Paused => reconcile::Phase::Paused,
        };
        Had { attempt: self.record.attempt, phase }
    }
}

/// What follows from a task itself, whatever else the list says of it. `due`: it is time to look at its container.
fn own_job(task: &Task, wanted: Option<&Wanted>, due: bool, now: Instant) -> Option<Job> {
    match &task.record.phase {
        Phase::Ended(_) => None,
        // It was begun before this process was started, or could not be finished.
        _ if task.record.stopping => Some(Job::Stop),
        Phase::Starting { .. } if task.record.container.is_some() && due => Some(Job::Look { patience_over: false }),
        Phase::Starting { .. } => {
            let wanted = wanted.filter(|wanted| wanted.attempt == task.record.attempt && wanted.want != Want::Stop)?;
            Some(Job::Start(Box::new(wanted.order.clone())))
        }
        Phase::Running { .. } | Phase::Paused if task.deaths.len() >= DEATHS => Some(Job::GiveUp),
        Phase::Running { .. } | Phase::Paused => due.then(|| Job::Look {
            patience_over: task.between.is_some_and(|since| now.duration_since(since) > PATIENCE),
        }),
    }
}

fn kind(job: &Job) -> Kind {
    match job {
        Job::Start(_) => Kind::Start,
        Job::Look { .. } => Kind::Look,
        Job::Pause => Kind::Pause,
        Job::Resume => Kind::Resume,
        Job::Stop | Job::GiveUp | Job::Forget | Job::Sweep { .. } => Kind::End,
    }
}

/// Whether an operation is interrupted for another one.
fn gives_way(running: Kind, wanted: Kind) -> bool {
    match (running, wanted) {
        (Kind::End, _) => false,
        (_, Kind::End) => true,
        // A task is paused when it has started.
        (Kind::Start, _) => false,
        // It may be waiting for a server that is to be frozen, or for Docker in order to do the opposite.
        (Kind::Look, _) => true,
        (Kind::Pause | Kind::Resume, _) => running != wanted,
    }
}

/// A record made from a container. Its revision is later than any that the lost record can have had.
fn rebuilt(container: &Container, boot_id: &str, unix_ms: u64) -> Record {
    // Docker restarts it, so it was running once: that policy is set only then.
    let ran = container.restarts;
    let phase = match container.state {
        ContainerState::Paused => Phase::Paused,
        _ if ran => Phase::Running { note: Some("found again after its record was lost".to_owned()) },
        _ => Phase::Starting { progress: Some("found again after its record was lost".to_owned()) },
    };
    Record {
        rev: unix_ms,
        phase,
        launched: true,
        container: Some(container.id.clone()),
        port: container.published.as_ref().map(|(_, port)| *port),
        cpus: container.cpus.parse().unwrap_or_default(),
        exclusive: container.exclusive,
        started_at: container.started_at.clone().filter(|_| ran),
        binary: container.binary.clone().unwrap_or_default(),
        ..Record::new(container.labels.task, container.labels.attempt, &container.labels.kind, boot_id)
    }
}

#[cfg(test)]
mod tests;
