//! The files of tasks that are no more.

use std::fs;
use std::path::Path;
use std::sync::mpsc::Receiver;

use super::Files;
use crate::domain::ids::TaskId;
use crate::domain::output::Stream;
use crate::store::Readers;
use crate::warning;

/// Removes the output of each task that the engine removes, until that ends. Before that it looks once for what an
/// earlier Host had no time to remove.
pub(in crate::host) fn clean(files: &Files, readers: &Readers, before_ms: u64, removed: &Receiver<Vec<TaskId>>) {
    sweep(files, readers, before_ms);
    while let Ok(tasks) = removed.recv() {
        tasks.into_iter().for_each(|task| drop_files(files, task));
    }
}

/// Only what is older than anything that is kept, and that the database does not know: after a restore of the database
/// from a backup, younger tasks that it does not know may live.
fn sweep(files: &Files, readers: &Readers, before_ms: u64) {
    for stream in Stream::ALL {
        let Ok(entries) = fs::read_dir(files.folder(stream)) else { continue };
        for entry in entries.flatten() {
            let Some(task) = task_of(Path::new(&entry.file_name())) else { continue };
            if submitted_ms(task) < before_ms && matches!(readers.task(task), Ok(None)) {
                drop_files(files, task);
            }
        }
    }
}

/// The task whose file that is; None: it is none of ours.
fn task_of(name: &Path) -> Option<TaskId> {
    let name = name.to_str()?;
    let digits = name.strip_suffix(".out").or_else(|| name.strip_suffix(".err"))?;
    digits.parse().ok()
}

/// Milliseconds since 1970: the first part of an id.
fn submitted_ms(task: TaskId) -> u64 {
    task.get() >> 22
}

fn drop_files(files: &Files, task: TaskId) {
    if let Err(fault) = files.remove(task) {
        warning!("cannot remove what task {task} wrote: {fault}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::domain::ids::Attempt;
    use crate::store::Store;
    use crate::sys::file::Scratch;

    #[test]
    fn only_files_of_tasks_that_are_no_more_go() {
        let scratch = Scratch::new();
        let store = Store::open(&scratch.path().join("db")).expect("open");
        let files = Files::below(scratch.path());
        let id = |ms: u64| TaskId::from_u64(ms << 22);
        for ms in [1_000, 2_000, 5_000] {
            files.append(id(ms), Attempt::FIRST, Stream::Stdout, 0, b"x").expect("written");
        }
        fs::write(scratch.path().join("task_outputs/notes.txt"), "a user's").expect("written");
        let (tell, removed) = mpsc::channel();
        tell.send(vec![id(2_000), id(77)]).expect("heard");
        drop(tell);
        clean(&files, &store.readers(), 2_000, &removed);
        let is_there = |ms| files.path(id(ms), Stream::Stdout).exists();
        assert_eq!(
            [1_000, 2_000, 5_000].map(is_there),
            [false, false, true],
            "swept: older than what is kept; told; a younger one that the database does not know stays"
        );
        assert!(scratch.path().join("task_outputs/notes.txt").exists());
    }
}
