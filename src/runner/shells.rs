//! Shells in this node's containers, for users who wait for them at the Host. Each has a connection of its own, opened from here.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::executor::docker_parse::ContainerState;
use super::executor::{Owner, command_name, vps_name};
use super::link::{Link, Session};
use super::node::Node;
use crate::api::node::ShellOrder;
use crate::api::terminal::size;
use crate::domain::ids::TaskId;
use crate::sys::shutdown::Stop;
use crate::sys::thread;
use crate::terminal::container::{Shell, end_strays};
use crate::terminal::{refuse, session};
use crate::warning;

/// For shells to end when the Runner does: they are asked to at once.
const FAREWELL: Duration = Duration::from_secs(3);

/// The shells of this node.
pub struct Shells {
    node: Arc<Node>,
    link: Arc<Link>,
    /// Whose shells they are.
    owner: String,
    stop: Stop,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Those in the Host's last list: each was opened when it stood there first.
    seen: BTreeSet<String>,
    open: usize,
}

impl Shells {
    /// None is open yet: what an earlier Runner of this node has left behind is ended. All end when `stop` is set.
    pub fn new(node: Arc<Node>, link: Arc<Link>, stop: Stop) -> Arc<Self> {
        let Owner { cluster, node: name } = node.docker.owner();
        let owner = format!("{cluster}/{name}");
        end_strays(&owner);
        Arc::new(Self { node, link, owner, stop, state: Mutex::default(), ended: Condvar::new() })
    }

    /// In a test, where an earlier Runner has left nothing.
    #[cfg(test)]
    pub(crate) fn to_a_test(node: Arc<Node>, link: Arc<Link>, stop: Stop) -> Arc<Self> {
        let owner = String::new();
        Arc::new(Self { node, link, owner, stop, state: Mutex::default(), ended: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens those of the Host's list that stand in it for the first time.
    pub fn open(self: &Arc<Self>, session: &Session, orders: Vec<ShellOrder>) {
        let new = new_ones(&mut self.lock().seen, orders);
        for order in new {
            self.lock().open += 1;
            let (shells, session) = (Arc::clone(self), session.clone());
            let task = order.task_id.clone();
            let started = thread::spawn("shell", move || {
                let _open = Open(Arc::clone(&shells));
                shells.one(&session, &order);
            });
            if let Err(fault) = started {
                // The user hears that no shell was opened.
                warning!("no thread for a shell in task {task}: {fault}");
                drop(Open(Arc::clone(self)));
            }
        }
    }

    fn one(&self, session: &Session, order: &ShellOrder) {
        let socket = match self.link.shell(session, &order.id) {
            Ok(socket) => socket,
            Err(fault) => {
                warning!(
                    "a shell in task {} was asked for, and the Host is not reached with it: {fault}",
                    order.task_id
                );
                return;
            }
        };
        let shell = self.container(order).and_then(|container| {
            let size = size(Some(order.rows.into()), Some(order.cols.into())).unwrap_or_default();
            Shell::start(self.node.docker.command(), &container, &self.owner, size)
        });
        match shell {
            Ok(shell) => session::serve(socket, shell, &self.stop),
            Err(reason) => refuse(socket, &reason),
        }
    }

    /// The id of the task's container, if it can be entered.
    fn container(&self, order: &ShellOrder) -> Result<String, String> {
        let none = || format!("task {} has no container on this node (any more)", order.task_id);
        let task: TaskId = order.task_id.parse().map_err(|_| none())?;
        let name = if order.kind == "vps" { vps_name(task) } else { command_name(task) };
        let found = self.node.docker.look(&name).map_err(|fault| fault.to_string())?;
        let found = found.filter(|found| found.labels.attempt.0 == order.attempt).ok_or_else(none)?;
        match found.state {
            ContainerState::Running => Ok(found.id),
            ContainerState::Paused => Err(format!("task {} is paused", order.task_id)),
            ContainerState::Created | ContainerState::Restarting => {
                Err(format!("the container of task {} is only being started; try again", order.task_id))
            }
            ContainerState::Exited(_) | ContainerState::Removing => {
                Err(format!("the container of task {} has ended", order.task_id))
            }
        }
    }

    /// Waits until all have ended, which they do when the Runner does.
    pub fn farewell(&self) {
        let _left = self.ended.wait_timeout_while(self.lock(), FAREWELL, |state| state.open > 0);
    }
}

/// One that is open, until it is dropped.
struct Open(Arc<Shells>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
        self.0.ended.notify_all();
    }
}

/// Those that were not in the list before; it is then what was seen.
fn new_ones(seen: &mut BTreeSet<String>, orders: Vec<ShellOrder>) -> Vec<ShellOrder> {
    let now = orders.iter().map(|order| order.id.clone()).collect();
    let before = std::mem::replace(seen, now);
    orders.into_iter().filter(|order| !before.contains(&order.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_opened_once_however_often_it_is_told() {
        let mut seen = BTreeSet::new();
        let mut told = |ids: &[&str]| {
            let orders = ids.iter().map(|id| ShellOrder { id: (*id).to_owned(), ..ShellOrder::default() }).collect();
            new_ones(&mut seen, orders).into_iter().map(|order| order.id).collect::<Vec<_>>()
        };
        assert_eq!(told(&["a"]), ["a"]);
        assert_eq!(told(&["a", "b"]), ["b"]);
        assert_eq!(told(&["b"]), [""; 0]);
        assert_eq!(told(&[]), [""; 0]);
        assert_eq!(told(&["c"]), ["c"]);
    }
}
