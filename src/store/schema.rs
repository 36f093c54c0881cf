//! The tables, and how an older database becomes one of today.

use rusqlite::Connection;

/// Marks the file as one of ours (`PRAGMA application_id`): "Haku".
pub(super) const APPLICATION_ID: i32 = 0x4861_6b75;

/// One script for each version: the n-th makes a database of version n+1 out of one of version n.
const MIGRATIONS: [&str; 2] = [VERSION_1, VERSION_2];

/// The version that this program writes.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

// Partial indices keep what is asked all the time (live tasks, names in use) as small as the live part, and the lists
// flat however many finished tasks there are.
const VERSION_1: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    id           INTEGER PRIMARY KEY,
    batch        INTEGER NOT NULL,
    kind         TEXT NOT NULL,
    name         TEXT,
    state        TEXT NOT NULL,
    want         TEXT NOT NULL,
    attempt      INTEGER NOT NULL,
    rev          INTEGER NOT NULL,
    note         TEXT,
    exit_code    INTEGER,
    exit_signal  INTEGER,
    node         TEXT,
    numa         INTEGER,
    gpus         TEXT NOT NULL,
    passed       INTEGER NOT NULL,
    submitted_ms INTEGER NOT NULL,
    started_ms   INTEGER,
    completed_ms INTEGER,
    ssh_port     INTEGER,
    host_keys    TEXT NOT NULL,
    spec         TEXT NOT NULL
) STRICT;
CREATE INDEX tasks_live ON tasks (id) WHERE state IN ('pending', 'assigning', 'running', 'paused', 'lost');
CREATE INDEX tasks_ended ON tasks (completed_ms) WHERE state NOT IN ('pending', 'assigning', 'running', 'paused', 'lost');
CREATE INDEX tasks_by_kind ON tasks (kind, id);
CREATE INDEX tasks_by_state ON tasks (kind, state, id);
CREATE INDEX tasks_by_node ON tasks (kind, node, id);
CREATE INDEX tasks_by_name ON tasks (name, id) WHERE name IS NOT NULL;

CREATE TABLE nodes (
    name          TEXT PRIMARY KEY,
    address       TEXT NOT NULL,
    machine_id    TEXT NOT NULL,
    boot_id       TEXT NOT NULL,
    instance      TEXT NOT NULL,
    session       TEXT NOT NULL,
    version       TEXT NOT NULL,
    inventory     TEXT NOT NULL,
    inventoried   INTEGER NOT NULL,
    draining      INTEGER NOT NULL,
    silent        INTEGER NOT NULL,
    registered_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ms    INTEGER NOT NULL,
    task       INTEGER,
    node       TEXT,
    from_state TEXT,
    to_state   TEXT NOT NULL,
    cause      TEXT NOT NULL
) STRICT;

CREATE TABLE batches (
    key          TEXT PRIMARY KEY,
    body_hash    BLOB NOT NULL,
    answer       TEXT NOT NULL,
    submitted_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX batches_by_age ON batches (submitted_ms);
";

// How much a task wrote in all, once its end is known; the systemd scope it ran in; whether it is next in line on its node.
const VERSION_2: &str = "
ALTER TABLE tasks ADD COLUMN stdout_bytes INTEGER;
ALTER TABLE tasks ADD COLUMN stderr_bytes INTEGER;
ALTER TABLE tasks ADD COLUMN unit TEXT;
ALTER TABLE tasks ADD COLUMN in_line INTEGER NOT NULL DEFAULT 0;
";

/// Brings a database of an older version (0 = empty) up to [`VERSION`], each step in a transaction of its own.
pub(super) fn migrate(conn: &Connection, from: i32) -> rusqlite::Result<()> {
    let done = usize::try_from(from).unwrap_or(0);
    for (index, script) in MIGRATIONS.iter().enumerate().skip(done) {
        let version = index + 1;
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; {script} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}; COMMIT;"
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_version_keeps_its_tasks() {
        let conn = Connection::open_in_memory().expect("memory");
        conn.execute_batch(&format!(
            "{VERSION_1} INSERT INTO tasks VALUES (7, 7, 'command', NULL, 'completed', 'run', 1, 2, NULL, 0, NULL, 'n1', NULL, \
             '', 0, 1, 2, 3, NULL, '', '{{}}');"
        ))
        .expect("as the first version wrote it");
        migrate(&conn, 1).expect("migrated");
        let read = |column: &str| -> Option<i64> {
            conn.query_row(&format!("SELECT {column} FROM tasks WHERE id = 7"), [], |row| row.get(0)).expect("there")
        };
        assert_eq!((read("exit_code"), read("stdout_bytes"), read("stderr_bytes")), (Some(0), None, None));
        assert_eq!(conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i32>(0)), Ok(VERSION));
    }
}
