//! What the Host has written: its tasks, its nodes, and what it says has happened.

use std::collections::BTreeMap;
use std::time::Duration;

use hakuriver::domain::cpuset::CpuSet;
use nanoserde::DeJson;
use rusqlite::{Connection, OpenFlags};

use super::{FINAL, Witness};

/// From placement to the report that nothing of it lives.
const HOLDING: [&str; 4] = ["assigning", "running", "paused", "lost"];

/// A task's row.
#[derive(Debug)]
pub(super) struct Row {
    pub id: i64,
    pub kind: String,
    pub state: String,
    pub want: String,
    pub attempt: i64,
    pub exit_code: Option<i64>,
    pub exit_signal: Option<i64>,
    pub node: Option<String>,
    pub gpus: String,
    pub cores: i64,
    pub memory: i64,
    pub in_line: bool,
    pub note: Option<String>,
}

/// A node's: its name, and what it has.
pub(super) struct Node {
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

impl Witness {
    /// The rows of one moment; the events since the last look are checked on the way.
    pub(super) fn read(&self, found: &mut Vec<String>) -> rusqlite::Result<(BTreeMap<i64, Row>, Vec<Node>)> {
        // Read-only, and never the one that tidies up the log: the Host's next start has to find it as it was left.
        let mut conn = Connection::open_with_flags(&self.database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.busy_timeout(Duration::from_secs(5))?;
        let moment = conn.transaction()?;
        let mut statement = moment.prepare(
            "SELECT id, kind, state, want, attempt, exit_code, exit_signal, node, gpus, json_extract(spec, '$.cores'), \
             coalesce(json_extract(spec, '$.memory'), 0), in_line, note FROM tasks",
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
                note: row.get(12)?,
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
}

/// What nodes have is held once, and no more of it than there is.
pub(super) fn reservations(rows: &BTreeMap<i64, Row>, nodes: &[Node], found: &mut Vec<String>) {
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
