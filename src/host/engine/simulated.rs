//! The Host of a simulation: the engine on a database in memory, called in the wire's types, turn by turn, by a clock of the test's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::api::node::{
    ConditionsWire, DesiredAnswer, Heartbeat, HeartbeatAnswer, Observed, ObservedAnswer, OutputHave, Registered,
};
use crate::domain::ids::{GpuId, NodeName, TaskId};
use crate::domain::node::{Conditions, Inventory};
use crate::domain::placement::Held;
use crate::domain::spec::TaskSpec;
use crate::store::{NodeRecord, Store, Task};

use super::super::routes::seen;
use super::super::view::{Figures, View};
use super::action::{
    ActFault, Action, Beat, Control, Idempotency, Poll, Registration, Snapshot, Submission, Submitted,
};
use super::core::{Core, Settings};
use super::{Now, Reply};

pub(crate) const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// A call, from a node or a user.
#[derive(Clone)]
pub(crate) enum Call {
    Register { name: NodeName, instance: String, machine: String, boot: String, inventory: Inventory },
    Heartbeat(NodeName, Heartbeat),
    Observed(NodeName, Observed),
    Desired { name: NodeName, session: String, version: String, through: Option<TaskId> },
    Submit { specs: Vec<TaskSpec>, key: Option<String> },
    Kill(TaskId),
    Control { task: TaskId, pause: bool },
    Drain(NodeName, bool),
}

/// Its answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Registered(Registered),
    Beat(HeartbeatAnswer),
    Observed(ObservedAnswer),
    Desired(DesiredAnswer),
    Submitted(Vec<TaskId>),
    Done,
}

/// Status and reason.
pub(crate) type Refusal = (u16, String);
pub(crate) type Outcome = Result<Answer, Refusal>;

/// A poll that is answered when there is news, or when its time is up.
struct Parked {
    call: u64,
    name: NodeName,
    poll: Poll,
    until: Instant,
    answer: Receiver<Result<DesiredAnswer, ActFault>>,
}

pub(crate) struct SimHost {
    core: Option<Core>,
    /// The file that bounds the ids.
    ids: PathBuf,
    starts: u32,
    node_timeout: Duration,
    hold: Duration,
    parked: Vec<Parked>,
}

/// What the Host has of a node.
pub(crate) struct NodeSeen<'a> {
    pub(crate) record: &'a NodeRecord,
    pub(crate) unknown: &'a BTreeSet<TaskId>,
    pub(crate) in_line: BTreeSet<TaskId>,
    pub(crate) held: &'a Held,
}

type Waiting = Box<dyn FnOnce() -> Outcome>;

fn waiting<T: 'static>(make: impl FnOnce(Reply<T>) -> Action, answer: fn(T) -> Answer) -> (Action, Waiting) {
    let (reply, receiver) = mpsc::sync_channel::<Result<T, ActFault>>(1);
    let take = move || match receiver.try_recv().expect("answered when the turn is over") {
        Ok(value) => Ok(answer(value)),
        Err(fault) => Err((fault.status, fault.detail)),
    };
    (make(reply), Box::new(take))
}

impl SimHost {
    /// `folder` is for what a Host keeps beside its database.
    pub(crate) fn new(folder: &Path, now: Instant, unix_ms: u64, node_timeout: Duration, hold: Duration) -> Self {
        let ids = folder.join("ids");
        let mut host = Self { core: None, ids, starts: 0, node_timeout, hold, parked: Vec::new() };
        host.begin(Store::in_memory(), Now { instant: now, unix_ms });
        host
    }

    fn begin(&mut self, store: Store, now: Now) {
        self.starts += 1;
        let settings = Settings {
            cluster_id: CLUSTER.into(),
            ids: self.ids.clone(),
            epoch: format!("epoch{}", self.starts),
            node_timeout: self.node_timeout,
            // The clock on the wall may be set by days.
            retention: Duration::from_secs(86_400 * 1_000),
            cleanup_interval: Duration::from_secs(600),
            most_nodes: 20,
            removed: mpsc::channel().0,
        };
        let (mut core, _): (Core, Arc<View>) = Core::load(store, settings, now).expect("load");
        core.turn(Vec::new(), now);
        self.core = Some(core);
    }

