//! The three conversations with the Host, each in a thread of its own: the list, the reports, the heartbeat.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::backoff::Backoff;
use super::executor::process::Abilities;
use super::inventory::gpu::Watch;
use super::inventory::usage::Sampler;
use super::link::{Link, LinkFault, Session};
use super::message::Message;
use super::node::Node;
use super::observed::Outbox;
use super::order;
use super::output::Outputs;
use super::shells::Shells;
use crate::api::node::{ConditionsWire, Heartbeat};
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
struct Mood {
    what: &'static str,
    backoff: Backoff,
    fault: Option<LinkFault>,
}

impl Mood {
    const fn new(what: &'static str) -> Self {
        Self { what, backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT), fault: None }
    }
}

impl Talk {
    /// Polls the Host's list, and gives each new one to the agent.
    pub fn poll(&self, tell: &Sender<Message>) {
        let mut mood = Mood::new("its list");
        let mut version = String::new();
        let mut number = 0;
        while let Some(session) = self.link.session() {
            if session.number != number {
                number = session.number;
                version.clear();
            }
            match self.link.desired(&session, &version, self.interval) {
                Ok(mut answer) => {
                    self.went_well(&mut mood, &answer.host_epoch);
                    self.shells.open(&session, std::mem::take(&mut answer.shells));
                    if answer.version == version {
                        continue;
                    }
                    if answer.base.as_ref().is_some_and(|base| *base != version) {
                        // No difference to what is here: the whole list is asked for.
                        version.clear();
                        continue;
                    }
                    version.clone_from(&answer.version);
                    let (news, odd) = order::read(answer);
                    odd.iter().for_each(|line| warning!("{line}"));
                    if tell.send(Message::Desired(news)).is_err() {
                        return;
                    }
                }
                Err(fault) => self.went_badly(&mut mood, &session, fault),
            }
        }
    }

    /// Reports what the Host has still to hear, until it has stored it.
    pub fn report(&self, tell: &Sender<Message>) {
        let mut mood = Mood::new("reports");
        let mut told_all = false;
        // The first inventory opens this node for tasks: by then the Host is to know whether Docker answers.
        while let Some(session) = self.link.session_with_heartbeat() {
            let Some(batch) = self.outbox.next() else { return };
            let outputs = self.outputs.rests(batch.ended());
            match self.link.observed(&session, batch.complete, batch.tasks.clone(), outputs) {
                Ok(answer) => {
                    self.outputs.received(&answer.outputs);
                    let stored = self.outbox.taken(&batch, &answer.acknowledged);
                    self.went_well(&mut mood, &answer.host_epoch);
                    if batch.complete && !std::mem::replace(&mut told_all, true) {
                        info!("the Host knows which tasks are here ({}): ready for new ones", batch.tasks.len());
                    }
                    if tell.send(Message::Acknowledged(stored)).is_err() {
                        return;
                    }
                }
                Err(fault) => {
                    // What became of that call is not known: the next one says all.
                    self.outbox.complete_due();
                    self.went_badly(&mut mood, &session, fault);
                }
            }
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
            match self.link.heartbeat(&beat) {
                Ok(answer) => {
                    self.went_well(&mut mood, &answer.host_epoch);
                    self.link.beaten(&session);
                    seen = node.gate.wait_change(seen, self.interval);
                }
                Err(fault) => self.went_badly(&mut mood, &session, fault),
            }
            if self.stop.is_set() {
                return;
            }
        }
    }

    fn went_well(&self, mood: &mut Mood, epoch: &str) {
        mood.backoff.reset();
        if mood.fault.take().is_some() {
            info!("the Host takes {} again", mood.what);
        }
        if self.link.epoch_changed(epoch) {
            self.outbox.complete_due();
        }
    }

    /// Says so once, and waits before the next try.
    fn went_badly(&self, mood: &mut Mood, session: &Session, fault: LinkFault) {
        if self.link.is_closed() {
            return;
        }
        match &fault {
            LinkFault::NotRegistered => {
                if self.link.lost(session) {
                    let _ended = self.notices.send(Notice::SessionLost);
                }
                return;
            }
            LinkFault::Superseded(_) if !self.link.is_current(session) => return,
            LinkFault::Superseded(reason) => {
                let _ended = self.notices.send(Notice::Fault(reason.clone()));
                // Nothing that this process says counts any more.
                self.link.close();
                return;
            }
            LinkFault::Unreachable(_) | LinkFault::Taken(_) | LinkFault::Denied(_) | LinkFault::Misfit(_) => {}
        }
        let repeated =
            mood.fault.as_ref().is_some_and(|old| std::mem::discriminant(old) == std::mem::discriminant(&fault));
        if !repeated {
            warning!("the Host does not take {}: {fault}; trying again until it does", mood.what);
        }
        mood.fault = Some(fault);
        self.stop.wait(mood.backoff.wait());
    }
}

/// What this node can do now.
fn conditions(node: &Node) -> ConditionsWire {
    let Abilities { systemd, memory_limit, freezer } = node.abilities();
    ConditionsWire { docker: node.gate.health().is_ok(), systemd, memory_limit, freezer }
}
