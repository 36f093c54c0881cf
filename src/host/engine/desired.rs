//! Everything that a node should have, for its long poll.

use std::ops::Bound::{Excluded, Unbounded};

use crate::api::node::{DesiredAnswer, DesiredTask, EnvPair, OrderSpec, RETURN};
use crate::domain::ids::{NodeName, TaskId};
use crate::domain::spec::{Container, TaskKind};
use crate::domain::state::{Standing, State, Want};
use crate::store::{StoreFault, Task};

use super::action::{ActFault, Poll};
use super::core::Core;
use super::node::Node;
use super::{Now, Reply};

/// An answer that has come to this size, in bytes, ends, and another one goes on from there. With its last task it is far below what
/// a Runner takes, also where each byte is escaped. (In tests two tasks are more than one answer holds.)
const PART: usize = if cfg!(test) { 512 } else { 4 << 20 };
/// What a task takes beside its texts, and a text beside its characters.
const LINE: usize = 512;
const TEXT: usize = 24;

/// A poll that is answered when there is something new.
pub(super) struct Parked {
    pub(super) poll: Poll,
    reply: Reply<DesiredAnswer>,
}

impl Core {
    /// Answers a poll, now or when the list is another one than what the node knows.
    pub(super) fn desired(
        &mut self,
        name: &NodeName,
        poll: Poll,
        reply: Reply<DesiredAnswer>,
        now: Now,
    ) -> Result<(), StoreFault> {
        if let Err(fault) = self.touch(name, &poll.session, now)? {
            self.answer(reply, Err(fault));
            return Ok(());
        }
        let Some(node) = self.nodes.get_mut(name) else { return Ok(()) };
        // A node has one poll: whoever asked before has gone, or hears what there is.
        let before = node.parked.take();
        if poll.may_wait && !self.letting_go && !node.has_news(&poll, &self.settings.epoch) {
            node.parked = Some(Parked { poll, reply });
        } else {
            self.turn.polls.push((name.clone(), Parked { poll, reply }));
        }
        self.turn.polls.extend(before.map(|before| (name.clone(), before)));
        Ok(())
    }

    /// Answers the polls for which there is something new, once what it is was stored.
    pub(super) fn answer_polls(&mut self) {
        let mut due = std::mem::take(&mut self.turn.polls);
        for name in &self.turn.nodes {
            let Some(node) = self.nodes.get_mut(name) else { continue };
            if let Some(parked) = node.parked.take() {
                if self.letting_go || node.has_news(&parked.poll, &self.settings.epoch) {
                    due.push((name.clone(), parked));
                } else {
                    node.parked = Some(parked);
                }
            }
        }
        for (name, Parked { poll, reply }) in due {
            let answer = self.list(&name, &poll);
            // Err: whoever asked has gone.
            drop(reply.try_send(answer));
        }
    }

    /// The list for a node as it is now, or what is new in it.
    pub(super) fn list(&self, name: &NodeName, poll: &Poll) -> Result<DesiredAnswer, ActFault> {
        let Some(node) = self.nodes.get(name) else { return Err(super::nodes::not_registered(name)) };
        if node.record.session != poll.session {
            return Err(super::nodes::not_this_session(name, &node.record.session, &poll.session));
        }
        let epoch = node.epoch(&self.settings.epoch);
        let known = node.known(poll, &self.settings.epoch).filter(|_| poll.changes);
        let changed = known.and_then(|known| node.changes.since(known));
        let line = |id: &TaskId| {
            let task = &self.tasks.get(id).filter(|_| node.tasks.contains(id))?.task;
            // Before this session's first complete inventory nothing is started: that inventory is to say whether an earlier
            // Runner has started it, and must not be overtaken by a new start. And what ran is never started again.
            let no_start = !node.record.inventoried;
            Some(order(task, node.recalled.contains(id), no_start))
        };
        let cut = |ids: &mut dyn Iterator<Item = &TaskId>| part(ids, &line, poll.parts);
        let told = changed.as_ref().and_then(|changed| match poll.through {
            // More than goes into one answer: then all of it, in parts.
            None => Some(cut(&mut changed.iter())).filter(|(_, through)| through.is_none()),
            Some(through) => {
                Some(cut(&mut changed.range(..=through).chain(node.tasks.range((Excluded(through), Unbounded)))))
            }
        });
        let base = told.is_some().then(|| poll.known.clone());
        let (tasks, through) = told.unwrap_or_else(|| cut(&mut node.tasks.iter()));
        let removed = changed.iter().filter(|_| base.is_some()).flat_map(|changed| changed.difference(&node.tasks));
        Ok(DesiredAnswer {
            version: format!("{epoch}.{}", node.changes.version()),
            host_epoch: epoch,
            removed: removed.map(ToString::to_string).collect(),
            base,
            tasks,
            through: through.map(|id| id.to_string()),
            shells: node.shells.values().cloned().collect(),
        })
    }
}

