//! Answers that are given again to the same idempotency key.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreFault, int};

/// What was answered to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// SHA-256 of the request's body.
    pub body_hash: Vec<u8>,
    /// The answer's JSON.
    pub answer: String,
}

impl Store {
    /// The answer that was kept for a key.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn kept_answer(&self, key: &str) -> Result<Option<KeptAnswer>, StoreFault> {
        kept(self.conn(), key)
    }

    /// Keeps an answer for a key.
    ///
    /// # Errors
    /// The database could not be written.
    pub fn keep_answer(&mut self, key: &str, kept: &KeptAnswer, now_ms: u64) -> Result<(), StoreFault> {
        self.write(
            "INSERT INTO batches VALUES (?1, ?2, ?3, ?4)",
            params![key, kept.body_hash, kept.answer, int(now_ms)],
        )
    }
}

pub(super) fn kept(conn: &Connection, key: &str) -> Result<Option<KeptAnswer>, StoreFault> {
    conn.prepare_cached("SELECT body_hash, answer FROM batches WHERE key = ?1")
        .and_then(|mut statement| {
            statement
                .query_row(params![key], |row| Ok(KeptAnswer { body_hash: row.get(0)?, answer: row.get(1)? }))
                .optional()
        })
        .map_err(|error| StoreFault::of("read the database", &error))
}
