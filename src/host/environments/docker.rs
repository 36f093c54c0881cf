//! The `docker` command, as far as environments need it: each call with a deadline, its output read into a type.

use std::time::Duration;
use std::{fmt, io};

use super::words::{self, Found, Image, Listed};
use crate::domain::docker_words::{Complaint, complaint, plain};
use crate::host::engine::ActFault;
use crate::sys::command::{CommandFault, Output, Program};
use crate::sys::shutdown::Stop;

/// One of the daemon's quick answers, on a busy machine.
const QUICK: Duration = Duration::from_secs(30);
/// Making and starting a container on a busy machine; a stop with its grace.
const SLOW: Duration = Duration::from_secs(180);
/// A commit copies all that was changed; a save reads all there is. What takes longer hangs.
const LONG: Duration = Duration::from_secs(4 * 3600);

/// Why Docker gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DockerFault {
    pub(super) kind: Complaint,
    /// One line, for the user.
    pub(super) text: String,
}

impl fmt::Display for DockerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<DockerFault> for ActFault {
    fn from(fault: DockerFault) -> Self {
        let status = match fault.kind {
            Complaint::Down => 503,
            Complaint::NoSuchContainer | Complaint::NoSuchImage => 404,
            Complaint::NameTaken | Complaint::WrongState => 409,
            Complaint::PortTaken | Complaint::ShimDied | Complaint::NotLetGo | Complaint::Other => 500,
        };
        Self::new(status, fault.text)
    }
}

/// The door to the daemon.
#[derive(Clone, Debug)]
pub(super) struct Docker {
    command: String,
}

impl Docker {
    /// `command` is the program, `docker`.
    pub(super) fn new(command: &str) -> Self {
        Self { command: command.to_owned() }
    }

    /// The containers of this cluster's environments, also those that do not run.
    pub(super) fn list(&self, cluster: &str) -> Result<Vec<Listed>, DockerFault> {
        self.call(words::list(cluster), QUICK).map(|out| words::listed(&out))
    }

    /// The container of that name, whoever made it.
    pub(super) fn look(&self, name: &str) -> Result<Option<Found>, DockerFault> {
        match self.call(words::look(name), QUICK) {
            Ok(out) => words::found(&out, name).map_err(other),
            Err(fault) if fault.kind == Complaint::NoSuchContainer => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The image of that name or id, if it is on this machine.
    pub(super) fn image(&self, image: &str) -> Result<Option<Image>, DockerFault> {
        match self.call(words::image(image), QUICK) {
            Ok(out) => words::image_of(&out).map(Some).map_err(other),
            Err(fault) if fault.kind == Complaint::NoSuchImage => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The names of the images that match, such as `hakuriver/x:packing-*`.
    pub(super) fn names(&self, pattern: &str) -> Result<Vec<String>, DockerFault> {
        let out = self.call(words::names(pattern), QUICK)?;
        Ok(String::from_utf8_lossy(&out).lines().map(str::to_owned).collect())
    }

    /// Fetches an image; `line` hears what Docker says meanwhile.
    pub(super) fn pull(&self, image: &str, stop: &Stop, line: &mut dyn FnMut(&str)) -> Result<(), DockerFault> {
        let program = self.program(words::pull(image), LONG);
        let output = program.lines(stop, &mut |text| {
            line(text);
            true
        });
        self.success(output).map(drop)
    }

    /// Makes and starts a container.
    pub(super) fn run(&self, argv: Vec<String>) -> Result<(), DockerFault> {
        self.call(argv, SLOW).map(drop)
    }

    /// Starts a container that has ended; one that runs stays as it is.
    pub(super) fn start(&self, container: &str) -> Result<(), DockerFault> {
        self.call(["start", container], SLOW).map(drop)
    }

    /// Asks a container to end, and makes it end ten seconds later.
    pub(super) fn stop(&self, container: &str) -> Result<(), DockerFault> {
        self.call(["stop", "-t", "10", container], SLOW).map(drop)
    }

    /// Removes a container, dead or alive, with its anonymous volumes.
    pub(super) fn remove(&self, container: &str) -> Result<(), DockerFault> {
        self.call(["rm", "--force", "--volumes", container], SLOW).map(drop)
    }

    /// Makes an image of a container; the answer is its id.
    pub(super) fn commit(&self, argv: Vec<String>, stop: &Stop) -> Result<String, DockerFault> {
        let mut id = String::new();
        let output = self.program(argv, LONG).lines(stop, &mut |line| {
            line.trim().clone_into(&mut id);
            true
        });
        self.success(output).map(|_| id)
    }

    /// Gives an image a name, which another one may lose thereby.
    pub(super) fn tag(&self, image: &str, tag: &str) -> Result<(), DockerFault> {
        self.call(["tag", image, tag], QUICK).map(drop)
    }

    /// Takes a name from an image, or removes an image that has none; never one that is used.
    pub(super) fn remove_image(&self, image: &str) -> Result<(), DockerFault> {
        match self.call(["image", "rm", image], SLOW) {
            Err(fault) if fault.kind == Complaint::NoSuchImage => Ok(()),
            other => other.map(drop),
        }
    }

    /// Writes an image's archive into `sink`.
    pub(super) fn save(
        &self,
        image: &str,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), DockerFault> {
        let program = self.program(["save", image], LONG);
        self.success(program.pour(stop, sink)).map(drop)
    }

    fn program<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>, deadline: Duration) -> Program {
        let command = [self.command.clone()].into_iter();
        Program::new(command.chain(argv.into_iter().map(Into::into)), deadline)
    }

    fn call<S: Into<String>>(
        &self,
        argv: impl IntoIterator<Item = S>,
        deadline: Duration,
    ) -> Result<Vec<u8>, DockerFault> {
        self.success(self.program(argv, deadline).run())
    }

    fn success(&self, output: Result<Output, CommandFault>) -> Result<Vec<u8>, DockerFault> {
        let output = match output {
            Ok(output) => output,
            Err(fault @ CommandFault::CannotStart { is_too_long: true, .. }) => return Err(other(fault.to_string())),
            Err(fault @ CommandFault::CannotStart { .. }) => {
                return Err(DockerFault { kind: Complaint::Down, text: fault.to_string() });
            }
            Err(CommandFault::TimedOut { argv, after, .. }) => {
                let verb = argv.get(1).map_or("", String::as_str);
                let text = format!("'{} {verb}' did not end within {} s", self.command, after.as_secs());
                return Err(DockerFault { kind: Complaint::Down, text });
            }
            Err(fault @ CommandFault::Failed { .. }) => return Err(other(fault.to_string())),
        };
        if output.code == Some(0) {
            return Ok(output.stdout);
        }
        let stderr = output.stderr_text();
        let verb = output.argv.get(1).map_or("", String::as_str);
        let status = match (output.code, output.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, _) => "it was ended".to_owned(),
        };
        let text = format!("'{} {verb}' failed ({status}): {}", self.command, plain(&stderr));
        Err(DockerFault { kind: complaint(&stderr), text })
    }
}

fn other(text: String) -> DockerFault {
    DockerFault { kind: Complaint::Other, text }
}
