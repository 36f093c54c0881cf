//! Opening the database: one Host at a time, never over a damaged file, never an empty one in its stead.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Params};

use crate::sys::fault::around;
use crate::sys::file::Lock;

use super::{Readers, StoreFault, schema};

/// The one connection that writes, with the lock that keeps a second Host away.
///
/// The first write of a turn begins a transaction, [`Store::commit`] ends it: so everything that happened in a turn
/// is stored together, with one sync of the disk.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    path: PathBuf,
    in_transaction: bool,
    _lock: Lock,
}

/// Above this size a whole check at each start would keep the Host from its work; SQLite still reports what it meets.
const CHECKED_BYTES: u64 = 64 << 20;

impl Store {
    /// Opens the database, making it where there is none, and brings an older one up to date.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`]: another Host has it, or it is damaged, foreign, or of a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreFault> {
        let lock_path = beside(path, ".lock");
        let lock = Lock::try_take(&lock_path)
            .map_err(|error| StoreFault::Unusable(format!("cannot lock the database {}: {error}", path.display())))?
            .ok_or_else(|| {
                StoreFault::Unusable(format!(
                    "another Host is running on the database {}: stop it first, or give this one another database.db_file",
                    path.display()
                ))
            })?;
        match fs::metadata(path) {
            Ok(meta) if meta.len() == 0 => return Err(damaged(path, "the file is empty")),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if beside(path, "-wal").metadata().is_ok_and(|meta| meta.len() > 0) {
                    return Err(damaged(path, "the file is gone, but its write-ahead log is still there"));
                }
                create(path)?;
            }
            Err(error) => {
                return Err(StoreFault::Unusable(format!("cannot read the database {}: {error}", path.display())));
            }
        }
        let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .and_then(|conn| {
                check(&conn, path)?;
                Ok(conn)
            })
            .map_err(|fault| with_remedy(fault, path))?;
        Ok(Self { conn, path: path.to_owned(), in_transaction: false, _lock: lock })
    }

    /// Connections that read beside this one.
    pub fn readers(&self) -> Readers {
        Readers::of(&self.path)
    }

    /// Makes everything since the last commit durable. Nothing to do where nothing was written.
    ///
    /// # Errors
    /// Nothing of it is stored; the caller rolls back.
    pub fn commit(&mut self) -> Result<(), StoreFault> {
        if !self.in_transaction {
            return Ok(());
        }
        around("commit", String::new, || self.conn.execute_batch("COMMIT"))
            .map_err(|error| StoreFault::of("write the database", &error))?;
        self.in_transaction = false;
        Ok(())
    }

    /// Forgets everything since the last commit.
    pub fn rollback(&mut self) {
        // A failed statement may have ended the transaction already; then there is nothing to roll back.
        if self.in_transaction
            && !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            crate::error!("cannot roll back: {error}");
        }
        self.in_transaction = false;
    }

    pub(super) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// One writing statement, in this turn's transaction.
    pub(super) fn write(&mut self, sql: &str, params: impl Params) -> Result<(), StoreFault> {
        let done = self.begin().and_then(|()| self.conn.prepare_cached(sql)?.execute(params));
        done.map(drop).map_err(|error| StoreFault::of("write the database", &error))
    }

    /// As [`Store::write`], for a statement that gives rows.
    pub(super) fn rows<T>(
        &mut self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.begin()?;
        self.conn.prepare_cached(sql)?.query_map(params, read)?.collect()
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        if !self.in_transaction {
            self.conn.execute_batch("BEGIN IMMEDIATE")?;
            self.in_transaction = true;
        }
        Ok(())
    }

    /// Makes the file unable to grow by more than `pages`, as a full disk would.
    #[cfg(test)]
    pub(crate) fn limit_growth(&self, pages: i64) {
        let now: i64 = self.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("page_count");
        self.conn.query_row(&format!("PRAGMA max_page_count = {}", now + pages), [], |_| Ok(())).expect("limit");
    }
}

