//! A round of the agent: what differs between the list and what is here is brought on its way.

use super::Agent;
use super::task::{Asked, Kind, OFTEN, Task, gives_way, has_to_wait, kind, own_job};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::reconcile::{Action, Desired, action};
use crate::domain::state::Want;
use crate::runner::observed::{Absent, absent, first_revision};
use crate::runner::order::{Order, Wanted};
use crate::runner::record::Record;
use crate::runner::work::Job;
use crate::sys::clock;
use crate::{info, warning};

impl Agent {
    /// Does what is to be done now.
    pub(super) fn reconcile(&mut self) {
        if self.wanted.is_some() {
            let mut touched = self.tasks.take_touched();
            touched.iter().for_each(|id| self.compare(*id));
            // Also those that were begun just now.
            touched.extend(self.tasks.touched());
            self.ask_again(&touched);
        }
        self.go_on();
    }

    /// Brings one task nearer to what is wanted of it.
    pub(super) fn compare(&mut self, id: TaskId) {
        let wanted = self.wanted.as_ref().and_then(|wanted| wanted.get(&id));
        // What it has, the supervisor tells first.
        let is_returned = wanted.is_some_and(|wanted| wanted.recalled) && self.supervisor_heard;
        let desired = wanted.map(|wanted: &Wanted| {
            let Wanted { attempt, want, seen, no_start, .. } = *wanted;
            Desired { attempt, want, seen, no_start }
        });
        let is_known_gone = wanted.is_some_and(|wanted| self.knows_all_like(wanted));
        let action = action(id, desired.as_ref(), self.tasks.get(id).map(Task::had).as_ref());
        let is_leftover = self.tasks.get(id).is_some_and(|task| task.leftover);
        self.report_unknown(id, matches!(action, Some(Action::ReportUnknown(_))) && !is_leftover);
        // That it was given back without being started is known here, and to be told until the Host has heard it.
        let was_returned = |attempt| self.absent.get(&id) == Some(&(attempt, Absent::Returned));
        let is_to_stop = desired.is_some_and(|desired| desired.want == Want::Stop);
        let is_kept = matches!(action, Some(Action::ReportGone(_, attempt)) if !is_to_stop && was_returned(attempt));
        self.report_absent(
            id,
            match action {
                Some(Action::ReportGone(_, attempt)) if is_kept => Some((attempt, Absent::Returned)),
                Some(Action::ReportGone(_, attempt)) if is_known_gone && !is_to_stop && self.never_began(id) => {
                    Some((attempt, Absent::Unbegun))
                }
                Some(Action::ReportGone(_, attempt)) if is_known_gone => Some((attempt, Absent::Gone)),
                Some(Action::Start(_, attempt)) if is_returned => Some((attempt, Absent::Returned)),
                _ => None,
            },
        );
        match action {
            Some(Action::Start(..)) if is_returned => {}
            Some(Action::Start(id, attempt)) => self.begin(id, attempt),
            Some(Action::Pause(id)) => self.want(id, Job::Pause),
            Some(Action::Resume(id)) => self.want(id, Job::Resume),
            Some(Action::Stop(id)) => self.want(id, Job::Stop),
            Some(Action::Forget(id)) => self.forget(id),
            Some(Action::ReportUnknown(id)) if is_leftover => self.discard(id),
            // Looked at again when more is known.
            Some(Action::ReportGone(id, _)) if !is_known_gone => self.tasks.touch(id),
            Some(Action::ReportUnknown(_) | Action::ReportGone(..)) | None => {}
        }
    }

    /// Whoever keeps such tasks on this node has told what there is: what is not known here is not there. (A record can be lost, and
    /// its container or process is found again later.)
    fn knows_all_like(&self, wanted: &Wanted) -> bool {
        match &wanted.order {
            Ok(Order::OnNode(_)) => self.supervisor_heard,
            Ok(Order::Vps(_) | Order::Contained(..)) => self.truth,
            Err(_) => self.supervisor_heard && self.truth,
        }
    }

