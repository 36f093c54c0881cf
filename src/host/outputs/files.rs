//! The files themselves. Whoever looks at them here may wait without end: see [`super::Outputs`].

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Chunk, NotKept, OutputFault};
use crate::api::node::OUTPUT_NOT_WANTED;
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::output::Stream;
use crate::sys::{fault, file};

/// Nobody has a lock for so long, unless the file server is slow or dead.
const LATE: Duration = Duration::from_secs(1);

/// Where they are.
#[derive(Debug)]
pub(in crate::host) struct Files {
    shared: PathBuf,
    /// Two copies of a chunk can come at once (the first was given up by its sender): each task has one of these.
    locks: [Mutex<()>; 64],
}

impl Files {
    /// Below the shared directory. Folders are made when there is something for them.
    pub(in crate::host) fn below(shared: &Path) -> Self {
        Self { shared: shared.to_owned(), locks: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Where a stream is kept, or would be.
    pub(in crate::host) fn path(&self, task: TaskId, stream: Stream) -> PathBuf {
        self.folder(stream).join(match stream {
            Stream::Stdout => format!("{task}.out"),
            Stream::Stderr => format!("{task}.err"),
        })
    }

    pub(super) fn folder(&self, stream: Stream) -> PathBuf {
        self.shared.join(match stream {
            Stream::Stdout => "task_outputs",
            Stream::Stderr => "task_errors",
        })
    }

    /// Says of which attempt the files are, where that is not the first.
    fn marker(&self, task: TaskId) -> PathBuf {
        self.folder(Stream::Stdout).join(format!(".{task}.attempt"))
    }

    /// As [`Files::append`]; where that fails, how much there is nevertheless.
    pub(super) fn take(&self, chunk: &Chunk) -> Result<u64, NotKept> {
        let Chunk { task, attempt, stream, offset, bytes } = chunk;
        let have = self.append(*task, *attempt, *stream, *offset, bytes);
        have.map_err(|fault| NotKept { fault, have: Some(self.arrived(*task, *attempt, *stream)) })
    }

    /// Puts a chunk where it belongs; how much of the stream there is then, from its beginning and without a gap.
    ///
    /// A newer attempt starts anew; of an older one nothing is wanted ([`OUTPUT_NOT_WANTED`]).
    pub(in crate::host) fn append(
        &self,
        task: TaskId,
        attempt: Attempt,
        stream: Stream,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, OutputFault> {
        let place = usize::try_from(task.get() % self.locks.len() as u64).expect("below 64");
        let asked = Instant::now();
        let _alone = self.locks[place].lock().unwrap_or_else(PoisonError::into_inner);
        // Behind one who waited for a dead file server, a newer attempt may have begun.
        if attempt > Attempt::FIRST || asked.elapsed() >= LATE {
            let kept = self.kept_attempt(task);
            if kept > attempt {
                return Ok(OUTPUT_NOT_WANTED);
            }
            if kept < attempt {
                self.start_anew(task, attempt)?;
            }
        }
        let path = self.path(task, stream);
        let fault = |what, fault: &io::Error| OutputFault::of(what, &path, fault);
        let file = match open(&path, OpenOptions::new().write(true)) {
            Ok(file) => file,
            Err(missing) if missing.kind() == ErrorKind::NotFound => {
                if offset > 0 || bytes.is_empty() {
                    return Ok(0);
                }
                self.make(&path, stream)?
            }
            Err(other) => return Err(fault("open", &other)),
        };
        let mut have = file.metadata().map_err(|why| fault("read", &why))?.len();
        let known = have.checked_sub(offset).and_then(|known| usize::try_from(known).ok());
        // None: it would leave a gap (or lies further back than memory reaches).
        let Some(mut rest) = known.and_then(|known| bytes.get(known..)) else { return Ok(have) };
        let _step = fault::step("output", || stream.to_string());
        while !rest.is_empty() {
            match file.write_at(rest, have) {
                Ok(0) => return Err(fault("write", &ErrorKind::WriteZero.into())),
                Ok(n) => {
                    have += n as u64;
                    rest = &rest[n..];
                }
                Err(again) if again.kind() == ErrorKind::Interrupted => {}
                // A part may have been written: that is no gap, and counts.
                Err(why) => return Err(fault("write", &why)),
            }
        }
        Ok(have)
    }

    /// A new file for a stream, in a folder that is made with it.
    fn make(&self, path: &Path, stream: Stream) -> Result<File, OutputFault> {
        let fault = |fault: &io::Error| OutputFault::of("make", path, fault);
        let _step = fault::step("open", || stream.to_string());
        let made = || open(path, OpenOptions::new().write(true).create_new(true).mode(0o644));
        let file = match made() {
            Err(missing) if missing.kind() == ErrorKind::NotFound => {
                let folder = self.folder(stream);
                file::make_dir(&folder, 0o755).map_err(|why| OutputFault::of("make", &folder, &why))?;
                made()
            }
            result => result,
        };
        let file = file.map_err(|why| fault(&why))?;
        // Whatever the umask: who may look into the shared directory may read what was written.
        file.set_permissions(Permissions::from_mode(0o644)).map_err(|why| fault(&why))?;
        Ok(file)
    }

    fn kept_attempt(&self, task: TaskId) -> Attempt {
        let text = file::read_foreign(&self.marker(task), 16).ok();
        let number = text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        number.map_or(Attempt::FIRST, Attempt)
    }

    /// Removes what an older attempt left. The marker comes last: if that is cut short, it is done again.
    fn start_anew(&self, task: TaskId, attempt: Attempt) -> Result<(), OutputFault> {
        for stream in Stream::ALL {
            let path = self.path(task, stream);
            file::remove(&path).map_err(|why| OutputFault::of("remove", &path, &why))?;
        }
        let marker = self.marker(task);
        let written = file::make_dir(&self.folder(Stream::Stdout), 0o755)
            .and_then(|()| file::replace(&marker, attempt.0.to_string().as_bytes(), 0o644));
        written.map_err(|why| OutputFault::of("write", &marker, &why))
    }

    /// What there is of a stream of that attempt, to be read; None: nothing.
    pub(in crate::host) fn open(&self, task: TaskId, attempt: Attempt, stream: Stream) -> io::Result<Option<File>> {
        if attempt > Attempt::FIRST && self.kept_attempt(task) < attempt {
            // It has sent nothing yet: what stands there is of an older one.
            return Ok(None);
        }
        match open(&self.path(task, stream), OpenOptions::new().read(true)) {
            Ok(file) => Ok(Some(file)),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// How much there is of a stream, in bytes.
    pub(in crate::host) fn arrived(&self, task: TaskId, attempt: Attempt, stream: Stream) -> u64 {
        if attempt > Attempt::FIRST && self.kept_attempt(task) < attempt {
            return 0;
        }
        fs::symlink_metadata(self.path(task, stream)).ok().filter(fs::Metadata::is_file).map_or(0, |seen| seen.len())
    }

    /// Nothing is kept of a task any more.
    pub(in crate::host) fn remove(&self, task: TaskId) -> io::Result<()> {
        for path in [self.path(task, Stream::Stdout), self.path(task, Stream::Stderr), self.marker(task)] {
            file::remove(&path).map_err(|why| io::Error::new(why.kind(), format!("{}: {why}", path.display())))?;
        }
        Ok(())
    }
}

/// Opens a regular file, and nothing else: the directory is shared, and somebody may have put a link or a pipe there.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if fs::symlink_metadata(folder)?.file_type().is_symlink() {
        return Err(io::Error::new(ErrorKind::NotADirectory, "its folder is a link"));
    }
    file::open_foreign(path, options)
}

#[cfg(test)]
mod tests;
