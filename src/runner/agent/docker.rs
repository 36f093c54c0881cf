//! What the agent makes of what Docker tells: the whole truth, a glance, an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Agent;
use super::task::{Task, rebuilt};
use crate::domain::ids::TaskId;
use crate::runner::executor::docker_parse::{Container, ContainerState, DockerAction, DockerEvent, Glimpse};
use crate::runner::judge::{Verdict, is_odd, judge};
use crate::runner::message::Message;
use crate::runner::observed::first_revision;
use crate::runner::record::Phase;
use crate::runner::work::{Death, Job};
use crate::sys::{clock, thread};
use crate::{info, warning};

/// After a death, the start that follows is waited for; if none comes, this long until a look.
const AFTER_DEATH: Duration = Duration::from_millis(500);

impl Agent {
    /// All that Docker has of us: what is not in it does not exist.
    pub(super) fn truth(&mut self, containers: Vec<Container>) {
        let seen: BTreeSet<TaskId> = containers.iter().map(|container| container.labels.task).collect();
        containers.into_iter().for_each(|container| self.found(container));
        let now = clock::now();
        for id in self.tasks.contained_ids() {
            let Some(task) = self.tasks.get_mut(id) else { continue };
            if !seen.contains(&id) && task.running.is_none() && judge(&task.record, None, false) != Verdict::AsRecorded
            {
                task.look = Some(now);
            }
        }
        let kept: Vec<_> = self.tasks.contained().filter(|(_, task)| task.is_kept()).map(|(id, _)| id).collect();
        kept.into_iter().for_each(|id| self.kept(id, seen.contains(&id)));
        if !self.truth {
            self.truth = true;
            self.allow_complete();
        }
    }

    /// Whether a container that was kept is still there: once its user has removed it, nothing is left of its task.
    fn kept(&mut self, id: TaskId, is_there: bool) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.is_kept()) else { return };
        if task.retired && !is_there {
            return self.start(id, Job::Forget);
        }
        if task.kept_is_gone == is_there && !task.retired {
            task.kept_is_gone = !is_there;
            let record = task.record.clone();
            self.show(&record);
        }
    }

    /// One container of ours.
    pub(super) fn found(&mut self, container: Container) {
        let id = container.labels.task;
        let Some(task) = self.tasks.get_mut(id) else { return self.adopt(&container) };
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
            task.look = Some(clock::now());
        }
    }

    /// A container whose record was lost: the record is made again from what Docker knows.
    pub(super) fn adopt(&mut self, container: &Container) {
        let record = rebuilt(container, &self.node.boot_id, first_revision());
        info!("task {}: its record was lost, and is made again from its container {}", record.task, container.id);
        let leftover = container.state == ContainerState::Created;
        // A command's container runs once. Its folders are not made anew: that what it wrote went with them is to be seen.
        let again = |()| if record.writes() { Ok(()) } else { self.node.remake_mounts(&record) };
        // What nobody asks for is removed again, and until then it is nothing that would have to be kept.
        let kept = if leftover { Ok(()) } else { self.node.records.save(&record).and_then(again) };
        if let Err(fault) = kept {
            warning!("task {}: {fault}", record.task);
        }
        self.hold(&record);
        self.show(&record);
        if record.writes() {
            let place = self.node.records.container_output(record.task, record.attempt);
            self.outputs.watch(record.task, record.attempt, place);
        }
        let mut task = Task::new(record);
        task.leftover = leftover;
        task.look = Some(clock::now());
        self.tasks.insert(task);
    }

    /// Finds what the stream of events has not told.
    pub(super) fn glance(&mut self, list: &[(String, Glimpse)]) {
        let mut by_id: BTreeMap<&str, Glimpse> = list.iter().map(|(id, glimpse)| (id.as_str(), *glimpse)).collect();
        let now = clock::now();
        let mut busy = false;
        let mut kept = Vec::new();
        for id in self.tasks.contained_ids() {
            let Some(task) = self.tasks.get_mut(id) else { continue };
            busy |= task.running.is_some();
            let Some(container) = &task.record.container else { continue };
            let glimpse = by_id.remove(container.as_str());
            if task.is_kept() {
                kept.push((id, glimpse.is_some()));
            }
            if task.running.is_none() && task.look.is_none() && is_odd(&task.record, glimpse) {
                task.look = Some(now);
            }
        }
        kept.into_iter().for_each(|(id, is_there)| self.kept(id, is_there));
        // While something is being started, a new container is most likely its own.
        self.copies.retain(|copy| by_id.contains_key(copy.as_str()));
        let strange = by_id.into_keys().filter(|id| !self.copies.contains(*id));
        let strange: Vec<String> = strange.map(ToOwned::to_owned).collect();
        if strange.is_empty() || busy {
            return;
        }
        let (node, tell) = (Arc::clone(&self.node), self.tell.clone());
        let started = thread::detached("inspect", move || match node.docker.inspect(&strange) {
            // The agent ends before this only when the process does.
            Ok(found) => drop(tell.send(Message::Found { looked_at: strange, found })),
            Err(fault) => warning!("cannot look at the containers {}: {fault}", strange.join(", ")),
        });
        if let Err(fault) = started {
            warning!("cannot look at containers: no thread can be started: {fault}");
        }
    }

    pub(super) fn event(&mut self, event: &DockerEvent) {
        let now = clock::now();
        let Some(task) = self.tasks.get_mut(event.labels.task) else { return };
        let is_its = task.record.container.as_ref() == Some(&event.container);
        // It is being made. A user's copy of it has its labels as well, and another name.
        let is_new = event.is_named && (task.running.is_some() || task.record.container.is_none());
        if event.labels.attempt != task.record.attempt || !(is_its || is_new) {
            return;
        }
        if event.action == DockerAction::Die {
            let code = event.exit_code.filter(|_| task.record.is_command());
            task.death = code.map(|code| Death { code, at_ms: event.at_ms });
            if let Some(running) = &task.running {
                running.died.set();
            }
        }
        if event.action == DockerAction::Destroy && task.is_kept() && is_its {
            return self.kept(event.labels.task, false);
        }
        if task.record.stopping || task.record.outcome().is_some() {
            return;
        }
        let ran = !matches!(task.record.phase, Phase::Starting { .. });
        match event.action {
            DockerAction::Die if task.record.is_command() => task.look = Some(now),
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
}