    /// Killed, and started again: what was committed is there.
    pub(crate) fn restart(&mut self, now: Instant, unix_ms: u64) {
        self.parked.clear();
        let mut store = self.core.take().expect("it runs").store;
        store.rollback();
        self.begin(store, Now { instant: now, unix_ms });
    }

    fn core(&self) -> &Core {
        self.core.as_ref().expect("it runs")
    }

    /// Lets the database grow by so many pages and no more.
    pub(crate) fn limit_growth(&mut self, pages: i64) {
        self.core().store.limit_growth(pages);
    }

    /// When it has something to do without a call.
    pub(crate) fn next_deadline(&self) -> Instant {
        let polls = self.parked.iter().map(|parked| parked.until);
        polls.fold(self.core().next_deadline(), Instant::min)
    }

    /// One turn for all these calls. Polls may be answered in a later one.
    pub(crate) fn turn(&mut self, calls: Vec<(u64, Call)>, now: Instant, unix_ms: u64) -> Vec<(u64, Outcome)> {
        let now = Now { instant: now, unix_ms };
        let mut answers = Vec::new();
        let mut actions = Vec::new();
        let mut later: Vec<(u64, Waiting)> = Vec::new();
        let mut core = self.core.take().expect("it runs");
        if now.instant.saturating_duration_since(core.next_deadline()) > Duration::from_secs(2) {
            core.excuse_silence(now);
        }
        let (due, parked): (Vec<Parked>, _) =
            std::mem::take(&mut self.parked).into_iter().partition(|parked| parked.until <= now.instant);
        self.parked = parked;
        for Parked { call, name, poll, .. } in due {
            let poll = Poll { may_wait: false, ..poll };
            let (action, answer) = waiting(|reply| Action::Desired(name, poll, reply), Answer::Desired);
            actions.push(action);
            later.push((call, answer));
        }
        for (id, call) in calls {
            if let Call::Desired { name, session, version, through } = call {
                let poll = Poll { session, known: version, changes: true, parts: true, through, may_wait: true };
                let (reply, answer) = mpsc::sync_channel(1);
                actions.push(Action::Desired(name.clone(), poll.clone(), reply));
                self.parked.push(Parked { call: id, name, poll, until: now.instant + self.hold, answer });
                continue;
            }
            match action(call) {
                Ok((action, answer)) => {
                    actions.push(action);
                    later.push((id, answer));
                }
                Err(fault) => answers.push((id, Err((fault.status, fault.detail)))),
            }
        }
        core.turn(actions, now);
        self.core = Some(core);
        answers.extend(later.into_iter().map(|(id, answer)| (id, answer())));
        self.parked.retain(|parked| match parked.answer.try_recv() {
            Ok(answer) => {
                let answer = answer.map(Answer::Desired).map_err(|fault| (fault.status, fault.detail));
                answers.push((parked.call, answer));
                false
            }
            Err(_) => true,
        });
        answers
    }

    /// Every task that is not settled.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Task> {
        self.core().tasks.values().map(|live| &live.task)
    }

    pub(crate) fn live_task(&self, id: TaskId) -> Option<&Task> {
        self.core().tasks.get(&id).map(|live| &live.task)
    }

    /// As the database has it.
    pub(crate) fn stored(&self, id: TaskId) -> Option<Task> {
        self.core().store.task(id).expect("read")
    }

    /// All that are not settled, as the database has them.
    pub(crate) fn stored_live(&self) -> BTreeMap<TaskId, Task> {
        let tasks = self.core().store.live_tasks().expect("read");
        tasks.into_iter().map(|task| (task.id, task)).collect()
    }

    pub(crate) fn reason(&self, id: TaskId) -> Option<String> {
        self.core().queue.reason(id).map(|reason| reason.to_string())
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeSeen<'_>> {
        self.core().nodes.values().map(|node| NodeSeen {
            record: &node.record,
            unknown: &node.unknown,
            in_line: node.in_line.keys().copied().collect(),
            held: &node.held,
        })
    }
}

