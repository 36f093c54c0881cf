//! Runners' calls: wire types become what the engine takes.

use std::net::IpAddr;

use crate::api::json::{self, JsonFault};
use crate::api::node::{
    ConditionsWire, Heartbeat, HeartbeatAnswer, InventoryWire, NodeEnvironment, Observed, ObservedAnswer, ObservedTask,
    Register, Usage,
};
use crate::api::public::GpuRow;
use crate::domain::cpuset::CpuSet;
use crate::domain::ids::{Attempt, GpuId, NumaId};
use crate::domain::node::{Conditions, Gpu, Inventory, NumaNode};
use crate::domain::ssh_key::PublicKey;
use crate::domain::state::{Exit, Observation};
use crate::net::http::{Head, Reply};
use crate::sys::clock;
use crate::warning;

use super::super::engine::{ActFault, Beat, Poll, Registration, Seen, Snapshot, What};
use super::super::view::Figures;
use super::nodes::node_name;
use super::{Api, answer};

impl Api {
    /// `POST /register`
    pub(super) fn register(&self, head: &Head, body: &[u8]) -> Result<Reply, ActFault> {
        let asked: Register = json::decode(body).map_err(undecoded)?;
        let address = match &asked.address {
            None => head.peer.ip().to_canonical(),
            Some(text) => text.parse::<IpAddr>().map_err(|_| wrong("address", "an IP address"))?,
        };
        let texts = [&asked.instance, &asked.machine_id, &asked.boot_id, &asked.version];
        ["instance", "machine_id", "boot_id", "version"]
            .into_iter()
            .zip(texts)
            .try_for_each(|(field, text)| word(field, text))?;
        let registration = Registration {
            name: asked.hostname.parse().map_err(|fault| ActFault::new(422, format!("field 'hostname': {fault}")))?,
            instance: required("instance", asked.instance)?,
            machine_id: asked.machine_id,
            boot_id: asked.boot_id,
            version: asked.version,
            address,
            inventory: inventory(asked.inventory)?,
        };
        Ok(answer(200, &self.engine.register(registration)?))
    }

    /// `PUT /heartbeat/{hostname}`
    pub(super) fn heartbeat(&self, name: &str, body: &[u8]) -> Result<Reply, ActFault> {
        let Heartbeat { session, usage, gpu_info, conditions, gpus_gone, environments } =
            json::decode(body).map_err(undecoded)?;
        let ConditionsWire { docker, systemd, memory_limit, freezer } = conditions;
        figures(&gpu_info, &gpus_gone, &environments)?;
        let beat = Beat {
            session,
            figures: Figures { usage: plausible(usage), gpus: gpu_info, environments },
            conditions: Conditions { docker, systemd, memory_limit, freezer },
            gpus_gone: gpus_gone.into_iter().map(GpuId).collect(),
        };
        let host_epoch = self.engine.heartbeat(node_name(name)?, beat)?;
        Ok(answer(200, &HeartbeatAnswer { host_epoch }))
    }

    /// `PUT /runner/{hostname}/observed`
    pub(super) fn observed(&self, name: &str, body: &[u8]) -> Result<Reply, ActFault> {
        let Observed { session, mut complete, tasks: rows, told, epoch, outputs } =
            json::decode(body).map_err(undecoded)?;
        let name = node_name(name)?;
        let mut tasks = Vec::with_capacity(rows.len());
        for row in rows {
            let id = row.task_id.clone();
            match seen(row) {
                Ok(seen) => tasks.push(seen),
                // It costs this report, and not the node: what it tells of others counts. And nothing is called absent.
                Err(fault) => {
                    warning!("node {name}: a report of task {id} is passed over: {}", fault.detail);
                    complete = false;
                }
            }
        }
        // Before the engine is asked: when the end is acknowledged, what came with it is kept, or its node knows that it may not be.
        let outputs = self.take_chunks(&name, &session, outputs)?;
        // What is no id is nobody's: it cannot have been told of.
        let told = told.iter().filter_map(|id| id.parse().ok()).collect();
        let snapshot = Snapshot { session, complete, tasks, told, epoch };
        let (acknowledged, host_epoch) = self.engine.observed(name, snapshot)?;
        Ok(answer(200, &ObservedAnswer { acknowledged, host_epoch, outputs }))
    }

