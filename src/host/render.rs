//! Tasks and nodes as the API shows them. Pure.

use std::sync::Arc;

use crate::api::public::{
    EventData, HealthAggregate, HealthRow, NodeRow, NumaShare, NumaTopology, TaskRecord, TaskRow, VpsRow,
};
use crate::domain::spec::{Container, GpuRequest, TaskKind, TaskSpec};
use crate::domain::state::State;
use crate::store::{EventRow, Task};
use crate::sys::clock::rfc3339;

use super::node_url;
use super::view::{NodeEntry, Told};

/// One item of `GET /nodes`.
pub(super) fn node_row(node: &NodeEntry) -> NodeRow {
    let total = total_cores(node);
    NodeRow {
        hostname: node.record.name.to_string(),
        url: node_url(&node.record.address),
        total_cores: total,
        cores_in_use: node.cores_in_use,
        available_cores: total.saturating_sub(node.cores_in_use),
        status: node.status().to_owned(),
        last_heartbeat: node.last_heartbeat_ms.map(rfc3339),
        numa_topology: numa_topology(node),
        gpu_info: node.figures.gpus.clone(),
        unknown_tasks: node.unknown.iter().map(ToString::to_string).collect(),
        problems: problems(node),
        version: Some(node.record.version.clone()),
    }
}

/// One node of `GET /health`.
pub(super) fn health_row(node: &NodeEntry) -> HealthRow {
    let usage = &node.figures.usage;
    let memory_percent = match (usage.memory_used_bytes, usage.memory_total_bytes) {
        (Some(used), Some(total)) if total > 0 => Some(used as f64 * 100.0 / total as f64),
        _ => None,
    };
    HealthRow {
        hostname: node.record.name.to_string(),
        status: node.status().to_owned(),
        last_heartbeat: node.last_heartbeat_ms.map(rfc3339),
        cpu_percent: usage.cpu_percent,
        memory_percent,
        memory_used_bytes: usage.memory_used_bytes,
        memory_total_bytes: usage.memory_total_bytes.or(Some(node.record.inventory.memory)),
        total_cores: total_cores(node),
        numa_topology: numa_topology(node),
        current_avg_temp: usage.avg_temp,
        current_max_temp: usage.max_temp,
        gpu_info: node.figures.gpus.clone(),
    }
}

