//! What the supervisor remembers on disk: a line for each start, each end and each that is forgotten, synced once for all lines of a
//! turn.
//!
//! A line is a checksum and a JSON text. A crash may tear the last line, which then was never promised to anybody; a line that is
//! damaged further up is told of and passed over.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nanoserde::{DeJson, SerJson};

use crate::api::json;
use crate::runner::home::forget_first_list;
use crate::runner::supervise::protocol::{TaskState, Which};
use crate::sys::{fault, file};

/// In the Runner's folder.
pub const FOLDER: &str = "supervisor";
/// In [`FOLDER`].
const FILE: &str = "journal";
/// The form's version.
const FORMAT: u32 = 1;
/// Dead lines are taken out when there are this many, and twice as many as living ones.
const DEAD: usize = 4_000;
/// So many bytes of lines about what was forgotten may wait for others.
const FORGOTTEN: usize = 64 << 10;
/// Bytes for lines to come.
const ROOM: usize = 2 << 20;

#[derive(DeJson, SerJson)]
enum Line {
    Header {
        format: u32,
        boot_id: String,
    },
    /// It is about to be started, or has ended.
    Task(TaskState),
    Forget(Which),
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next line goes: the file is longer than what it holds.
    end: u64,
    /// The file's length.
    room: u64,
    boot_id: String,
    pending: Vec<u8>,
    /// Something of what is pending must not be lost.
    is_due: bool,
    lines: usize,
    /// The disk is full or broken: said once.
    failing: bool,
}

/// What stood in it.
#[derive(Debug, Default)]
pub struct Found {
    /// The last line of each task that is not forgotten.
    pub tasks: BTreeMap<(u64, u32), TaskState>,
    /// The start of the machine that it was written in.
    pub boot_id: String,
    /// For the log.
    pub warnings: Vec<String>,
}

/// A journal in that Runner's folder holds something.
pub fn is_there(folder: &Path) -> bool {
    fs::metadata(folder.join(FOLDER).join(FILE)).is_ok_and(|file| file.len() > 0)
}

impl Journal {
    /// Opens it in the folder of a `runner`, and writes it anew with what counts of it. Where the disk has no room for that, what is
    /// there is kept, and written to as soon as it takes something: a full disk does not keep results from being told.
    ///
    /// # Errors
    /// The io error, with the path; the form is that of a newer version.
    pub fn open(runner: &Path, boot_id: &str) -> io::Result<(Self, Found)> {
        let folder = runner.join(FOLDER);
        file::make_dir(&folder, 0o700)?;
        let path = folder.join(FILE);
        let found = match fs::read(&path) {
            Ok(content) => read(&content).map_err(|fault| io::Error::other(format!("{}: {fault}", path.display())))?,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Found::default(),
            Err(fault) => return Err(io::Error::new(fault.kind(), format!("cannot read {}: {fault}", path.display()))),
        };
        if !found.warnings.is_empty()
            && let Err(fault) = forget_first_list(runner)
        {
            // Before the damaged lines are gone.
            crate::warning!("{fault}");
        }
        let lines = found.tasks.len() + 1;
        let (anew, pending) = match write_anew(&path, boot_id, found.tasks.values()) {
            Ok(anew) => (anew, Vec::new()),
            Err(fault) => {
                crate::warning!("the journal of tasks cannot be written anew: {fault}");
                // A later header counts for what follows it, and what came before has been judged by then.
                let header = Line::Header { format: FORMAT, boot_id: boot_id.to_owned() };
                let end = fs::read(&path).map_or(0, |content| written(&content).len() as u64);
                let file = file::write_to(&path)?;
                let room = file.metadata()?.len();
                (Anew { file, end, room }, [b"\n".to_vec(), encode(&header)].concat())
            }
        };
        let failing = !pending.is_empty();
        let Anew { file, end, room } = anew;
        let boot_id = boot_id.to_owned();
        Ok((Self { path, file, end, room, boot_id, pending, is_due: failing, lines, failing }, found))
    }

    /// Notes how a task stands, for the next [`Journal::sync`].
    pub fn note(&mut self, state: &TaskState) {
        self.is_due = true;
        self.line(&Line::Task(state.clone()));
    }

    /// Notes that a task is forgotten. That goes with what is written next: a task that is told of once more, because the machine
    /// went down before that, is forgotten once more.
    pub fn forget(&mut self, which: &Which) {
        self.line(&Line::Forget(which.clone()));
    }

    fn line(&mut self, line: &Line) {
        self.pending.extend_from_slice(&encode(line));
        self.lines += 1;
    }

