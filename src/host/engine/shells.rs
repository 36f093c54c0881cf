//! Shells that users wait for: told to their nodes with the list, until the node has opened them or nobody waits any more.

use crate::api::node::ShellOrder;
use crate::domain::ids::{NodeName, TaskId};

use super::core::Core;

impl Core {
    /// Wakes the node's poll. The task's line counts as changed: so the list is a new version, and level-triggered as ever.
    pub(super) fn ask_shell(&mut self, name: &NodeName, task: TaskId, order: ShellOrder) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.shells.insert(order.id.clone(), order);
        node.changes.add(task);
        self.turn.nodes.insert(name.clone());
    }

    /// No news for the node: what it is not told again, it does not open again.
    pub(super) fn end_shell(&mut self, name: &NodeName, id: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.shells.remove(id);
        }
    }
}
