//! What Docker's complaints mean.

/// Why Docker did not do as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The daemon does not answer, or may not be talked to.
    Down,
    NoSuchContainer,
    NoSuchImage,
    /// Another socket has that port.
    PortTaken,
    /// Another container has that name.
    NameTaken,
    /// containerd's shim, which keeps a container, died while that was made or started.
    ShimDied,
    /// containerd has not let go of an earlier run of that container.
    NotLetGo,
    /// It is not running, or it is; or already as it should be: look again.
    WrongState,
    Other,
}

/// Sorts an error text. Docker has no codes for these; the words are the daemon's, and have been the same for years.
///
/// A message may quote what a user has named, such as a path. So words count only where Docker speaks for itself: at the start of
/// a message, and further on where nothing is quoted but names of our own. And what the daemon has answered, it was there to say.
pub fn complaint(stderr: &str) -> Complaint {
    let mut kinds = stderr.lines().filter_map(of_line);
    match kinds.next() {
        // One line for each thing that was asked for; the daemon may have gone away after the first.
        Some(Complaint::NoSuchContainer | Complaint::NoSuchImage) if kinds.any(|kind| kind == Complaint::Down) => {
            Complaint::Down
        }
        // All that follows may be the rest of what was quoted: a path can have line breaks.
        Some(first) => first,
        None => Complaint::Other,
    }
}

/// None: it is no message, but a remark before one or a hint after it.
fn of_line(line: &str) -> Option<Complaint> {
    let line = line.trim();
    let (is_of_run, line) = match line.strip_prefix("docker: ") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    // Docker 20 puts a full stop behind some.
    let text = line.trim_end_matches('.').to_ascii_lowercase();
    if let Some(answer) = text.strip_prefix("error response from daemon: ") {
        return Some(of_answer(answer));
    }
    let is_down = [
        "cannot connect to the docker daemon",
        "failed to connect to the docker api",
        "error during connect",
        "permission denied while trying to connect",
        "got permission denied while trying to connect",
        "cannot connect to podman",
    ];
    if is_down.iter().any(|words| text.starts_with(words)) {
        return Some(Complaint::Down);
    }
    match text.strip_prefix("error: ") {
        // Podman puts the cause last.
        Some(text) if text.ends_with(": no such container") => Some(Complaint::NoSuchContainer),
        Some(text) if text.ends_with(": image not known") => Some(Complaint::NoSuchImage),
        Some(text) if text.ends_with(": bind: address already in use") => Some(Complaint::PortTaken),
        Some(text) => Some(of_answer(text)),
        None => is_of_run.then_some(Complaint::Other),
    }
}

/// Of what comes after "Error response from daemon: ", or "Error: " as Docker's client and Podman say; in lower case.
fn of_answer(text: &str) -> Complaint {
    let starts = |openings: &[&str]| openings.iter().any(|words| text.starts_with(words));
    let has = |all: &[&str]| all.iter().any(|words| text.contains(words));
    if starts(&["no such container", "no such object", "inspecting object: no such object"]) {
        Complaint::NoSuchContainer
    } else if starts(&["no such image"]) {
        Complaint::NoSuchImage
    } else if starts(&["driver failed programming external", "failed to set up container networking"])
        && has(&["port is already allocated", "address already in use"])
    {
        Complaint::PortTaken
    } else if starts(&["conflict. the container name", "creating container storage: the container name"]) {
        Complaint::NameTaken
    } else if starts(&[
        "failed to create shim task: ttrpc: closed",
        "failed to create task for container: failed to create shim task: ttrpc: closed",
        "ttrpc: closed",
    ]) {
        Complaint::ShimDied
    } else if starts(&["id already in use"]) || starts(&["task "]) && text.contains(": already exists") {
        Complaint::NotLetGo
    } else if starts(&["container ", "cannot pause", "cannot unpause", "cannot kill", "cannot stop", "cannot remove"])
        && has(&[
            "is not running",
            "is not paused",
            "is already paused",
            "is restarting",
            "container is running",
            "container is paused",
        ])
        || starts(&["you cannot remove a running container", "you cannot remove a paused container"])
    {
        Complaint::WrongState
    } else {
        Complaint::Other
    }
}

/// Whether `error`, by which a container's start failed, is of a time before anything of it ran: the runtime first makes a container,
/// and then lets it go. What follows these words may quote what a user has named.
pub fn never_began(error: &str) -> bool {
    ["OCI runtime create failed: ", "failed to create shim task: ", "failed to create task for container: "]
        .iter()
        .any(|words| error.starts_with(words))
}