    /// `GET /runner/{hostname}/desired?session=&version=[&changes=1][&parts=1[&through=]]`: waits until the list is another one than the
    /// version that the Runner has, one heartbeat interval at most. With `changes`, the answer may be what is new since
    /// that version alone; with `parts`, a part of a long list.
    pub(super) fn desired(&self, name: &str, head: &Head) -> Result<Reply, ActFault> {
        let name = node_name(name)?;
        let session = head.query("session").ok_or_else(|| wrong("session", "the one given at registration"))?;
        let known = head.query("version").unwrap_or_default();
        let poll = Poll {
            session: session.to_owned(),
            known: known.to_owned(),
            changes: head.query("changes") == Some("1"),
            parts: head.query("parts") == Some("1"),
            through: match head.query("through") {
                None | Some("") => None,
                Some(id) => Some(id.parse().map_err(|_| wrong("through", "the id of a task"))?),
            },
            may_wait: true,
        };
        Ok(answer(200, &self.engine.desired(&name, poll, self.poll)?))
    }
}

/// 400 for what is no JSON, 422 with the field for what is not of its type.
pub(super) fn undecoded(fault: JsonFault) -> ActFault {
    let status = match &fault {
        JsonFault::Malformed(_) => 400,
        JsonFault::Field { .. } => 422,
    };
    ActFault::new(status, fault.to_string())
}

fn wrong(field: &str, expected: &str) -> ActFault {
    ActFault::new(422, format!("field '{field}': expected {expected}"))
}

fn required(field: &str, text: String) -> Result<String, ActFault> {
    if text.is_empty() { Err(wrong(field, "a text that is not empty")) } else { Ok(text) }
}

/// GPUs or NUMA nodes of a machine, and environments on one: more than there are anywhere.
const MOST: usize = 4_096;
/// Bytes of memory: all nodes together have less than 2^63.
const MOST_MEMORY: u64 = 1 << 50;
/// Bytes of a name, an id or a version.
const LONGEST_WORD: usize = 1_024;
/// Bytes of what is told about a task: the rest of it is dropped.
const LONGEST_TEXT: usize = 8_192;

/// What a machine can have. A figure beyond that is none: sums of it would be told to everybody as no number.
fn plausible(usage: Usage) -> Usage {
    let memory = |bytes: Option<u64>| bytes.filter(|bytes| *bytes <= MOST_MEMORY);
    let degrees = |figure: Option<f64>| figure.filter(|degrees| degrees.abs() <= 1_000.0);
    Usage {
        cpu_percent: usage.cpu_percent.map(|percent| percent.clamp(0.0, 100.0)).filter(|percent| percent.is_finite()),
        memory_used_bytes: memory(usage.memory_used_bytes),
        memory_total_bytes: memory(usage.memory_total_bytes),
        avg_temp: degrees(usage.avg_temp),
        max_temp: degrees(usage.max_temp),
    }
}

/// A node is trusted with tasks, and not with the Host's memory, its log and its database: what is kept of a text is bounded.
fn word(field: &str, text: &str) -> Result<(), ActFault> {
    if text.len() <= LONGEST_WORD { Ok(()) } else { Err(wrong(field, "at most 1024 bytes")) }
}

fn few(field: &str, count: usize) -> Result<(), ActFault> {
    if count <= MOST { Ok(()) } else { Err(wrong(field, "at most 4096 items")) }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" …");
    }
    text
}

fn figures(gpus: &[GpuRow], gone: &[u32], environments: &[NodeEnvironment]) -> Result<(), ActFault> {
    few("gpu_info", gpus.len())?;
    few("gpus_gone", gone.len())?;
    few("environments", environments.len())?;
    let of_gpus = gpus.iter().flat_map(|gpu| [&gpu.name, &gpu.driver_version, &gpu.pci_bus_id]);
    of_gpus.into_iter().try_for_each(|text| word("gpu_info", text))?;
    let of_environments = environments.iter().flat_map(|known| [&known.name, &known.state]);
    of_environments.into_iter().try_for_each(|text| word("environments", text))
}

