//! Any text as a path of the API, and any bytes as what nodes report.

use super::path::{self, Route};
use super::runner;
use crate::api::json;
use crate::api::node::Observed;

/// The route of a path that has been decoded: ids and streams, of which names of files are made, are what they are called.
pub(crate) fn path(text: &str) {
    let Some((route, method)) = path::parse(text) else { return };
    assert!(matches!(method, "GET" | "POST" | "PUT"));
    if let Route::Ship(_, task, attempt, stream) = &route {
        let name = format!("{task}.{attempt}.{}", stream.word());
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'), "{name:?}");
    }
    if !text.starts_with("/api/") {
        assert_eq!(path::parse(&format!("/api{text}")).map(|(again, _)| again), Some(route), "{text:?}");
    }
}

/// As a report: host keys that clients will trust are keys, and nothing beside them.
pub(crate) fn report(bytes: &[u8]) {
    let Ok(observed) = json::decode::<Observed>(bytes) else { return };
    for task in observed.tasks {
        let Ok(seen) = runner::seen(task) else { continue };
        for line in seen.host_keys.iter().flatten() {
            assert!(line.split(' ').count() == 2 && !line.chars().any(char::is_control), "{line:?}");
        }
    }
}
