//! What must hold at every moment, whatever is done to a cluster: seen in the Host's database, in Docker and in /proc, never
//! through the Host itself, which may be dead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hakuriver::api::public::NodeRow;
use hakuriver::domain::cpuset::CpuSet;
use nanoserde::DeJson;
use rusqlite::{Connection, OpenFlags};

use crate::env::Cluster;
use crate::tasks::{pids, start_time};
use crate::wait;

const FINAL: [&str; 4] = ["completed", "failed", "killed", "killed_oom"];
/// From placement to the report that nothing of it lives.
const HOLDING: [&str; 4] = ["assigning", "running", "paused", "lost"];

/// Looks at a cluster again and again, and remembers what may never change.
pub struct Witness {
    database: PathBuf,
    cluster_id: String,
    /// With arguments that lead to the daemon. Empty: Docker is not looked at.
    docker: Vec<String>,
    memory: Mutex<Memory>,
}

/// What was seen or promised before.
#[derive(Default)]
struct Memory {
    /// The newest event that was looked at, and where it left each task.
    seq: i64,
    states: BTreeMap<i64, String>,
    attempts: BTreeMap<i64, i64>,
    exits: BTreeMap<i64, (Option<i64>, Option<i64>)>,
    /// Tasks whose submission was answered.
    acknowledged: BTreeSet<i64>,
    /// Those whose kill was.
    killed: BTreeSet<i64>,
    /// The exit code of a task that is left alone.
    true_codes: BTreeMap<i64, i64>,
    /// What a task writes to each time it begins.
    starts: BTreeMap<i64, PathBuf>,
}

/// A task's row.
#[derive(Debug)]
struct Row {
    id: i64,
    kind: String,
    state: String,
    want: String,
    attempt: i64,
    exit_code: Option<i64>,
    exit_signal: Option<i64>,
    node: Option<String>,
    gpus: String,
    cores: i64,
    memory: i64,
    in_line: bool,
}

/// A node's: its name, and what it has.
struct Node {
    name: String,
    cores: i64,
    memory: i64,
    draining: bool,
}

#[derive(DeJson)]
struct Inventory {
    cpus: String,
    memory: i64,
}

#[derive(DeJson)]
#[allow(non_snake_case, reason = "Docker's names")]
struct Inspected {
    Name: String,
    State: ContainerState,
    HostConfig: HostConfig,
    Config: ContainerConfig,
}

#[derive(DeJson)]
#[allow(non_snake_case, reason = "Docker's names")]
struct ContainerState {
    Running: bool,
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

impl Witness {
    /// Of a cluster whose Host has been up before, with its containers on the shared daemon.
    pub fn of(cluster: &Cluster) -> Self {
        Self::at(cluster).expect("the Host has been up")
    }

    fn at(cluster: &Cluster) -> Option<Self> {
        Some(Self {
            database: cluster.database(),
            cluster_id: cluster.cluster_id()?.to_owned(),
            docker: vec!["docker".to_owned()],
            memory: Mutex::default(),
        })
    }

    /// Looks at another daemon; none where `docker` is empty.
    pub fn with_docker(mut self, docker: &[&str]) -> Self {
        self.docker = docker.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Host has answered that it has these.
    pub fn acknowledged<'a>(&self, ids: impl IntoIterator<Item = &'a String>) {
        self.memory().acknowledged.extend(ids.into_iter().map(|id| number(id)));
    }

    /// The Host has answered that it will kill this one.
    pub fn killed(&self, id: &str) {
        self.memory().killed.insert(number(id));
    }

    /// What it ends with if it is left alone, and the file to which it adds a line whenever it begins.
    pub fn expect(&self, id: &str, code: i64, starts: Option<PathBuf>) {
        let mut memory = self.memory();
        memory.true_codes.insert(number(id), code);
        memory.starts.extend(starts.map(|path| (number(id), path)));
    }

    /// Everything that must hold now.
    #[track_caller]
    pub fn check(&self) {
        let found = self.violations();
        assert!(found.is_empty(), "what must always hold does not:\n{}", found.join("\n"));
    }

    /// What does not hold though it must, a line each.
    pub fn violations(&self) -> Vec<String> {
        let (mut found, living) = self.look();
        if !living.is_empty() {
            // Docker and /proc are not looked at in one moment: one task may have ended and the next begun in between. What is
            // wrong for good is so a second time.
            let (more, again) = self.look();
            found.extend(more);
            found.extend(living.into_iter().filter(|one| again.contains(one)));
        }
        found
    }

