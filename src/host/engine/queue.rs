//! Placing what waits: the queue decides, this carries it out.

use crate::domain::placement::{Held, NodeView};
use crate::domain::state::Event;
use crate::store::StoreFault;

use super::Now;
use super::apply::Facts;
use super::core::Core;

impl Core {
    /// Gives every waiting task its turn, oldest first.
    pub(super) fn schedule(&mut self, now: Now) -> Result<(), StoreFault> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let decided = {
            let nodes: Vec<NodeView<'_>> = self.nodes.values().map(|node| node.view()).collect();
            let vps_held: Vec<Held> = self.nodes.values().map(|node| node.vps_held.clone()).collect();
            self.queue.round(&nodes, &vps_held)
        };
        for (id, placement) in decided.placed {
            let cause = format!("placed on {}", placement.node);
            let facts = Facts { placement: Some(placement), ..Facts::default() };
            // Never refused: it waits.
            let _ = self.apply(id, &Event::Placed, facts, &cause, now)?;
        }
        for (id, reason) in decided.refused {
            let _ = self.apply(id, &Event::GivenUp { reason }, Facts::default(), "can never be placed", now)?;
        }
        self.turn.reasons.extend(decided.reasons.into_iter().map(|(demand, reason)| (demand, Some(reason))));
        // What was placed holds something: told once for all of it.
        self.derive_dirty();
        Ok(())
    }
}
