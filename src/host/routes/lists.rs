//! Lists of tasks for users, newest first.

use std::sync::Arc;

use crate::api::json;
use crate::domain::ids::TaskId;
use crate::domain::state::State;
use crate::net::http::{Head, Reply};
use crate::store::{Task, TaskFilter};

use super::super::engine::ActFault;
use super::super::render;
use super::nodes::node_name;
use super::{Api, answer, unreadable};

/// A task, and what it waits for if it does.
type Listed = (Task, Option<Arc<str>>);

/// What a list holds without `limit`, and at most with it.
const DEFAULT_LIMIT: u32 = 1_000;
const MOST: u32 = 100_000;

impl Api {
    /// `GET /tasks`
    pub(super) fn tasks(&self, head: &Head) -> Result<Reply, ActFault> {
        let rows = self.list("command", head)?;
        Ok(answer(200, &rows.iter().map(|(task, why)| render::task_row(task, why.as_deref())).collect::<Vec<_>>()))
    }

    /// `GET /vps`
    pub(super) fn vps(&self, head: &Head) -> Result<Reply, ActFault> {
        let rows = self.list("vps", head)?;
        Ok(answer(200, &rows.iter().map(|(task, why)| render::vps_row(task, why.as_deref())).collect::<Vec<_>>()))
    }

    /// `GET /vps/status`, encoded once for each change of a VPS.
    pub(super) fn vps_status(&self, head: &Head) -> Result<Reply, ActFault> {
        if head.query.is_empty() {
            let body = self.engine.view.vps_json(|tasks| json::encode(&render::active_vps(tasks)));
            return Ok(Reply::Full { status: 200, content_type: "application/json", body });
        }
        let filter = filter(head)?;
        let rows = self.engine.view.vps();
        let wanted = rows.iter().filter(|(live, _)| {
            let task = &live.task;
            let node = task.placement.as_ref().map(|placement| &placement.node);
            filter.state.is_none_or(|state| task.standing.state == state)
                && filter.node.as_ref().is_none_or(|name| node == Some(name))
                && filter.before.is_none_or(|before| task.id < before)
        });
        let mut rows = render::active_vps(&wanted.cloned().collect::<Vec<_>>());
        rows.truncate(filter.limit as usize);
        Ok(answer(200, &rows))
    }

    fn list(&self, kind: &str, head: &Head) -> Result<Vec<Listed>, ActFault> {
        let tasks = self.readers.list(kind, &filter(head)?).map_err(unreadable)?;
        let waiting = |task: &&Task| task.standing.state == State::Pending;
        let mut reasons = self.engine.view.reasons(tasks.iter().filter(waiting).map(|task| task.id)).into_iter();
        Ok(tasks
            .into_iter()
            .map(|task| {
                let why = if waiting(&&task) { reasons.next().flatten() } else { None };
                (task, why)
            })
            .collect())
    }
}

/// `?status=&node=&limit=&before=`
fn filter(head: &Head) -> Result<TaskFilter, ActFault> {
    let bad = |field: &str, expected: &str| ActFault::new(400, format!("{field}: expected {expected}"));
    let state = match head.query("status") {
        None | Some("") => None,
        Some(word) => {
            let words = || State::ALL.map(State::word).join(", ");
            Some(State::from_word(word).ok_or_else(|| bad("status", &format!("one of {}", words())))?)
        }
    };
    let node = match head.query("node") {
        None | Some("") => None,
        Some(name) => Some(node_name(name)?),
    };
    let before = match head.query("before") {
        None | Some("") => None,
        Some(id) => Some(id.parse::<TaskId>().map_err(|_| bad("before", "a task id"))?),
    };
    let limit = match head.query("limit") {
        None | Some("") => DEFAULT_LIMIT,
        Some(number) => number.parse().map_err(|_| bad("limit", "a number"))?,
    };
    Ok(TaskFilter { state, node, before, limit: limit.min(MOST) })
}