/// All nodes of one second together; figures count nodes that are not offline.
pub(super) fn health_aggregate(nodes: &[Arc<NodeEntry>], at_ms: u64) -> HealthAggregate {
    let online: Vec<HealthRow> = nodes.iter().filter(|node| !node.record.silent).map(|node| health_row(node)).collect();
    let average = |figure: fn(&HealthRow) -> Option<f64>| {
        let known: Vec<f64> = online.iter().filter_map(figure).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    let highest = |figure: fn(&HealthRow) -> Option<f64>| online.iter().filter_map(figure).reduce(f64::max);
    HealthAggregate {
        totalNodes: count(nodes.len()),
        onlineNodes: count(online.len()),
        totalCores: online.iter().map(|row| row.total_cores).sum(),
        totalMemBytes: online.iter().filter_map(|row| row.memory_total_bytes).sum(),
        usedMemBytes: online.iter().filter_map(|row| row.memory_used_bytes).sum(),
        avgCpuPercent: average(|row| row.cpu_percent),
        avgMemPercent: average(|row| row.memory_percent),
        maxAvgCpuTemp: highest(|row| row.current_avg_temp),
        maxMaxCpuTemp: highest(|row| row.current_max_temp),
        lastUpdated: rfc3339(at_ms),
    }
}

/// `GET /status/{id}`: the whole record. The environment variables are shown here alone.
pub(super) fn task_record(task: &Task, waiting: Option<&str>) -> TaskRecord {
    let (spec, standing) = (&task.spec, &task.standing);
    let (error_message, reason) = told(task, waiting);
    let (command, arguments) = command(spec);
    TaskRecord {
        task_id: task.id.to_string(),
        batch_id: task.batch.to_string(),
        task_type: spec.kind.word().to_owned(),
        command,
        arguments,
        env_vars: spec.env.iter().map(|var| (var.name.clone(), var.value.clone())).collect(),
        required_cores: spec.cores,
        required_gpus: gpus(task),
        required_memory_bytes: spec.memory.map(|bytes| bytes.0),
        status: standing.state.word().to_owned(),
        assigned_node: assigned_node(task),
        target_numa_node_id: numa(task),
        container_name: Some(container_name(spec)),
        stdout_path: None,
        stderr_path: None,
        exit_code: standing.exit.code,
        error_message,
        submitted_at: rfc3339(task.submitted_ms),
        started_at: task.started_ms.map(rfc3339),
        completed_at: task.completed_ms.map(rfc3339),
        systemd_unit_name: task.unit.clone(),
        // 0.3's suspicions have no counterpart.
        assignment_suspicion_count: 0,
        ssh_port: ssh_port(task),
        name: spec.name.as_ref().map(ToString::to_string),
        reason,
        want: standing.want.word().to_owned(),
        attempt: standing.attempt.0,
        exit_signal: standing.exit.signal,
        host_keys: task.host_keys.clone(),
        stdout_bytes: task.stdout_bytes,
        stderr_bytes: task.stderr_bytes,
        output_note: None,
    }
}

/// One item of `GET /vps` and `GET /vps/status`.
pub(super) fn vps_row(task: &Task, waiting: Option<&str>) -> VpsRow {
    VpsRow {
        task_id: task.id.to_string(),
        status: task.standing.state.word().to_owned(),
        assigned_node: assigned_node(task),
        target_numa_node_id: numa(task),
        required_cores: task.spec.cores,
        required_gpus: gpus(task),
        required_memory_bytes: task.spec.memory.map(|bytes| bytes.0),
        submitted_at: rfc3339(task.submitted_ms),
        started_at: task.started_ms.map(rfc3339),
        ssh_port: ssh_port(task),
        name: task.spec.name.as_ref().map(ToString::to_string),
        reason: told(task, waiting).1,
        want: task.standing.want.word().to_owned(),
    }
}

/// One item of `GET /tasks`.
pub(super) fn task_row(task: &Task, waiting: Option<&str>) -> TaskRow {
    let (error_message, reason) = told(task, waiting);
    let (command, arguments) = command(&task.spec);
    TaskRow {
        task_id: task.id.to_string(),
        batch_id: task.batch.to_string(),
        task_type: task.spec.kind.word().to_owned(),
        command,
        arguments,
        required_cores: task.spec.cores,
        required_gpus: gpus(task),
        required_memory_bytes: task.spec.memory.map(|bytes| bytes.0),
        status: task.standing.state.word().to_owned(),
        assigned_node: assigned_node(task),
        target_numa_node_id: numa(task),
        container_name: Some(container_name(&task.spec)),
        exit_code: task.standing.exit.code,
        error_message,
        submitted_at: rfc3339(task.submitted_ms),
        started_at: task.started_ms.map(rfc3339),
        completed_at: task.completed_ms.map(rfc3339),
        name: task.spec.name.as_ref().map(ToString::to_string),
        reason,
        want: task.standing.want.word().to_owned(),
    }
}

/// The VPS tasks that are not in a final state: `lost` is final for a user.
pub(super) fn active_vps(tasks: &[Told]) -> Vec<VpsRow> {
    tasks
        .iter()
        .filter(|(live, _)| !live.task.standing.state.is_final())
        .map(|(live, waiting)| vps_row(&live.task, waiting.as_deref()))
        .collect()
}

/// The data of one event.
pub(super) fn event(row: &EventRow) -> EventData {
    EventData {
        seq: row.seq,
        time: rfc3339(row.time_ms),
        task_id: row.task.map(|id| id.to_string()),
        node: row.node.clone(),
        from: row.from.clone(),
        to: row.to.clone(),
        cause: row.cause.clone(),
    }
}

/// `error_message` of a final state, `reason` of the others.
fn told(task: &Task, waiting: Option<&str>) -> (Option<String>, Option<String>) {
    let note = task.standing.note.clone();
    match task.standing.state {
        State::Completed | State::Failed | State::Killed | State::KilledOom | State::Lost => (note, None),
        State::Pending => (None, waiting.map(str::to_owned).or(note)),
        State::Assigning | State::Running | State::Paused => (None, note),
    }
}

/// What was asked to run; of a VPS's keys, what identifies them.
fn command(spec: &TaskSpec) -> (String, Vec<String>) {
    match &spec.kind {
        TaskKind::Vps { keys } => (keys.iter().map(|key| key.summary()).collect::<Vec<_>>().join("\n"), Vec::new()),
        TaskKind::Command { program, arguments } => (program.clone(), arguments.clone()),
    }
}

fn container_name(spec: &TaskSpec) -> String {
    match &spec.container {
        Container::Environment { name, .. } => name.to_string(),
        Container::Null => "NULL".to_owned(),
    }
}

/// The GPUs that it has, or before its placement those that it named.
fn gpus(task: &Task) -> Vec<u32> {
    match (&task.placement, &task.spec.gpus) {
        (Some(placement), _) => placement.gpus.iter().map(|gpu| gpu.0).collect(),
        (None, GpuRequest::Ids(ids)) => ids.iter().map(|gpu| gpu.0).collect(),
        (None, GpuRequest::None | GpuRequest::Any(_)) => Vec::new(),
    }
}

fn assigned_node(task: &Task) -> Option<String> {
    task.placement.as_ref().map(|placement| placement.node.to_string())
}

fn numa(task: &Task) -> Option<u32> {
    let placed = task.placement.as_ref().and_then(|placement| placement.numa);
    placed.or(task.spec.target.as_ref().and_then(|target| target.numa)).map(|numa| numa.0)
}

/// Only while it can be reached there.
fn ssh_port(task: &Task) -> Option<u16> {
    task.ssh_port.filter(|_| task.standing.state == State::Running)
}

fn total_cores(node: &NodeEntry) -> u32 {
    count(node.record.inventory.cpus.0.len())
}

fn numa_topology(node: &NodeEntry) -> Option<NumaTopology> {
    let numa = &node.record.inventory.numa;
    (!numa.is_empty()).then(|| {
        numa.iter()
            .map(|node| {
                let share = NumaShare { cores: node.cpus.0.iter().copied().collect(), memory_bytes: node.memory };
                (node.id.to_string(), share)
            })
            .collect()
    })
}

/// What the node cannot do now. (What it cannot do for tasks without a container is of no consequence to a VPS.)
fn problems(node: &NodeEntry) -> Vec<String> {
    match node.conditions {
        Some(conditions) if !conditions.docker && !node.record.silent => {
            vec!["Docker does not answer there: it gets no tasks that need a container".to_owned()]
        }
        _ => Vec::new(),
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
