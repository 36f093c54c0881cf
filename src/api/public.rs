//! The bodies of the API that users and their programs see. A field without a value is `null`, not absent.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use nanoserde::{DeJson, SerJson};

/// The body of every error.
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct ErrorBody {
    pub detail: String,
}

/// `{message}`
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct Message {
    pub message: String,
}

/// One item of `GET /nodes`.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct NodeRow {
    pub hostname: String,
    /// 0.3 has the Runner's URL here; ours listens on nothing: `http://<address>:0`.
    pub url: String,
    pub total_cores: u32,
    pub cores_in_use: u32,
    pub available_cores: u32,
    /// `online`, `offline`, `draining`
    pub status: String,
    pub last_heartbeat: Option<String>,
    /// By NUMA node's number, as 0.3 has it; null where the kernel tells none.
    pub numa_topology: Option<NumaTopology>,
    pub gpu_info: Vec<GpuRow>,
    /// Tasks found on the node that the Host does not know (addition to 0.3).
    pub unknown_tasks: Vec<String>,
    /// What the node cannot do now, as sentences (addition to 0.3).
    pub problems: Vec<String>,
    /// The version of the binary on the node (addition to 0.3).
    pub version: Option<String>,
}

/// `{"0": {"cores": [0, 1], "memory_bytes": 1}}`
pub type NumaTopology = std::collections::BTreeMap<String, NumaShare>;

/// What a NUMA node has.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct NumaShare {
    pub cores: Vec<u32>,
    pub memory_bytes: u64,
}

/// One NUMA node of a node's inventory.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct NumaRow {
    pub id: u32,
    pub cores: Vec<u32>,
    pub memory_bytes: u64,
}

/// One GPU with its live figures; -1 where the device does not tell.
#[derive(Clone, Debug, Default, PartialEq, DeJson, SerJson)]
pub struct GpuRow {
    pub gpu_id: u32,
    pub name: String,
    pub driver_version: String,
    pub pci_bus_id: String,
    pub gpu_utilization: i64,
    pub graphics_clock_mhz: i64,
    pub mem_utilization: i64,
    pub mem_clock_mhz: i64,
    pub memory_total_mib: i64,
    pub memory_used_mib: i64,
    pub memory_free_mib: i64,
    pub temperature: i64,
    pub fan_speed: i64,
    pub power_usage_mw: i64,
    pub power_limit_mw: i64,
}

/// One node of `GET /health`.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct HealthRow {
    pub hostname: String,
    pub status: String,
    pub last_heartbeat: Option<String>,
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub total_cores: u32,
    pub numa_topology: Option<NumaTopology>,
    pub current_avg_temp: Option<f64>,
    pub current_max_temp: Option<f64>,
    pub gpu_info: Vec<GpuRow>,
}

/// One second of `GET /health`'s aggregate.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
#[allow(non_snake_case, reason = "0.3's dashboards read these names")]
pub struct HealthAggregate {
    pub totalNodes: u32,
    pub onlineNodes: u32,
    pub totalCores: u32,
    pub totalMemBytes: u64,
    pub usedMemBytes: u64,
    pub avgCpuPercent: Option<f64>,
    pub avgMemPercent: Option<f64>,
    pub maxAvgCpuTemp: Option<f64>,
    pub maxMaxCpuTemp: Option<f64>,
    pub lastUpdated: String,
}

/// `GET /health` without a hostname.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
pub struct HealthHistory {
    pub nodes: Vec<Vec<HealthRow>>,
    pub aggregate: Vec<HealthAggregate>,
}

/// A refused target of a submit.
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct FailedTarget {
    pub target: String,
    pub reason: String,
}

/// Where the first task went.
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct AssignedNode {
    pub hostname: String,
    pub url: String,
}

/// The answer to `POST /submit`.
#[derive(Clone, Debug, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct SubmitAnswer {
    pub message: String,
    pub task_ids: Vec<String>,
    pub failed_targets: Vec<FailedTarget>,
    pub assigned_node: Option<AssignedNode>,
    /// Always null: the Host does not wait for a Runner.
    pub runner_response: Option<String>,
}

