//! The one place where a task changes: `step` decides, then row, event, indices and marks follow.

use std::sync::Arc;

use crate::domain::ids::{NodeName, TaskId};
use crate::domain::placement::Placement;
use crate::domain::state::{Event, Refusal, State, Step, Want, step};
use crate::store::{NewEvent, StoreFault, Task};

use super::super::view::LiveTask;
use super::Now;
use super::action::{ActFault, Control};
use super::core::Core;

/// What can be learned of a task beside its standing.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) placement: Option<Placement>,
    pub(super) ssh_port: Option<u16>,
    pub(super) host_keys: Option<Vec<String>>,
    pub(super) started_ms: Option<u64>,
    pub(super) completed_ms: Option<u64>,
    /// How much it wrote in all, in bytes: only with its end.
    pub(super) stdout_bytes: Option<u64>,
    pub(super) stderr_bytes: Option<u64>,
    pub(super) unit: Option<String>,
}

impl Core {
    /// Lets an event happen to a live task. Inner Err: `step` refused it, nothing changed.
    pub(super) fn apply(
        &mut self,
        id: TaskId,
        event: &Event,
        facts: Facts,
        cause: &str,
        now: Now,
    ) -> Result<Result<(), Refusal>, StoreFault> {
        let Some(live) = self.tasks.get(&id).cloned() else { return Ok(Err(Refusal::Stale)) };
        let before = &live.task;
        let standing = match step(&before.standing, event) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(Step::Changed(standing)) => standing,
            Ok(Step::Same) => before.standing.clone(),
        };
        let mut after = Task { standing, ..before.clone() };
        learn(&mut after, facts, now);
        if after == *before {
            return Ok(Ok(()));
        }
        self.store.update_task(&after)?;
        if (before.standing.state, before.standing.want, &before.standing.note)
            != (after.standing.state, after.standing.want, &after.standing.note)
        {
            let event = NewEvent {
                time_ms: now.unix_ms,
                task: Some(id),
                node: node_of(&after).or(node_of(before)).map(NodeName::as_str),
                from: Some(before.standing.state.word()),
                to: after.standing.state.word(),
                cause,
            };
            self.record(&event, Some(before.batch))?;
        }
        self.keep(before, after, now);
        Ok(Ok(()))
    }

    /// Adds a new task, waiting.
    pub(super) fn add(&mut self, task: Task, now: Now) -> Result<(), StoreFault> {
        self.store.insert_task(&task)?;
        let id = task.id;
        let event = NewEvent {
            time_ms: now.unix_ms,
            task: Some(id),
            node: None,
            from: None,
            to: task.standing.state.word(),
            cause: "submitted",
        };
        self.record(&event, Some(task.batch))?;
        if let Some(name) = &task.spec.name {
            self.names.insert(name.clone(), id);
        }
        let class = Some(self.queue.insert(id, &task.spec));
        self.turn.tasks.insert(id);
        self.turn.schedule = true;
        self.tasks.insert(id, Arc::new(LiveTask { task, class }));
        self.watch_patience(id, now);
        Ok(())
    }

    /// Puts the changed task in its place in memory, and marks whom the change concerns.
    fn keep(&mut self, before: &Task, after: Task, now: Now) {
        let id = after.id;
        self.turn.tasks.insert(id);
        let waits = after.standing.state == State::Pending;
        let freed = before.standing.state.holds_resources() && !after.standing.state.holds_resources();
        let class = if waits {
            Some(self.queue.insert(id, &after.spec))
        } else {
            self.queue.remove(id);
            self.give_up.remove(id);
            None
        };
        let settled = after.standing.state.is_settled();
        let (old_node, new_node) = (node_of(before), node_of(&after).filter(|_| !settled));
        let placed_anew = old_node != new_node;
        let list_changed = placed_anew
            || before.standing.want != after.standing.want
            || before.standing.attempt != after.standing.attempt;
        if let Some(name) = after.spec.name.as_ref().filter(|name| settled && self.names.get(name) == Some(&id)) {
            self.names.remove(name);
        }
        if list_changed {
            for name in [old_node, new_node.filter(|_| placed_anew)].into_iter().flatten() {
                let Some(node) = self.nodes.get_mut(name) else { continue };
                if new_node == Some(name) {
                    node.add_task(&after, now);
                } else {
                    node.remove_task(id);
                }
                node.changes.add(id);
                self.turn.nodes.insert(name.clone());
                if placed_anew {
                    self.turn.held.insert(name.clone());
                }
            }
        }
        if is_in_line(before)
            && !is_in_line(&after)
            && let Some(node) = old_node.and_then(|name| self.nodes.get_mut(name))
        {
            // From now on it holds what it has taken over.
            node.left_line(id);
            self.turn.held.insert(node.record.name.clone());
            // If it was asked back, that it is wanted again is news for the node.
            self.turn.nodes.insert(node.record.name.clone());
        }
        if settled && let Some(node) = old_node.and_then(|name| self.nodes.get_mut(name)) {
            node.note_end(&after, now.instant);
        }
        if settled {
            self.give_up.forget(id);
            self.tasks.remove(&id);
        } else {
            self.tasks.insert(id, Arc::new(LiveTask { task: after, class }));
        }
        if waits && before.standing.state != State::Pending {
            // Its time may have come while it was placed, when nobody looked for it.
            self.watch_patience(id, now);
        }
        self.turn.schedule |= freed || waits;
    }

    /// A user asked for a task's end.
    pub(super) fn kill(&mut self, id: TaskId, now: Now) -> Result<Result<String, ActFault>, StoreFault> {
        let Some(live) = self.tasks.get(&id) else { return self.not_live(id) };
        let state = live.task.standing.state;
        Ok(match self.apply(id, &Event::Kill, Facts::default(), "kill", now)? {
            Err(refusal) => Err(refused(id, refusal, 409)),
            Ok(()) => Ok(match state {
                State::Pending => format!("Task {id} was waiting and is killed."),
                State::Lost => format!("Task {id} is lost: it is stopped when its node returns."),
                State::Assigning
                | State::Running
                | State::Paused
                | State::Completed
                | State::Failed
                | State::Killed
                | State::KilledOom => {
                    format!(
                        "Kill requested for task {id}; its node has not acted yet: it is 'killed' when nothing of it lives."
                    )
                }
            }),
        })
    }

    /// A user asked for a pause, or its end.
    pub(super) fn control(
        &mut self,
        id: TaskId,
        control: Control,
        now: Now,
    ) -> Result<Result<String, ActFault>, StoreFault> {
        let (event, cause, done) = match control {
            Control::Pause => (Event::Pause, "pause", "Pause"),
            Control::Resume => (Event::Resume, "resume", "Resume"),
        };
        let Some(live) = self.tasks.get(&id) else {
            return self.not_live(id).map(|answer| {
                answer.map_err(|fault| match fault.status {
                    409 => ActFault { status: 400, ..fault },
                    _ => fault,
                })
            });
        };
        let before = (live.task.standing.state, live.task.standing.want);
        Ok(match self.apply(id, &event, Facts::default(), cause, now)? {
            Err(refusal) => Err(refused(id, refusal, 400)),
            Ok(()) => Ok(match (control, before) {
                (Control::Pause, (State::Paused, Want::Pause)) => format!("Task {id} is paused already."),
                (Control::Resume, (State::Running, Want::Run)) => format!("Task {id} is running already."),
                (Control::Pause | Control::Resume, _) => {
                    format!("{done} requested for task {id}; its node has not acted yet.")
                }
            }),
        })
    }

    /// The refusal for a task that is settled or was never there.
    fn not_live(&self, id: TaskId) -> Result<Result<String, ActFault>, StoreFault> {
        Ok(Err(match self.store.task(id) {
            Ok(Some(task)) => refused(id, Refusal::Ended(task.standing.state), 409),
            Ok(None) => unknown_task(id),
            // Whoever else asks in this turn is answered all the same.
            Err(fault) => ActFault::new(500, fault.to_string()),
        }))
    }
}

