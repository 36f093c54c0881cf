//! What can go wrong with a command, and the exit status that says so. Printed once, at the edge.

use crate::config::ConfigFault;

/// Done.
pub const DONE: u8 = 0;

/// Why a command ended without doing what it was asked: one or two lines for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The Host or the task said no.
    Refused(String),
    /// The command line is wrong.
    Usage(String),
    /// The configuration is wrong.
    Config(String),
    /// The Host cannot be reached.
    Unreachable(String),
    /// Everything has been said; only the status is left.
    Status(u8),
}

impl Fault {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Status(status) => *status,
        }
    }

    /// The text after `error: `.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Refused(text) | Self::Usage(text) | Self::Config(text) | Self::Unreachable(text) => Some(text),
            Self::Status(_) => None,
        }
    }

    /// Prints it to stderr; the answer is the exit status.
    pub fn report(&self) -> u8 {
        if let Some(message) = self.message() {
            super::output::error_line(&format!("error: {message}"));
        }
        self.status()
    }
}

impl From<ConfigFault> for Fault {
    fn from(fault: ConfigFault) -> Self {
        Self::Config(fault.0)
    }
}
