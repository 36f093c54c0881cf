//! SQLite: open, schema and migrations, tasks, nodes, events. Rows are not domain types; conversion stands here.
//!
//! One [`Store`] writes (the engine owns it); [`Readers`] read beside it and see what was committed. It must not know
//! who asks, nor what a state means: [`crate::domain::state::step`] decides, this keeps.

use std::fmt;

mod backup;
mod batches;
#[cfg(test)]
mod damage_tests;
mod events;
mod meta;
mod nodes;
mod open;
mod place;
mod readers;
mod restore;
mod schema;
mod seal;
mod spec_row;
mod tasks;
#[cfg(test)]
mod tests;

pub use backup::{Backup, back_up};
pub use batches::KeptAnswer;
pub use events::{EventFilter, EventRow, NewEvent};
pub use nodes::NodeRecord;
pub use open::Store;
pub use place::{REMEDY, is_there};
pub use readers::{Readers, TaskFilter};
pub use restore::{Prepared, Source, prepare};
pub use tasks::{Gone, Task};

/// Why the database did not do what was asked: one or two lines for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// It cannot be opened by this program: damaged, foreign, newer, in use. With what to do.
    Unusable(String),
    /// One row cannot be read; the others can.
    Row(String),
    /// The disk (or the file's size limit) is full: nothing was written, reading goes on.
    Full(String),
    /// Anything else that SQLite said.
    Failed(String),
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(text) | Self::Row(text) | Self::Full(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

impl StoreFault {
    /// What SQLite said while doing `what`.
    fn of(what: &str, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let text = format!("cannot {what}: {error}");
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(format!("cannot {what}: the disk of the database is full")),
            _ if tasks::is_of_the_row(error) => Self::Row(text),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Unusable(text),
            _ => Self::Failed(text),
        }
    }
}

/// SQLite's integers are signed; ids and times stay far below 2^63.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The inverse of [`int`]; a negative number was never written by us.
fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
