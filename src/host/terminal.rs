//! Shells for users: in the containers in which environments are made, on this machine, and in tasks on their nodes.
//!
//! A node listens on nothing. So the user's connection waits here, the node learns with its list that somebody wants a shell, opens a
//! connection of its own, and the two are handed to each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::node::ShellOrder;
use crate::domain::ids::{NodeName, TaskId};
use crate::net::websocket::Socket;
use crate::terminal::container::end_strays;
use crate::terminal::{refuse, relay};

use super::engine::{ActFault, Engine};

/// For a node to open its connection: its poll is woken at once.
const NODE: Duration = Duration::from_secs(10);
/// Each of them on this machine is a `docker` of some 30 MB.
const MOST: usize = 200;

/// The shells of this Host.
#[derive(Debug)]
pub(super) struct Terminals {
    /// The program, `docker`.
    pub(super) docker: String,
    /// Whose shells they are.
    pub(super) owner: String,
    /// Users who wait for a node, by the shell's id.
    waiting: Mutex<BTreeMap<String, Waiting>>,
    open: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Waiting {
    node: NodeName,
    deliver: SyncSender<Socket>,
}

/// One of the shells that may be open; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Terminals {
    /// Ends what an earlier Host of this cluster has left behind.
    pub(super) fn new(docker: &str, cluster_id: &str) -> Self {
        let owner = format!("{cluster_id}/");
        end_strays(&owner);
        Self { docker: docker.to_owned(), owner, waiting: Mutex::default(), open: Arc::default() }
    }

    /// # Errors
    /// 503: too many are open.
    pub(super) fn place(&self) -> Result<Place, ActFault> {
        let place = Place(self.open.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) >= MOST {
            return Err(ActFault::new(503, format!("{MOST} shells are open on this Host: end one of them first")));
        }
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a user use a shell that the node opens, to its end.
    pub(super) fn carry(&self, engine: &Engine, node: &NodeName, task: TaskId, order: ShellOrder, user: Socket) {
        let (deliver, delivered) = mpsc::sync_channel(1);
        let id = order.id.clone();
        self.lock().insert(id.clone(), Waiting { node: node.clone(), deliver });
        engine.ask_shell(node.clone(), task, order);
        let opened = delivered.recv_timeout(NODE);
        self.lock().remove(&id);
        engine.end_shell(node.clone(), id);
        match opened {
            Ok(node) => relay::carry(user, node),
            Err(_) => {
                let why = format!("node '{node}' has opened no shell within {} s: is its Runner well?", NODE.as_secs());
                refuse(user, &why);
            }
        }
    }

    /// Who waits for a shell of that node, once.
    ///
    /// # Errors
    /// 404: nobody (any more).
    pub(super) fn claim(&self, node: &NodeName, id: &str) -> Result<SyncSender<Socket>, ActFault> {
        let mut waiting = self.lock();
        let is_its = waiting.get(id).is_some_and(|known| known.node == *node);
        let claimed = if is_its { waiting.remove(id) } else { None };
        claimed.map(|known| known.deliver).ok_or_else(|| ActFault::new(404, "nobody waits for this shell any more"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_bounded_and_claimed_once_by_their_node() {
        let terminals = Terminals::new("docker", "c");
        let mut places: Vec<Place> = (0..MOST).map(|_| terminals.place().expect("there is room")).collect();
        assert_eq!(terminals.place().expect_err("full").status, 503);
        places.pop();
        assert!(terminals.place().is_ok());
        let (node, other): (NodeName, NodeName) = ("n1".parse().expect("name"), "n2".parse().expect("name"));
        let (deliver, _delivered) = mpsc::sync_channel(1);
        terminals.lock().insert("id".to_owned(), Waiting { node: node.clone(), deliver });
        assert!(terminals.claim(&other, "id").is_err() && terminals.claim(&node, "other").is_err());
        assert!(terminals.claim(&node, "id").is_ok() && terminals.claim(&node, "id").is_err());
    }
}
