//! What a supervisor that was killed has left running: nobody knows its result any more.

use std::time::{Duration, Instant};

use crate::runner::executor::{process, scope};
use crate::runner::supervise::protocol::TaskState;
use crate::sys::cgroup::{Cgroups, Group};
use crate::warning;

/// How long it may take to end: what hangs in the kernel does not hold up the rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// The control groups that are there, by name. `lived` are the tasks that ran or were being started when it was killed: on version 2
/// the group of one in a systemd scope is the scope's own, and stands where systemd has made it.
pub(super) fn found<'a>(cgroups: &Cgroups, lived: impl Iterator<Item = &'a TaskState>) -> Vec<(String, Group)> {
    let mut left = cgroups.left_over().unwrap_or_else(|fault| {
        warning!("what an earlier supervisor has left cannot be listed: {fault}");
        Vec::new()
    });
    left.retain(|(name, _)| process::of_group_name(name).is_some());
    left.extend(lived.filter_map(|state| {
        let group = cgroups.of_systemd(&scope::folder(state.task))?;
        Some((process::group_name(state.task, state.attempt), group))
    }));
    left
}

/// All of it is killed before any of it is waited for, so that a thousand tasks take no longer than one.
pub(super) fn end(mut left: Vec<(String, Group)>) {
    let patience = Instant::now() + PATIENCE;
    loop {
        left.retain(|(name, group)| match group.remove() {
            Ok(is_gone) => !is_gone,
            Err(fault) => {
                warning!("what is left of task {name}: {fault}");
                false
            }
        });
        if left.is_empty() {
            return;
        }
        if Instant::now() >= patience {
            return left.iter().for_each(|(name, _)| warning!("what is left of task {name} does not end"));
        }
        for (name, group) in &left {
            if let Err(fault) = group.signal(crate::sys::process::SIGKILL) {
                warning!("what is left of task {name} cannot be ended: {fault}");
            }
        }
        // The kernel tells nobody of an empty group of version 1, and they are not our children.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn scopes_of_version_2_are_found_where_systemd_has_made_them() {
        let scratch = Scratch::new();
        let make = |path: &Path, content: &str| {
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            fs::write(path, content).expect("it can be written");
        };
        make(Path::new("proc/self/mountinfo"), "9 1 0:9 / /cg rw - cgroup2 cgroup2 rw\n");
        make(Path::new("proc/self/cgroup"), "0::/system.slice/us.scope\n");
        let scope = Path::new("cg").join(scope::folder(5));
        make(&scope.join("cgroup.procs"), "41\n");
        make(&scope.join("task/cgroup.procs"), "42\n43\n");
        let state = |task| TaskState { task, attempt: 2, ..TaskState::default() };
        let left = found(&Cgroups::find(scratch.path(), "haku"), [state(5), state(6)].iter());
        let pids = |(name, group): &(String, Group)| (name.clone(), group.pids().expect("they are listed"));
        assert_eq!(left.iter().map(pids).collect::<Vec<_>>(), [("5.2".to_owned(), vec![41, 42, 43])]);
    }
}
