//! Reading beside the writer: lists, single records, events. What is read was committed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, ToSql};

use crate::domain::ids::{NodeName, TaskId, TaskName};
use crate::domain::spec::TaskKind;
use crate::domain::state::State;
use crate::warning;

use super::{EventFilter, EventRow, KeptAnswer, StoreFault, Task, batches, events, int, open, tasks};

/// Connections that only read; made when needed, a few are kept.
#[derive(Clone, Debug)]
pub struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// More than this would only hold memory: each has a cache and its statements.
const KEPT: usize = 4;

/// Bytes of a command's arguments in a list; the record has all of them.
const LISTED: usize = 4 << 10;

fn shortened(mut task: Task) -> Task {
    let spec = Arc::make_mut(&mut task.spec);
    spec.env = Arc::default();
    if let TaskKind::Command { program, arguments } = &mut spec.kind {
        let mut room = LISTED;
        cut(program, &mut room);
        let mut kept = 0;
        while room > 0 && kept < arguments.len() {
            cut(&mut arguments[kept], &mut room);
            kept += 1;
        }
        if kept < arguments.len() {
            arguments.truncate(kept);
            arguments.push("…".to_owned());
        }
        arguments.shrink_to_fit();
    }
    task
}

/// Cuts a text off where there is no more room. An empty one takes some as well.
fn cut(text: &mut String, room: &mut usize) {
    if text.len() > *room {
        let end = (0..=*room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
    *room = room.saturating_sub(text.len() + 1);
}

/// Which tasks a list holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    pub state: Option<State>,
    pub node: Option<NodeName>,
    /// Only those with a lower id.
    pub before: Option<TaskId>,
    /// At most this many.
    pub limit: u32,
}

impl Readers {
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Arc::default() }
    }

    /// The task with that id.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn task(&self, id: TaskId) -> Result<Option<Task>, StoreFault> {
        self.with(|conn| tasks::get(conn, id))
    }

    /// The newest task that ever had that name.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn task_named(&self, name: &TaskName) -> Result<Option<Task>, StoreFault> {
        let sql = format!("SELECT {} FROM tasks WHERE name = ?1 ORDER BY id DESC LIMIT 1", tasks::COLUMNS);
        self.with(|conn| tasks::query(conn, &sql, &[&name.as_str()])?.pop().transpose().map_err(StoreFault::Row))
    }

    /// Tasks of a kind (`vps`, `command`), newest first, each without its variables and without what is [too long](LISTED) of its
    /// arguments: a thousand of the longest would else not fit into memory. One that cannot be read is left out, and the log says so.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn list(&self, kind: &str, filter: &TaskFilter) -> Result<Vec<Task>, StoreFault> {
        let before = filter.before.map_or(i64::MAX, |id| int(id.get()));
        let (mut conditions, mut params): (String, Vec<&dyn ToSql>) =
            ("kind = ?1 AND id < ?2".to_owned(), vec![&kind, &before, &filter.limit]);
        let state = filter.state.map(State::word);
        if let Some(state) = &state {
            params.push(state);
            conditions += &format!(" AND state = ?{}", params.len());
        }
        let node = filter.node.as_ref().map(NodeName::as_str);
        if let Some(node) = &node {
            params.push(node);
            conditions += &format!(" AND node = ?{}", params.len());
        }
        let sql = format!("SELECT {} FROM tasks WHERE {conditions} ORDER BY id DESC LIMIT ?3", tasks::COLUMNS);
        let rows = self.with(|conn| tasks::query_each(conn, &sql, &params, |row| row.map(shortened)))?;
        Ok(rows.into_iter().filter_map(|row| row.map_err(|why| warning!("a list lacks a task: {why}")).ok()).collect())
    }

    /// Of the next `limit` changes after number `since` those that pass the filter, oldest first, and the number of the
    /// last one that was looked at (`since`: there is none).
    ///
    /// # Errors
    /// The database could not be read.
    pub fn events_after(
        &self,
        since: u64,
        limit: u32,
        filter: &EventFilter,
    ) -> Result<(Vec<EventRow>, u64), StoreFault> {
        self.with(|conn| events::after(conn, since, limit, filter))
    }

    /// The numbers of the oldest change that is still there, and of the newest that ever was.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn event_bounds(&self) -> Result<(u64, u64), StoreFault> {
        self.with(events::bounds)
    }

    /// Is the change with that number still there?
    ///
    /// # Errors
    /// The database could not be read.
    pub fn has_event(&self, seq: u64) -> Result<bool, StoreFault> {
        self.with(|conn| events::has(conn, seq))
    }

    /// The answer that was kept for an idempotency key.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn kept_answer(&self, key: &str) -> Result<Option<KeptAnswer>, StoreFault> {
        self.with(|conn| batches::kept(conn, key))
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreFault>) -> Result<T, StoreFault> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match kept {
            Some(conn) => conn,
            None => {
                let conn = open::connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                // Not opened read-only: a reader must be able to make the shared-memory file of the log.
                conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -256;")
                    .map_err(|error| StoreFault::of("open the database", &error))?;
                conn
            }
        };
        let result = read(&conn);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_ok() && idle.len() < KEPT {
            idle.push(conn);
        }
        result
    }
}
