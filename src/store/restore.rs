//! A backup takes the place of the database: looked through first, then put there in one step that nothing can cut in two.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use crate::sys::clock;
use crate::sys::fault::{file_name, step};
use crate::sys::file::{self, Lock};

use super::backup::open_backup;
use super::meta::{BACKUP_MADE, CLUSTER, RESTORED_FROM};
use super::open::{check_ours, connect, create_at, faults, remove_leftovers};
use super::place::{Place, cut_here};
use super::seal::{self, SealFault};
use super::{StoreFault, natural, nodes, schema, tasks};

/// What is to take the database's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// A backup.
    Backup {
        file: &'a Path,
        /// No Host has run since it was made, so that what it says of tasks is still true.
        is_current: bool,
    },
    /// Nothing: a database without tasks.
    Empty {
        /// The cluster that it is of; None: that of the database that is there, if it can be read.
        cluster: Option<&'a str>,
    },
}

/// A database that was looked through, and can take the place of the one that is there. Dropped, it changes nothing.
#[derive(Debug)]
pub struct Prepared {
    /// None: it has lost it.
    pub cluster: Option<String>,
    /// When the backup was made, in milliseconds since 1970; None: it is none.
    pub made_ms: Option<u64>,
    /// All tasks in it, and those of them that had not ended and were waiting, or were placed.
    pub tasks: u64,
    pub waiting: u64,
    pub placed: u64,
    place: Place,
    _alone: [Lock; 2],
}

/// Prepares a restore of the database at `path`. From now on nobody else can work with it.
///
/// # Errors
/// Nothing was changed: a Host runs, or what is to be restored is no backup, is damaged, foreign, or of a newer version.
pub fn prepare(path: &Path, source: Source<'_>, now_s: u64) -> Result<Prepared, StoreFault> {
    let place = Place::of(path)?;
    place.refuse_root_for_others()?;
    let refused =
        |why: &str| StoreFault::Failed(format!("cannot restore the database {}: {why}", place.path().display()));
    // Before anybody is locked out, and anything of an earlier restore removed.
    let backup = match source {
        Source::Backup { file, .. } if fs::canonicalize(file).is_ok_and(|file| place.is_own(&file)) => {
            return Err(refused(&format!("{} is a file of the database itself: give it another name", file.display())));
        }
        Source::Backup { file, .. } => Some((file, open_backup(file)?)),
        Source::Empty { .. } => None,
    };
    let alone = [
        place.lock()?.ok_or_else(|| refused("a Host is running on it, or another restore: stop that first"))?,
        place
            .lock_for_restore()?
            .ok_or_else(|| refused("a backup of it is being made: try again when that has ended"))?,
    ];
    place.finish_restore()?;
    if place.path().is_dir() {
        return Err(refused("it is a folder: set database.db_file"));
    }
    let new = place.prepared();
    remove_leftovers(&new).map_err(|error| place.cannot("restore", &error))?;
    match backup {
        Some((name, mut file)) => unseal(name, &mut file, &new)?,
        None => create_at(&new, &place)?,
    }
    let conn = connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let looked = look_through(&conn, source, &place);
    // Nothing is left in a log, so the file is all there is.
    let closed = conn.close().map_err(|(_, error)| StoreFault::of("restore the database", &error));
    let found = match looked.and_then(|found| closed.map(|()| found)) {
        Ok(found) => found,
        Err(fault) => {
            let _nothing = remove_leftovers(&new);
            return Err(fault);
        }
    };
    make_ready(&place, now_s).map_err(|error| place.cannot("restore", &error))?;
    Ok(Prepared {
        cluster: found.cluster,
        made_ms: found.made_ms,
        tasks: found.tasks,
        waiting: found.waiting,
        placed: found.placed,
        place,
        _alone: alone,
    })
}

impl Prepared {
    /// Puts it in the place of the database; the answer is where the one before is kept, if there was one.
    ///
    /// # Errors
    /// The database is the old one, or the next start makes it the new one: never anything between.
    pub fn commit(self) -> Result<Option<PathBuf>, StoreFault> {
        cut_here()?;
        // From here on it is decided: whoever opens the database next finishes what is cut off.
        file::rename(&self.place.prepared(), &self.place.restored())
            .and_then(|()| file::sync_dir(self.place.folder()))
            .map_err(|error| self.place.cannot("restore", &error))?;
        self.place.finish_restore()
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // It is not there any more once it is decided.
        let _nothing = remove_leftovers(&self.place.prepared());
    }
}

/// Copies what is sealed in a backup.
fn unseal(name: &Path, backup: &mut File, to: &Path) -> Result<(), StoreFault> {
    let cannot = |why: &str| StoreFault::Failed(format!("cannot restore {}: {why}", name.display()));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut copy = made.map_err(|error| cannot(&format!("cannot write {}: {error}", to.display())))?;
    seal::open(backup, &mut copy).map(drop).map_err(|fault| {
        let _nothing = remove_leftovers(to);
        match fault {
            SealFault::Missing => {
                cannot("it has no checksum at its end: it is no file of 'hakuriver host backup', or is cut off")
            }
            SealFault::Broken => cannot("its checksum is wrong: it was damaged since it was written"),
            SealFault::Io(error) => cannot(&error.to_string()),
        }
    })
}

