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
    /// containerd has not let go of an earlier run of that container.
    NotLetGo,
    /// It is not running, or it is; or already as it should be: look again.
    WrongState,
    Other,
}

/// Sorts an error text. Docker has no codes for these; the words are the daemon's, and have been the same for years.
pub fn complaint(stderr: &str) -> Complaint {
    let has = |words: &str| stderr.contains(words);
    let starts = stderr.to_ascii_lowercase();
    if has("Cannot connect to the Docker daemon")
        || has("Is the docker daemon running")
        || has("error during connect")
        || starts.contains("permission denied while trying to connect")
        || has("Cannot connect to Podman")
    {
        Complaint::Down
    } else if has("No such container") || has("No such object") || has("no such container") {
        Complaint::NoSuchContainer
    } else if has("No such image") || has("no such image") || has("image not known") {
        Complaint::NoSuchImage
    } else if has("port is already allocated") || has("bind: address already in use") {
        Complaint::PortTaken
    } else if has("is already in use by") {
        Complaint::NameTaken
    } else if has("id already in use") || has(": already exists") {
        Complaint::NotLetGo
    } else if has("is not running")
        || has("is not paused")
        || has("is already paused")
        || has("is restarting")
        || has("cannot remove a running container")
        || has("cannot remove a paused container")
    {
        Complaint::WrongState
    } else {
        Complaint::Other
    }
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
    fn what_docker_wraps_around_an_error_is_taken_off() {
        let stderr = "docker: Error response from daemon: Minimum memory limit allowed is 6MB\n\nRun 'docker run --help' for more information\n";
        assert_eq!(plain(stderr), "Minimum memory limit allowed is 6MB");
        assert_eq!(plain("Error response from daemon: a\nb\n"), "a; b");
    }
}
