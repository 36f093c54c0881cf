//! Opening the database: one Host at a time, never over a damaged file, never an empty one in its stead.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Params, params};

use crate::info;
use crate::sys::fault;
use crate::sys::file::{self, Lock};
use crate::sys::random;

use super::meta::CLUSTER;
use super::place::{Found, Place};
use super::{Readers, StoreFault, natural, schema};

/// The one connection that writes, with the lock that keeps a second Host away.
///
/// The first write of a turn begins a transaction, [`Store::commit`] ends it: so everything that happened in a turn
/// is stored together, with one sync of the disk.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    place: Place,
    in_transaction: bool,
    /// None: in memory, where nobody else comes.
    _lock: Option<Lock>,
}

/// Above this size a whole check at each start would keep the Host from its work; SQLite still reports what it meets.
const CHECKED_BYTES: u64 = 64 << 20;

impl Store {
    /// Opens the database, making it where there is none, and brings an older one up to date.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`]: another Host has it, or it is damaged, foreign, or of a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreFault> {
        let place = Place::of(path)?;
        let Some(lock) = place.lock()? else {
            // A restore holds both locks.
            let restores = place.lock_for_backup()?.is_none();
            let path = place.path().display();
            return Err(StoreFault::Unusable(if restores {
                format!("a restore of the database {path} is under way: try again when it has ended")
            } else {
                format!(
                    "another Host is running on the database {path}: stop it first, or give this one another database.db_file"
                )
            }));
        };
        if let Some(kept) = place.finish_restore()? {
            info!("a restore that was cut off is finished; the database before it is kept as {}", kept.display());
        }
        if place.look()? == Found::Nothing {
            create(&place)?;
        }
        let conn = connect(place.path(), OpenFlags::SQLITE_OPEN_READ_WRITE)
            .and_then(|conn| {
                check(&conn, &place)?;
                Ok(conn)
            })
            .map_err(|fault| with_remedy(fault, &place))?;
        Ok(Self { conn, place, in_transaction: false, _lock: Some(lock) })
    }

    /// An empty one in memory, which lasts as long as this.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        let conn = Connection::open_in_memory().expect("memory");
        conn.set_prepared_statement_cache_capacity(64);
        schema::migrate(&conn, 0).expect("the schema");
        Self { conn, place: Place::in_memory(), in_transaction: false, _lock: None }
    }

    /// Connections that read beside this one.
    pub fn readers(&self) -> Readers {
        Readers::of(self.place.path())
    }

    /// Makes everything since the last commit durable. Nothing to do where nothing was written.
    ///
    /// # Errors
    /// Nothing of it is stored; the caller rolls back.
    pub fn commit(&mut self) -> Result<(), StoreFault> {
        if !self.in_transaction {
            return Ok(());
        }
        let _step = fault::step("store", || "commit".to_owned());
        self.conn.execute_batch("COMMIT").map_err(|error| StoreFault::of("write the database", &error))?;
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

    /// That the database is damaged, and what to do.
    pub(super) fn damaged(&self, how: &str) -> StoreFault {
        self.place.damaged(how)
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
fn create(place: &Place) -> Result<(), StoreFault> {
    let _step = fault::step("store", || "create".to_owned());
    let new = place.beside(".new");
    create_at(&new, place)?;
    file::rename(&new, place.path()).map_err(|error| place.cannot("make", &error))?;
    file::sync_dir(place.folder()).map_err(|error| place.cannot("make", &error))
}

/// Makes an empty database of this version at `new`, where only leftovers can be.
pub(super) fn create_at(new: &Path, place: &Place) -> Result<(), StoreFault> {
    remove_leftovers(new).map_err(|error| place.cannot("make", &error))?;
    // Mode 0600: tasks' environment variables often hold secrets. SQLite gives its log files the same mode.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new);
    made.map_err(|error| place.cannot("make", &error))?;
    let _step = fault::step("store", || "create empty".to_owned());
    let conn = connect(new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.execute_batch("PRAGMA journal_mode = WAL")
        .and_then(|()| schema::migrate(&conn, 0))
        // Before its first log: whatever is lost of that, it is known whose this is.
        .and_then(|()| conn.execute("INSERT INTO meta VALUES (?1, ?2)", params![CLUSTER, random::hex(16)]))
        .and_then(|_| conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"))
        .map_err(|error| place.cannot("make", &error))?;
    conn.close().map_err(|(_, error)| place.cannot("make", &error))
}

/// Removes a file of ours, and what SQLite may have put beside it.
pub(super) fn remove_leftovers(path: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        file::remove(Path::new(&name))?;
    }
    Ok(())
}

/// Is it ours, and of a version that this program knows? The answer is the version.
pub(super) fn check_ours(conn: &Connection, path: &Path) -> Result<i32, StoreFault> {
    let read = |sql: &str| -> Result<i64, StoreFault> {
        conn.query_row(sql, [], |row| row.get(0)).map_err(|error| StoreFault::of("read the database", &error))
    };
    let application = read("PRAGMA application_id")?;
    if application != i64::from(schema::APPLICATION_ID) {
        return Err(StoreFault::Unusable(format!(
            "{} is not a database of this HakuRiver (one of 0.3 cannot be taken over): move it away, or set database.db_file; \
             'hakuriver host restore FILE' puts a backup in its place",
            path.display()
        )));
    }
    let version = read("PRAGMA user_version")?;
    if version > i64::from(schema::VERSION) {
        return Err(StoreFault::Unusable(format!(
            "the database {} was written by a newer hakuriver (schema {version}, this one knows {}): start that one, or \
             put a backup of this version in its place with 'hakuriver host restore FILE'",
            path.display(),
            schema::VERSION
        )));
    }
    Ok(i32::try_from(version).unwrap_or(0))
}

/// What SQLite finds when it looks through the whole file; None: nothing.
///
/// # Errors
/// It cannot even look.
pub(super) fn faults(conn: &Connection, pragma: &str) -> Result<Option<String>, StoreFault> {
    let verdict: String =
        conn.query_row(pragma, [], |row| row.get(0)).map_err(|error| StoreFault::of("check the database", &error))?;
    Ok((verdict != "ok").then(|| verdict.trim().lines().next().unwrap_or_default().to_owned()))
}

/// Is it ours, whole, and of a version that this program knows? Then it is brought up to date.
fn check(conn: &Connection, place: &Place) -> Result<(), StoreFault> {
    let version = check_ours(conn, place.path())?;
    let page_size: u64 = conn
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .map(natural)
        .map_err(|error| StoreFault::of("read the database", &error))?;
    // A power cut can leave a part of a page, but then the log has it whole. SQLite takes what is missing for zeros.
    let log_is_empty = fs::metadata(place.beside("-wal")).map_or(true, |log| log.len() == 0);
    if log_is_empty && fs::metadata(place.path()).is_ok_and(|seen| seen.len() % page_size.max(1) != 0) {
        return Err(place.damaged("its length is no whole number of pages"));
    }
    if fs::metadata(place.path()).is_ok_and(|meta| meta.len() <= CHECKED_BYTES)
        && let Some(how) = faults(conn, "PRAGMA quick_check(1)")?
    {
        return Err(place.damaged(&how));
    }
    conn.execute_batch("PRAGMA journal_mode = WAL")
        .and_then(|()| schema::migrate(conn, version))
        .map_err(|error| StoreFault::of("bring the database up to date", &error))
}

/// What SQLite found to be damage gets the sentence that says what to do; the rest stays as it is.
fn with_remedy(fault: StoreFault, place: &Place) -> StoreFault {
    match fault {
        StoreFault::Unusable(text) if text.starts_with("cannot ") => place.damaged(&text),
        other => other,
    }
}
