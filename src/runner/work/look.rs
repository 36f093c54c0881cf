//! Putting a record right after something happened to its container.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::Work;
use super::banner::{Heard, listen};
use crate::runner::backoff::Backoff;
use crate::runner::executor::docker_parse::{Complaint, Container};
use crate::runner::judge::{Verdict, judge};
use crate::runner::message::Next;
use crate::runner::record::{Outcome, Phase};
use crate::sys::clock;
use crate::{info, warning};

/// How long to try a server without asking Docker whether its container still runs.
const STRETCH: Duration = Duration::from_secs(5);
/// How long containerd may take to let go of a container that has ended.
const LETTING_GO: Duration = Duration::from_secs(30);

impl Work {
    /// Looks at its container, and draws the conclusion.
    pub(super) fn look(&mut self, patience_over: bool) -> Next {
        loop {
            let seen = match self.find(Self::quietly) {
                Err(_) => return Next::Nothing,
                Ok(Err(fault)) => {
                    warning!("task {}: cannot see what its container does: {fault}", self.record.task);
                    return Next::NotAtOnce;
                }
                Ok(Ok(seen)) => seen,
            };
            match judge(&self.record, seen.as_ref(), patience_over) {
                Verdict::AsRecorded | Verdict::GoOn => return Next::Nothing,
                Verdict::Between => {
                    self.note("its container ended and is being restarted");
                    return Next::LookAgain;
                }
                Verdict::Finished(exit) => {
                    return self.over(&exit);
                }
                Verdict::NeverRan(state) => {
                    return self.never_ran(&state);
                }
                Verdict::StartAgain => {
                    if let Some(next) = self.start_again() {
                        return next;
                    }
                }
                Verdict::Frozen => {
                    self.change(Phase::Paused);
                    return Next::Nothing;
                }
                Verdict::Thawed => {
                    self.change(Phase::Running { note: None });
                }
                Verdict::LetRestart => {
                    self.let_restart();
                    return Next::Nothing;
                }
                Verdict::Over(outcome) => {
                    warning!("task {} ended: {}", self.record.task, outcome.reason.as_deref().unwrap_or("no reason"));
                    return self.end(outcome);
                }
                Verdict::Await => {
                    let Some(seen) = seen else { return Next::LookAgain };
                    if let Some(next) = self.await_banner(&seen) {
                        return next;
                    }
                }
            }
        }
    }

    /// Starts a container that stays ended. None: look at what it does now.
    fn start_again(&mut self) -> Option<Next> {
        let handle = self.handle();
        info!("task {}: its container was stopped on the node and is started again", self.record.task);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        let mut for_port = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let patience = clock::now() + LETTING_GO;
        loop {
            let fault = match self.docker(Self::quietly, |docker| docker.start(&handle)) {
                Err(_) => return Some(Next::Nothing),
                Ok(Ok(())) => return None,
                Ok(Err(fault)) => fault,
            };
            // A daemon that died while it started the container takes it for one that has ended, and cannot start it beside itself.
            // Not before it has failed to: what lives could be what was started.
            match self.recall() {
                Ok(true) => return Some(Next::LookAgain),
                Err(still) if still.kind() == io::ErrorKind::TimedOut => return Some(Next::LookAgain),
                Ok(false) | Err(_) => {}
            }
            if matches!(fault.kind, Complaint::NotLetGo | Complaint::ShimDied) && clock::now() < patience {
                if self.cancel.wait(backoff.wait()) {
                    return Some(Next::LookAgain);
                }
                continue;
            }
            if fault.kind == Complaint::PortTaken {
                // Whoever took it while the container was down may let go of it. The container keeps its port, and its data is the user's.
                let port = self.record.port.unwrap_or_default();
                self.note(&format!(
                    "its container was stopped, and waits for its port {port}, which something else has taken"
                ));
                if self.cancel.wait(for_port.wait()) {
                    return Some(Next::LookAgain);
                }
                continue;
            }
            let text =
                format!("its container was stopped on the node, and cannot be started again (it is kept): {fault}");
            warning!("task {} ended: {text}", self.record.task);
            return Some(self.end(Outcome { kept: true, ..Outcome::failed(&text) }));
        }
    }

    /// Waits for the SSH server of a container that runs (again). None: look at the container once more.
    fn await_banner(&mut self, seen: &Container) -> Option<Next> {
        let Some(port) = self.record.port else {
            // A container that was found again without its port: nothing to listen to.
            self.answered(seen);
            return Some(Next::Nothing);
        };
        self.note("its container was restarted: waiting for its SSH server");
        let address = self.published(seen, port);
        match listen(address, clock::now() + STRETCH, &[&self.cancel, &self.died]) {
            Heard::Banner => {
                self.answered(seen);
                if !seen.restarts {
                    self.let_restart();
                }
                Some(Next::Nothing)
            }
            _ if self.cancel.is_set() => Some(Next::Nothing),
            // It died again: see how.
            Heard::Interrupted => Some(Next::LookAgain),
            Heard::Nothing => None,
        }
    }

    /// The address at which its port is published: it stays when the node is given another one.
    fn published(&self, seen: &Container, port: u16) -> SocketAddr {
        let given = seen.published.as_ref().and_then(|(address, _)| address.parse().ok());
        SocketAddr::new(given.unwrap_or_else(|| self.node.address()), port)
    }

    /// Its server answered in this run of the container.
    fn answered(&mut self, seen: &Container) {
        self.record.answered_since.clone_from(&seen.started_at);
        self.record.container = Some(seen.id.clone());
        if self.record.started_at.is_none() {
            self.record.started_at = Some(clock::rfc3339(clock::unix_ms()));
        }
        info!("task {} answers again", self.record.task);
        self.change(Phase::Running { note: None });
    }

    /// Lets Docker start its container again from now on, whenever it ends.
    pub(super) fn let_restart(&mut self) {
        let handle = self.handle();
        if let Ok(Err(fault)) = self.docker(Self::quietly, |docker| docker.restart_always(&handle)) {
            warning!("task {}: it would not come back after a restart of the node: {fault}", self.record.task);
        }
    }

    /// What is missing while it runs.
    pub(super) fn note(&mut self, text: &str) {
        let phase = Phase::Running { note: Some(text.to_owned()) };
        if matches!(self.record.phase, Phase::Running { .. }) && self.record.phase != phase {
            self.change(phase);
        }
    }
}
