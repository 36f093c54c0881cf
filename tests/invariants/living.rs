//! What lives, as Docker and /proc have it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Output};

use hakuriver::domain::cpuset::CpuSet;
use nanoserde::DeJson;

use super::rows::Row;
use super::{FINAL, Witness, number};
use crate::tasks::{pids, start_time};

/// A call of Docker that takes longer has not come back. In seconds.
const DEADLINE: &str = "60";

#[derive(DeJson)]
#[allow(non_snake_case, reason = "Docker's names")]
pub struct Inspected {
    pub Id: String,
    pub Name: String,
    State: ContainerState,
    HostConfig: HostConfig,
    Config: ContainerConfig,
}

#[derive(DeJson)]
#[allow(non_snake_case, reason = "Docker's names")]
struct ContainerState {
    Running: bool,
    Pid: u32,
}

#[derive(DeJson)]
#[allow(non_snake_case, reason = "Docker's names")]
struct HostConfig {
    CpusetCpus: String,
}

#[derive(DeJson)]
#[allow(non_snake_case, reason = "Docker's names")]
struct ContainerConfig {
    Labels: BTreeMap<String, String>,
}

/// A process of a task, by the mark in its environment.
pub(super) struct Process {
    pub task: i64,
    /// Its number, and when it began: so that it is known again, and not taken for another one.
    pid: u32,
    begun: u64,
    /// Where it may run.
    cpus: String,
    /// Its PID namespace: each run of a container has its own.
    namespace: String,
    /// Its parent is of another task, or of none.
    is_first: bool,
}

impl Process {
    pub(super) fn name(&self) -> String {
        format!("{} (begun at {})", self.pid, self.begun)
    }
}

