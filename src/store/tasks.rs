//! Tasks in the database.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use crate::domain::ids::{Attempt, GpuId, NumaId, TaskId};
use crate::domain::placement::Placement;
use crate::domain::spec::TaskSpec;
use crate::domain::state::{Exit, Standing, State, Want};

use super::{Store, StoreFault, int, natural, spec_row};

/// All that is kept of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub id: TaskId,
    /// One for all tasks of a submission.
    pub batch: TaskId,
    pub spec: Arc<TaskSpec>,
    pub standing: Standing,
    /// From its placement on.
    pub placement: Option<Placement>,
    /// Milliseconds since 1970, as the other times.
    pub submitted_ms: u64,
    pub started_ms: Option<u64>,
    pub completed_ms: Option<u64>,
    pub ssh_port: Option<u16>,
    /// Public host keys, `<type> <base64>` each.
    pub host_keys: Vec<String>,
    /// How much it wrote to its standard output in all, in bytes. None: it has not ended, or nobody knows.
    pub stdout_bytes: Option<u64>,
    /// The same for its standard error.
    pub stderr_bytes: Option<u64>,
    /// The systemd scope it runs, or ran, in.
    pub unit: Option<String>,
}

/// What a clean-up removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Rows of every kind.
    pub rows: usize,
    /// The tasks among them.
    pub tasks: Vec<TaskId>,
}

/// `json_valid` stands in for a check of the text: nanoserde must not see one that is not JSON.
pub(super) const COLUMNS: &str = "id, batch, state, want, attempt, rev, note, exit_code, exit_signal, node, numa, gpus, \
     submitted_ms, started_ms, completed_ms, ssh_port, host_keys, iif(json_valid(spec), spec, NULL), \
     stdout_bytes, stderr_bytes, unit, in_line";

/// A row as a task; the inner Err says why this one cannot be read, whatever is the matter with others.
pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Result<Task, String>> {
    let id = TaskId::from_u64(natural(row.get(0)?));
    let fault = |why: String| format!("task {id} in the database cannot be read: {why}");
    match read(id, row) {
        Ok(task) => Ok(task.map_err(fault)),
        Err(error) if is_of_the_row(&error) => Ok(Err(fault(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// A value that is not of its column's type, or no text.
pub(super) fn is_of_the_row(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    matches!(
        error,
        E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..) | E::Utf8Error(..)
    )
}

fn read(id: TaskId, row: &Row<'_>) -> rusqlite::Result<Result<Task, String>> {
    let columns = Columns {
        state: row.get(2)?,
        want: row.get(3)?,
        node: row.get(9)?,
        gpus: row.get(11)?,
        host_keys: row.get(16)?,
        spec: row.get(17)?,
    };
    let standing = |state, want| -> rusqlite::Result<Standing> {
        Ok(Standing {
            state,
            want,
            attempt: Attempt(row.get(4)?),
            rev: natural(row.get(5)?),
            note: row.get(6)?,
            exit: Exit { code: row.get(7)?, signal: row.get(8)? },
        })
    };
    let numa: Option<u32> = row.get(10)?;
    let fault = |why: String| Ok(Err(why));
    let Some(state) = State::from_word(&columns.state) else { return fault(format!("state {:?}", columns.state)) };
    let Some(want) = Want::from_word(&columns.want) else { return fault(format!("want {:?}", columns.want)) };
    let spec = match columns.spec.as_deref().ok_or_else(|| "its spec is not JSON".to_owned()).and_then(spec_row::decode)
    {
        Ok(spec) => spec,
        Err(why) => return fault(why),
    };
    let in_line: bool = row.get(21)?;
    let placement = match columns.node.map(|name| name.parse()).transpose() {
        Ok(node) => node.map(|node| Placement { node, numa: numa.map(NumaId), gpus: gpu_list(&columns.gpus), in_line }),
        Err(why) => return fault(format!("{why}")),
    };
    Ok(Ok(Task {
        id,
        batch: TaskId::from_u64(natural(row.get(1)?)),
        spec: Arc::new(spec),
        standing: standing(state, want)?,
        placement,
        submitted_ms: natural(row.get(12)?),
        started_ms: row.get::<_, Option<i64>>(13)?.map(natural),
        completed_ms: row.get::<_, Option<i64>>(14)?.map(natural),
        ssh_port: row.get(15)?,
        host_keys: columns.host_keys.lines().map(str::to_owned).collect(),
        stdout_bytes: row.get::<_, Option<i64>>(18)?.map(natural),
        stderr_bytes: row.get::<_, Option<i64>>(19)?.map(natural),
        unit: row.get(20)?,
    }))
}

struct Columns {
    state: String,
    want: String,
    node: Option<String>,
    gpus: String,
    host_keys: String,
    spec: Option<String>,
}

fn gpu_list(text: &str) -> Vec<GpuId> {
    text.split(',').filter_map(|id| id.parse().ok()).map(GpuId).collect()
}

/// Runs a query whose columns are [`COLUMNS`]. Rows that cannot be read are told as such.
pub(super) fn query(
    conn: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
) -> Result<Vec<Result<Task, String>>, StoreFault> {
    query_each(conn, sql, params, |row| row)
}

/// The same, where not all of a row is kept: what is dropped of one is not in memory together with the next.
pub(super) fn query_each<T>(
    conn: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
    keep: impl Fn(Result<Task, String>) -> T,
) -> Result<Vec<T>, StoreFault> {
    let fault = |error: rusqlite::Error| StoreFault::of("read the database", &error);
    let mut statement = conn.prepare_cached(sql).map_err(fault)?;
    let rows = statement.query_map(params, from_row).map_err(fault)?;
    rows.map(|row| row.map(&keep).map_err(fault)).collect()
}

/// Every task that is not settled, in the order of submission.
pub(super) fn live(conn: &Connection) -> Result<Vec<Result<Task, String>>, StoreFault> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tasks INDEXED BY tasks_live \
         WHERE state IN ('pending', 'assigning', 'running', 'paused', 'lost') ORDER BY id"
    );
    query(conn, &sql, &[])
}

/// The task with that id.
pub(super) fn get(conn: &Connection, id: TaskId) -> Result<Option<Task>, StoreFault> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row(params![int(id.get())], from_row).optional())
        .map_err(|error| StoreFault::of("read the database", &error))?
        .transpose()
        .map_err(StoreFault::Row)
}

