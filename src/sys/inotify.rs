//! Waiting for files to grow, beside a bell that others ring.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::shutdown::{Stop, is_ready, poll};

/// Files and folders that are watched, and a bell.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    bell: EventFd,
}

/// A file or folder that is watched, until something happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(WatchDescriptor);

/// Where something was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub places: Vec<WatchId>,
    /// Also in others, of which nothing can be said: the kernel's queue ran over.
    pub anywhere: bool,
}

impl Watcher {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// The kernel has no room: each user has so many (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            bell: EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// The next write to a file in that folder is told, once: however fast somebody writes, it costs one event until the
    /// folder is watched anew. Watched again before that, nothing changes.
    ///
    /// # Errors
    /// The folder is not there (or is a link), or there is no room (`fs.inotify.max_user_watches`).
    pub fn watch_folder(&self, folder: &Path) -> io::Result<WatchId> {
        let also = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        self.watch(folder, also)
    }

    /// The same for one file.
    ///
    /// # Errors
    /// It is not there, or there is no room.
    pub fn watch_file(&self, file: &Path) -> io::Result<WatchId> {
        self.watch(file, AddWatchFlags::empty())
    }

    fn watch(&self, path: &Path, also: AddWatchFlags) -> io::Result<WatchId> {
        let once = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT | AddWatchFlags::IN_DONT_FOLLOW;
        Ok(WatchId(self.inotify.add_watch(path, once | also)?))
    }

    /// Nothing more is to be told of it. One that has been told is forgotten already.
    pub fn forget(&self, id: WatchId) {
        let _told_already = self.inotify.rm_watch(id.0);
    }

    /// Ends the wait of [`Watcher::wait`], now or the next one.
    pub fn ring(&self) {
        // Full: it rings already.
        let _full = self.bell.write(1);
    }

    /// Waits for a write, the bell, `stop`, or `end` (None: without end). None: `stop` is set.
    pub fn wait(&self, stop: &Stop, end: Option<Instant>) -> Option<Written> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(stop.fd()), readable(self.bell.as_fd()), readable(self.fd())];
        poll(&mut fds, end);
        let [stopped, rung, written] = [0, 1, 2].map(|index| is_ready(&fds[index]));
        if stopped {
            return None;
        }
        if rung {
            let _taken = self.bell.read();
        }
        let mut told = Written::default();
        if written {
            self.take(&mut told);
        }
        Some(told)
    }

    /// Reads all that there is.
    fn take(&self, told: &mut Written) {
        loop {
            match self.inotify.read_events() {
                Ok(events) => events.into_iter().for_each(|event| {
                    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                        told.anywhere = true;
                    } else if !event.mask.contains(AddWatchFlags::IN_IGNORED) {
                        // (That one says only that the watch is over.)
                        told.places.push(WatchId(event.wd));
                    }
                }),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::sys::file::Scratch;

    fn written(places: &[WatchId]) -> Option<Written> {
        Some(Written { places: places.to_vec(), anywhere: false })
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(20))
    }

    #[test]
    fn a_write_is_told_once_until_it_is_watched_again() {
        let scratch = Scratch::new();
        let (stop, watcher) = (Stop::new(), Watcher::new().expect("there is room"));
        let mut file = OpenOptions::new().append(true).create(true).open(scratch.path().join("out")).expect("made");
        let id = watcher.watch_folder(scratch.path()).expect("watched");
        for _ in 0..100 {
            file.write_all(b"x").expect("written");
        }
        assert_eq!(watcher.wait(&stop, soon()), written(&[id]));
        assert_eq!(watcher.wait(&stop, Some(Instant::now() + Duration::from_millis(20))), written(&[]));
        let again = watcher.watch_folder(scratch.path()).expect("watched");
        file.write_all(b"x").expect("written");
        assert_eq!(watcher.wait(&stop, soon()), written(&[again]));
        let third = watcher.watch_folder(scratch.path()).expect("watched");
        watcher.forget(third);
        file.write_all(b"x").expect("written");
        assert_eq!(watcher.wait(&stop, Some(Instant::now() + Duration::from_millis(20))), written(&[]));
        let one = watcher.watch_file(&scratch.path().join("out")).expect("watched");
        fs::write(scratch.path().join("other"), "x").expect("written");
        file.write_all(b"x").expect("written");
        assert_eq!(watcher.wait(&stop, soon()), written(&[one]), "the other file is not its concern");
    }

    #[test]
    fn a_bell_and_a_stop_end_the_wait() {
        let (stop, watcher) = (Stop::new(), Arc::new(Watcher::new().expect("there is room")));
        let other = watcher.clone();
        let ringer = std::thread::spawn(move || other.ring());
        assert_eq!(watcher.wait(&stop, soon()), written(&[]));
        ringer.join().expect("it does not panic");
        stop.set();
        assert_eq!(watcher.wait(&stop, soon()), None);
    }

    #[test]
    fn what_is_no_folder_is_not_watched() {
        let scratch = Scratch::new();
        let watcher = Watcher::new().expect("there is room");
        watcher.watch_folder(&scratch.path().join("absent")).expect_err("absent");
        fs::write(scratch.path().join("file"), "").expect("written");
        watcher.watch_folder(&scratch.path().join("file")).expect_err("a file");
    }
}
