//! A submission becomes tasks: asked again, name held, never fits, or stored.

use std::sync::Arc;

use crate::api::json;
use crate::api::public::{AssignedNode, FailedTarget, SubmitAnswer};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::placement::{NodeView, Verdict, place};
use crate::domain::spec::TaskSpec;
use crate::domain::state::{Event, Exit, Standing, State, Want};
use crate::store::{KeptAnswer, StoreFault, Task};

use super::action::{ActFault, Idempotency, Submission, Submitted};
use super::apply::Facts;
use super::core::Core;
use super::{Now, Reply};

/// A submission whose tasks are stored and wait for their turn before it is answered.
pub(super) struct Unanswered {
    tasks: Vec<(Arc<str>, TaskId)>,
    refused: Vec<(String, String)>,
    idempotency: Option<Idempotency>,
    replies: Vec<Reply<Submitted>>,
}

impl Core {
    /// Refuses it, or stores its tasks; the answer follows at the end of the turn, when it is known where they are.
    pub(super) fn submit(
        &mut self,
        submission: Submission,
        reply: Reply<Submitted>,
        now: Now,
    ) -> Result<(), StoreFault> {
        let Submission { tasks, mut refused, name, idempotency } = submission;
        if let Some(asked) = &idempotency {
            let earlier = self
                .turn
                .submissions
                .iter_mut()
                .find(|earlier| earlier.idempotency.as_ref().is_some_and(|theirs| theirs.key == asked.key));
            if let Some(earlier) = earlier {
                if earlier.idempotency.as_ref() == Some(asked) {
                    earlier.replies.push(reply);
                } else {
                    self.answer(reply, Err(other_body(asked)));
                }
                return Ok(());
            }
            if let Some(kept) = self.store.kept_answer(&asked.key)? {
                let same = kept.body_hash == asked.body_hash;
                self.answer(reply, if same { Ok(Submitted(kept.answer)) } else { Err(other_body(asked)) });
                return Ok(());
            }
        }
        if let Some(holder) = name.as_ref().and_then(|name| self.names.get(name)).and_then(|id| self.tasks.get(id)) {
            let task = &holder.task;
            let place = task.placement.as_ref().map_or(String::new(), |placement| format!(" on {}", placement.node));
            let fault = ActFault::new(
                409,
                format!(
                    "the name '{}' is held by task {} ('{}'{place}): take another name, or kill that task first",
                    task.spec.name.as_ref().map_or("", |name| name.as_str()),
                    task.id,
                    task.standing.state.word()
                ),
            );
            self.answer(reply, Err(fault));
            return Ok(());
        }
        let accepted = self.sort_out(tasks, &mut refused);
        if accepted.is_empty() {
            self.answer(reply, Err(all_refused(&refused)));
            return Ok(());
        }
        if let Err(fault) = self.ids.reserve(accepted.len() + 1, now.unix_ms) {
            let why = format!("the Host could not store this, and has not done it: {fault}");
            self.answer(reply, Err(ActFault::new(503, why)));
            return Ok(());
        }
        let batch = self.ids.next(now.unix_ms);
        let mut stored = Vec::with_capacity(accepted.len());
        for (target, spec) in accepted {
            let id = self.ids.next(now.unix_ms);
            self.add(new_task(id, batch, spec, now), now)?;
            stored.push((target, id));
        }
        self.turn.submissions.push(Unanswered { tasks: stored, refused, idempotency, replies: vec![reply] });
        Ok(())
    }

    /// Takes out what is refused at once.
    fn sort_out(
        &self,
        tasks: Vec<(Arc<str>, Arc<TaskSpec>)>,
        refused: &mut Vec<(String, String)>,
    ) -> Vec<(Arc<str>, Arc<TaskSpec>)> {
        let nodes: Vec<NodeView<'_>> = self.nodes.values().map(|node| node.view()).collect();
        let mut accepted: Vec<(Arc<str>, Arc<TaskSpec>)> = Vec::with_capacity(tasks.len());
        let mut refusals = Refusals::default();
        let mut last_refused: Option<Arc<TaskSpec>> = None;
        for (target, spec) in tasks {
            // One of ten thousand argument sets asks for what the one before asked for.
            if accepted.last().is_some_and(|(_, before)| same_demand(before, &spec)) {
                accepted.push((target, spec));
                continue;
            }
            if last_refused.as_ref().is_some_and(|before| same_demand(before, &spec)) && refusals.count_again(&target) {
                continue;
            }
            let verdict = if spec.patience.immediate {
                // Whether it fits now is seen when its turn comes, behind those that waited before it.
                let mut patient = (*spec).clone();
                patient.patience.immediate = false;
                place(&patient, &nodes)
            } else {
                place(&spec, &nodes)
            };
            match verdict {
                Verdict::Placed(_) | Verdict::Wait(_) => accepted.push((target, spec)),
                Verdict::Refused(reason) => {
                    refusals.add(target, reason);
                    last_refused = Some(spec);
                }
            }
        }
        refused.extend(refusals.told());
        accepted
    }