    /// What is wrong in the database, and with what lives.
    fn look(&self) -> (Vec<String>, Vec<String>) {
        // In this order: what was promised, and what a container or process is of, was in the database before.
        let promised = {
            let memory = self.memory();
            (memory.acknowledged.clone(), memory.killed.clone())
        };
        let containers = self.containers();
        let processes = self.processes();
        let mut found = Vec::new();
        let (rows, nodes) = match self.read(&mut found) {
            Ok(read) => read,
            Err(fault) => return (vec![format!("the database cannot be read: {fault}")], Vec::new()),
        };
        self.promises(&rows, &promised.0, &promised.1, &mut found);
        reservations(&rows, &nodes, &mut found);
        let mut living = Vec::new();
        lives(&rows, &containers, &processes, &mut living);
        (found, living)
    }

    /// The rows of one moment; the events since the last look are checked on the way.
    fn read(&self, found: &mut Vec<String>) -> rusqlite::Result<(BTreeMap<i64, Row>, Vec<Node>)> {
        // Read-only, and never the one that tidies up the log: the Host's next start has to find it as it was left.
        let mut conn = Connection::open_with_flags(&self.database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.busy_timeout(Duration::from_secs(5))?;
        let moment = conn.transaction()?;
        let mut statement = moment.prepare(
            "SELECT id, kind, state, want, attempt, exit_code, exit_signal, node, gpus, json_extract(spec, '$.cores'), \
             coalesce(json_extract(spec, '$.memory'), 0), in_line FROM tasks",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Row {
                id: row.get(0)?,
                kind: row.get(1)?,
                state: row.get(2)?,
                want: row.get(3)?,
                attempt: row.get(4)?,
                exit_code: row.get(5)?,
                exit_signal: row.get(6)?,
                node: row.get(7)?,
                gpus: row.get(8)?,
                cores: row.get(9)?,
                memory: row.get(10)?,
                in_line: row.get(11)?,
            })
        })?;
        let rows: BTreeMap<i64, Row> = rows.map(|row| row.map(|row| (row.id, row))).collect::<rusqlite::Result<_>>()?;
        let mut statement = moment.prepare("SELECT name, inventory, draining FROM nodes")?;
        let nodes = statement
            .query_map([], |row| {
                let text: String = row.get(1)?;
                let inventory = Inventory::deserialize_json(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                let cpus: CpuSet = inventory.cpus.parse().unwrap_or_else(|e| panic!("{e}"));
                Ok(Node {
                    name: row.get(0)?,
                    cores: cpus.iter().count() as i64,
                    memory: inventory.memory,
                    draining: row.get(2)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut memory = self.memory();
        let mut statement = moment.prepare(
            "SELECT seq, task, from_state, to_state FROM events WHERE task IS NOT NULL AND seq > ?1 ORDER BY seq",
        )?;
        let events = statement.query_map([memory.seq], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Option<String>>(2)?,
                row.get::<_, String>(3)?,
            ))
        })?;
        for event in events {
            let (seq, task, from, to) = event?;
            memory.seq = seq;
            let before = memory.states.insert(task, to.clone());
            if before.is_some() && before != from {
                found.push(format!("task {task} went on from {from:?} to {to}, but it was {before:?} (event {seq})"));
            }
            if from.as_deref().is_some_and(|from| FINAL.contains(&from) && from != to) {
                found.push(format!("task {task} left the final state {from:?} for {to} (event {seq})"));
            }
        }
        for row in rows.values() {
            if memory.states.get(&row.id).is_some_and(|state| *state != row.state) {
                found.push(format!(
                    "task {} is {}, and its last event says {:?}",
                    row.id,
                    row.state,
                    memory.states.get(&row.id)
                ));
            }
        }
        Ok((rows, nodes))
    }

    /// What was answered or seen before is still so.
    fn promises(
        &self,
        rows: &BTreeMap<i64, Row>,
        acknowledged: &BTreeSet<i64>,
        killed: &BTreeSet<i64>,
        found: &mut Vec<String>,
    ) {
        let mut memory = self.memory();
        for id in acknowledged.iter().filter(|id| !rows.contains_key(id)) {
            found.push(format!("task {id} was accepted, and is gone"));
        }
        for row in killed.iter().filter_map(|id| rows.get(id)) {
            if row.want != "stop" && !FINAL.contains(&row.state.as_str()) {
                found.push(format!("the kill of task {} is forgotten: {row:?}", row.id));
            }
        }
        for row in rows.values() {
            let before = memory.attempts.insert(row.id, row.attempt).unwrap_or(0);
            if row.attempt < before {
                found.push(format!("task {} is in attempt {} after {before}", row.id, row.attempt));
            }
            if FINAL.contains(&row.state.as_str()) {
                let now = (row.exit_code, row.exit_signal);
                let before = memory.exits.insert(row.id, now).unwrap_or(now);
                if before != now {
                    found.push(format!("the exit of task {} was {before:?} and is {now:?}", row.id));
                }
            }
            self.truth(row, &memory, found);
        }
    }

    /// A recorded exit code is the true one, or absent.
    fn truth(&self, row: &Row, memory: &Memory, found: &mut Vec<String>) {
        if row.state == "completed" && row.exit_code != Some(0) {
            found.push(format!("a task that is completed without exit code 0: {row:?}"));
        }
        let Some(&code) = memory.true_codes.get(&row.id) else { return };
        let starts =
            memory.starts.get(&row.id).map(|path| fs::read_to_string(path).unwrap_or_default().lines().count());
        if starts.is_some_and(|count| count > 1) {
            found.push(format!("task {} began {starts:?} times: {row:?}", row.id));
        }
        if row.state == "completed" && starts == Some(0) {
            found.push(format!("a task that is completed and never began: {row:?}"));
        }
        let is_true = match (row.state.as_str(), row.exit_code) {
            ("completed", Some(seen)) => seen == code && code == 0,
            // Of a kill, or of its want: 128 and the signal's number.
            ("failed" | "killed" | "killed_oom", Some(seen)) => {
                seen == code || row.exit_signal.is_some_and(|signal| seen == 128 + signal)
            }
            _ => true,
        };
        if !is_true {
            found.push(format!("a task that ends with {code} if it is left alone: {row:?}"));
        }
    }

    /// All of ours, with the ids of their tasks.
    fn containers(&self) -> Vec<(i64, Inspected)> {
        let Some((program, first)) = self.docker.split_first() else { return Vec::new() };
        let run = |args: &[&str]| {
            let output = Command::new(program).args(first).args(args).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        let filter = format!("label=hakuriver.cluster={}", self.cluster_id);
        let list = run(&["ps", "-aq", "--no-trunc", "--filter", &filter, "--filter", "label=hakuriver.task"]);
        let ids: Vec<&str> = list.split_whitespace().collect();
        if ids.is_empty() {
            return Vec::new();
        }
        let mut args = vec!["inspect", "-f", "{{json .}}"];
        args.extend(ids);
        // In place of one that is removed meanwhile there is an empty line at most.
        let all = run(&args);
        let parsed = all
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| Inspected::deserialize_json(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        parsed.map(|one| (number(&one.Config.Labels["hakuriver.task"]), one)).collect()
    }

    /// The first process of each life of a task: its number and where it may run.
    fn processes(&self) -> Vec<(i64, u32, String)> {
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
        let firsts = pids().into_iter().filter_map(|pid| {
            let task = task_of(pid)?;
            let parent = field(pid, "PPid:")?.parse().ok()?;
            // Its parent is of another task, or of none; and it still lives.
            (task_of(parent) != Some(task) && start_time(pid).is_some()).then_some(())?;
            Some((task, pid, field(pid, "Cpus_allowed_list:")?))
        });
        firsts.collect()
    }

    /// Waits until everything has ended and nothing is left of it: what faults were there, are no more.
    #[track_caller]
    pub fn settles(&self, cluster: &Cluster, limit: Duration) {
        wait::until("all tasks end, and leave nothing", limit, || {
            let mut found = Vec::new();
            let (rows, _) = self.read(&mut found).map_err(|fault| fault.to_string())?;
            let open: Vec<String> = rows
                .values()
                .filter(|row| !FINAL.contains(&row.state.as_str()))
                .map(|row| format!("{row:?}"))
                .collect();
            let containers: Vec<String> = self.containers().into_iter().map(|(_, one)| one.Name).collect();
            let held: Vec<NodeRow> = cluster.nodes().into_iter().filter(|node| node.cores_in_use > 0).collect();
            let processes = cluster.task_processes();
            if open.is_empty() && containers.is_empty() && held.is_empty() && processes.is_empty() {
                return Ok(());
            }
            Err(format!("{} open: {open:?}; containers {containers:?}; processes {processes:?}", open.len()))
        });
        self.check();
    }
}

/// What nodes have is held once, and no more of it than there is.
fn reservations(rows: &BTreeMap<i64, Row>, nodes: &[Node], found: &mut Vec<String>) {
    let mut gpus: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let mut sums: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for row in rows.values().filter(|row| HOLDING.contains(&row.state.as_str()) && !row.in_line) {
        let Some(node) = row.node.as_deref() else {
            found.push(format!("a task that is placed nowhere: {row:?}"));
            continue;
        };
        for gpu in row.gpus.split(',').filter(|gpu| !gpu.is_empty()) {
            if let Some(other) = gpus.insert((node, gpu), row.id) {
                found.push(format!("GPU {gpu} of {node} is held by {other} and by {}", row.id));
            }
        }
        let (cores, memory) = sums.entry(node).or_default();
        *cores += row.cores;
        *memory += row.memory;
    }
    for (name, (cores, memory)) in sums {
        // A node that was forgotten has nothing any more.
        let Some(node) = nodes.iter().find(|node| node.name == name) else { continue };
        if cores > node.cores || memory > node.memory {
            let draining = if node.draining { " (draining)" } else { "" };
            found.push(format!(
                "{name}{draining}: {cores} cores of {} and {memory} bytes of {} are held",
                node.cores, node.memory
            ));
        }
    }
}

/// What lives is known, lives once, and shares no core.
fn lives(
    rows: &BTreeMap<i64, Row>,
    containers: &[(i64, Inspected)],
    processes: &[(i64, u32, String)],
    found: &mut Vec<String>,
) {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    let mut cpus: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    let mut takes = |task: i64, list: &str, found: &mut Vec<String>| {
        let Some(row) = rows.get(&task).filter(|row| row.cores > 0) else { return };
        let set: CpuSet = list.parse().unwrap_or_else(|e| panic!("{e}"));
        for cpu in set.iter() {
            let other = cpus.insert((row.node.as_deref().unwrap_or(""), cpu), task);
            if let Some(other) = other.filter(|other| *other != task) {
                found.push(format!("CPU {cpu} of {:?} is bound to {other} and to {task}", row.node));
            }
        }
    };
    for (task, container) in containers {
        *counts.entry(*task).or_default() += 1;
        if container.State.Running {
            takes(*task, &container.HostConfig.CpusetCpus, found);
        }
        match rows.get(task) {
            None => found.push(format!("the container {} is of no task that is known", container.Name)),
            Some(row) => {
                let attempt: i64 = container.Config.Labels["hakuriver.attempt"].parse().unwrap_or(-1);
                if attempt > row.attempt {
                    found.push(format!("the container {} is of attempt {attempt}: {row:?}", container.Name));
                }
            }
        }
    }
    for (task, count) in counts.into_iter().filter(|(_, count)| *count > 1) {
        found.push(format!("task {task} has {count} containers"));
    }
    let mut alive: BTreeMap<i64, u32> = BTreeMap::new();
    for (task, pid, list) in processes {
        // Sessions in a VPS are children of its sshd, which is a child of ours: many, and they come and go.
        let Some(row) = rows.get(task).filter(|row| row.kind == "command") else { continue };
        if let Some(other) = alive.insert(*task, *pid) {
            found.push(format!("task {task} lives twice, as {other} and as {pid}: {row:?}"));
        }
        takes(*task, list, found);
    }
}

/// What does not hold though it must when a test is over, whatever it did; nothing where there is no database to be read.
pub fn at_the_end(cluster: &Cluster) -> Vec<String> {
    let Some(witness) = Witness::at(cluster) else { return Vec::new() };
    match witness.read(&mut Vec::new()) {
        // Some tests damage it.
        Err(_) => Vec::new(),
        Ok(_) => witness.violations(),
    }
}

#[track_caller]
fn number(id: &str) -> i64 {
    id.parse().unwrap_or_else(|_| panic!("{id:?} is no task id"))
}