    /// Makes durable what was noted; `all` is everything that counts, for when the file is written anew. False: the disk takes
    /// nothing. What was noted is then tried again with the next call, and the caller goes on: an end that is told although it
    /// is only in memory is better than one that nobody hears of.
    pub fn sync<'a>(&mut self, all: impl ExactSizeIterator<Item = &'a TaskState>) -> bool {
        if !self.is_due && self.pending.len() < FORGOTTEN {
            return true;
        }
        let end = self.end + self.pending.len() as u64;
        let written = if self.lines > DEAD + 3 * all.len() || end > self.room {
            let lines = all.len() + 1;
            write_anew(&self.path, &self.boot_id, all).map(|anew| {
                self.take(anew);
                self.lines = lines;
            })
        } else {
            // What fails is written again to the same place.
            let step = fault::step("journal", || "append".to_owned());
            let written = self.file.write_all_at(&self.pending, self.end).and_then(|()| {
                step.at("written");
                self.file.sync_data()
            });
            written.map(|()| self.end = end)
        };
        match written {
            Ok(()) => {
                self.pending.clear();
                self.is_due = false;
                self.failing = false;
            }
            Err(fault) => {
                if !self.failing {
                    crate::warning!("the journal of tasks cannot be written: {}: {fault}", self.path.display());
                }
                self.failing = true;
            }
        }
        !self.failing
    }

    /// Whether the file still stands where a Runner with this `folder` would look for it.
    pub fn is_at(&self, folder: &Path) -> bool {
        let there = fs::metadata(folder.join(FOLDER).join(FILE));
        let (Ok(there), Ok(ours)) = (there, self.file.metadata()) else { return false };
        (there.dev(), there.ino()) == (ours.dev(), ours.ino())
    }

    /// Writes it anew in another folder, or where it was removed.
    ///
    /// # Errors
    /// The io error, with the path.
    pub fn move_to<'a>(&mut self, folder: &Path, all: impl Iterator<Item = &'a TaskState>) -> io::Result<()> {
        let folder = folder.join(FOLDER);
        file::make_dir(&folder, 0o700)?;
        self.path = folder.join(FILE);
        let anew = write_anew(&self.path, &self.boot_id, all)?;
        self.take(anew);
        self.pending.clear();
        self.is_due = false;
        self.failing = false;
        Ok(())
    }

    fn take(&mut self, anew: Anew) {
        (self.file, self.end, self.room) = (anew.file, anew.end, anew.room);
    }

    /// The last [`Journal::sync`] has reached the disk.
    pub fn is_well(&self) -> bool {
        !self.failing
    }

    /// Nothing is to be remembered.
    pub fn remove(&self) {
        let _gone = file::remove(&self.path);
    }
}

/// A file that was written anew.
struct Anew {
    file: File,
    end: u64,
    room: u64,
}

/// With room for what comes: a file that does not grow is synced without the file system's own journal, which would have to take all
/// that tasks do to it meanwhile.
fn write_anew<'a>(path: &Path, boot_id: &str, all: impl Iterator<Item = &'a TaskState>) -> io::Result<Anew> {
    let mut content = encode(&Line::Header { format: FORMAT, boot_id: boot_id.to_owned() });
    all.for_each(|state| content.extend_from_slice(&encode(&Line::Task(state.clone()))));
    let end = content.len() as u64;
    content.resize(content.len() + ROOM, 0);
    file::write_atomic(path, &content, 0o600)?;
    Ok(Anew { file: file::write_to(path)?, end, room: content.len() as u64 })
}

/// Without the room at the end.
fn written(content: &[u8]) -> &[u8] {
    let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &content[..end]
}

fn encode(line: &Line) -> Vec<u8> {
    let text = json::encode(line);
    format!("{:016x} {text}\n", checksum(text.as_bytes())).into_bytes()
}

fn read(content: &[u8]) -> Result<Found, String> {
    let mut found = Found::default();
    let mut lines = written(content).split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        match decode(line) {
            Some(Line::Header { format, .. }) if format != FORMAT => {
                return Err(format!("its format {format} is newer than this program, which knows {FORMAT}"));
            }
            Some(Line::Header { boot_id, .. }) => found.boot_id = boot_id,
            Some(Line::Task(state)) => drop(found.tasks.insert((state.task, state.attempt), state)),
            Some(Line::Forget(which)) => drop(found.tasks.remove(&(which.task, which.attempt))),
            None if line == b"\n" || lines.peek().is_none() => {}
            None => found
                .warnings
                .push(format!("line {} of the journal of tasks is damaged, and is passed over", number + 1)),
        }
    }
    Ok(found)
}

fn decode(line: &[u8]) -> Option<Line> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, text) = (line.get(..16)?, line.get(17..)?);
    let sum = u64::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if sum != checksum(text) {
        return None;
    }
    json::decode(text).ok()
}

