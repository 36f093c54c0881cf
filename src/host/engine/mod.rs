//! The one owner of the cluster's state: it takes typed actions, decides with the pure functions of `domain`, stores
//! everything that a turn brought in one transaction, and only then answers.
//!
//! It never waits for a node, a socket or a file other than the database and that which bounds its ids. Who asks, and in which words, is the routes'
//! business.

mod action;
mod apply;
mod changes;
mod core;
mod desired;
mod ids;
mod line;
mod node;
mod nodes;
mod observed;
mod queue;
mod restored;
mod shells;
#[cfg(test)]
pub(crate) mod simulated;
mod submit;
#[cfg(test)]
mod tests;
mod timers;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::domain::ids::{NodeName, TaskId};
use crate::store::{Store, StoreFault};
use crate::sys::{clock, thread};

pub(super) use self::action::{
    ActFault, Action, Beat, Control, Idempotency, Poll, Registration, Reply, Seen, Snapshot, Submission, Submitted,
    What,
};
use self::core::Core;
pub(super) use self::core::Settings;
pub(super) use self::nodes::not_this_session;
use super::view::View;
use crate::api::node::{Acknowledged, DesiredAnswer, Registered, ShellOrder};

/// The clocks, read once a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Monotonic, for every time-out.
    pub(super) instant: Instant,
    /// Milliseconds since 1970, for display and ids.
    pub(super) unix_ms: u64,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: clock::now(), unix_ms: clock::unix_ms() }
    }
}

/// The engine as others see it.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    actions: Sender<Action>,
    pub(super) view: Arc<View>,
}

/// How many actions share one transaction at most.
const BATCH: usize = 1_024;

impl Engine {
    /// Reads the state from the database and starts the thread. It ends with [`Engine::stop`].
    ///
    /// # Errors
    /// The database could not be read.
    pub(super) fn start(store: Store, settings: Settings) -> Result<(Self, JoinHandle<()>), StoreFault> {
        let (core, view) = Core::load(store, settings, Now::read())?;
        let (actions, inbox) = mpsc::channel();
        let worker = thread::spawn_vital("engine", move || serve(core, &inbox));
        Ok((Self { actions, view }, worker))
    }

    pub(super) fn submit(&self, submission: Submission) -> Result<Submitted, ActFault> {
        self.ask(|reply| Action::Submit(Box::new(submission), reply))
    }

    pub(super) fn kill(&self, id: TaskId) -> Result<String, ActFault> {
        self.ask(|reply| Action::Kill(id, reply))
    }

    pub(super) fn control(&self, id: TaskId, control: Control) -> Result<String, ActFault> {
        self.ask(|reply| Action::Control(id, control, reply))
    }

    pub(super) fn drain(&self, node: NodeName, draining: bool) -> Result<String, ActFault> {
        self.ask(|reply| Action::Drain(node, draining, reply))
    }

    pub(super) fn forget(&self, node: NodeName) -> Result<String, ActFault> {
        self.ask(|reply| Action::Forget(node, reply))
    }

    pub(super) fn register(&self, registration: Registration) -> Result<Registered, ActFault> {
        self.ask(|reply| Action::Register(Box::new(registration), reply))
    }

    /// Returns the `host_epoch` that the node is to know.
    pub(super) fn heartbeat(&self, node: NodeName, beat: Beat) -> Result<String, ActFault> {
        self.ask(|reply| Action::Heartbeat(node, Box::new(beat), reply))
    }

    /// Returns the receipts and the `host_epoch`.
    pub(super) fn observed(&self, node: NodeName, snapshot: Snapshot) -> Result<(Vec<Acknowledged>, String), ActFault> {
        self.ask(|reply| Action::Observed(node, snapshot, reply))
    }

    /// The list of a node: as soon as it is another one than the poll knows, or after `hold`.
    pub(super) fn desired(&self, node: &NodeName, poll: Poll, hold: Duration) -> Result<DesiredAnswer, ActFault> {
        if poll.may_wait {
            let (reply, answer) = mpsc::sync_channel(1);
            self.actions.send(Action::Desired(node.clone(), poll.clone(), reply)).map_err(|_| stopping())?;
            match answer.recv_timeout(hold) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(stopping()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        self.ask(|reply| Action::Desired(node.clone(), Poll { may_wait: false, ..poll }, reply))
    }

    /// Lets a node know that a user waits for a shell in one of its tasks.
    pub(super) fn ask_shell(&self, node: NodeName, task: TaskId, order: ShellOrder) {
        // Err: it has ended already, and whoever waits hears so.
        let _ = self.actions.send(Action::AskShell(node, task, order));
    }

    /// Nobody waits for that shell any more.
    pub(super) fn end_shell(&self, node: NodeName, id: String) {
        // Err: it has ended already.
        let _ = self.actions.send(Action::EndShell(node, id));
    }

    /// Answers everyone who waits for news, now and from now on.
    pub(super) fn let_go(&self) {
        // Err: it has ended already.
        let _ = self.actions.send(Action::LetGo);
    }

    /// Ends the thread after what was sent before.
    pub(super) fn stop(&self) {
        // Err: it has ended already.
        let _ = self.actions.send(Action::Stop);
    }

    fn ask<T>(&self, action: impl FnOnce(Reply<T>) -> Action) -> Result<T, ActFault> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.actions.send(action(reply)).map_err(|_| stopping())?;
        answer.recv().map_err(|_| stopping())?
    }
}

fn stopping() -> ActFault {
    ActFault::new(503, "the Host is stopping; try again")
}

/// Turn after turn: waits for an action or the next time-out, takes what else is there, and does it all at once.
fn serve(mut core: Core, inbox: &Receiver<Action>) {
    core.turn(Vec::new(), Now::read());
    loop {
        let wake = core.next_deadline();
        let first = match inbox.recv_timeout(wake.saturating_duration_since(clock::now())) {
            Ok(action) => Some(action),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = Now::read();
        // This process was stopped, or the machine slept: nobody could be heard meanwhile.
        if now.instant.saturating_duration_since(wake) > Duration::from_secs(2) {
            core.excuse_silence(now);
        }
        let mut actions: Vec<Action> = first.into_iter().collect();
        while actions.len() < BATCH {
            match inbox.try_recv() {
                Ok(action) => actions.push(action),
                Err(_) => break,
            }
        }
        let last = actions.iter().any(|action| matches!(action, Action::Stop));
        core.turn(actions, now);
        if last {
            core.ids.settle();
            return;
        }
    }
}
