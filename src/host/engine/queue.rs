//! Placing what waits: the queue decides, this carries it out.

use std::sync::Arc;

use crate::domain::ids::TaskId;
use crate::domain::placement::{Held, NodeView};
use crate::domain::queue::{self, Turn, Waiting};
use crate::domain::state::Event;
use crate::store::StoreFault;

use super::Now;
use super::apply::Facts;
use super::core::Core;

impl Core {
    /// Gives every waiting task its turn, oldest first.
    pub(super) fn schedule(&mut self, now: Now) -> Result<(), StoreFault> {
        if self.pending.is_empty() {
            return Ok(());
        }
        for (id, turn) in self.turns() {
            match turn {
                Turn::Placed(placement) => {
                    let cause = format!("placed on {}", placement.node);
                    let facts = Facts { placement: Some(placement), ..Facts::default() };
                    // Never refused: it waits.
                    let _ = self.apply(id, &Event::Placed, facts, &cause, now)?;
                }
                Turn::Waits { reason, passed } => self.go_on_waiting(id, reason, passed),
                Turn::Refused(reason) => {
                    let _ = self.apply(id, &Event::GivenUp { reason }, Facts::default(), "can never be placed", now)?;
                }
            }
        }
        Ok(())
    }

    fn turns(&self) -> Vec<(TaskId, Turn)> {
        let waiting: Vec<Waiting<'_>> = self
            .pending
            .iter()
            .filter_map(|id| self.tasks.get(id))
            .map(|live| Waiting { id: live.task.id, spec: &live.task.spec, passed: live.task.passed })
            .collect();
        let nodes: Vec<NodeView<'_>> = self.nodes.values().map(|node| node.view()).collect();
        let vps_held: Vec<Held> = self.nodes.values().map(|node| node.vps_held.clone()).collect();
        queue::schedule(&waiting, &nodes, &vps_held)
    }

    /// How often it was passed is kept in memory alone: a row written for each waiting task at each placement would cost
    /// more than the count is worth, which after a restart of the Host begins anew.
    fn go_on_waiting(&mut self, id: TaskId, reason: Arc<str>, passed: u32) {
        let Some(live) = self.tasks.get_mut(&id) else { return };
        let is_news = live.waiting.as_ref() != Some(&reason);
        if live.task.passed == passed && !is_news {
            return;
        }
        let live = Arc::make_mut(live);
        live.waiting = Some(reason);
        live.task.passed = passed;
        if is_news {
            self.turn.tasks.insert(id);
        }
    }
}
