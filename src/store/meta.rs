//! Single values of the whole cluster.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreFault};
use crate::domain::ids::TaskId;

/// The cluster's id: made with its database, and the same for as long as that lives.
pub(super) const CLUSTER: &str = "cluster_id";
/// Stands in a backup: when it was made, in milliseconds since 1970.
pub(super) const BACKUP_MADE: &str = "backup_made_ms";
/// Stands in a backup of a database that was itself put back from one, made at this time, before any Host took note of that.
pub(super) const RESTORED_FROM: &str = "backup_restored_from_ms";

/// The highest id at the time of that.
const RESTORED_THROUGH: &str = "restored_through";

impl Store {
    /// The value of a key.
    ///
    /// # Errors
    /// The database could not be read.
    pub(super) fn meta(&self, key: &str) -> Result<Option<String>, StoreFault> {
        self.conn()
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")
            .and_then(|mut statement| statement.query_row(params![key], |row| row.get(0)).optional())
            .map_err(|error| StoreFault::of("read the database", &error))
    }

    /// The cluster's id; None: it has lost that.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn cluster_id(&self) -> Result<Option<String>, StoreFault> {
        self.meta(CLUSTER)
    }

    /// When this database was made as a backup, in milliseconds since 1970; None: it was not, or a Host has taken note of it.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn backup_mark(&self) -> Result<Option<u64>, StoreFault> {
        // Whatever stands there, it is a backup.
        Ok(self.meta(BACKUP_MADE)?.map(|made| made.parse().unwrap_or(0)))
    }

    /// This Host has taken note of it.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn forget_backup_mark(&mut self) -> Result<(), StoreFault> {
        self.write("DELETE FROM meta WHERE key IN (?1, ?2)", params![BACKUP_MADE, RESTORED_FROM])
    }

    /// The highest id that a database had which was put back from a backup; None: none ever was.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn restored_through(&self) -> Result<Option<TaskId>, StoreFault> {
        // Whatever stands there: then nothing is known of any of them.
        Ok(self.meta(RESTORED_THROUGH)?.map(|id| TaskId::from_u64(id.parse().unwrap_or(u64::MAX))))
    }

    /// Notes that.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn note_restored_through(&mut self, highest: TaskId) -> Result<(), StoreFault> {
        self.set_meta(RESTORED_THROUGH, &highest.to_string())
    }

    /// Sets the value of a key.
    pub(super) fn set_meta(&mut self, key: &str, value: &str) -> Result<(), StoreFault> {
        self.write("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", params![key, value])
    }
}