    /// Starts a task that is not here.
    fn begin(&mut self, id: TaskId, attempt: Attempt) {
        let Some(wanted) = self.wanted.as_ref().and_then(|wanted| wanted.get(&id)) else { return };
        if let Ok(Order::OnNode(command)) = &wanted.order {
            let exclusive = command.needs.cores > 0;
            return self.begin_supervised(id, attempt, exclusive);
        }
        // Where records were lost its container may be here already; and cores may be held by what was not told yet.
        if !self.whole {
            return self.tasks.touch(id);
        }
        let order = wanted.order.clone();
        let record = Record::new(id, attempt, &wanted.kind, &self.node.boot_id);
        info!("task {id} (attempt {attempt}) is to be started");
        self.show(&record);
        self.tasks.insert(Task::new(record));
        self.start(id, Job::Start(Box::new(order)));
    }

    /// Something is wanted of a task that is here: interrupts what stands in its way, then does it.
    fn want(&mut self, id: TaskId, job: Job) {
        let Some(task) = self.tasks.get(id) else { return };
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
        if has_to_wait(task, kind(&job), clock::now()) {
            return;
        }
        self.start(id, job);
    }

    fn forget(&mut self, id: TaskId) {
        if self.tasks.get(id).is_some_and(|task| task.record.supervised) {
            return self.forget_supervised(id);
        }
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.running.is_none() && !task.retired) else { return };
        if task.not_before.is_some_and(|then| then > clock::now()) {
            return;
        }
        if task.record.outcome().is_some_and(|outcome| outcome.kept) {
            // Its container stays, so it is remembered whose it is. Inventories have it too: a database that is put in another's place
            // may list it as it was before.
            task.retired = true;
        } else {
            self.start(id, Job::Forget);
        }
    }

    /// Docker made it when nobody waited any more: its task is over, and forgotten here. Nothing of anybody's is in it.
    fn discard(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.running.is_none()) else { return };
        if task.not_before.is_none_or(|then| then <= clock::now()) {
            self.start(id, Job::Discard);
        }
    }

    /// What follows from the tasks in containers themselves, whatever the list says.
    fn go_on(&mut self) {
        let now = clock::now();
        for id in self.tasks.contained_ids() {
            // Each of them is compared in each round: what had to wait is done when it can be.
            let Some(task) = self.tasks.get_mut(id) else { continue };
            if task.running.is_some() || task.not_before.is_some_and(|then| then > now) {
                continue;
            }
            task.not_before = None;
            while task.deaths.front().is_some_and(|death| now.duration_since(*death) > OFTEN) {
                task.deaths.pop_front();
            }
            let due = task.look.take_if(|look| *look <= now).is_some();
            let wanted = self.wanted.as_ref().and_then(|wanted| wanted.get(&id));
            let job = own_job(task, wanted, due, now);
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

    fn report_absent(&mut self, id: TaskId, why: Option<(Attempt, Absent)>) {
        match why {
            Some((attempt, why)) => {
                if self.absent.insert(id, (attempt, why)) != Some((attempt, why)) {
                    if why == Absent::Gone {
                        info!("task {id} should be here, or be stopped here, and is gone");
                    }
                    self.outbox.put(id, absent(id, attempt, first_revision(), why));
                }
            }
            None => {
                if self.absent.remove(&id).is_some() && !self.tasks.contains(id) {
                    self.outbox.remove(id);
                }
            }
        }
    }

    fn report_unknown(&mut self, id: TaskId, unknown: bool) {
        let has_changed = if unknown { self.unknown.insert(id) } else { self.unknown.remove(&id) };
        let Some(task) = self.tasks.get(id).filter(|_| has_changed) else { return };
        if unknown {
            warning!("task {id} is here and not in the Host's list: it is left alone");
        }
        self.show(&task.record);
    }
}
