//! The `docker` command: each call with a deadline, its output read into a type, its errors sorted.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::docker_parse::{
    Complaint, Container, DockerEvent, Glimpse, ImageConfig, chains, complaint, event, has_our_mounts, image_config,
    inspected, listed, plain,
};
use super::together::Together;
use super::{Owner, docker_args};
use crate::sys::command::{CommandFault, Output, Program};
use crate::sys::shutdown::Stop;

/// Whether the daemon answers at all.
const CHECK: Duration = Duration::from_secs(5);
/// One of the daemon's quick answers, on a busy machine.
const QUICK: Duration = Duration::from_secs(30);
/// Making and starting a container, also when a hundred others are being started.
const RUN: Duration = Duration::from_secs(180);
/// What loads slower than this (bytes a second) hangs.
const SLOWEST_LOAD: u64 = 2 << 20;
/// How many programs to have at once: more only wait for each other inside the daemon.
const AT_ONCE: usize = 16;
/// Output of `docker inspect` for several hundred containers.
const LARGE: usize = 16 << 20;

/// Why Docker gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerFault {
    pub kind: Complaint,
    /// One line, for the user.
    pub text: String,
    /// It did not answer in time: what it did is not known.
    pub timed_out: bool,
}

impl fmt::Display for DockerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The door to the daemon.
pub struct Docker {
    command: String,
    owner: Owner,
    running: Mutex<usize>,
    ended: Condvar,
    removals: Together<bool>,
    looks: Together<Result<Vec<Container>, DockerFault>>,
}

impl Docker {
    /// `command` is the program, `docker`; `owner` says whose containers are looked at.
    pub fn new(command: &str, owner: Owner) -> Self {
        Self {
            command: command.to_owned(),
            owner,
            running: Mutex::new(0),
            ended: Condvar::new(),
            removals: Together::default(),
            looks: Together::default(),
        }
    }