fn action(call: Call) -> Result<(Action, Waiting), ActFault> {
    Ok(match call {
        Call::Register { name, instance, machine, boot, inventory } => {
            let registration = Registration {
                name,
                instance,
                machine_id: machine,
                boot_id: boot,
                version: "1".to_owned(),
                address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
                inventory,
            };
            waiting(|reply| Action::Register(Box::new(registration), reply), Answer::Registered)
        }
        Call::Heartbeat(name, beat) => {
            let Heartbeat { session, usage, gpu_info, conditions, gpus_gone, environments } = beat;
            let ConditionsWire { docker, systemd, memory_limit, freezer } = conditions;
            let beat = Beat {
                session,
                figures: Figures { usage, gpus: gpu_info, environments },
                conditions: Conditions { docker, systemd, memory_limit, freezer },
                gpus_gone: gpus_gone.into_iter().map(GpuId).collect(),
            };
            waiting(
                |reply| Action::Heartbeat(name, Box::new(beat), reply),
                |host_epoch| Answer::Beat(HeartbeatAnswer { host_epoch }),
            )
        }
        Call::Observed(name, Observed { session, complete, tasks, told, epoch, outputs }) => {
            let tasks = tasks.into_iter().map(seen).collect::<Result<_, _>>()?;
            let told = told.iter().map(|id| id.parse().expect("an id")).collect();
            let snapshot = Snapshot { session, complete, tasks, told, epoch };
            let (action, answer) = waiting(
                |reply| Action::Observed(name, snapshot, reply),
                |(acknowledged, host_epoch)| {
                    Answer::Observed(ObservedAnswer { acknowledged, host_epoch, outputs: Vec::new() })
                },
            );
            let have = move || match answer() {
                Ok(Answer::Observed(answer)) => {
                    let outputs = outputs.into_iter().map(|chunk| OutputHave {
                        have: chunk.offset + chunk.data.len() as u64,
                        task_id: chunk.task_id,
                        attempt: chunk.attempt,
                        stream: chunk.stream,
                    });
                    Ok(Answer::Observed(ObservedAnswer { outputs: outputs.collect(), ..answer }))
                }
                other => other,
            };
            (action, Box::new(have))
        }
        Call::Desired { .. } => unreachable!("polls are parked"),
        Call::Submit { specs, key } => {
            let submission = Submission {
                name: specs.first().and_then(|spec| spec.name.clone()),
                tasks: specs.into_iter().map(|spec| (Arc::from("target"), Arc::new(spec))).collect(),
                refused: Vec::new(),
                idempotency: key.map(|key| Idempotency { body_hash: key.clone().into_bytes(), key }),
            };
            waiting(
                |reply| Action::Submit(Box::new(submission), reply),
                |Submitted(body)| Answer::Submitted(ids_in(&body)),
            )
        }
        Call::Kill(task) => waiting(|reply| Action::Kill(task, reply), |_| Answer::Done),
        Call::Control { task, pause } => {
            let control = if pause { Control::Pause } else { Control::Resume };
            waiting(|reply| Action::Control(task, control, reply), |_| Answer::Done)
        }
        Call::Drain(name, draining) => waiting(|reply| Action::Drain(name, draining, reply), |_| Answer::Done),
    })
}

fn ids_in(body: &str) -> Vec<TaskId> {
    let list = body.split("\"task_ids\":[").nth(1).and_then(|rest| rest.split(']').next()).expect("task_ids");
    list.split(',').map(|id| id.trim_matches('"').parse().expect("id")).collect()
}