    /// Answers this turn's submissions, after everything waiting had its turn.
    pub(super) fn answer_submissions(&mut self, now: Now) -> Result<(), StoreFault> {
        for mut unanswered in std::mem::take(&mut self.turn.submissions) {
            self.refuse_impatient(&mut unanswered, now)?;
            let Unanswered { tasks, refused, idempotency, replies } = unanswered;
            let answer = if tasks.is_empty() {
                // Refusals are not kept: the same call may succeed later.
                Err(all_refused(&refused))
            } else {
                let body = json::encode(&self.submit_answer(&tasks, refused));
                if let Some(Idempotency { key, body_hash }) = idempotency {
                    self.store.keep_answer(&key, &KeptAnswer { body_hash, answer: body.clone() }, now.unix_ms)?;
                }
                Ok(Submitted(body))
            };
            for reply in replies {
                self.answer(reply, answer.clone());
            }
        }
        Ok(())
    }

    /// Tasks that were to fail rather than wait, and would wait now.
    fn refuse_impatient(&mut self, unanswered: &mut Unanswered, now: Now) -> Result<(), StoreFault> {
        let mut left = Vec::with_capacity(unanswered.tasks.len());
        let mut refusals = Refusals::default();
        for (target, id) in std::mem::take(&mut unanswered.tasks) {
            let live = self
                .tasks
                .get(&id)
                .filter(|live| live.task.spec.patience.immediate && live.task.standing.state == State::Pending);
            let Some(live) = live else {
                left.push((target, id));
                continue;
            };
            let reason = self.queue.reason(live.task.id);
            let reason = reason.as_deref().unwrap_or("no node has room now").to_owned();
            let event = Event::GivenUp { reason: reason.clone() };
            // Never refused: it waits.
            let _ = self.apply(id, &event, Facts::default(), "was not to wait", now)?;
            if !refusals.count_again(&target) {
                refusals.add(target, reason);
            }
        }
        unanswered.refused.extend(refusals.told());
        unanswered.tasks = left;
        Ok(())
    }

    fn submit_answer(&self, tasks: &[(Arc<str>, TaskId)], refused: Vec<(String, String)>) -> SubmitAnswer {
        let first = tasks.first().and_then(|(_, id)| self.tasks.get(id));
        let node = first.and_then(|live| live.task.placement.as_ref()).and_then(|at| self.nodes.get(&at.node));
        let message = match (tasks, node, first.and_then(|live| self.queue.reason(live.task.id))) {
            ([_], Some(node), _) => format!("Task accepted and placed on {}.", node.record.name),
            ([_], None, Some(waiting)) => format!("Task accepted; it waits: {waiting}"),
            ([_], None, None) => "Task accepted; it waits.".to_owned(),
            _ => format!("{} tasks accepted.", tasks.len()),
        };
        SubmitAnswer {
            message,
            task_ids: tasks.iter().map(|(_, id)| id.to_string()).collect(),
            failed_targets: refused.into_iter().map(|(target, reason)| FailedTarget { target, reason }).collect(),
            assigned_node: node.map(|node| AssignedNode {
                hostname: node.record.name.to_string(),
                url: super::super::node_url(&node.record.address),
            }),
            runner_response: None,
        }
    }
}

/// Targets that are refused, each told of once for all its sets of arguments: the reasons of a thousand nodes, said a hundred
/// thousand times, are more than memory holds.
#[derive(Default)]
struct Refusals(Vec<(Arc<str>, String, usize)>);

impl Refusals {
    fn add(&mut self, target: Arc<str>, reason: String) {
        self.0.push((target, reason, 1));
    }

    /// Another set of arguments for the target that was refused last; false: it is for another one.
    fn count_again(&mut self, target: &Arc<str>) -> bool {
        match self.0.last_mut().filter(|(last, ..)| Arc::ptr_eq(last, target)) {
            Some((_, _, count)) => {
                *count += 1;
                true
            }
            None => false,
        }
    }

    fn told(self) -> impl Iterator<Item = (String, String)> {
        self.0.into_iter().map(|(target, reason, count)| {
            let reason = if count > 1 { format!("{reason} ({count} sets of arguments)") } else { reason };
            (target.to_string(), reason)
        })
    }
}

fn new_task(id: TaskId, batch: TaskId, spec: Arc<TaskSpec>, now: Now) -> Task {
    Task {
        id,
        batch,
        spec,
        standing: Standing {
            state: State::Pending,
            want: Want::Run,
            attempt: Attempt::FIRST,
            rev: 0,
            note: None,
            exit: Exit::default(),
        },
        placement: None,
        submitted_ms: now.unix_ms,
        started_ms: None,
        completed_ms: None,
        ssh_port: None,
        host_keys: Vec::new(),
        stdout_bytes: None,
        stderr_bytes: None,
        unit: None,
    }
}

/// Do both ask for the same of the same node?
fn same_demand(a: &TaskSpec, b: &TaskSpec) -> bool {
    (&a.target, a.cores, a.memory, &a.gpus, &a.container, a.patience)
        == (&b.target, b.cores, b.memory, &b.gpus, &b.container, b.patience)
        && a.kind.word() == b.kind.word()
}

fn all_refused(refused: &[(String, String)]) -> ActFault {
    let reasons: Vec<String> = match refused {
        [(_, reason)] => vec![reason.clone()],
        many => many.iter().map(|(target, reason)| format!("{target}: {reason}")).collect(),
    };
    ActFault::new(503, reasons.join("; "))
}

fn other_body(asked: &Idempotency) -> ActFault {
    ActFault::new(409, format!("the idempotency_key '{}' was used with another body: take a new one", asked.key))
}
