//! What a Runner of the simulation and its Host say to each other: the real conversations, without their threads.

use std::time::{Duration, Instant};

use super::network::BROKEN;
use super::sim::{INTERVAL, Sim};
use crate::api::node::{ConditionsWire, Heartbeat, Usage};
use crate::host::simulated::{Answer, Call, Outcome};
use crate::runner::link::{LinkFault, Session};
use crate::runner::message::Message;
use crate::runner::talk::Notice;

/// How long an answer is waited for.
const CALL: Duration = Duration::from_secs(10);

/// A call whose answer has not come.
pub(super) struct Asked {
    pub(super) call: u64,
    pub(super) session: Session,
    pub(super) until: Instant,
}

/// One conversation with the Host.
pub(super) struct Turn {
    pub(super) asked: Option<Asked>,
    pub(super) not_before: Instant,
}

impl Turn {
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: None, not_before: now }
    }

    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.asked.is_none() && self.not_before <= now
    }

    pub(super) fn answers(&mut self, call: u64) -> Option<Session> {
        self.asked.take_if(|asked| asked.call == call).map(|asked| asked.session)
    }
}

fn failed((status, detail): (u16, String)) -> LinkFault {
    match status {
        404 => LinkFault::NotRegistered,
        409 => LinkFault::Taken(detail),
        410 => LinkFault::Superseded(detail),
        BROKEN | 500.. => LinkFault::Unreachable(detail),
        _ => LinkFault::Misfit(detail),
    }
}

impl Sim {
    /// Asks the Host for whatever it is time for. False: for nothing.
    pub(super) fn converse(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        let now = self.now();
        let mut slot = machine.runner.borrow_mut();
        let Some(runner) = slot.as_mut() else { return false };
        match runner.notices.try_recv() {
            Ok(Notice::SessionLost) => runner.is_registered = false,
            Ok(Notice::Fault(reason)) => {
                drop(slot);
                self.tell(|| format!("node {number}: the Runner ends: {reason}"));
                self.kill_runner(number);
                return true;
            }
            Ok(Notice::Hardware | Notice::Stop) | Err(_) => {}
        }
        let late = [&mut runner.register, &mut runner.poll, &mut runner.report, &mut runner.beat]
            .into_iter()
            .filter_map(|turn| turn.asked.as_ref().filter(|asked| asked.until <= now).map(|asked| asked.call))
            .next();
        if let Some(call) = late {
            drop(slot);
            self.runner_hears(number, call, Err((BROKEN, "no answer in time".to_owned())));
            return true;
        }
        let asked =
            |call: Call, session: Session| Asked { call: self.send(Some(number), call), session, until: now + CALL };
        if !runner.is_registered {
            if !runner.register.is_free(now) {
                return false;
            }
            let call = Call::Register {
                name: machine.name.clone(),
                instance: runner.instance.clone(),
                machine: format!("machine{number}"),
                boot: machine.boot_id(),
                inventory: machine.inventory.clone(),
            };
            runner.register.asked = Some(asked(call, Session::default()));
            return true;
        }
        let Some((session, is_beaten)) = runner.link.session_now() else { return false };
        let Some(body) = &mut runner.body else { return false };
        if runner.beat.is_free(now) {
            let docker = body.node.gate.health().is_ok();
            let beat = Heartbeat {
                session: session.id.clone(),
                usage: Usage::default(),
                conditions: ConditionsWire { docker, systemd: false, memory_limit: true, freezer: true },
                ..Heartbeat::default()
            };
            runner.beat.asked = Some(asked(Call::Heartbeat(machine.name.clone(), beat), session));
            return true;
        }
        if runner.poll.is_free(now) {
            let (version, through) = runner.following.known(&session);
            let version = version.to_owned();
            let call = Call::Desired { name: machine.name.clone(), session: session.id.clone(), version, through };
            runner.poll.asked = Some(asked(call, session));
            return true;
        }
        if is_beaten
            && runner.report.is_free(now)
            && let Some(batch) = runner.outbox.now()
        {
            let outputs = body.outputs.rests(batch.ended());
            self.tell(|| {
                let rows = batch
                    .tasks
                    .iter()
                    .map(|row| format!("{}.{} {} rev {}", row.task_id, row.attempt, row.state, row.rev));
                let complete = if batch.complete { "all: " } else { "" };
                format!("node {number} reports {complete}{}", rows.collect::<Vec<_>>().join(", "))
            });
            let observed = batch.body(&session, outputs);
            runner.batch = Some(batch);
            runner.report.asked = Some(asked(Call::Observed(machine.name.clone(), observed), session));
            return true;
        }
        false
    }

    /// An answer, or what became of it.
    pub(super) fn runner_hears(&self, number: usize, call: u64, outcome: Outcome) {
        let machine = &self.machines[number];
        let now = self.now();
        let mut slot = machine.runner.borrow_mut();
        let Some(runner) = slot.as_mut() else { return };
        if runner.register.answers(call).is_some() {
            match outcome {
                Ok(Answer::Registered(answer)) => {
                    runner.link.registered(&answer);
                    runner.is_registered = true;
                    runner.outbox.registered(&answer);
                    let is_new = runner.body.is_none();
                    drop(slot);
                    if is_new {
                        self.give_body(number);
                    }
                }
                _ => runner.register.not_before = now + Duration::from_millis(500),
            }
            return;
        }
        let Some(body) = &mut runner.body else { return };
        let wait = |turn: &mut Turn, wait: Option<Duration>| turn.not_before = now + wait.unwrap_or_default();
        if let Some(session) = runner.poll.answers(call) {
            let answer = match outcome {
                Ok(Answer::Desired(answer)) => Ok(answer),
                Ok(_) => return,
                Err(fault) => Err(failed(fault)),
            };
            let (news, pause) = body.talk.list_came(&mut runner.following, &mut runner.list_mood, &session, answer);
            if let Some(news) = news {
                body.heard.push_back(Message::Desired(news));
            }
            wait(&mut runner.poll, pause);
        } else if let Some(session) = runner.report.answers(call) {
            let answer = match outcome {
                Ok(Answer::Observed(answer)) => Ok(answer),
                Ok(_) => return,
                Err(fault) => Err(failed(fault)),
            };
            let Some(batch) = runner.batch.take() else { return };
            let (stored, pause) = body.talk.report_came(&mut runner.reporting, &session, &batch, answer);
            if let Some(stored) = stored {
                let _lives = body.tell.send(Message::Acknowledged(stored));
            }
            wait(&mut runner.report, pause);
        } else if let Some(session) = runner.beat.answers(call) {
            let answer = match outcome {
                Ok(Answer::Beat(answer)) => Ok(answer),
                Ok(_) => return,
                Err(fault) => Err(failed(fault)),
            };
            let pause = body.talk.beat_came(&mut runner.mood, &session, answer);
            wait(&mut runner.beat, pause.or(Some(INTERVAL)));
        }
    }
}