/// FNV-1a of 64 bits: it finds what a disk or a crash does, and is no protection against anybody.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    fn state(task: u64, phase: &str) -> TaskState {
        TaskState { task, attempt: 1, phase: phase.to_owned(), ..TaskState::default() }
    }

    fn phases(found: &Found) -> Vec<(u64, &str)> {
        found.tasks.values().map(|state| (state.task, state.phase.as_str())).collect()
    }

    #[test]
    fn what_was_synced_is_found_and_what_was_forgotten_is_not() {
        let scratch = Scratch::new();
        let (mut journal, found) = Journal::open(scratch.path(), "boot-1").expect("it can be made");
        assert_eq!((found.tasks.len(), found.boot_id.as_str()), (0, ""));
        for (task, phase) in [(1, "starting"), (2, "starting"), (3, "starting"), (2, "ended")] {
            journal.note(&state(task, phase));
        }
        journal.forget(&Which { task: 3, attempt: 1 });
        assert!(journal.sync([].iter()));
        let end = journal.end;
        journal.forget(&Which { task: 2, attempt: 1 });
        assert!(journal.sync([].iter()));
        assert_eq!(journal.end, end, "that waits for something that matters");
        let (_, found) = Journal::open(scratch.path(), "boot-2").expect("it can be read");
        assert_eq!(phases(&found), [(1, "starting"), (2, "ended")]);
        assert_eq!(found.boot_id, "boot-1");
        let (_, found) = Journal::open(scratch.path(), "boot-2").expect("it can be read");
        assert_eq!((found.tasks.len(), found.boot_id.as_str()), (2, "boot-2"), "written anew, nothing lost");
    }

    #[test]
    fn a_torn_end_is_dropped_and_a_damaged_line_is_told_of() {
        let scratch = Scratch::new();
        let (mut journal, _) = Journal::open(scratch.path(), "b").expect("it can be made");
        (1..=3).for_each(|task| journal.note(&state(task, "starting")));
        assert!(journal.sync([].iter()));
        let path = scratch.path().join(FOLDER).join(FILE);
        let whole = written(&fs::read(&path).expect("it is there")).to_vec();
        for cut in whole.len() - 40..whole.len() {
            let found = read(&whole[..cut]).expect("readable");
            assert_eq!((found.tasks.len(), found.warnings.len()), (2, 0), "cut after {cut} bytes");
        }
        let second = whole.iter().position(|byte| *byte == b'\n').expect("lines") + 30;
        let mut damaged = whole.clone();
        damaged[second] ^= 1;
        let found = read(&damaged).expect("readable");
        assert_eq!((found.tasks.len(), found.warnings.len()), (2, 1));
        assert!(found.warnings[0].contains("line 2"), "{:?}", found.warnings);
        // What it was about is not known to be there, from now on.
        let first_list = scratch.path().join("first-list");
        for (content, expected) in [(&whole, true), (&damaged, false)] {
            fs::write(&first_list, "c 7").expect("a file can be made");
            fs::write(&path, content).expect("it can be written");
            Journal::open(scratch.path(), "b").expect("it can be read");
            assert_eq!(first_list.exists(), expected);
        }
    }

    #[test]
    fn a_later_header_in_what_could_not_be_written_anew_counts() {
        let scratch = Scratch::new();
        let (mut journal, _) = Journal::open(scratch.path(), "boot-1").expect("it can be made");
        journal.note(&state(1, "starting"));
        assert!(journal.sync([].iter()));
        let path = scratch.path().join(FOLDER).join(FILE);
        // What such a start appends once there is room again.
        let header = Line::Header { format: FORMAT, boot_id: "boot-2".to_owned() };
        let end = written(&fs::read(&path).expect("it is there")).len() as u64;
        let file = file::write_to(&path).expect("it is there");
        file.write_all_at(&[b"\n".to_vec(), encode(&header), encode(&Line::Task(state(2, "ended")))].concat(), end)
            .expect("it can be written");
        let found = read(&fs::read(&path).expect("it is there")).expect("readable");
        assert_eq!(phases(&found), [(1, "starting"), (2, "ended")]);
        assert_eq!((found.boot_id.as_str(), found.warnings.len()), ("boot-2", 0));
    }

    #[test]
    fn dead_lines_are_taken_out() {
        let scratch = Scratch::new();
        let (mut journal, _) = Journal::open(scratch.path(), "b").expect("it can be made");
        let all = [state(7, "starting")];
        for task in 100..6_000 {
            journal.note(&state(task, "ended"));
            journal.forget(&Which { task, attempt: 1 });
            assert!(journal.sync(all.iter()));
        }
        let content = fs::read(scratch.path().join(FOLDER).join(FILE)).expect("it is there");
        let lines = written(&content).iter().filter(|byte| **byte == b'\n').count();
        assert!(lines < DEAD + 10, "{lines}");
        let (_, found) = Journal::open(scratch.path(), "b").expect("it can be read");
        assert_eq!(phases(&found), [(7, "starting")]);
    }

    #[test]
    fn a_removed_folder_is_noticed_and_made_again() {
        let scratch = Scratch::new();
        let (mut journal, _) = Journal::open(scratch.path(), "b").expect("it can be made");
        assert!(journal.is_at(scratch.path()) && is_there(scratch.path()));
        fs::remove_dir_all(scratch.path().join(FOLDER)).expect("it is there");
        assert!(!journal.is_at(scratch.path()) && !is_there(scratch.path()));
        let all = [state(7, "running")];
        journal.failing = true;
        journal.move_to(scratch.path(), all.iter()).expect("it can be made");
        assert!(journal.is_at(scratch.path()) && journal.is_well(), "the disk takes something again");
        let (_, found) = Journal::open(scratch.path(), "b").expect("it can be read");
        assert_eq!(phases(&found), [(7, "running")]);
    }
}