impl Store {
    /// The task with that id.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn task(&self, id: TaskId) -> Result<Option<Task>, StoreFault> {
        get(self.conn(), id)
    }

    /// Every task that is not settled, in the order of submission.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn live_tasks(&self) -> Result<Vec<Task>, StoreFault> {
        // What it holds, and where it is, has to be known: without it nothing can be placed.
        live(self.conn())?.into_iter().map(|task| task.map_err(|why| self.damaged(&why))).collect()
    }

    /// Is there a task with that id? Also if its row cannot be read.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn has_task(&self, id: TaskId) -> Result<bool, StoreFault> {
        self.conn()
            .prepare_cached("SELECT 1 FROM tasks WHERE id = ?1")
            .and_then(|mut statement| statement.exists(params![int(id.get())]))
            .map_err(|error| StoreFault::of("read the database", &error))
    }

    /// The highest id in the database, 0 if there is none.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn newest_id(&self) -> Result<u64, StoreFault> {
        self.conn()
            .query_row("SELECT coalesce(max(id), 0) FROM tasks", [], |row| row.get(0))
            .map(natural)
            .map_err(|error| StoreFault::of("read the database", &error))
    }

    /// Adds a task.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn insert_task(&mut self, task: &Task) -> Result<(), StoreFault> {
        let standing = &task.standing;
        self.write(
            "INSERT INTO tasks VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
            params![
                int(task.id.get()),
                int(task.batch.get()),
                task.spec.kind.word(),
                task.spec.name.as_ref().map(|name| name.as_str()),
                standing.state.word(),
                standing.want.word(),
                standing.attempt.0,
                int(standing.rev),
                standing.note,
                standing.exit.code,
                standing.exit.signal,
                task.placement.as_ref().map(|placement| placement.node.as_str()),
                task.placement.as_ref().and_then(|placement| placement.numa).map(|numa| numa.0),
                gpu_text(task),
                // How often it was passed, once: the queue keeps that in memory.
                0,
                int(task.submitted_ms),
                task.started_ms.map(int),
                task.completed_ms.map(int),
                task.ssh_port,
                task.host_keys.join("\n"),
                spec_row::encode(&task.spec),
                task.stdout_bytes.map(int),
                task.stderr_bytes.map(int),
                task.unit,
                in_line(task),
            ],
        )
    }

    /// Stores what can change of a task: everything but its specification.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn update_task(&mut self, task: &Task) -> Result<(), StoreFault> {
        let standing = &task.standing;
        self.write(
            "UPDATE tasks SET state = ?2, want = ?3, attempt = ?4, rev = ?5, note = ?6, exit_code = ?7, exit_signal = ?8, \
             node = ?9, numa = ?10, gpus = ?11, started_ms = ?12, completed_ms = ?13, ssh_port = ?14, \
             host_keys = ?15, stdout_bytes = ?16, stderr_bytes = ?17, unit = ?18, in_line = ?19 WHERE id = ?1",
            params![
                int(task.id.get()),
                standing.state.word(),
                standing.want.word(),
                standing.attempt.0,
                int(standing.rev),
                standing.note,
                standing.exit.code,
                standing.exit.signal,
                task.placement.as_ref().map(|placement| placement.node.as_str()),
                task.placement.as_ref().and_then(|placement| placement.numa).map(|numa| numa.0),
                gpu_text(task),
                task.started_ms.map(int),
                task.completed_ms.map(int),
                task.ssh_port,
                task.host_keys.join("\n"),
                task.stdout_bytes.map(int),
                task.stderr_bytes.map(int),
                task.unit,
                in_line(task),
            ],
        )
    }

    /// Removes at most `limit` each of the tasks that ended, the answers that were kept and the events that happened
    /// before `cutoff_ms`; says what went. The newest task stays, so that ids never repeat.
    ///
    /// Events go strictly from the oldest on, so those that are left have no gaps.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn clean_up(&mut self, cutoff_ms: u64, limit: u32) -> Result<Gone, StoreFault> {
        const STATEMENTS: [(&str, &str); 3] = [
            (
                "SELECT 1 FROM tasks INDEXED BY tasks_ended WHERE state NOT IN ('pending', 'assigning', 'running', 'paused', 'lost') \
                 AND completed_ms < ?1 AND id < (SELECT max(id) FROM tasks) LIMIT 1",
                "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_ended \
                 WHERE state NOT IN ('pending', 'assigning', 'running', 'paused', 'lost') AND completed_ms < ?1 \
                 AND id < (SELECT max(id) FROM tasks) LIMIT ?2) RETURNING id",
            ),
            (
                "SELECT 1 FROM batches WHERE submitted_ms < ?1 LIMIT 1",
                "DELETE FROM batches WHERE key IN (SELECT key FROM batches WHERE submitted_ms < ?1 LIMIT ?2) RETURNING NULL",
            ),
            (
                "SELECT 1 FROM (SELECT time_ms FROM events ORDER BY seq LIMIT 1) WHERE time_ms < ?1",
                "DELETE FROM events WHERE seq < (SELECT coalesce(min(seq), 9223372036854775807) FROM \
                 (SELECT seq, time_ms FROM events ORDER BY seq LIMIT ?2) WHERE time_ms >= ?1) \
                 AND seq IN (SELECT seq FROM events ORDER BY seq LIMIT ?2) RETURNING NULL",
            ),
        ];
        let mut gone = Gone::default();
        for (anything, delete) in STATEMENTS {
            // Looking first keeps an idle Host from taking a write transaction for nothing.
            let found: Option<i64> = self
                .conn()
                .prepare_cached(anything)
                .and_then(|mut statement| statement.query_row(params![int(cutoff_ms)], |row| row.get(0)).optional())
                .map_err(|error| StoreFault::of("read the database", &error))?;
            if found.is_some() {
                let ids = self
                    .rows(delete, params![int(cutoff_ms), limit], |row| row.get::<_, Option<i64>>(0))
                    .map_err(|error| StoreFault::of("write the database", &error))?;
                gone.rows += ids.len();
                gone.tasks.extend(ids.into_iter().flatten().map(|id| TaskId::from_u64(natural(id))));
            }
        }
        Ok(gone)
    }
}

fn in_line(task: &Task) -> bool {
    task.placement.as_ref().is_some_and(|placement| placement.in_line)
}

fn gpu_text(task: &Task) -> String {
    let ids = task.placement.iter().flat_map(|placement| &placement.gpus);
    ids.map(ToString::to_string).collect::<Vec<_>>().join(",")
}
