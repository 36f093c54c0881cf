//! Everything that a node should have, for its long poll.

use crate::api::node::{DesiredAnswer, DesiredTask, EnvPair, OrderSpec};
use crate::domain::ids::NodeName;
use crate::domain::spec::{Container, TaskKind};
use crate::domain::state::State;
use crate::store::{StoreFault, Task};

use super::Now;
use super::action::ActFault;
use super::core::Core;

impl Core {
    /// The list for a node, as of this turn.
    pub(super) fn desired(
        &mut self,
        name: &NodeName,
        session: &str,
        now: Now,
    ) -> Result<Result<DesiredAnswer, ActFault>, StoreFault> {
        if let Err(fault) = self.touch(name, session, now)? {
            return Ok(Err(fault));
        }
        let Some(node) = self.nodes.get(name) else { return Ok(Err(ActFault::new(404, "not registered"))) };
        let epoch = node.epoch(&self.settings.epoch);
        let tasks = node
            .tasks
            .iter()
            .filter_map(|id| self.tasks.get(id))
            .map(|live| &live.task)
            // Before this session's first complete inventory, what was never seen there is held back: that inventory
            // is to say whether an earlier Runner has started it, and must not be overtaken by a new start.
            .filter(|task| node.record.inventoried || task.standing.state != State::Assigning || task.standing.rev > 0)
            .map(order)
            .collect();
        Ok(Ok(DesiredAnswer { version: format!("{epoch}.{}", node.version), host_epoch: epoch, tasks }))
    }
}

fn order(task: &Task) -> DesiredTask {
    let spec = &task.spec;
    let placed = task.placement.as_ref();
    let mut order = OrderSpec {
        kind: spec.kind.word().to_owned(),
        env: spec.env.iter().map(|var| EnvPair { name: var.name.clone(), value: var.value.clone() }).collect(),
        cores: spec.cores,
        memory_bytes: spec.memory.map(|bytes| bytes.0),
        numa: placed.and_then(|placement| placement.numa).map(|numa| numa.0),
        gpus: placed.iter().flat_map(|placement| &placement.gpus).map(|gpu| gpu.0).collect(),
        time_limit_seconds: spec.time_limit.map(|limit| limit.as_secs()),
        workdir: spec.workdir.clone(),
        user: spec.user.map(|user| match user.gid {
            Some(gid) => format!("{}:{gid}", user.uid),
            None => user.uid.to_string(),
        }),
        ..OrderSpec::default()
    };
    match &spec.kind {
        TaskKind::Vps { keys } => order.keys = keys.iter().map(ToString::to_string).collect(),
        TaskKind::Command { program, arguments } => {
            order.argv = std::iter::once(program).chain(arguments).cloned().collect();
        }
    }
    if let Container::Environment { name, privileged, mounts } = &spec.container {
        order.container = Some(name.to_string());
        order.privileged = *privileged;
        order.mounts = mounts.iter().map(ToString::to_string).collect();
    }
    DesiredTask {
        task_id: task.id.to_string(),
        attempt: task.standing.attempt.0,
        want: task.standing.want.word().to_owned(),
        spec: order,
    }
}
