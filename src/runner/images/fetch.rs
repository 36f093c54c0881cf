//! An archive on its way from the Host: into a file of this node, checked as it comes, gone on with after whatever broke it off,
//! also after an end of this Runner. Docker gets it only when all of it is what it has to be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::archive::{Check, Manifest, Part};
use crate::runner::backoff::Backoff;
use crate::runner::depot::{Depot, DepotFault};
use crate::sys::{clock, file};
use crate::warning;

/// What is read and written at once.
const PIECE: usize = 256 << 10;
/// How long to wait before going on.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// So many connections in a row that bring nothing, from a Host that answers, are enough.
const FRUITLESS: u32 = 6;
/// What came damaged is fetched anew, once: it may have been the way, and is not if it happens again.
const DAMAGED: u32 = 2;
/// What nobody has asked for since is not kept for longer.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Why there is no archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FetchFault {
    /// Nobody waits for it any more.
    Unwanted,
    /// The Host has another newest version by now.
    Gone,
    /// One clause for the user, to stand after the archive's name.
    Failed(String),
}

/// Who hears how far it is.
pub(super) trait Hearer {
    /// So many of all bytes are here.
    fn came(&mut self, bytes: u64, all: u64);
    /// The Host does not answer; the wait before the next try. False: nobody waits for it any more.
    fn wait(&mut self, reason: &str, pause: Duration) -> bool;
}

/// The folder for what is on its way.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// Made when it is needed.
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Removes what was begun long ago. That something cannot be removed is no matter.
    pub(super) fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.filter_map(Result::ok) {
            let since = entry.metadata().and_then(|found| found.modified()).ok();
            let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
            let age = Duration::from_millis(clock::unix_ms()).saturating_sub(since.unwrap_or(Duration::MAX));
            if age > KEPT && entry.path().extension().is_some_and(|kind| kind == "part") {
                let _kept = file::remove(&entry.path());
            }
        }
    }

    /// Where the part of a version is put together. What else there is of that environment is given up.
    fn place(&self, manifest: &Manifest, lowest: usize) -> io::Result<PathBuf> {
        file::make_dir(&self.folder, 0o700)?;
        let id = manifest.image_id.strip_prefix("sha256:").and_then(|hex| hex.get(..16)).unwrap_or("none");
        let begin = format!("{}-{}-", manifest.name, manifest.version);
        let name = format!("{begin}{id}-without-{lowest}.part");
        for entry in fs::read_dir(&self.folder)?.filter_map(Result::ok) {
            let other = entry.file_name().to_string_lossy().into_owned();
            let environment = other.rsplitn(5, '-').nth(4);
            if other != name && environment == Some(&manifest.name) {
                let _kept = file::remove(&entry.path());
            }
        }
        Ok(self.folder.join(name))
    }

    /// The archive without the `lowest` layers, all of it and checked, to be read from its beginning; with the path at
    /// which it lies, so that it can be removed.
    pub(super) fn fetch(
        &self,
        depot: &dyn Depot,
        manifest: &Manifest,
        lowest: usize,
        hearer: &mut dyn Hearer,
    ) -> Result<(PathBuf, File), FetchFault> {
        let part = Part::without(manifest, lowest);
        let path = self.place(manifest, lowest).map_err(|fault| no_room(&self.folder, &part, &fault))?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut transfer = Transfer {
            file: open.map_err(|fault| no_room(&path, &part, &fault))?,
            check: Check::new(&part),
            at: 0,
            part,
            path,
            damaged: 0,
        };
        match transfer.run(depot, manifest, lowest, hearer) {
            Ok(()) => Ok((transfer.path, transfer.file)),
            Err(fault) => {
                // What can be gone on with is kept; what failed only takes room.
                if matches!(fault, FetchFault::Failed(_) | FetchFault::Gone) {
                    let _kept = file::remove(&transfer.path);
                }
                Err(fault)
            }
        }
    }
}

