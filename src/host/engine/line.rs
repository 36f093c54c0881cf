//! Who is next in line on a node.
//!
//! Between the end of a task and the start of the next one lies a round from the node to the Host and back, with a sync on either
//! side. Where tasks end within moments that is most of the time. So a node on which they do is given some of the oldest waiting
//! tasks ahead: as many as have just ended there. It starts them itself, in their order, each when there is room; until then they
//! hold nothing. What turns out to wait longer than it was worth is asked back, and waits here again.

use std::time::{Duration, Instant};

use crate::domain::ids::NodeName;
use crate::domain::placement::{Placement, Readiness};
use crate::domain::spec::{Container, GpuRequest, TaskKind, TaskSpec};
use crate::domain::state::Event;
use crate::store::{StoreFault, Task};

use super::Now;
use super::apply::Facts;
use super::core::Core;
use super::node::Node;

/// A task that ran no longer is a short one, in milliseconds.
const SHORT: u64 = 50;
/// Ends count for this long: so a line is no longer than what the node gets done within that time.
const LATELY: Duration = Duration::from_millis(50);
/// The longest line of a node.
const LONGEST: usize = 256;
/// How long somebody stands in it before all of them are asked back.
const PATIENCE: Duration = Duration::from_millis(500);

impl Core {
    /// Lets the oldest of those that wait line up, as long as it is their turn: nobody older is passed.
    pub(super) fn line_up(&mut self, now: Now) -> Result<(), StoreFault> {
        if self.nodes.values().all(|node| node.short_ends.is_empty()) {
            return Ok(());
        }
        while let Some((id, spec)) = self.queue.oldest() {
            if !may_line_up(spec) {
                return Ok(());
            }
            let Some(node) = self.shortest_line(spec, now.instant) else { return Ok(()) };
            let cause = format!("next in line on {node}");
            let placement = Placement { node, numa: None, gpus: Vec::new(), in_line: true };
            let facts = Facts { placement: Some(placement), ..Facts::default() };
            if self.apply(id, &Event::Placed, facts, &cause, now)?.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The node whose line has most room left for this task; equal ones by name.
    fn shortest_line(&self, spec: &TaskSpec, now: Instant) -> Option<NodeName> {
        let is_large_enough = |node: &Node| node.record.inventory.cpus.len() >= spec.cores as usize;
        let room = |node: &Node| if is_large_enough(node) { node.room_in_line(now) } else { 0 };
        match &spec.target {
            Some(target) => {
                self.nodes.get(&target.node).filter(|node| room(node) > 0).map(|node| node.record.name.clone())
            }
            None => {
                let mut best: Option<(usize, &Node)> = None;
                for node in self.nodes.values() {
                    let room = room(node);
                    if room > best.map_or(0, |(most, _)| most) {
                        best = Some((room, node));
                    }
                }
                best.map(|(_, node)| node.record.name.clone())
            }
        }
    }

    /// Asks for those that have waited for too long.
    pub(super) fn recall(&mut self, now: Now) {
        for (name, node) in &mut self.nodes {
            if node.next_recall().is_none_or(|at| at > now.instant) {
                continue;
            }
            let called: Vec<_> = node.in_line.keys().filter(|id| !node.recalled.contains(id)).copied().collect();
            called.iter().for_each(|id| node.changes.add(*id));
            node.recalled.extend(called);
            // What has ended there lately says nothing of what runs there now.
            node.short_ends.clear();
            self.turn.nodes.insert(name.clone());
        }
    }
}

impl Node {
    /// A task has ended there.
    pub(super) fn note_end(&mut self, task: &Task, now: Instant) {
        let (Some(started), Some(completed)) = (task.started_ms, task.completed_ms) else { return };
        if !may_line_up(&task.spec) || completed.saturating_sub(started) > SHORT {
            return;
        }
        while self.short_ends.len() >= LONGEST || self.short_ends.front().is_some_and(|end| *end + LATELY < now) {
            self.short_ends.pop_front();
        }
        self.short_ends.push_back(now);
    }

    fn room_in_line(&self, now: Instant) -> usize {
        if self.readiness() != Readiness::Ready {
            return 0;
        }
        let lately = self.short_ends.iter().rev().take_while(|end| **end + LATELY >= now).count();
        lately.saturating_sub(self.in_line.len())
    }

    /// When somebody is to be asked back.
    pub(super) fn next_recall(&self) -> Option<Instant> {
        let waiting = self.in_line.iter().filter(|(id, _)| !self.recalled.contains(id));
        waiting.map(|(_, since)| *since + PATIENCE).min()
    }
}

/// Whether a task is one that a node can start by itself: it needs nothing but cores, wherever they are. And one that is
/// refused rather than to wait is not one to stand in a line.
fn may_line_up(spec: &TaskSpec) -> bool {
    let is_command = match spec.kind {
        TaskKind::Command { .. } => true,
        TaskKind::Vps { .. } => false,
    };
    let is_bare = match spec.container {
        Container::Null => true,
        Container::Environment { .. } => false,
    };
    is_command
        && is_bare
        && !spec.patience.immediate
        && spec.cores > 0
        && spec.memory.is_none()
        && spec.gpus == GpuRequest::None
        && spec.numa().is_none()
}
