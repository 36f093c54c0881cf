//! Chunks in any order, twice, of several attempts, and onto what is no file of ours.

use super::*;
use crate::sys::file::Scratch;

const TASK: TaskId = TaskId::from_u64(77);
const OUT: Stream = Stream::Stdout;

fn put(files: &Files, attempt: u32, offset: u64, bytes: &[u8]) -> u64 {
    files.append(TASK, Attempt(attempt), OUT, offset, bytes).expect("it can be kept")
}

fn kept(files: &Files) -> Vec<u8> {
    fs::read(files.path(TASK, OUT)).unwrap_or_default()
}

#[test]
fn chunks_come_twice_overlap_and_leave_no_gap() {
    let scratch = Scratch::new();
    let files = Files::below(scratch.path());
    assert_eq!(put(&files, 1, 0, b""), 0);
    assert!(!scratch.path().join("task_outputs").exists(), "nothing is made for nothing");
    assert_eq!(put(&files, 1, 4, b"later"), 0, "a gap");
    assert!(!scratch.path().join("task_outputs").exists());
    for (offset, bytes, have) in [
        (0, &b"ab\0"[..], 3),
        (0, b"ab\0", 3),
        (5, b"x", 3),
        (2, b"\0\xff\xfe", 5),
        (1, b"b", 5),
        (5, b"", 5),
        (0, b"", 5),
        (u64::MAX, b"x", 5),
        (5, b"end", 8),
    ] {
        assert_eq!(put(&files, 1, offset, bytes), have, "{offset} {bytes:?}");
    }
    assert_eq!(kept(&files), b"ab\0\xff\xfeend");
    let mode = fs::metadata(files.path(TASK, OUT)).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    assert_eq!(files.arrived(TASK, Attempt::FIRST, OUT), 8);
    assert_eq!(files.arrived(TASK, Attempt::FIRST, Stream::Stderr), 0);
}

#[test]
fn a_newer_attempt_starts_anew_and_an_older_one_is_not_wanted() {
    let scratch = Scratch::new();
    let files = Files::below(scratch.path());
    files.append(TASK, Attempt(1), Stream::Stderr, 0, b"old error").expect("kept");
    put(&files, 1, 0, b"old");
    assert_eq!(files.arrived(TASK, Attempt(2), OUT), 0, "what stands there is not its");
    assert!(files.open(TASK, Attempt(2), OUT).expect("readable").is_none());
    assert_eq!(put(&files, 2, 3, b"gap"), 0);
    assert_eq!(put(&files, 2, 0, b"new"), 3);
    assert_eq!(kept(&files), b"new");
    assert!(!files.path(TASK, Stream::Stderr).exists(), "its other stream was the older attempt's too");
    // As after a restart of the Host.
    let files = Files::below(scratch.path());
    assert_eq!(put(&files, 2, 3, b"er"), 5);
    assert_eq!(put(&files, 3, 0, b"third"), 5);
    assert_eq!(put(&files, 2, 5, b"late"), OUTPUT_NOT_WANTED);
    assert_eq!(kept(&files), b"third");
    files.remove(TASK).expect("removed");
    assert_eq!(fs::read_dir(scratch.path().join("task_outputs")).expect("there").count(), 0);
}

#[test]
fn links_pipes_and_folders_are_not_written_through() {
    let scratch = Scratch::new();
    let files = Files::below(scratch.path());
    let victim = scratch.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    fs::create_dir(scratch.path().join("task_outputs")).expect("made");
    let path = files.path(TASK, OUT);
    let make: [(&str, &dyn Fn()); 3] = [
        ("link", &|| std::os::unix::fs::symlink(&victim, &path).expect("made")),
        ("pipe", &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made")),
        ("folder", &|| fs::create_dir(&path).expect("made")),
    ];
    for (what, make) in make {
        make();
        let fault = files.append(TASK, Attempt(1), OUT, 0, b"evil").expect_err(what);
        assert!(matches!(fault, OutputFault::Foreign(_)), "{what}: {fault}");
        assert!(files.open(TASK, Attempt(1), OUT).is_err(), "{what} is not read either");
        assert_eq!(files.arrived(TASK, Attempt(1), OUT), 0);
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).expect("removed");
    }
    fs::remove_dir(scratch.path().join("task_outputs")).expect("empty");
    fs::create_dir(scratch.path().join("elsewhere")).expect("made");
    std::os::unix::fs::symlink("elsewhere", scratch.path().join("task_outputs")).expect("made");
    assert!(files.append(TASK, Attempt(1), OUT, 0, b"evil").is_err(), "nor a folder that is a link");
    assert_eq!(fs::read(&victim).expect("there"), b"precious");
    assert_eq!(fs::read_dir(scratch.path().join("elsewhere")).expect("there").count(), 0);
}

#[test]
fn two_copies_of_a_chunk_at_once_are_one() {
    let scratch = Scratch::new();
    let files = Files::below(scratch.path());
    let chunk = vec![b'x'; 100_000];
    for round in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| put(&files, 1, round * 100_000, &chunk));
            }
        });
    }
    assert_eq!(kept(&files), vec![b'x'; 2_000_000]);
}
