//! Placing what waits: the queue decides, this carries it out.

use crate::domain::placement::{Held, NodeView};
use crate::domain::queue::Turn;
use crate::domain::state::Event;
use crate::store::StoreFault;

use super::Now;
use super::apply::Facts;
use super::core::Core;

impl Core {
    /// Gives every waiting task its turn, oldest first.
    ///
    /// Who waits for what, and how often it was passed, is kept in memory alone: a row written for each waiting task at
    /// each placement would cost more than the count is worth, which after a restart of the Host begins anew.
    pub(super) fn schedule(&mut self, now: Now) -> Result<(), StoreFault> {
        if self.queue.is_empty() {
            return Ok(());
        }
        self.derive_held();
        let nodes: Vec<NodeView<'_>> = self.nodes.values().map(|node| node.view()).collect();
        let vps_held: Vec<&Held> = self.nodes.values().map(|node| &node.vps_held).collect();
        for (id, turn) in self.queue.round(&nodes, &vps_held) {
            match turn {
                Turn::Placed(placement) => {
                    let cause = format!("placed on {}", placement.node);
                    let facts = Facts { placement: Some(placement), ..Facts::default() };
                    // Never refused: it waits.
                    let _ = self.apply(id, &Event::Placed, facts, &cause, now)?;
                }
                Turn::Refused(reason) => {
                    let _ = self.apply(id, &Event::GivenUp { reason }, Facts::default(), "can never be placed", now)?;
                }
            }
        }
        self.line_up(now)
    }
}
