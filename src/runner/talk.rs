//! The three conversations with the Host, each in a thread of its own: the list, the reports, the heartbeat.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::backoff::Backoff;
use super::executor::process::Abilities;
use super::following::Following;
use super::inventory::gpu::Watch;
use super::inventory::usage::Sampler;
use super::link::{Link, LinkFault, Session};
use super::message::Message;
use super::node::Node;
use super::observed::{Batch, Outbox};
use super::order::News;
use super::output::Outputs;
use super::shells::Shells;
use crate::api::node::{ConditionsWire, DesiredAnswer, Heartbeat, HeartbeatAnswer, ObservedAnswer};
use crate::domain::ids::{Attempt, TaskId};
use crate::sys::shutdown::Stop;
use crate::{info, warning};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long the first heartbeat waits to hear how Docker does: it answers, or fails, within its own limit of 5 s.
pub const DOCKER_CHECK: Duration = Duration::from_secs(6);

/// What ends or interrupts the conversation with the Host.
pub enum Notice {
    /// The Host does not know this node any more.
    SessionLost,
    /// This machine has other hardware than the Host knows of.
    Hardware,
    /// This process is to end, and why.
    Fault(String),
    /// The Runner is to end.
    Stop,
}

/// What the conversations share.
#[derive(Clone)]
pub struct Talk {
    pub link: Arc<Link>,
    pub outbox: Arc<Outbox>,
    pub outputs: Arc<Outputs>,
    pub shells: Arc<Shells>,
    pub notices: Sender<Notice>,
    pub stop: Stop,
    pub interval: Duration,
}

/// The state of one conversation: a fault that repeats is logged once.
pub(crate) struct Mood {
    what: &'static str,
    backoff: Backoff,
    fault: Option<LinkFault>,
}

impl Mood {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT), fault: None }
    }
}

/// The conversation about what is here.
pub(crate) struct Reporting {
    mood: Mood,
    told_all: bool,
}

impl Default for Reporting {
    fn default() -> Self {
        Self { mood: Mood::new("reports"), told_all: false }
    }
}

/// What the Host has stored: revision by revision.
pub(crate) type Stored = (TaskId, Attempt, u64);

impl Talk {
    /// Polls the Host's list, and gives each new one to the agent.
    pub fn poll(&self, tell: &Sender<Message>) {
        let (mut following, mut mood) = (Following::default(), Mood::new("its list"));
        while let Some(session) = self.link.session() {
            let (version, through) = following.known(&session);
            let answer = self.link.desired(&session, version, through, self.interval);
            let (news, wait) = self.list_came(&mut following, &mut mood, &session, answer);
            if news.is_some_and(|news| tell.send(Message::Desired(news)).is_err()) {
                return;
            }
            self.pause(wait);
        }
    }

    /// What follows from an answer to a poll: news for the agent, or a while to wait.
    pub(crate) fn list_came(
        &self,
        following: &mut Following,
        mood: &mut Mood,
        session: &Session,
        answer: Result<DesiredAnswer, LinkFault>,
    ) -> (Option<News>, Option<Duration>) {
        match answer {
            Ok(mut answer) => {
                self.went_well(mood, &answer.host_epoch);
                self.shells.open(session, std::mem::take(&mut answer.shells));
                (following.take(answer), None)
            }
            Err(fault) => (None, self.went_badly(mood, session, fault)),
        }
    }

    /// Reports what the Host has still to hear, until it has stored it.
    pub fn report(&self, tell: &Sender<Message>) {
        let mut reporting = Reporting::default();
        // The first inventory opens this node for tasks: by then the Host is to know whether Docker answers.
        while let Some(session) = self.link.session_with_heartbeat() {
            let Some(batch) = self.outbox.next() else { return };
            let outputs = self.outputs.rests(batch.ended());
            let answer = self.link.observed(&session, &batch, outputs);
            let (stored, wait) = self.report_came(&mut reporting, &session, &batch, answer);
            if stored.is_some_and(|stored| tell.send(Message::Acknowledged(stored)).is_err()) {
                return;
            }
            self.pause(wait);
        }
    }

