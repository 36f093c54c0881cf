//! Terminals for users, and the connections that nodes open for them.

use crate::api::node::ShellOrder;
use crate::api::terminal::{LARGEST_MESSAGE, Size, size};
use crate::domain::ids::NodeName;
use crate::domain::spec::Container;
use crate::domain::state::State;
use crate::net::http::{Head, Reply};
use crate::net::websocket::{self, Socket};
use crate::store::Task;
use crate::sys::random;
use crate::sys::shutdown::Stop;
use crate::terminal::container::Shell;
use crate::terminal::{refuse, session};

use super::super::engine::ActFault;
use super::Api;
use super::nodes::node_name;

impl Api {
    /// WebSocket `/docker/host/containers/{name}/terminal[?rows=&cols=]`
    pub(super) fn environment_terminal(&self, name: &str, head: &Head) -> Result<Reply, ActFault> {
        let size = asked_size(head)?;
        let place = self.terminals.place()?;
        let container = self.environments.running(name)?;
        let (docker, owner) = (self.terminals.docker.clone(), self.terminals.owner.clone());
        accept(head, move |socket| {
            let _place = place;
            match Shell::start(&docker, &container, &owner, size) {
                // When the Host stops, the server ends its connections, and a connection's end is that of its shell.
                Ok(shell) => session::serve(socket, shell, &Stop::new()),
                Err(reason) => refuse(socket, &reason),
            }
        })
    }

    /// WebSocket `/task/{id or name}/terminal[?rows=&cols=]`
    pub(super) fn task_terminal(&self, text: &str, head: &Head) -> Result<Reply, ActFault> {
        let Size { rows, cols } = asked_size(head)?;
        let (task, _) = self.find(text)?;
        let is_silent = |node: &NodeName| self.engine.view.node(node).is_none_or(|node| node.record.silent);
        let node = place_of(&task, is_silent)?;
        let order = ShellOrder {
            id: random::hex(16),
            task_id: task.id.to_string(),
            attempt: task.standing.attempt.0,
            kind: task.spec.kind.word().to_owned(),
            rows,
            cols,
        };
        let place = self.terminals.place()?;
        let (terminals, engine) = (self.terminals.clone(), self.engine.clone());
        accept(head, move |socket| {
            let _place = place;
            terminals.carry(&engine, &node, task.id, order, socket);
        })
    }

    /// WebSocket `/runner/{hostname}/shell/{id}?session=`
    pub(super) fn node_shell(&self, name: &str, id: &str, head: &Head) -> Result<Reply, ActFault> {
        let name = node_name(name)?;
        self.check_session(&name, head.query("session").unwrap_or_default())?;
        let deliver = self.terminals.claim(&name, id)?;
        // Err: whoever waited has given up, and the node sees its connection end.
        accept(head, move |socket| drop(deliver.send(socket)))
    }
}

fn accept(head: &Head, take: impl FnOnce(Socket) + Send + 'static) -> Result<Reply, ActFault> {
    websocket::accept(head, LARGEST_MESSAGE, take).map_err(|(status, why)| ActFault::new(status, why))
}

/// The size that the terminal has from its beginning.
fn asked_size(head: &Head) -> Result<Size, ActFault> {
    let number = |name: &str| head.query(name).map(str::parse::<u32>).transpose();
    let found = match (number("rows"), number("cols")) {
        (Ok(None), Ok(None)) => Some(Size::default()),
        (Ok(rows), Ok(cols)) => size(rows, cols),
        _ => None,
    };
    found.ok_or_else(|| ActFault::new(422, "fields 'rows' and 'cols': expected both, from 1 to 65535"))
}

/// The node on which a task's container runs, or why there is no shell in it.
fn place_of(task: &Task, is_silent: impl Fn(&NodeName) -> bool) -> Result<NodeName, ActFault> {
    let id = task.id;
    let refused = |why: String| ActFault::new(409, format!("no shell in task {id}: {why}"));
    if !matches!(task.spec.container, Container::Environment { .. }) {
        return Err(refused("it runs straight on its node, in no container".to_owned()));
    }
    let node = task.placement.as_ref().map(|placement| &placement.node);
    match (task.standing.state, node) {
        // One that does not come up can be looked into, too.
        (State::Running | State::Assigning, Some(node)) if !is_silent(node) => Ok(node.clone()),
        (State::Running | State::Assigning | State::Lost, Some(node)) => {
            Err(refused(format!("its node '{node}' is silent; see 'hakuriver client nodes'")))
        }
        (State::Paused, _) => {
            Err(refused(format!("it is paused; resume it with 'hakuriver client command {id} resume'")))
        }
        (State::Pending | State::Running | State::Assigning | State::Lost, _) => {
            Err(refused(format!("it is not placed yet; see 'hakuriver client status {id}'")))
        }
        (state @ (State::Completed | State::Failed | State::Killed | State::KilledOom), _) => {
            Err(refused(format!("it has ended ({})", state.word())))
        }
    }
}
