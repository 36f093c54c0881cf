//! A task as a user names it: by its id or by its name.

use std::fmt;
use std::str::FromStr;

use super::fault::Fault;
use super::host_api::Host;
use crate::api::public::TaskRecord;
use crate::domain::ids::{TaskId, TaskName};

/// An id or a name. (A name begins with a letter, so neither is mistaken for the other.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TaskRef {
    Id(TaskId),
    Name(TaskName),
}

impl FromStr for TaskRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self::Id)
            .or_else(|_| text.parse().map(Self::Name))
            .map_err(|_| "expected a task's id (digits) or its name (lower-case letters, digits and '-')".to_owned())
    }
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl TaskRef {
    /// The path of its record. Neither form has a character that would need an escape.
    pub(super) fn status_path(&self) -> String {
        format!("/status/{self}")
    }

    /// Its whole record.
    pub(super) fn record(&self, host: &Host) -> Result<TaskRecord, Fault> {
        host.get_as(&self.status_path())
    }

    /// Its id; the Host is asked only where a name stands for it.
    pub(super) fn id(&self, host: &Host) -> Result<TaskId, Fault> {
        match self {
            Self::Id(id) => Ok(*id),
            Self::Name(_) => id_of(&self.record(host)?),
        }
    }
}

/// The command that shows how a task stands.
pub(super) fn look(id: TaskId) -> String {
    format!("hakuriver client status {id}")
}

/// The id in a record.
pub(super) fn id_of(record: &TaskRecord) -> Result<TaskId, Fault> {
    record.task_id.parse().map_err(|fault| Fault::Refused(format!("the Host's answer is not understood: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_or_a_name() {
        assert_eq!("42".parse(), Ok(TaskRef::Id(TaskId::from_u64(42))));
        assert!(matches!("my-vps2".parse(), Ok(TaskRef::Name(_))));
        for bad in ["", "-1", "4a", "My", "a/b", "../nodes", "a?b", "99999999999999999999"] {
            assert!(bad.parse::<TaskRef>().is_err(), "{bad:?}");
        }
    }
}
