//! Every change of a task's state and of a node, in order, with time and cause.

use rusqlite::{Connection, params};

use crate::domain::ids::TaskId;

use super::{Store, StoreFault, int, natural};

/// One change, before it has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent<'a> {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    pub task: Option<TaskId>,
    pub node: Option<&'a str>,
    pub from: Option<&'a str>,
    pub to: &'a str,
    pub cause: &'a str,
}

/// Which changes are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those of this task.
    pub task: Option<TaskId>,
    /// Those of the tasks of this submission.
    pub batch: Option<TaskId>,
}

/// One change, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Grows by one with each change; never used again.
    pub seq: u64,
    pub time_ms: u64,
    pub task: Option<TaskId>,
    pub node: Option<String>,
    pub from: Option<String>,
    pub to: String,
    pub cause: String,
}

impl Store {
    /// Adds a change; returns its number.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn add_event(&mut self, event: &NewEvent<'_>) -> Result<u64, StoreFault> {
        self.write(
            "INSERT INTO events (time_ms, task, node, from_state, to_state, cause) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                int(event.time_ms),
                event.task.map(|id| int(id.get())),
                event.node,
                event.from,
                event.to,
                event.cause
            ],
        )?;
        Ok(natural(self.conn().last_insert_rowid()))
    }

    /// The next change has a number above this.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn skip_event_numbers(&mut self, to: u64) -> Result<(), StoreFault> {
        // SQLite makes the row with the first event; the names in this table are not unique.
        let (_, last) = bounds(self.conn())?;
        if last >= to {
            return Ok(());
        }
        self.write("DELETE FROM sqlite_sequence WHERE name = 'events'", params![])?;
        self.write("INSERT INTO sqlite_sequence VALUES ('events', ?1)", params![int(to)])
    }

    /// The number of the last change, 0 if there was none.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn last_event(&self) -> Result<u64, StoreFault> {
        bounds(self.conn()).map(|(_, last)| last)
    }
}

/// The numbers of the oldest change that is still there, and of the newest that ever was (0 if there was none).
pub(super) fn bounds(conn: &Connection) -> Result<(u64, u64), StoreFault> {
    conn.prepare_cached(
        "SELECT (SELECT min(seq) FROM events), (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events')",
    )
    .and_then(|mut statement| {
        statement.query_row([], |row| {
            let last = natural(row.get(1)?);
            Ok((row.get::<_, Option<i64>>(0)?.map_or(last + 1, natural), last))
        })
    })
    .map_err(|error| StoreFault::of("read the database", &error))
}

/// Is the change with that number still there?
pub(super) fn has(conn: &Connection, seq: u64) -> Result<bool, StoreFault> {
    conn.prepare_cached("SELECT 1 FROM events WHERE seq = ?1")
        .and_then(|mut statement| statement.exists(params![int(seq)]))
        .map_err(|error| StoreFault::of("read the database", &error))
}

/// Of the next `limit` changes after number `since` those that pass the filter, oldest first, and the number of the last
/// one that was looked at.
pub(super) fn after(
    conn: &Connection,
    since: u64,
    limit: u32,
    filter: &EventFilter,
) -> Result<(Vec<EventRow>, u64), StoreFault> {
    let fault = |error: rusqlite::Error| StoreFault::of("read the database", &error);
    let last: Option<i64> = conn
        .prepare_cached("SELECT max(seq) FROM (SELECT seq FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2)")
        .and_then(|mut statement| statement.query_row(params![int(since), limit], |row| row.get(0)))
        .map_err(fault)?;
    let Some(last) = last else { return Ok((Vec::new(), since)) };
    let mut statement = conn
        .prepare_cached(
            "SELECT seq, time_ms, task, node, from_state, to_state, cause FROM events \
             WHERE seq > ?1 AND seq <= ?2 AND (?3 IS NULL OR task = ?3) \
             AND (?4 IS NULL OR ?4 = (SELECT batch FROM tasks WHERE id = task)) ORDER BY seq",
        )
        .map_err(fault)?;
    let (task, batch) = (filter.task.map(|id| int(id.get())), filter.batch.map(|id| int(id.get())));
    let rows = statement
        .query_map(params![int(since), last, task, batch], |row| {
            Ok(EventRow {
                seq: natural(row.get(0)?),
                time_ms: natural(row.get(1)?),
                task: row.get::<_, Option<i64>>(2)?.map(|id| TaskId::from_u64(natural(id))),
                node: row.get(3)?,
                from: row.get(4)?,
                to: row.get(5)?,
                cause: row.get(6)?,
            })
        })
        .map_err(fault)?;
    let rows: Vec<EventRow> = rows.collect::<Result<_, _>>().map_err(fault)?;
    Ok((rows, natural(last)))
}