/// An error text without what Docker wraps around it, on one line.
pub fn plain(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim).filter(|line| {
        !line.is_empty()
            && !line.starts_with("Run 'docker")
            && !line.starts_with("See 'docker")
            && !line.starts_with("WARNING:")
    });
    let text = lines.collect::<Vec<_>>().join("; ");
    let text = text.strip_prefix("docker: ").unwrap_or(&text);
    let text = text.strip_prefix("Error response from daemon: ").unwrap_or(text);
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_failed_before_anything_ran_is_told_from_others() {
        let create = "OCI runtime create failed: runc create failed: unable to start container process: exec: \"x\": not found: unknown";
        for (error, expected) in [
            (create.to_owned(), true),
            (format!("failed to create shim task: {create}"), true),
            (format!("failed to create task for container: failed to create shim task: {create}"), true),
            (String::new(), false),
            ("OCI runtime start failed: cannot start a container that has stopped: unknown".to_owned(), false),
            ("transport is closing: unavailable".to_owned(), false),
            // A user's own words.
            (format!("mounting \"/{create}\""), false),
        ] {
            assert_eq!(never_began(&error), expected, "{error}");
        }
    }

    #[test]
    fn complaints_are_told_apart() {
        for (stderr, expected) in [
            (
                "Cannot connect to the Docker daemon at unix:///nope.sock. Is the docker daemon running?",
                Complaint::Down,
            ),
            (
                "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
                Complaint::Down,
            ),
            ("Error response from daemon: No such container: hv1", Complaint::NoSuchContainer),
            ("Error: No such object: nope", Complaint::NoSuchContainer),
            ("docker: Error response from daemon: No such image: sha256:1111", Complaint::NoSuchImage),
            ("Error response from daemon: no such image: nope: No such image: nope:latest", Complaint::NoSuchImage),
            (
                "docker: Error response from daemon: driver failed programming external connectivity on endpoint hv2 (e09a): Bind for 127.0.0.1:30001 failed: port is already allocated",
                Complaint::PortTaken,
            ),
            (
                "docker: Error response from daemon: driver failed programming external connectivity on endpoint hv2 (0d7d): Error starting userland proxy: listen tcp4 127.0.0.1:30009: bind: address already in use",
                Complaint::PortTaken,
            ),
            (
                "docker: Error response from daemon: Conflict. The container name \"/hakuriver-vps-42\" is already in use by container \"b78b\". You have to remove (or rename) that container to be able to reuse that name.",
                Complaint::NameTaken,
            ),
            (
                "docker: Error response from daemon: failed to create shim task: ttrpc: closed: unknown.",
                Complaint::ShimDied,
            ),
            (
                "docker: Error response from daemon: failed to create shim task: OCI runtime create failed: x: ttrpc: closed",
                Complaint::Other,
            ),
            ("Error response from daemon: id already in use", Complaint::NotLetGo),
            ("Error response from daemon: task 4706: already exists: unknown", Complaint::NotLetGo),
            ("Error response from daemon: Container 4706 is already paused", Complaint::WrongState),
            ("Error response from daemon: Container 4706 is not paused", Complaint::WrongState),
            ("Error response from daemon: Container 4706 is not running", Complaint::WrongState),
            (
                "docker: Error response from daemon: could not select device driver \"\" with capabilities: [[gpu]]",
                Complaint::Other,
            ),
        ] {
            assert_eq!(complaint(stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn what_a_user_has_named_says_nothing_of_docker() {
        let quoted = [
            "Cannot connect to the Docker daemon",
            "Is the docker daemon running?",
            "error during connect",
            "permission denied while trying to connect",
            "Cannot connect to Podman",
            "No such container: x",
            "No such object: x",
            "No such image: x",
            "image not known",
            "port is already allocated",
            "bind: address already in use",
            "Conflict. The container name \"/x\" is already in use by container",
            "Container x is not running",
            "Error response from daemon: No such image: x",
            "docker: Cannot connect to the Docker daemon",
        ];
        for words in quoted {
            for path in [
                format!("/{words}"),
                format!("/a/{words}"),
                format!("/a: {words}"),
                format!("/a\n{words}\nb"),
                format!("/a: {}", words.trim_end_matches(": x")),
            ] {
                for stderr in [
                    format!(
                        "docker: Error response from daemon: invalid mount config for type \"bind\": bind source path does not exist: {path}\n\nRun 'docker run --help' for more information"
                    ),
                    format!(
                        "docker: Error response from daemon: lstat /var/lib/docker/overlay2/304e/merged/etc/passwd{path}: not a directory.\nSee 'docker run --help'."
                    ),
                    format!(
                        "WARNING: no swap\ndocker: Error response from daemon: the working directory '{path}' is invalid"
                    ),
                    format!("docker: invalid argument \"{path}\" for \"--mount\" flag"),
                    format!(
                        "Error response from daemon: failed to create task for container: error mounting \"{path}\": unknown\nError: failed to start containers: 4706"
                    ),
                    format!("Error response from daemon: failed to register layer: {path}: no space left on device"),
                ] {
                    assert_eq!(complaint(&stderr), Complaint::Other, "{stderr}");
                }
            }
        }
    }

    #[test]
    fn what_the_daemon_answers_is_no_silence() {
        for words in [
            "Cannot connect to the Docker daemon",
            "error during connect: EOF",
            "permission denied while trying to connect",
        ] {
            assert_eq!(complaint(words), Complaint::Down, "{words}");
            assert_eq!(complaint(&format!("docker: {words}.\nSee 'docker run --help'.")), Complaint::Down, "{words}");
            assert_eq!(complaint(&format!("Error response from daemon: {words}")), Complaint::Other, "{words}");
        }
    }

    #[test]
    fn a_daemon_that_went_away_after_its_first_line_is_down() {
        let down = "Cannot connect to the Docker daemon at unix:///nope.sock. Is the docker daemon running?";
        let first = "Error response from daemon: No such container: a";
        assert_eq!(complaint(&format!("{first}\n{down}")), Complaint::Down);
        assert_eq!(complaint(&format!("{first}\n{first}")), Complaint::NoSuchContainer);
        assert_eq!(
            complaint(&format!("Flag --time has been deprecated, use --timeout instead\n{first}")),
            Complaint::NoSuchContainer
        );
    }

    #[test]
    fn what_docker_wraps_around_an_error_is_taken_off() {
        let stderr = "docker: Error response from daemon: Minimum memory limit allowed is 6MB\n\nRun 'docker run --help' for more information\n";
        assert_eq!(plain(stderr), "Minimum memory limit allowed is 6MB");
        assert_eq!(plain("Error response from daemon: a\nb\n"), "a; b");
    }
}
