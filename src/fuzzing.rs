//! Every reader of foreign bytes as a function of bytes that panics when it breaks a promise: for `fuzz/`, which makes up inputs, and
//! for a test that tries again all that were kept. Not in a normal build.

use crate::{api, archive, config, domain, host, net, runner};

/// A target: its name, which is that of its file in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`, and what it tries.
pub type Target = (&'static str, fn(&[u8]));

/// A function for each, so that a program of one target has nothing of the others in it, and a list of them.
macro_rules! targets {
    ($($name:ident: $tries:expr,)*) => {
        $(
            /// Tries one input; panics if that breaks a promise.
            pub fn $name(bytes: &[u8]) {
                $tries(bytes);
            }
        )*

        /// All of them.
        pub const TARGETS: &[Target] = &[$((stringify!($name), $name)),*];
    };
}

targets! {
    http_request: request,
    http_connection: net::http::fuzz::connection,
    json: every_type,
    submission: host::fuzz::submission,
    target: domain::fuzz::targets,
    words: domain::fuzz::words,
    span: domain::fuzz::spans,
    ssh_key: domain::fuzz::ssh_keys,
    tunnel_hello: net::tunnel::fuzz::hello,
    websocket: frames,
    supervisor: frames_and_journal,
    config: config::fuzz::file,
    nvidia_smi: runner::fuzz::nvidia_smi,
    docker: both_sides_of_docker,
    tarball: tarball_and_manifest,
}

/// The head of a request, and what the Host makes of it.
fn request(bytes: &[u8]) {
    if let Some(head) = net::http::fuzz::head(bytes) {
        host::fuzz::path(&head.path);
        net::websocket::fuzz::request(&head);
    }
    net::websocket::fuzz::answer(bytes);
}

fn every_type(bytes: &[u8]) {
    api::json::fuzz::every_type(bytes);
    host::fuzz::report(bytes);
}

/// Frames, as each side has them; what is in them goes to both.
fn frames(bytes: &[u8]) {
    // A part of them comes with the handshake.
    let (first, rest) = match bytes.split_first() {
        Some((first, rest)) => rest.split_at(usize::from(*first).min(rest.len())),
        None => (bytes, bytes),
    };
    for is_server in [true, false] {
        for text in net::websocket::fuzz::frames(first, rest, is_server) {
            api::json::fuzz::terminal(&text);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        api::json::fuzz::terminal(text);
    }
}

fn frames_and_journal(bytes: &[u8]) {
    runner::fuzz::frames(bytes);
    runner::fuzz::journal(bytes);
}

fn both_sides_of_docker(bytes: &[u8]) {
    runner::fuzz::docker(bytes);
    host::fuzz::docker(bytes);
}

fn tarball_and_manifest(bytes: &[u8]) {
    archive::fuzz::tarball(bytes);
    archive::fuzz::manifest(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use super::*;

    fn fuzz(folder: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()));
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn every_target_is_there_with_its_inputs() {
        let mut known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        assert_eq!(names(&fuzz("corpus")), known);
        let files: Vec<String> = known.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names(&fuzz("fuzz_targets")), files);
    }

    #[test]
    fn every_input_that_was_kept_holds() {
        let (mut tried, mut broken) = (0, Vec::new());
        for (name, target) in TARGETS {
            let folder = fuzz("corpus").join(name);
            for file in names(&folder) {
                let bytes = fs::read(folder.join(&file)).expect("readable");
                let started = Instant::now();
                let held = std::panic::catch_unwind(|| target(&bytes)).is_ok();
                if !held || started.elapsed() > Duration::from_secs(10) {
                    broken.push(format!("fuzz/corpus/{name}/{file} ({:?})", started.elapsed()));
                }
                tried += 1;
            }
        }
        assert!(broken.is_empty(), "these break a promise or take too long, see above:\n{}", broken.join("\n"));
        assert!(tried >= 4 * TARGETS.len(), "{tried} inputs");
    }
}