impl Witness {
    /// All of ours, with the ids of their tasks. An error is no list: what Docker does not tell is not gone.
    pub(super) fn containers(&self) -> Result<Vec<(i64, Inspected)>, String> {
        if self.docker.is_empty() {
            return Ok(Vec::new());
        }
        let filter = format!("label=hakuriver.cluster={}", self.cluster_id);
        let list =
            self.ask_docker(&["ps", "-aq", "--no-trunc", "--filter", &filter, "--filter", "label=hakuriver.task"]);
        let list =
            list.and_then(|output| if output.status.success() { Ok(output) } else { Err(complaint(&output)) })?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let ids: Vec<&str> = list.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut args = vec!["inspect", "-f", "{{json .}}"];
        args.extend(ids);
        // In place of one that is removed meanwhile there is an empty line at most, and a word about it.
        let all = self.ask_docker(&args)?;
        let said = String::from_utf8_lossy(&all.stderr).into_owned();
        let is_gone = !said.is_empty() && said.lines().all(|line| line.contains("No such"));
        if !all.status.success() && !is_gone {
            return Err(complaint(&all));
        }
        let all = String::from_utf8_lossy(&all.stdout).into_owned();
        let parsed = all
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| Inspected::deserialize_json(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        Ok(parsed.map(|one| (number(&one.Config.Labels["hakuriver.task"]), one)).collect())
    }

    fn ask_docker(&self, args: &[&str]) -> Result<Output, String> {
        let output = Command::new("timeout").arg(DEADLINE).args(&self.docker).args(args).output();
        output.map_err(|fault| format!("cannot run docker: {fault}"))
    }

    /// Every process with a task's mark.
    pub(super) fn processes(&self) -> Vec<Process> {
        let task_of = |pid: u32| -> Option<i64> {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let environment = String::from_utf8_lossy(&environment);
            let id = environment.split('\0').find_map(|variable| variable.strip_prefix("HAKURIVER_TASK_ID="))?;
            id.parse().ok()
        };
        let field = |pid: u32, name: &str| -> Option<String> {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        let marked = pids().into_iter().filter_map(|pid| {
            let task = task_of(pid)?;
            let parent = field(pid, "PPid:")?.parse().ok()?;
            let is_first = task_of(parent) != Some(task);
            let namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?.to_string_lossy().into_owned();
            let cpus = field(pid, "Cpus_allowed_list:")?;
            // Last: it still lives, so its parent did not end meanwhile and leave it to another one.
            Some(Process { task, pid, begun: start_time(pid)?, cpus, namespace, is_first })
        });
        marked.collect()
    }
}

fn complaint(output: &Output) -> String {
    // `timeout`'s own.
    if output.status.code() == Some(124) {
        return format!("no answer within {DEADLINE} s");
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    format!("docker ended with {}: {said}", output.status)
}

/// What lives is known, lives once, shares no core, and is of a task that is not over. Each line names what it is about so that two
/// looks which find the same line have seen the same thing.
pub(super) fn lives(
    rows: &BTreeMap<i64, Row>,
    containers: &[(i64, Inspected)],
    processes: &[Process],
    found: &mut Vec<String>,
) {
    contained(rows, containers, found);
    bound(rows, containers, processes, found);
    let mut firsts: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    let mut worlds: BTreeMap<i64, BTreeMap<&str, String>> = BTreeMap::new();
    for process in processes {
        // Other clusters' tasks, and those that a database which was put back does not know.
        let Some(row) = rows.get(&process.task) else { continue };
        if is_over(row) {
            found.push(format!("task {} is {}, and its process {} lives", row.id, row.state, process.name()));
        }
        if row.kind == "vps" {
            // Sessions in a VPS are children of its sshd, which is a child of ours: many, and they come and go. So what is counted is
            // the containers that they are in, each told by its oldest process.
            let worlds = worlds.entry(row.id).or_default();
            worlds.entry(&process.namespace).or_insert_with(|| process.name());
        } else if process.is_first {
            firsts.entry(row.id).or_default().push(process.name());
        }
    }
    for (task, firsts) in firsts.into_iter().filter(|(_, firsts)| firsts.len() > 1) {
        found.push(format!("task {task} lives twice, as {}", firsts.join(" and as ")));
    }
    for (task, worlds) in worlds.into_iter().filter(|(_, worlds)| worlds.len() > 1) {
        let worlds: Vec<String> = worlds.into_iter().map(|(world, process)| format!("{process} in {world}")).collect();
        found.push(format!("the VPS {task} lives twice, as {}", worlds.join(" and as ")));
    }
}

/// Its container and its processes are gone; but of a task whose result was given up without them, nothing is said.
fn is_over(row: &Row) -> bool {
    const GIVEN_UP: [&str; 2] = ["was forgotten while it was offline", "the database was restored from a backup"];
    let note = row.note.as_deref().unwrap_or_default();
    FINAL.contains(&row.state.as_str()) && !GIVEN_UP.iter().any(|words| note.contains(words))
}

fn contained(rows: &BTreeMap<i64, Row>, containers: &[(i64, Inspected)], found: &mut Vec<String>) {
    let mut counts: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for (task, container) in containers {
        counts.entry(*task).or_default().insert(&container.Id);
        let Some(row) = rows.get(task) else {
            found.push(format!("the container {} is of no task that is known", container.Name));
            continue;
        };
        let attempt: i64 = container.Config.Labels["hakuriver.attempt"].parse().unwrap_or(-1);
        if attempt > row.attempt {
            found.push(format!(
                "the container {} is of attempt {attempt}, and the task is in {}",
                container.Name, row.attempt
            ));
        }
        if container.State.Running && is_over(row) {
            let (name, id, pid) = (&container.Name, &container.Id, container.State.Pid);
            found.push(format!("task {task} is {}, and its container {name} ({id}) runs as {pid}", row.state));
        }
    }
    for (task, ids) in counts.into_iter().filter(|(_, ids)| ids.len() > 1) {
        found.push(format!("task {task} has {} containers: {ids:?}", ids.len()));
    }
}

/// No core is bound to two tasks.
fn bound(rows: &BTreeMap<i64, Row>, containers: &[(i64, Inspected)], processes: &[Process], found: &mut Vec<String>) {
    let running = containers.iter().filter(|(_, container)| container.State.Running);
    let lists = running.map(|(task, container)| (*task, container.HostConfig.CpusetCpus.as_str()));
    let firsts =
        processes.iter().filter(|process| process.is_first).map(|process| (process.task, process.cpus.as_str()));
    let mut cpus: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    for (task, list) in lists.chain(firsts) {
        let Some(row) = rows.get(&task).filter(|row| row.cores > 0) else { continue };
        let set: CpuSet = list.parse().unwrap_or_else(|e| panic!("{e}"));
        for cpu in set.iter() {
            let other = cpus.insert((row.node.as_deref().unwrap_or(""), cpu), task);
            if let Some(other) = other.filter(|other| *other != task) {
                found.push(format!("CPU {cpu} of {:?} is bound to {other} and to {task}", row.node));
            }
        }
    }
}
