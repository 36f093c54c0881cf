//! What must hold at every moment, whatever is done to a cluster: seen in the Host's database, in Docker and in /proc, never
//! through the Host itself, which may be dead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hakuriver::api::public::NodeRow;

use self::living::{Inspected, lives};
use self::rows::{Row, reservations};
use crate::env::Cluster;
use crate::wait;

mod living;
mod rows;

const FINAL: [&str; 4] = ["completed", "failed", "killed", "killed_oom"];

/// Begins the line that says that Docker could not be looked at.
pub const BLIND: &str = "Docker does not tell what lives";

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
    /// VPS that have run, with the container that was theirs afterwards.
    ran: BTreeMap<i64, Option<String>>,
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
        let (mut found, mut living) = self.look();
        // Docker, /proc and the database are not looked at in one moment: one task may have ended and the next begun in between. What
        // is wrong for good is so a second time; what is new the second time is looked at once more.
        for _ in 0..2 {
            if living.is_empty() {
                break;
            }
            let (more, again) = self.look();
            found.extend(more);
            let (lasting, new): (Vec<String>, Vec<String>) = again.into_iter().partition(|one| living.contains(one));
            found.extend(lasting);
            living = new;
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What is wrong in the database, and with what lives.
    fn look(&self) -> (Vec<String>, Vec<String>) {
        // In this order: what was promised, and what a container or process is of, was in the database before.
        let (acknowledged, killed, ran) = {
            let memory = self.memory();
            (memory.acknowledged.clone(), memory.killed.clone(), memory.ran.clone())
        };
        let mut living = Vec::new();
        let containers = self.containers().unwrap_or_else(|fault| {
            living.push(format!("{BLIND}: {fault}"));
            Vec::new()
        });
        let processes = self.processes();
        let mut found = Vec::new();
        let (rows, nodes) = match self.read(&mut found) {
            Ok(read) => read,
            Err(fault) => return (vec![format!("the database cannot be read: {fault}")], Vec::new()),
        };
        self.promises(&rows, &acknowledged, &killed, &mut found);
        self.made_once(&rows, ran, &containers, &mut found);
        reservations(&rows, &nodes, &mut found);
        lives(&rows, &containers, &processes, &mut living);
        (found, living)
    }

    /// A VPS that ran keeps its container. `ran`: as it was before these containers were listed, so what is listed ran, or came after.
    fn made_once(
        &self,
        rows: &BTreeMap<i64, Row>,
        ran: BTreeMap<i64, Option<String>>,
        containers: &[(i64, Inspected)],
        found: &mut Vec<String>,
    ) {
        let mut memory = self.memory();
        for (task, container) in containers {
            match ran.get(task) {
                None => {}
                Some(None) => drop(memory.ran.insert(*task, Some(container.Id.clone()))),
                Some(Some(first)) if *first == container.Id => {}
                Some(Some(first)) => {
                    found.push(format!("the VPS {task} ran in {first}, and was made again as {}", container.Id));
                }
            }
        }
        for row in rows.values().filter(|row| row.kind == "vps" && ["running", "paused"].contains(&row.state.as_str()))
        {
            memory.ran.entry(row.id).or_default();
        }
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
            if row.state == "killed" && row.want != "stop" {
                found.push(format!("task {} is killed, and nobody asked for that: {row:?}", row.id));
            }
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

    /// Waits until everything has ended and nothing is left of it: what faults were there, are no more. Each end may take `limit`.
    #[track_caller]
    pub fn settles(&self, cluster: &Cluster, limit: Duration) {
        wait::while_it_falls("all tasks end, and leave nothing", limit, || {
            let mut found = Vec::new();
            let not_seen = |fault: String| (usize::MAX, fault);
            let (rows, _) = self.read(&mut found).map_err(|fault| not_seen(fault.to_string()))?;
            let open: Vec<String> = rows
                .values()
                .filter(|row| !FINAL.contains(&row.state.as_str()))
                .map(|row| format!("{row:?}"))
                .collect();
            let containers: Vec<String> =
                self.containers().map_err(not_seen)?.into_iter().map(|(_, one)| one.Name).collect();
            let held: Vec<NodeRow> = cluster.nodes().into_iter().filter(|node| node.cores_in_use > 0).collect();
            // By the mark that they carry, and by where they are and write: a task may have cleared its environment.
            let marked = self.processes().into_iter().filter(|process| rows.contains_key(&process.task));
            let mut processes: Vec<String> = marked.map(|process| process.name()).collect();
            processes.extend(cluster.task_processes().iter().map(ToString::to_string));
            if open.is_empty() && containers.is_empty() && held.is_empty() && processes.is_empty() {
                return Ok(());
            }
            let left = open.len() + containers.len() + held.len() + processes.len();
            Err((left, format!("{} open: {open:?}; containers {containers:?}; processes {processes:?}", open.len())))
        });
        self.check();
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