    /// Whose containers are looked at.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The program.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Our containers, also those that do not run, within 5 s: the cheapest question that only a daemon in good health
    /// answers.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn list(&self) -> Result<Vec<(String, Glimpse)>, DockerFault> {
        // Not counted among the others: they may be what hangs.
        let output = self.program(docker_args::list(&self.owner), CHECK).run();
        Ok(listed(&self.success(output)?.stdout))
    }

    /// Those of `containers` (ids or names) that are there and ours.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn inspect<S: AsRef<str>>(&self, containers: &[S]) -> Result<Vec<Container>, DockerFault> {
        if containers.is_empty() {
            return Ok(Vec::new());
        }
        let mut program = self.program(docker_args::inspect(containers), QUICK);
        program.keep = LARGE;
        let output = self.counted(|| program.run());
        // Exit status 1 is also the answer when one of several is gone: the others are printed all the same.
        let output = match output {
            Ok(output) if complaint(&output.stderr_text()) == Complaint::NoSuchContainer => output,
            other => self.success(other)?,
        };
        inspected(&output.stdout, &self.owner).map_err(|text| DockerFault {
            kind: Complaint::Other,
            text,
            timed_out: false,
        })
    }

    /// A container by id or name, if it is there and ours. Those that are looked at at the same time are looked at in one
    /// call.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn look(&self, handle: &str) -> Result<Option<Container>, DockerFault> {
        let found = self.looks.together(handle, |handles| self.inspect(handles));
        let found = match &*found {
            Ok(found) => found.iter().find(|found| found.is_called(handle)).cloned(),
            Err(fault) => return Err(fault.clone()),
        };
        Ok(found)
    }

    /// Makes and starts a container; the answer is its id.
    ///
    /// # Errors
    /// See [`DockerFault`]. The container may be there all the same, made but not started.
    pub fn run(&self, arguments: Vec<String>) -> Result<String, DockerFault> {
        let output = self.call(arguments, RUN)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Asks a container to end, and makes it end after `grace_s` seconds.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn stop(&self, container: &str, grace_s: u32) -> Result<(), DockerFault> {
        let limit = QUICK + Duration::from_secs(u64::from(grace_s));
        self.call(docker_args::stop(container, grace_s), limit).map(drop)
    }

    /// Removes a container, dead or alive. That it is not there is no error. Those that are to be removed at the same time
    /// are removed by one call: a hundred commands that end together would else make a hundred.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn remove(&self, container: &str) -> Result<(), DockerFault> {
        let is_done = self
            .removals
            .together(container, |containers| self.call(docker_args::remove(containers), 2 * QUICK).is_ok());
        if *is_done {
            return Ok(());
        }
        // One of them could not be: which, and why, is told for each alone.
        match self.call(docker_args::remove(&[container.to_owned()]), 2 * QUICK) {
            Err(fault) if fault.kind == Complaint::NoSuchContainer => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes a container that was made and never started: [`Complaint::WrongState`] where it was started meanwhile. That
    /// it is not there is no error.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn remove_unstarted(&self, container: &str) -> Result<(), DockerFault> {
        match self.call(docker_args::remove_unstarted(container), QUICK) {
            Err(fault) if fault.kind == Complaint::NoSuchContainer => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether something was prepared to run in it: the runtime makes the places of our mounts then, whatever Docker remembers. That it
    /// is not there is a no.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn was_prepared(&self, container: &str) -> Result<bool, DockerFault> {
        match self.call(docker_args::changes(container), QUICK) {
            Ok(output) => Ok(has_our_mounts(&output.stdout)),
            Err(fault) if fault.kind == Complaint::NoSuchContainer => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// What an image runs by itself, and as whom.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn image_config(&self, image: &str) -> Result<ImageConfig, DockerFault> {
        let output = self.call(docker_args::image_config(image), QUICK)?;
        image_config(&output.stdout).map_err(|text| DockerFault { kind: Complaint::Other, text, timed_out: false })
    }

    /// Starts a container that has ended; one that runs stays as it is.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn start(&self, container: &str) -> Result<(), DockerFault> {
        self.call(docker_args::start(container), RUN).map(drop)
    }

    /// Freezes or thaws all processes of a container.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn freeze(&self, container: &str, frozen: bool) -> Result<(), DockerFault> {
        self.call(docker_args::freeze(container, frozen), QUICK).map(drop)
    }

    /// Lets Docker start the container again whenever it ends, until someone stops it.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn restart_always(&self, container: &str) -> Result<(), DockerFault> {
        self.call(docker_args::set_restart(container, "unless-stopped"), QUICK).map(drop)
    }

    /// The last lines of a container's output, of both streams; what came on stderr stands last. Empty if they cannot
    /// be had.
    pub fn last_lines(&self, container: &str, lines: u32) -> String {
        self.lines(container, lines).unwrap_or_default()
    }

    /// As [`Self::last_lines`].
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn lines(&self, container: &str, lines: u32) -> Result<String, DockerFault> {
        let output = self.call(docker_args::last_lines(container, lines), QUICK)?;
        let both = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&both).into_owned();
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines as usize)..].join("\n"))
    }

    /// The id of an image, if the node has it.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn image_id(&self, image: &str) -> Result<Option<String>, DockerFault> {
        match self.call(docker_args::image_id(image), QUICK) {
            Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())),
            Err(fault) if fault.kind == Complaint::NoSuchImage => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Which of `images` (ids) the node has.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn image_ids(&self, images: &[String]) -> Result<Vec<String>, DockerFault> {
        let stdout = self.of_images(images, docker_args::image_ids(images))?;
        Ok(String::from_utf8_lossy(&stdout).lines().map(|line| line.trim().to_owned()).collect())
    }

    /// The layers of every image of this node, each from the lowest on.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn image_layers(&self) -> Result<Vec<Vec<String>>, DockerFault> {
        let listed = self.call(docker_args::images(), QUICK)?;
        let ids: BTreeSet<String> =
            String::from_utf8_lossy(&listed.stdout).lines().map(|line| line.trim().to_owned()).collect();
        let ids: Vec<String> = ids.into_iter().collect();
        Ok(chains(&self.of_images(&ids, docker_args::image_layers(&ids))?))
    }

    /// What an inspection of images prints. One that is gone is no fault: the others are printed all the same.
    fn of_images(&self, images: &[String], argv: Vec<String>) -> Result<Vec<u8>, DockerFault> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let mut program = self.program(argv, QUICK);
        program.keep = LARGE;
        match self.counted(|| program.run()) {
            Ok(output) if complaint(&output.stderr_text()) == Complaint::NoSuchImage => Ok(output.stdout),
            other => self.success(other).map(|output| output.stdout),
        }
    }

    /// Loads an image of `size` bytes from `source`; `taken` hears how many of them Docker has. The answer is what Docker
    /// said that it loaded.
    ///
    /// # Errors
    /// See [`DockerFault`].
    pub fn load(
        &self,
        source: &mut dyn Read,
        size: u64,
        stop: &Stop,
        taken: &mut dyn FnMut(u64),
    ) -> Result<String, DockerFault> {
        let limit = Duration::from_secs(600 + size / SLOWEST_LOAD);
        let program = self.program(docker_args::load(), limit);
        let output = self.success(program.feed(stop, source, taken))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Tells `each` what happens to our containers from `since` (seconds since 1970) on, until the stream ends or `stop`
    /// is set. The answer says why it ended.
    pub fn follow(&self, since: u64, stop: &Stop, each: &mut dyn FnMut(DockerEvent)) -> String {
        let mut program = self.program(docker_args::events(&self.owner, since), Duration::MAX);
        program.dies_with_us = true;
        let ended = program.lines(stop, &mut |line| {
            if let Some(event) = event(line) {
                each(event);
            }
            true
        });
        match self.success(ended) {
            Ok(_) => "the stream of Docker's events ended".to_owned(),
            Err(fault) => fault.text,
        }
    }

    fn program(&self, arguments: Vec<String>, deadline: Duration) -> Program {
        let mut argv = arguments;
        argv.insert(0, self.command.clone());
        Program::new(argv, deadline)
    }

    fn call(&self, arguments: Vec<String>, deadline: Duration) -> Result<Output, DockerFault> {
        let program = self.program(arguments, deadline);
        let output = self.counted(|| program.run());
        self.success(output)
    }

    /// Runs one call when fewer than [`AT_ONCE`] others run.
    fn counted<T>(&self, call: impl FnOnce() -> T) -> T {
        #[cfg(test)]
        if crate::sys::simulated::world().is_some() {
            return call();
        }
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running =
            self.ended.wait_while(running, |running| *running >= AT_ONCE).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        drop(running);
        let result = call();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.ended.notify_one();
        result
    }

    fn success(&self, output: Result<Output, CommandFault>) -> Result<Output, DockerFault> {
        let output = match output {
            Ok(output) => output,
            Err(CommandFault::CannotStart { argv, is_too_long: true, .. }) => {
                let verb = argv.get(1).map_or("", String::as_str);
                let bytes: usize = argv.iter().map(|word| word.len() + 1).sum();
                let text = format!(
                    "'{} {verb}' cannot be started: Linux passes no program the {bytes} bytes of its arguments; fewer and shorter mounts help",
                    self.command
                );
                return Err(DockerFault { kind: Complaint::Other, text, timed_out: false });
            }
            // It is missing, or no program; or there is no room for a process: nobody's task is to blame.
            Err(fault @ CommandFault::CannotStart { .. }) => {
                return Err(DockerFault { kind: Complaint::Down, text: fault.to_string(), timed_out: false });
            }
            Err(CommandFault::TimedOut { argv, after, .. }) => {
                let verb = argv.get(1).map_or("", String::as_str);
                let text = format!("'{} {verb}' did not answer within {} s", self.command, after.as_secs());
                return Err(DockerFault { kind: Complaint::Down, text, timed_out: true });
            }
            Err(fault @ CommandFault::Failed { .. }) => {
                return Err(DockerFault { kind: Complaint::Other, text: fault.to_string(), timed_out: false });
            }
        };
        if output.code == Some(0) {
            return Ok(output);
        }
        let stderr = output.stderr_text();
        let kind = complaint(&stderr);
        let verb = output.argv.get(1).cloned().unwrap_or_default();
        let status = match (output.code, output.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit status".to_owned(),
        };
        let text = format!("'{} {verb}' failed ({status}): {}", self.command, plain(&stderr));
        Err(DockerFault { kind, text, timed_out: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_linux_does_not_pass_on_are_the_tasks_fault_and_a_missing_docker_is_not() {
        let owner = Owner { cluster: "c1".to_owned(), node: "n1".to_owned() };
        let fault =
            |command: &str, words: Vec<String>| Docker::new(command, owner.clone()).run(words).expect_err("it fails");
        for words in [vec!["run".to_owned(), "x".repeat(200_000)], vec!["run".to_owned(); 2_000_000]] {
            let fault = fault("true", words);
            assert_eq!(fault.kind, Complaint::Other, "{fault}");
            assert!(fault.text.contains("'true run' cannot be started") && fault.text.len() < 200, "{fault}");
        }
        for missing in ["no-such-program-here", "/etc/passwd", "/"] {
            assert_eq!(fault(missing, Vec::new()).kind, Complaint::Down, "{missing}");
        }
    }
}
