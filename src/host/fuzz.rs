//! Any bytes as a submission, as a path of the API, and as what Docker says on the Host.

use super::submission::{self, Rules};
use crate::api::submit;
use crate::domain::spec::{Container, Mount, TaskKind};

pub(crate) use super::environments::fuzz::docker;
pub(crate) use super::routes::fuzz::{path, report};

/// As the body of `POST /submit`: no more tasks than are allowed, and none that a node could read otherwise than it was written.
pub(crate) fn submission(bytes: &[u8]) {
    let Ok(request) = submit::decode(bytes) else { return };
    let rules = Rules {
        default_container: "hakuriver-base".to_owned(),
        default_mounts: Vec::new(),
        privileged_by_default: false,
        allow_privileged: false,
        allowed_mounts: vec!["/data".into(), "/srv/a".into()],
    };
    let parsed = match submission::parse(request, Vec::new(), &rules, &|_| Ok(())) {
        Ok(parsed) => parsed,
        Err(fault) => {
            assert!(matches!(fault.status, 400 | 403) && !fault.detail.is_empty(), "{fault:?}");
            return;
        }
    };
    assert!(parsed.tasks.len() <= 100_000 && parsed.tasks.len() + parsed.refused.len() > 0);
    assert!(parsed.name.is_none() || parsed.tasks.len() == 1, "one name for several");
    for (_, spec) in &parsed.tasks {
        match &spec.kind {
            TaskKind::Vps { keys } => {
                assert!(!keys.is_empty() && spec.container != Container::Null);
                assert!(spec.env.iter().all(|variable| !variable.value.contains('\n')));
            }
            TaskKind::Command { program, arguments } => {
                assert!(!program.is_empty() && !program.contains('\0'));
                assert!(arguments.iter().all(|argument| !argument.contains('\0')));
            }
        }
        if let Container::Environment { privileged, mounts, .. } = &spec.container {
            assert!(!privileged, "this cluster forbids it");
            for Mount { host, .. } in mounts {
                let host = format!("{host}/");
                assert!(host.starts_with("/data/") || host.starts_with("/srv/a/"), "{host:?} may not be mounted");
                assert!(!host.contains("/../") && !host.contains("/./"));
            }
        }
        assert!(spec.workdir.as_ref().is_none_or(|path| path.starts_with('/') && !path.contains('\0')));
    }
}
