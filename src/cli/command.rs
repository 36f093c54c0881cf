//! `command TASK_ID pause|resume`

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::fault::Fault;
use super::host_api::Host;
use super::output;
use super::task_ref::{TaskRef, look};

/// What can be asked of a task that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Pause,
    Resume,
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pause" => Ok(Self::Pause),
            "resume" => Ok(Self::Resume),
            _ => Err("expected pause or resume".to_owned()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
        })
    }
}

/// Asks for it; the answer comes before the node has acted.
pub(super) fn run(task: &TaskRef, action: Action, config: Option<&Path>) -> Result<(), Fault> {
    let host = Host::of(config)?;
    let id = task.id(&host)?;
    output::line(&host.post(&format!("/command/{id}/{action}"), &look(id))?);
    Ok(())
}
