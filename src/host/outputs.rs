//! What tasks wrote, as files of the Host: `<shared_dir>/task_outputs/<id>.out` and `task_errors/<id>.err`.
//!
//! A chunk is put where it belongs in its stream, so a repeated one changes nothing, and one that would leave a gap is not
//! taken: the answer to each is how much there is. The length of the file is all that has to be remembered, so a restart
//! of the Host loses nothing. Nothing is synced: a power cut may cost a log its last seconds, and the node, which still
//! has what was not acknowledged with the end, sends it again.
//!
//! The directory may be on a file server that is dead. Nobody waits long for it; and what is not known to be kept is not said to be.

mod files;
mod janitor;
mod tail;
mod watchers;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::{Directory, Held, Silent};
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::output::Stream;

pub(super) use self::files::Files;
pub(super) use self::janitor::clean;
pub(super) use self::tail::start_of_last_lines;
pub(super) use self::watchers::Watchers;

/// So many chunks go into one look: a file server takes milliseconds for each, and looks have a limit.
const TOGETHER: usize = 16;
/// How long the chunks of one report may take all together: the Runner waits for its answer, and kills and ends wait behind it.
const REPORT: Duration = Duration::from_secs(10);

/// The files, with an end to every wait for them.
#[derive(Debug)]
pub(super) struct Outputs {
    files: Arc<Files>,
    directory: Arc<Directory>,
}

/// A piece of what a task wrote.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) task: TaskId,
    pub(super) attempt: Attempt,
    pub(super) stream: Stream,
    /// Where in the stream it begins, in bytes.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What became of a chunk that is not kept, or not for certain.
#[derive(Debug)]
pub(super) struct NotKept {
    pub(super) fault: OutputFault,
    /// How much there is of its stream; None: nobody knows now.
    pub(super) have: Option<u64>,
}

/// Why a chunk could not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OutputFault {
    /// The disk is full, or a quota or limit of the file system is reached.
    Full(String),
    /// What stands in its place is no file of ours: nothing will change by itself.
    Foreign(String),
    /// Their directory does not answer.
    Silent(Silent),
    /// Anything else.
    Failed(String),
}

impl OutputFault {
    fn of(what: &str, path: &Path, fault: &io::Error) -> Self {
        let text = format!("cannot {what} {}: {fault}", path.display());
        match fault.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full(format!("{text}; the node sends it again when there is room"))
            }
            ErrorKind::InvalidInput | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Self::Foreign(text),
            _ => Self::Failed(text),
        }
    }
}

impl std::fmt::Display for OutputFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(text) | Self::Foreign(text) | Self::Failed(text) => f.write_str(text),
            Self::Silent(silent) => silent.fmt(f),
        }
    }
}

impl Outputs {
    /// Below the shared directory.
    pub(super) fn of(directory: Arc<Directory>) -> Self {
        Self { files: Arc::new(Files::below(directory.path())), directory }
    }

    #[cfg(test)]
    pub(super) fn below(shared: &Path) -> Self {
        Self::of(Directory::shared(shared))
    }

    /// For who has a thread of its own, and may wait.
    pub(super) fn files(&self) -> Arc<Files> {
        Arc::clone(&self.files)
    }

    /// Where a stream is kept, or would be.
    pub(super) fn path(&self, task: TaskId, stream: Stream) -> PathBuf {
        self.files.path(task, stream)
    }