struct Transfer {
    path: PathBuf,
    file: File,
    part: Part,
    check: Check,
    /// So much is in the file, and right as far as that can be told.
    at: u64,
    damaged: u32,
}

impl Transfer {
    fn run(
        &mut self,
        depot: &dyn Depot,
        manifest: &Manifest,
        lowest: usize,
        hearer: &mut dyn Hearer,
    ) -> Result<(), FetchFault> {
        let mut backoff = Backoff::new(WAITS.0, WAITS.1);
        let mut fruitless = 0;
        self.take_up()?;
        loop {
            hearer.came(self.at, self.part.length());
            if self.check.is_whole() {
                return self.whole();
            }
            let before = self.at;
            let reason = match depot.open(manifest, lowest, self.at) {
                Ok(mut stream) => self.receive(&mut *stream, hearer)?,
                Err(DepotFault::Gone) => return Err(FetchFault::Gone),
                Err(DepotFault::Refused(text)) => return Err(FetchFault::Failed(text)),
                Err(DepotFault::Unreachable(text)) => {
                    if !hearer.wait(&text, backoff.wait()) {
                        return Err(FetchFault::Unwanted);
                    }
                    continue;
                }
            };
            if self.check.is_whole() {
                continue;
            }
            if self.at > before {
                fruitless = 0;
                backoff.reset();
            } else {
                fruitless += 1;
            }
            if fruitless >= FRUITLESS {
                return Err(FetchFault::Failed(format!("the Host sends nothing of it: {reason}")));
            }
            warning!("{} breaks off after {} of {} bytes: {reason}", manifest.tarball, self.at, self.part.length());
            if !hearer.wait(&reason, backoff.wait()) {
                return Err(FetchFault::Unwanted);
            }
        }
    }

    /// Goes on with what an earlier try has left.
    fn take_up(&mut self) -> Result<(), FetchFault> {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.begin_anew(),
            };
            if self.check.take(&buffer[..count]).is_err() {
                return self.begin_anew();
            }
            self.at += count as u64;
        }
        Ok(())
    }

    fn begin_anew(&mut self) -> Result<(), FetchFault> {
        (self.check, self.at) = (Check::new(&self.part), 0);
        let begun = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        begun.map(drop).map_err(|fault| no_room(&self.path, &self.part, &fault))
    }

    /// Reads one answer to its end; why it ended is the result.
    fn receive(&mut self, stream: &mut dyn Read, hearer: &mut dyn Hearer) -> Result<String, FetchFault> {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = match stream.read(&mut buffer) {
                Ok(0) => return Ok("the answer ended too soon".to_owned()),
                Ok(count) => count,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => continue,
                Err(fault) => return Ok(fault.to_string()),
            };
            if let Err(fault) = self.check.take(&buffer[..count]) {
                self.damaged += 1;
                if self.damaged >= DAMAGED {
                    return Err(FetchFault::Failed(fault.to_string()));
                }
                self.begin_anew()?;
                return Ok(format!("{fault}; it is fetched anew"));
            }
            self.file.write_all(&buffer[..count]).map_err(|fault| no_room(&self.path, &self.part, &fault))?;
            self.at += count as u64;
            hearer.came(self.at, self.part.length());
            if self.check.is_whole() {
                return Ok(String::new());
            }
        }
    }

    fn whole(&mut self) -> Result<(), FetchFault> {
        let rewound = self.file.seek(SeekFrom::Start(0));
        rewound
            .map(drop)
            .map_err(|fault| FetchFault::Failed(format!("{} cannot be read: {fault}", self.path.display())))
    }
}

/// What was to be written could not be.
fn no_room(path: &Path, part: &Part, fault: &io::Error) -> FetchFault {
    FetchFault::Failed(format!(
        "this node cannot keep its {} bytes on their way, in {}: {fault}",
        part.length(),
        path.parent().unwrap_or(path).display()
    ))
}