/// As many of these tasks as go into one answer, and the last of them if it is not all: a node takes bounded answers, and a list that
/// it could not take would keep everything from it, kills too.
fn part<'a>(
    ids: &mut dyn Iterator<Item = &'a TaskId>,
    line: &dyn Fn(&TaskId) -> Option<DesiredTask>,
    may_end: bool,
) -> (Vec<DesiredTask>, Option<TaskId>) {
    let (mut tasks, mut size, mut last) = (Vec::new(), 0, None);
    for id in ids {
        if may_end && size >= PART {
            return (tasks, last);
        }
        if let Some(task) = line(id) {
            size += size_of_task(&task);
            tasks.push(task);
        }
        last = Some(*id);
    }
    (tasks, None)
}

/// About how many bytes it takes on the way.
fn size_of_task(task: &DesiredTask) -> usize {
    let OrderSpec { keys, argv, env, mounts, .. } = &task.spec;
    let texts = keys.iter().chain(argv).chain(mounts).chain(env.iter().flat_map(|pair| [&pair.name, &pair.value]));
    LINE + texts.map(|text| text.len() + TEXT).sum::<usize>()
}

impl Node {
    /// The version of this list that a poll knows; None: none of this Host's and this session's.
    fn known(&self, poll: &Poll, host: &str) -> Option<u64> {
        let (epoch, version) = poll.known.rsplit_once('.')?;
        (epoch == self.epoch(host)).then_some(version)?.parse().ok()
    }

    /// Is there anything to tell? (After its first complete inventory the list is another one.)
    pub(super) fn has_news(&self, poll: &Poll, host: &str) -> bool {
        self.record.session != poll.session
            || poll.through.is_some()
            || match self.known(poll, host) {
                Some(known) => known != self.changes.version(),
                None => self.record.inventoried,
            }
    }
}

/// Its node has had it. (One in `assigning` was at most getting ready there: if it is gone, it can be started as well. One that is
/// `lost` may have begun since it was heard of.)
fn is_seen(standing: &Standing) -> bool {
    standing.rev > 0 && matches!(standing.state, State::Running | State::Paused | State::Lost)
}

fn order(task: &Task, recalled: bool, no_start: bool) -> DesiredTask {
    let spec = &task.spec;
    let placed = task.placement.as_ref();
    let mut order = OrderSpec {
        kind: spec.kind.word().to_owned(),
        env: spec.env.iter().map(|var| EnvPair { name: var.name.clone(), value: var.value.clone() }).collect(),
        cores: spec.cores,
        memory_bytes: spec.memory.map(|bytes| bytes.0),
        in_line: placed.is_some_and(|placement| placement.in_line),
        numa: placed.and_then(|placement| placement.numa).map(|numa| numa.0),
        gpus: placed.iter().flat_map(|placement| &placement.gpus).map(|gpu| gpu.0).collect(),
        time_limit_seconds: spec.time_limit.map(|limit| limit.as_secs()),
        workdir: spec.workdir.clone(),
        user: spec.user.map(|user| match user.gid {
            Some(gid) => format!("{}:{gid}", user.uid),
            None => user.uid.to_string(),
        }),
        ..OrderSpec::default()
    };
    match &spec.kind {
        TaskKind::Vps { keys } => order.keys = keys.iter().map(ToString::to_string).collect(),
        TaskKind::Command { program, arguments } => {
            order.argv = std::iter::once(program).chain(arguments).cloned().collect();
        }
    }
    if let Container::Environment { name, privileged, mounts } = &spec.container {
        order.container = Some(name.to_string());
        order.privileged = *privileged;
        order.mounts = mounts.iter().map(ToString::to_string).collect();
    }
    DesiredTask {
        task_id: task.id.to_string(),
        attempt: task.standing.attempt.0,
        seen: is_seen(&task.standing),
        want: if recalled && task.standing.want == Want::Run { RETURN } else { task.standing.want.word() }.to_owned(),
        no_start,
        spec: order,
    }
}