/// 404 for a task.
pub(super) fn unknown_task(id: TaskId) -> ActFault {
    ActFault::new(404, format!("task {id} not found; 'hakuriver vps status' lists the active ones"))
}

fn refused(id: TaskId, refusal: Refusal, status: u16) -> ActFault {
    let why = match refusal {
        Refusal::Ended(state) => format!("task {id} has ended already: it is '{}'", state.word()),
        Refusal::NotYet => {
            format!("task {id} is still waiting ('pending'): it can be paused and resumed once it is placed")
        }
        Refusal::Stale | Refusal::OutOfPlace(_) => format!("task {id} cannot do this now"),
    };
    ActFault::new(status, why)
}

fn node_of(task: &Task) -> Option<&NodeName> {
    task.placement.as_ref().map(|placement| &placement.node)
}

pub(super) fn is_in_line(task: &Task) -> bool {
    task.placement.as_ref().is_some_and(|placement| placement.in_line)
}

/// Takes over what is new, and the times that follow from the state.
fn learn(task: &mut Task, facts: Facts, now: Now) {
    if let Some(placement) = facts.placement {
        task.placement = Some(placement);
    }
    if let Some(port) = facts.ssh_port {
        task.ssh_port = Some(port);
    }
    if let Some(keys) = facts.host_keys {
        task.host_keys = keys;
    }
    if let Some(unit) = facts.unit {
        task.unit = Some(unit);
    }
    match task.standing.state {
        State::Pending => {
            // Back from a node that never started it.
            task.placement = None;
            task.ssh_port = None;
            task.host_keys.clear();
            task.unit = None;
        }
        State::Assigning | State::Lost => {}
        State::Running | State::Paused => {
            if let Some(placement) = &mut task.placement {
                placement.in_line = false;
            }
            task.started_ms = facts.started_ms.or(task.started_ms).or(Some(now.unix_ms));
        }
        State::Completed | State::Failed | State::Killed | State::KilledOom => {
            task.started_ms = facts.started_ms.or(task.started_ms);
            task.stdout_bytes = task.stdout_bytes.or(facts.stdout_bytes);
            task.stderr_bytes = task.stderr_bytes.or(facts.stderr_bytes);
            // A clock that was set back meanwhile makes no task end before it began.
            task.completed_ms = task.completed_ms.or(facts.completed_ms).or(Some(now.unix_ms)).max(task.started_ms);
        }
    }
}