/// `GET /status/{id}`, the whole record.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct TaskRecord {
    pub task_id: String,
    pub batch_id: String,
    pub task_type: String,
    /// For a VPS: type, comment and fingerprint of each key, never the key.
    pub command: String,
    pub arguments: Vec<String>,
    pub env_vars: std::collections::BTreeMap<String, String>,
    pub required_cores: u32,
    pub required_gpus: Vec<u32>,
    pub required_memory_bytes: Option<u64>,
    pub status: String,
    pub assigned_node: Option<String>,
    pub target_numa_node_id: Option<u32>,
    pub container_name: Option<String>,
    pub stdout_path: Option<String>,
    pub stderr_path: Option<String>,
    pub exit_code: Option<i32>,
    pub error_message: Option<String>,
    pub submitted_at: String,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    pub systemd_unit_name: Option<String>,
    pub assignment_suspicion_count: u32,
    pub ssh_port: Option<u16>,
    /// Additions to 0.3 from here on.
    pub name: Option<String>,
    /// What it waits for, or what it is doing now.
    pub reason: Option<String>,
    pub want: String,
    pub attempt: u32,
    pub exit_signal: Option<i32>,
    /// The public host keys of a VPS, as lines `<type> <base64>`; empty until known.
    pub host_keys: Vec<String>,
    /// How much it wrote in all, in bytes; null while it lives, and where nobody knows.
    pub stdout_bytes: Option<u64>,
    pub stderr_bytes: Option<u64>,
    /// What of its output is not on the Host though it has ended: "output after byte 4096 of stdout is missing: …"; or why
    /// that is not known.
    pub output_note: Option<String>,
}

/// One item of `GET /vps` and `GET /vps/status`.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct VpsRow {
    pub task_id: String,
    pub status: String,
    pub assigned_node: Option<String>,
    pub target_numa_node_id: Option<u32>,
    pub required_cores: u32,
    pub required_gpus: Vec<u32>,
    pub required_memory_bytes: Option<u64>,
    pub submitted_at: String,
    pub started_at: Option<String>,
    /// Only while running.
    pub ssh_port: Option<u16>,
    /// Additions to 0.3.
    pub name: Option<String>,
    pub reason: Option<String>,
    pub want: String,
}

/// The body of `POST /submit` as our client sends it. (The Host takes more forms: ids as numbers, fields absent or null.)
#[derive(Clone, Debug, Default, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct SubmitBody {
    /// `command` or `vps`
    pub task_type: String,
    /// The program; for a VPS the public keys, one a line.
    pub command: String,
    pub arguments: Vec<String>,
    pub env_vars: std::collections::BTreeMap<String, String>,
    /// None: the kind's default (1 for a command, 0 for a VPS).
    pub required_cores: Option<u32>,
    pub required_memory_bytes: Option<u64>,
    /// One list a target.
    pub required_gpus: Option<Vec<Vec<u32>>>,
    /// `host[:numa]` each; None: the Host chooses.
    pub targets: Option<Vec<String>>,
    /// None: the Host's default; `NULL`: none.
    pub container_name: Option<String>,
    pub privileged: Option<bool>,
    /// `HOST:CONTAINER[:ro|rw]`; None: the Host's default mounts.
    pub additional_mounts: Option<Vec<String>>,
    pub name: Option<String>,
    pub gpu_count: Option<u32>,
    pub immediate: bool,
    pub queue: bool,
    pub max_wait_seconds: Option<u64>,
    pub time_limit_seconds: Option<u64>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub argument_sets: Option<Vec<Vec<String>>>,
    pub idempotency_key: Option<String>,
}

/// `GET /version`
#[derive(Clone, Debug, DeJson, SerJson)]
pub struct Version {
    pub version: String,
    pub cluster_id: String,
}

/// One item of `GET /tasks`: command tasks, without their environment variables.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct TaskRow {
    pub task_id: String,
    pub batch_id: String,
    pub task_type: String,
    pub command: String,
    pub arguments: Vec<String>,
    pub required_cores: u32,
    pub required_gpus: Vec<u32>,
    pub required_memory_bytes: Option<u64>,
    pub status: String,
    pub assigned_node: Option<String>,
    pub target_numa_node_id: Option<u32>,
    pub container_name: Option<String>,
    pub exit_code: Option<i32>,
    pub error_message: Option<String>,
    pub submitted_at: String,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    /// Additions to 0.3.
    pub name: Option<String>,
    pub reason: Option<String>,
    pub want: String,
}

/// The data of one event of `GET /events`: a task's transition (`task_id` is set) or a node's change.
#[derive(Clone, Debug, Default, DeJson, SerJson)]
#[nserde(serialize_none_as_null)]
pub struct EventData {
    /// Grows with each event; to be sent as `since` after a break.
    pub seq: u64,
    pub time: String,
    pub task_id: Option<String>,
    pub node: Option<String>,
    /// The state before; null for a new task or node. Equal to `to` where only what is wanted or known of it changed.
    pub from: Option<String>,
    pub to: String,
    pub cause: String,
}
