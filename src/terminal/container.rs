//! The shell of a container: which one it has, how it is started, and how it is ended when nobody looks at it any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::api::terminal::Size;
use crate::info;
use crate::sys::command::Program;
use crate::sys::process::{SIGCONT, SIGHUP, SIGKILL, signal, terminal_leaders};
use crate::sys::pty::Terminal;
use crate::sys::random;

/// The shells that are looked for, the better one first.
const SHELLS: [&str; 2] = ["bash", "sh"];
/// For a shell to show that it is there, on a busy machine.
const LOOK: Duration = Duration::from_secs(30);
/// For a shell that has lost its terminal to end before it is killed.
const HANG_UP: Duration = Duration::from_secs(2);
/// How often such a shell is looked for: it is nobody's child here, and nothing tells that it was started.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What a session's processes carry in their environment: all that tells them from others, as Docker does not say what it has started.
const MARK: &str = "HAKURIVER_SHELL";
/// The same for whose shells they are.
const OWNER: &str = "HAKURIVER_SHELL_OF";

/// A shell that runs in a container, on a terminal that is ours.
#[derive(Debug)]
pub struct Shell {
    pub terminal: Terminal,
    /// `NAME=VALUE`
    mark: String,
}

impl Shell {
    /// Starts the container's shell. `docker` is the program, `container` the id of a container that runs, `owner` whose shell it is
    /// (see [`end_strays`]).
    ///
    /// # Errors
    /// One sentence for the user.
    pub fn start(docker: &str, container: &str, owner: &str, size: Size) -> Result<Self, String> {
        let shell = find(docker, container)?;
        let mark = format!("{MARK}={}", random::hex(8));
        let argv = argv(docker, container, &[&mark, &format!("{OWNER}={owner}")], shell);
        let terminal = Terminal::start(&argv, size.rows, size.cols).map_err(|fault| fault.to_string())?;
        Ok(Self { terminal, mark })
    }

    /// Ends it: its terminal is gone. Docker would leave it running for ever, as it does not pass the end of its own terminal on.
    pub fn hang_up(mut self) {
        let end = Instant::now() + HANG_UP;
        let mut told = BTreeSet::new();
        let mut interrupted = false;
        // It may be on its way only: Docker takes a moment to start it.
        while !self.terminal.drain(LOOK_AGAIN) && Instant::now() < end {
            for pid in self.leaders().into_iter().filter(|pid| told.insert(*pid)) {
                signal(pid, SIGHUP);
                // One that is stopped hears it only then.
                signal(pid, SIGCONT);
            }
            if told.is_empty() {
                // Only root sees whose processes these are. Ctrl-C ends what runs, and Ctrl-D the shell once it waits for a command.
                let _full = self.terminal.write(if interrupted { b"\x04" } else { b"\x03" });
                interrupted = true;
            }
        }
        for pid in self.leaders() {
            signal(pid, SIGKILL);
        }
        self.terminal.drain(LOOK_AGAIN);
    }

    /// The shell itself, if it is found; what it has started hears of its end from the kernel.
    fn leaders(&self) -> Vec<u32> {
        terminal_leaders(&self.mark).unwrap_or_default()
    }
}

/// Ends the shells that a process of that owner has left behind because it was killed. To be called before it has any.
pub fn end_strays(owner: &str) {
    for pid in terminal_leaders(&format!("{OWNER}={owner}")).unwrap_or_default() {
        info!("a shell was left behind (process {pid}): it is ended");
        signal(pid, SIGHUP);
        signal(pid, SIGCONT);
    }
}

/// The best shell that the container has.
fn find(docker: &str, container: &str) -> Result<&'static str, String> {
    for shell in SHELLS {
        let output = Program::new(probe(docker, container, shell), LOOK).run().map_err(|fault| fault.to_string())?;
        match said(output.code, &output.stderr_text()) {
            Said::There => return Ok(shell),
            Said::Missing => {}
            Said::Fault(text) => return Err(text),
        }
    }
    Err(format!("there is no shell in this container (looked for: {})", SHELLS.join(", ")))
}

/// A program that does nothing, which only a shell can do. The words are ours alone.
fn probe(docker: &str, container: &str, shell: &str) -> Vec<String> {
    [docker, "exec", container, shell, "-c", ":"].map(str::to_owned).to_vec()
}

fn argv(docker: &str, container: &str, marks: &[&str], shell: &str) -> Vec<String> {
    // Docker keeps the first key of the sequence that detaches until it has seen the next one. Its own is Ctrl-P, which repeats the
    // last command in every shell; this one is next to never pressed, and eight in a row never.
    let detach = ["ctrl-^"; 8].join(",");
    let mut argv = vec![docker, "exec", "-it", "--detach-keys", &detach];
    argv.extend(marks.iter().flat_map(|mark| ["-e", *mark]));
    argv.extend([container, shell]);
    argv.into_iter().map(str::to_owned).collect()
}

/// What Docker said of a shell.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    There,
    Missing,
    Fault(String),
}

fn said(code: Option<i32>, stderr: &str) -> Said {
    match code {
        Some(0) => Said::There,
        // 126 and 127 are Docker's where the program could not be started; 20.10 also ends so where it is no program at all.
        Some(126 | 127) => Said::Missing,
        _ => Said::Fault(match stderr.lines().find(|line| !line.trim().is_empty()) {
            Some(line) => line.trim().trim_start_matches("Error response from daemon: ").to_owned(),
            None => "Docker could not look into the container, and did not say why".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_called_so() {
        let line = argv("docker", "0123", &["A=b", "C=d"], "bash").join(" ");
        let keys = "ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^,ctrl-^";
        assert_eq!(line, format!("docker exec -it --detach-keys {keys} -e A=b -e C=d 0123 bash"));
        assert_eq!(probe("podman", "0123", "sh").join(" "), "podman exec 0123 sh -c :");
    }

    #[test]
    fn what_docker_says_of_a_shell() {
        let missing = "OCI runtime exec failed: exec failed: container_linux.go:380: starting container process caused: exec: \
                       \"bash\": executable file not found in $PATH: unknown";
        let paused = "\nError response from daemon: Container 12 is paused, unpause the container before exec\n";
        for (code, stderr, expected) in [
            (Some(0), "", Said::There),
            (Some(126), missing, Said::Missing),
            (Some(127), missing, Said::Missing),
            (Some(1), paused, Said::Fault("Container 12 is paused, unpause the container before exec".to_owned())),
            (None, "", Said::Fault("Docker could not look into the container, and did not say why".to_owned())),
        ] {
            assert_eq!(said(code, stderr), expected, "{code:?} {stderr}");
        }
    }
}