fn inventory(wire: InventoryWire) -> Result<Inventory, ActFault> {
    let fault = |field: &str, why: String| ActFault::new(422, format!("field '{field}': {why}"));
    few("numa", wire.numa.len())?;
    few("gpus", wire.gpus.len())?;
    wire.gpus.iter().try_for_each(|gpu| word("gpus", &gpu.uuid))?;
    // A CPU has one core and one NUMA node. Each list alone is bounded, but a body holds a hundred thousand of them.
    let most = CpuSet::MAX_ID as usize + 1;
    let mut left = most;
    let siblings = |list: &String| -> Result<CpuSet, ActFault> {
        let list: CpuSet = list.parse().map_err(|why| fault("siblings", why))?;
        left = left.checked_sub(list.0.len()).ok_or_else(|| wrong("siblings", "each CPU in one list only"))?;
        Ok(list)
    };
    let cores = || wire.numa.iter().flat_map(|node| &node.cores);
    if cores().count() > most || cores().any(|cpu| *cpu > CpuSet::MAX_ID) {
        return Err(wrong("numa", "each CPU in one NUMA node only, with a number below 65536"));
    }
    Ok(Inventory {
        siblings: wire.siblings.iter().map(siblings).collect::<Result<_, _>>()?,
        cpus: wire.cpus.parse().map_err(|why| fault("cpus", why))?,
        memory: wire.memory_bytes.min(MOST_MEMORY),
        numa: wire
            .numa
            .into_iter()
            .map(|node| NumaNode {
                id: NumaId(node.id),
                cpus: CpuSet(node.cores.into_iter().collect()),
                memory: node.memory_bytes,
            })
            .collect(),
        gpus: wire
            .gpus
            .into_iter()
            .map(|gpu| Gpu { id: GpuId(gpu.id), uuid: gpu.uuid, numa: gpu.numa.map(NumaId) })
            .collect(),
    })
}

/// Signals have 7 bits in a wait status (wait(2)).
const SIGNALS: i32 = 127;
/// More attempts than any task comes to: what is counted on from here must not run over.
const ATTEMPTS: u32 = 1 << 30;

pub(in crate::host) fn seen(task: ObservedTask) -> Result<Seen, ActFault> {
    if task.attempt >= ATTEMPTS {
        return Err(wrong("attempt", &format!("a number below {ATTEMPTS}")));
    }
    // A task has a hand in it: what is no signal is none.
    let exit = Exit { code: task.exit_code, signal: task.exit_signal.filter(|signal| (1..=SIGNALS).contains(signal)) };
    let message = task.reason.map(shortened);
    let report = match (task.state.as_str(), message) {
        ("starting", _) => Observation::Starting { progress: task.progress.map(shortened) },
        ("running", _) => Observation::Running,
        ("paused", _) => Observation::Paused,
        ("completed", message) => {
            Observation::Exited { exit: Exit { code: exit.code.or(Some(0)), ..exit }, oom: false, message }
        }
        ("killed_oom", message) => Observation::Exited { exit, oom: true, message },
        // Ended by itself with a status that is not 0: the status is the reason.
        ("failed", None) if exit.code.is_some_and(|code| code != 0) => {
            Observation::Exited { exit, oom: false, message: None }
        }
        ("failed", message) => {
            Observation::Failed { exit, message: message.unwrap_or_else(|| "its node gave no reason".to_owned()) }
        }
        ("killed", message) => Observation::Stopped { exit, message },
        ("returned", _) => Observation::Returned,
        ("unbegun", _) => Observation::Unbegun,
        ("gone", _) => Observation::Gone,
        ("unknown", _) => return Ok(Seen { what: What::Unknown, ..facts(task.task_id, task.attempt, task.rev)? }),
        (other, _) => return Err(wrong("state", &format!("a state of a task on a node, not {other:?}"))),
    };
    Ok(Seen {
        what: What::Report(report),
        ssh_port: task.ssh_port,
        // Clients will trust these lines: only what is a key is kept, and nothing beside it.
        host_keys: task.host_keys.map(|lines| {
            let keys = lines.iter().filter_map(|line| PublicKey::parse(line).ok());
            keys.filter_map(|key| {
                let line = key.to_string();
                let mut words = line.split(' ');
                Some(format!("{} {}", words.next()?, words.next()?))
            })
            .collect()
        }),
        started_ms: task.started_at.as_deref().and_then(clock::parse_rfc3339),
        completed_ms: task.completed_at.as_deref().and_then(clock::parse_rfc3339),
        stdout_bytes: task.stdout_bytes,
        stderr_bytes: task.stderr_bytes,
        unit: task.unit.map(shortened),
        nothing_left: task.nothing_left,
        ..facts(task.task_id, task.attempt, task.rev)?
    })
}

fn facts(id: String, attempt: u32, rev: u64) -> Result<Seen, ActFault> {
    Ok(Seen {
        id: id.parse().map_err(|_| wrong("task_id", "a decimal number"))?,
        attempt: Attempt(attempt),
        rev,
        what: What::Unknown,
        ssh_port: None,
        host_keys: None,
        started_ms: None,
        completed_ms: None,
        stdout_bytes: None,
        stderr_bytes: None,
        unit: None,
        nothing_left: false,
    })
}