struct Looked {
    cluster: Option<String>,
    made_ms: Option<u64>,
    tasks: u64,
    waiting: u64,
    placed: u64,
}

/// Is it whole, and can this program read all that a start of the Host reads? Brings it up to date.
fn look_through(conn: &Connection, source: Source<'_>, place: &Place) -> Result<Looked, StoreFault> {
    let name = match source {
        Source::Backup { file, .. } => file,
        Source::Empty { .. } => place.path(),
    };
    let refused = |why: String| StoreFault::Failed(format!("cannot restore {}: {why}", name.display()));
    let fault = |error: rusqlite::Error| refused(error.to_string());
    let version = check_ours(conn, name)?;
    if let Some(how) = faults(conn, "PRAGMA integrity_check(1)").map_err(|fault| refused(fault.to_string()))? {
        return Err(refused(format!("it is damaged ({how})")));
    }
    conn.execute_batch("PRAGMA journal_mode = DELETE").map_err(fault)?;
    schema::migrate(conn, version).map_err(fault)?;
    match source {
        Source::Backup { is_current: true, .. } => {
            if let Some(why) = is_not_current(conn, place).map_err(fault)? {
                return Err(refused(format!(
                    "--no-host-since is not so: {why}. Without it this backup can be restored"
                )));
            }
            conn.execute("DELETE FROM meta WHERE key = ?1", params![BACKUP_MADE]).map_err(fault)?;
        }
        Source::Empty { cluster } => {
            if let Some(cluster) = cluster.map(str::to_owned).or_else(|| cluster_at(place.path())) {
                conn.execute("INSERT OR REPLACE INTO meta VALUES ('cluster_id', ?1)", params![cluster])
                    .map_err(fault)?;
            }
        }
        Source::Backup { is_current: false, .. } => {}
    }
    let live: Vec<_> = tasks::live(conn)?.into_iter().collect::<Result<_, _>>().map_err(refused)?;
    nodes::all(conn)?.into_iter().try_for_each(|node| node.map(drop)).map_err(refused)?;
    let waiting = live.iter().filter(|task| task.placement.is_none()).count() as u64;
    let value = |key: &str| {
        let mut statement = conn.prepare("SELECT value FROM meta WHERE key = ?1")?;
        statement.query_row(params![key], |row| row.get::<_, String>(0)).optional()
    };
    Ok(Looked {
        cluster: value(CLUSTER).map_err(fault)?,
        made_ms: value(BACKUP_MADE).map_err(fault)?.map(|made| made.parse().unwrap_or(0)),
        tasks: conn.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).map(natural).map_err(fault)?,
        waiting,
        placed: live.len() as u64 - waiting,
    })
}

/// Why a Host must have run since a backup was made, if there is a sign of that.
fn is_not_current(backup: &Connection, place: &Place) -> rusqlite::Result<Option<String>> {
    let value = |conn: &Connection, key: &str| {
        let mut statement = conn.prepare("SELECT value FROM meta WHERE key = ?1")?;
        statement.query_row(params![key], |row| row.get::<_, String>(0)).optional()
    };
    if let Some(made) = value(backup, RESTORED_FROM)? {
        let made = clock::rfc3339(made.parse().unwrap_or(0));
        return Ok(Some(format!(
            "its database had itself been put back from a backup of {made}, and no Host has looked since at what became of that"
        )));
    }
    let last = |conn: &Connection| {
        conn.query_row("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'", [], |row| {
            row.get::<_, i64>(0)
        })
    };
    // What is there may be damaged, or not be there: then it says nothing.
    let there = Connection::open_with_flags(place.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).ok();
    let there = there.filter(|there| {
        check_ours(there, place.path()).is_ok() && value(there, CLUSTER).ok() == value(backup, CLUSTER).ok()
    });
    let newer = there.and_then(|there| last(&there).ok()).map(|there| there - last(backup).unwrap_or(i64::MAX));
    Ok(newer
        .filter(|newer| *newer > 0)
        .map(|newer| format!("the database that is there knows of {newer} later events")))
}

/// The cluster of a database that may be damaged; None: that cannot be read. It is left as it is.
fn cluster_at(path: &Path) -> Option<String> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    check_ours(&conn, path).ok()?;
    conn.query_row("SELECT value FROM meta WHERE key = ?1", params![CLUSTER], |row| row.get(0)).ok()
}

/// On disk, owned by whoever owned the one before, and with the time after which that is to be called.
fn make_ready(place: &Place, now_s: u64) -> std::io::Result<()> {
    let _step = step("write", || file_name(&place.prepared()));
    let new = File::open(place.prepared())?;
    // Nothing that is kept is written over.
    let time_s = (now_s..).find(|time| !place.replaced(*time).exists()).unwrap_or(now_s);
    new.set_modified(UNIX_EPOCH + Duration::from_secs(time_s))?;
    new.sync_all()
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