    /// Puts chunks where they belong: how much of its stream there is then, for each of them in their order (see
    /// [`Files::append`]). One that took too long may still be kept later; its node, which has not been told that it is, sends it again.
    pub(super) fn append(&self, chunks: Vec<Chunk>) -> Vec<Result<u64, NotKept>> {
        let end = Instant::now() + REPORT;
        let mut kept = Vec::with_capacity(chunks.len());
        let mut chunks = chunks.into_iter();
        loop {
            let some: Vec<Chunk> = chunks.by_ref().take(TOGETHER).collect();
            let (count, files) = (some.len(), self.files());
            if count == 0 {
                return kept;
            }
            match self.directory.at(move || some.iter().map(|chunk| files.take(chunk)).collect::<Vec<_>>()) {
                Ok(results) => kept.extend(results),
                Err(silent) => {
                    let rest = count + chunks.len();
                    kept.extend((0..rest).map(|_| Err(OutputFault::Silent(silent.clone()).into())));
                    return kept;
                }
            }
            if Instant::now() >= end {
                let late = || OutputFault::Failed("the shared directory is slow: the rest is sent again".to_owned());
                kept.extend(chunks.map(|_| Err(late().into())));
                return kept;
            }
        }
    }

    /// How much there is of both streams, in bytes.
    pub(super) fn arrived(&self, task: TaskId, attempt: Attempt) -> Result<[u64; 2], Silent> {
        let files = self.files();
        self.directory.at(move || Stream::ALL.map(|stream| files.arrived(task, attempt, stream)))
    }

    /// What there is of a stream of that attempt, to be read; None: nothing.
    pub(super) fn open(&self, task: TaskId, attempt: Attempt, stream: Stream) -> io::Result<Option<Reading>> {
        let files = self.files();
        let file = self.directory.at(move || files.open(task, attempt, stream))??;
        Ok(file.map(|file| Reading(self.directory.hold(file))))
    }
}

impl From<OutputFault> for NotKept {
    fn from(fault: OutputFault) -> Self {
        Self { fault, have: None }
    }
}

/// What a task wrote, opened to be read.
#[derive(Debug)]
pub(super) struct Reading(Held<File>);

impl Reading {
    /// Fills `part` from `position` on, as far as a read goes; how many bytes that is, and none at the end. Its memory is lost if
    /// that takes too long.
    pub(super) fn read_at(&self, part: &mut Vec<u8>, position: u64) -> io::Result<usize> {
        let mut buffer = std::mem::take(part);
        let look = move |file: &File| {
            loop {
                match file.read_at(&mut buffer, position) {
                    Err(again) if again.kind() == ErrorKind::Interrupted => {}
                    result => return (buffer, result),
                }
            }
        };
        let (buffer, result) = self.0.at(look)?;
        *part = buffer;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn each_chunk_of_many_has_its_answer() {
        let scratch = Scratch::new();
        let outputs = Outputs::below(scratch.path());
        let task = |number: u64| TaskId::from_u64(1_000 + number);
        let chunk = |number: u64| Chunk {
            task: task(number),
            attempt: Attempt::FIRST,
            stream: Stream::Stderr,
            offset: 0,
            bytes: vec![b'x'; usize::try_from(number).expect("small")],
        };
        let count = 3 * TOGETHER as u64 + 5;
        assert!(outputs.append(Vec::new()).is_empty());
        outputs.append(vec![chunk(0), chunk(1)]);
        std::os::unix::fs::symlink("/etc/passwd", outputs.path(task(7), Stream::Stderr)).expect("made");
        let kept = outputs.append((0..count).map(chunk).collect());
        assert_eq!(kept.len() as u64, count);
        for (number, kept) in (0..).zip(kept) {
            match kept {
                Ok(have) => assert_eq!((have, number != 7), (number, true)),
                Err(NotKept { fault, have }) => {
                    assert!(number == 7 && have == Some(0) && matches!(fault, OutputFault::Foreign(_)), "{fault}");
                }
            }
        }
        assert_eq!(outputs.arrived(task(20), Attempt::FIRST), Ok([0, 20]));
        let reading = outputs.open(task(20), Attempt::FIRST, Stream::Stderr).expect("readable").expect("there");
        let mut part = vec![0; 15];
        assert_eq!(reading.read_at(&mut part, 0).expect("readable"), 15);
        assert_eq!(part, [b'x'; 15]);
        assert_eq!(reading.read_at(&mut part, 10).expect("readable"), 10);
        assert_eq!(reading.read_at(&mut part, 20).expect("readable"), 0);
    }
}