/// A connection with what every connection of ours needs.
pub(super) fn connect(path: &Path, mode: OpenFlags) -> Result<Connection, StoreFault> {
    let opened = || -> rusqlite::Result<Connection> {
        // No SQLITE_OPEN_CREATE: a file that vanished must not come back empty.
        let conn = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.busy_timeout(Duration::from_secs(5))?;
        conn.set_prepared_statement_cache_capacity(64);
        // A reply is sent only after its commit is on the disk, so a power cut loses nothing that was answered.
        conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -1024; PRAGMA temp_store = MEMORY;")?;
        Ok(conn)
    };
    opened().map_err(|error| StoreFault::of("open the database", &error))
}

/// Makes a database under another name and renames it: a crash leaves none or a whole one, so an empty file is always damage.
fn create(path: &Path) -> Result<(), StoreFault> {
    let io_fault = |what: &str, error: &dyn std::fmt::Display| {
        StoreFault::Unusable(format!("cannot {what} the database {}: {error}", path.display()))
    };
    let new = beside(path, ".new");
    for stale in [new.clone(), beside(&new, "-wal"), beside(&new, "-shm"), beside(&new, "-journal")] {
        match fs::remove_file(&stale) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_fault("make", &error)),
            _ => {}
        }
    }
    // Mode 0600: tasks' environment variables often hold secrets. SQLite gives its log files the same mode.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(|error| io_fault("make", &error))?;
    let conn = connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.execute_batch("PRAGMA journal_mode = WAL")
        .and_then(|()| schema::migrate(&conn, 0))
        .and_then(|()| conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"))
        .map_err(|error| io_fault("make", &error))?;
    conn.close().map_err(|(_, error)| io_fault("make", &error))?;
    fs::rename(&new, path).map_err(|error| io_fault("make", &error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io_fault("make", &error))
}

/// Is it ours, whole, and of a version that this program knows? Then it is brought up to date.
fn check(conn: &Connection, path: &Path) -> Result<(), StoreFault> {
    let read = |sql: &str| -> Result<i64, StoreFault> {
        conn.query_row(sql, [], |row| row.get(0)).map_err(|error| StoreFault::of("read the database", &error))
    };
    let application = read("PRAGMA application_id")?;
    if application != i64::from(schema::APPLICATION_ID) {
        return Err(StoreFault::Unusable(format!(
            "{} is not a database of this HakuRiver (one of 0.3 cannot be taken over): move it away, or set database.db_file",
            path.display()
        )));
    }
    let version = read("PRAGMA user_version")?;
    if version > i64::from(schema::VERSION) {
        return Err(StoreFault::Unusable(format!(
            "the database {} was written by a newer hakuriver (schema {version}, this one knows {}): start that one",
            path.display(),
            schema::VERSION
        )));
    }
    if fs::metadata(path).is_ok_and(|meta| meta.len() <= CHECKED_BYTES) {
        let verdict: String = conn
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| StoreFault::of("check the database", &error))?;
        if verdict != "ok" {
            return Err(damaged(path, verdict.trim()));
        }
    }
    conn.execute_batch("PRAGMA journal_mode = WAL")
        .and_then(|()| schema::migrate(conn, i32::try_from(version).unwrap_or(0)))
        .map_err(|error| StoreFault::of("bring the database up to date", &error))
}

/// What SQLite found to be damage gets the sentence that says what to do; the rest stays as it is.
fn with_remedy(fault: StoreFault, path: &Path) -> StoreFault {
    match fault {
        StoreFault::Unusable(text) if text.starts_with("cannot ") => damaged(path, &text),
        other => other,
    }
}

fn damaged(path: &Path, how: &str) -> StoreFault {
    let path = path.display();
    StoreFault::Unusable(format!(
        "the database {path} is damaged ({how}); it is left as it is.\nMove {path}, {path}-wal and {path}-shm away, copy a backup to {path}, and start again; \
         without a backup the start makes an empty one, and the nodes' tasks are then shown as unknown"
    ))
}

/// `path` with `suffix` at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
