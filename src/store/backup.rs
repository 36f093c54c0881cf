//! A copy of the database as it is at one moment, made beside whoever works on it.
//!
//! `VACUUM INTO` copies within one read transaction: in WAL mode no writer waits for it, and it sees all or nothing of each commit.
//! Weighed against SQLite's backup interface, which copies pages: this reads every row of every table, so damage is met now and not
//! when the backup is needed; and what was deleted (secrets of old tasks) is not in the copy.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};

use crate::info;
use crate::sys::fault::{file_name, step};
use crate::sys::{file, random};

use super::meta::{BACKUP_MADE, RESTORED_FROM};
use super::open::{check_ours, connect, faults, remove_leftovers};
use super::place::{Found, Place};
use super::{StoreFault, natural, seal};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// With its checksum.
    pub bytes: u64,
    /// All tasks in it, ended or not.
    pub tasks: u64,
    /// The file that was backed up, with links followed.
    pub database: PathBuf,
}

/// Writes a backup of the database at `path` to the file `to`, whole or not at all. `now_ms` (milliseconds since 1970) stands in it.
///
/// # Errors
/// Nothing was written: there is no such database, it is damaged, `to` is there and must not be replaced, or the disk said no.
pub fn back_up(path: &Path, to: &Path, replace: bool, now_ms: u64) -> Result<Backup, StoreFault> {
    let place = Place::of(path)?;
    place.refuse_root_for_others()?;
    let _lock = place.lock_for_backup()?.ok_or_else(|| {
        let path = place.path().display();
        StoreFault::Unusable(format!("a restore of the database {path} is under way: try again when it has ended"))
    })?;
    // One that was cut off. Nobody can have begun another one meanwhile; but a Host that begins may be about to finish it.
    if place.restored().exists() {
        let Some(_alone) = place.lock()? else {
            return Err(place.cannot("back up", &"a restore of it is being finished: try again in a moment"));
        };
        if let Some(kept) = place.finish_restore()? {
            info!("a restore that was cut off is finished; the database before it is kept as {}", kept.display());
        }
    }
    if place.look()? == Found::Nothing {
        return Err(place.cannot("back up", &"it is not there; see database.db_file in the configuration"));
    }
    let target = Target::of(to, replace, &place)?;
    let made = copy(&place, &target.temporary, now_ms).and_then(|tasks| Ok((tasks, target.finish()?)));
    match made {
        Ok((tasks, bytes)) => Ok(Backup { bytes, tasks, database: place.path().to_owned() }),
        Err(fault) => {
            // A file of that name means nothing to anybody.
            let _not_made = remove_leftovers(&target.temporary);
            Err(match fault {
                // What is copied needs room here alone.
                StoreFault::Full(_) => {
                    StoreFault::Full(format!("cannot write the backup {}: its disk is full", target.path.display()))
                }
                other => other,
            })
        }
    }
}

/// Where it is to be.
struct Target {
    path: PathBuf,
    temporary: PathBuf,
}

impl Target {
    fn of(to: &Path, replace: bool, place: &Place) -> Result<Self, StoreFault> {
        let fault = |why: &dyn std::fmt::Display| {
            StoreFault::Failed(format!("cannot write the backup {}: {why}", to.display()))
        };
        let name = to.file_name().ok_or_else(|| fault(&"it is no file name"))?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = fs::canonicalize(folder).map_err(|error| fault(&format!("{}: {error}", folder.display())))?;
        let path = folder.join(name);
        if place.is_own(&path) {
            return Err(fault(&"that is a file of the database itself"));
        }
        match fs::symlink_metadata(&path) {
            Ok(seen) if !seen.is_file() => return Err(fault(&"what is there is no regular file")),
            Ok(_) if !replace => return Err(fault(&"it is there already; --force writes over it")),
            _ => {}
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", random::hex(6)));
        Ok(Self { temporary: folder.join(temporary), path })
    }

    /// Seals what was copied, and gives it its name; the answer is its length.
    fn finish(&self) -> Result<u64, StoreFault> {
        let fault = |error: std::io::Error| {
            let text = format!("cannot write the backup {}: {error}", self.path.display());
            if error.kind() == std::io::ErrorKind::StorageFull {
                StoreFault::Full(text)
            } else {
                StoreFault::Failed(text)
            }
        };
        let step = step("write", || file_name(&self.path));
        let mut file = OpenOptions::new().read(true).write(true).open(&self.temporary).map_err(fault)?;
        let bytes = seal::seal(&mut file).and_then(|bytes| file.sync_all().map(|()| bytes)).map_err(fault)?;
        drop(step);
        file::rename(&self.temporary, &self.path).map_err(fault)?;
        file::sync_dir(self.path.parent().unwrap_or(Path::new("/"))).map_err(fault)?;
        Ok(bytes)
    }
}

/// Copies the database, and looks through the copy; the answer is how many tasks there are in it.
fn copy(place: &Place, to: &Path, now_ms: u64) -> Result<u64, StoreFault> {
    let fault = |error: rusqlite::Error| match StoreFault::of("back up the database", &error) {
        StoreFault::Unusable(how) => place.damaged(&how),
        other => other,
    };
    let source = connect(place.path(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Where no Host runs this is the last connection, and would tidy the log away: a backup changes nothing.
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fault)?;
    check_ours(&source, place.path()).map_err(|fault| match fault {
        StoreFault::Unusable(how) if how.starts_with("cannot ") => place.damaged(&how),
        other => other,
    })?;
    // For us alone, before there is anything in it: tasks' environment variables often hold secrets.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    made.map_err(|error| StoreFault::Failed(format!("cannot write {}: {error}", to.display())))?;
    source.execute("VACUUM INTO ?1", params![text_of(to)?]).map_err(fault)?;
    drop(source);

    let copy = connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Nothing that a crash leaves of it counts, so it needs no journal.
    copy.execute_batch("PRAGMA journal_mode = OFF").map_err(fault)?;
    // One that is there is of a backup that was put back, and that no Host has taken note of: what it says of tasks is as old as that.
    copy.execute(
        "INSERT OR IGNORE INTO meta SELECT ?1, value FROM meta WHERE key = ?2",
        params![RESTORED_FROM, BACKUP_MADE],
    )
    .map_err(fault)?;
    copy.execute("INSERT OR IGNORE INTO meta VALUES (?1, ?2)", params![BACKUP_MADE, now_ms.to_string()])
        .map_err(fault)?;
    if let Some(how) = faults(&copy, "PRAGMA integrity_check(1)")? {
        return Err(place.damaged(&how));
    }
    let tasks = copy.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).map(natural).map_err(fault)?;
    close(copy).map_err(fault)?;
    Ok(tasks)
}

/// SQLite takes names as text.
fn text_of(path: &Path) -> Result<&str, StoreFault> {
    path.to_str()
        .ok_or_else(|| StoreFault::Failed(format!("cannot write {}: its name is not valid UTF-8", path.display())))
}

fn close(conn: Connection) -> rusqlite::Result<()> {
    conn.close().map_err(|(_, error)| error)
}

/// Reads what a file starts with: SQLite opens anything, and says what it is later.
pub(super) fn open_backup(path: &Path) -> Result<File, StoreFault> {
    let cannot =
        |why: &dyn std::fmt::Display| StoreFault::Failed(format!("cannot read the backup {}: {why}", path.display()));
    file::open_regular(path).map_err(|error| cannot(&error))
}
