//! Single values of the whole cluster.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreFault};

impl Store {
    /// The value of a key.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreFault> {
        self.conn()
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")
            .and_then(|mut statement| statement.query_row(params![key], |row| row.get(0)).optional())
            .map_err(|error| StoreFault::of("read the database", &error))
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn set_meta(&mut self, key: &str, value: &str) -> Result<(), StoreFault> {
        self.write("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", params![key, value])
    }
}