    /// What follows from an answer to a report: what the Host has stored, or a while to wait.
    pub(crate) fn report_came(
        &self,
        reporting: &mut Reporting,
        session: &Session,
        batch: &Batch,
        answer: Result<ObservedAnswer, LinkFault>,
    ) -> (Option<Vec<Stored>>, Option<Duration>) {
        match answer {
            Ok(answer) => {
                self.outputs.received(&answer.outputs);
                let stored = self.outbox.taken(batch, &answer.acknowledged);
                self.went_well(&mut reporting.mood, &answer.host_epoch);
                if batch.complete && !std::mem::replace(&mut reporting.told_all, true) {
                    info!(
                        "the Host knows which tasks are here ({}): ready for new ones",
                        batch.told.len() + batch.tasks.len()
                    );
                }
                (Some(stored), None)
            }
            Err(fault) => {
                // What became of that call is not known: the next one says all.
                self.outbox.complete_due();
                (None, self.went_badly(&mut reporting.mood, session, fault))
            }
        }
    }

    fn pause(&self, wait: Option<Duration>) {
        if let Some(wait) = wait {
            self.stop.wait(wait);
        }
    }

    /// Sends the heartbeat every interval, and at once when Docker's health changes.
    pub fn heartbeat(&self, node: &Node, gpus: &Watch, sampler: &mut Sampler) {
        let mut mood = Mood::new("heartbeats");
        let mut seen = node.gate.wait_change(0, DOCKER_CHECK);
        while let Some(session) = self.link.session() {
            let beat = Heartbeat {
                session: session.id.clone(),
                usage: sampler.sample(),
                gpu_info: gpus.latest().into_iter().map(|reading| reading.row).collect(),
                conditions: conditions(node),
                environments: node.images.standing(),
                gpus_gone: gpus.latest().iter().filter(|gpu| gpu.gone).map(|gpu| gpu.row.gpu_id).collect(),
            };
            let answer = self.link.heartbeat(&beat);
            match self.beat_came(&mut mood, &session, answer) {
                None => seen = node.gate.wait_change(seen, self.interval),
                wait => self.pause(wait),
            }
            if self.stop.is_set() {
                return;
            }
        }
    }

    /// What follows from an answer to a heartbeat: a while to wait, if it was not taken.
    pub(crate) fn beat_came(
        &self,
        mood: &mut Mood,
        session: &Session,
        answer: Result<HeartbeatAnswer, LinkFault>,
    ) -> Option<Duration> {
        match answer {
            Ok(answer) => {
                self.went_well(mood, &answer.host_epoch);
                self.link.beaten(session);
                None
            }
            Err(fault) => Some(self.went_badly(mood, session, fault).unwrap_or_default()),
        }
    }

    fn went_well(&self, mood: &mut Mood, epoch: &str) {
        mood.backoff.reset();
        if mood.fault.take().is_some() {
            info!("the Host takes {} again", mood.what);
        }
        self.outbox.heard(epoch);
    }

    /// Says so once; the answer is how long to wait before the next try.
    fn went_badly(&self, mood: &mut Mood, session: &Session, fault: LinkFault) -> Option<Duration> {
        if self.link.is_closed() {
            return None;
        }
        match &fault {
            LinkFault::NotRegistered => {
                if self.link.lost(session) {
                    let _ended = self.notices.send(Notice::SessionLost);
                }
                return None;
            }
            LinkFault::Superseded(_) if !self.link.is_current(session) => return None,
            LinkFault::Superseded(reason) => {
                let _ended = self.notices.send(Notice::Fault(reason.clone()));
                // Nothing that this process says counts any more.
                self.link.close();
                return None;
            }
            LinkFault::Unreachable(_) | LinkFault::Taken(_) | LinkFault::Denied(_) | LinkFault::Misfit(_) => {}
        }
        let repeated =
            mood.fault.as_ref().is_some_and(|old| std::mem::discriminant(old) == std::mem::discriminant(&fault));
        if !repeated {
            warning!("the Host does not take {}: {fault}; trying again until it does", mood.what);
        }
        mood.fault = Some(fault);
        Some(mood.backoff.wait())
    }
}

/// What this node can do now.
fn conditions(node: &Node) -> ConditionsWire {
    let Abilities { systemd, memory_limit, freezer } = node.abilities();
    ConditionsWire { docker: node.gate.health().is_ok(), systemd, memory_limit, freezer }
}
