//! A named pipe by which process 1 of a container is reached without Docker.
//!
//! dockerd that dies between containerd's start of a container and its own record of it takes that container, when it is back, for
//! one that never ran. What runs in it is then known to nobody, and no call of Docker's ends it. So process 1 watches this pipe, and
//! ends the container when somebody opens it for writing, or writes there.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;

use super::fault::{file_name, step};
use super::shutdown::poll;

/// So long until who does not end is told once more.
const ROUND: Duration = Duration::from_millis(100);

/// Makes the pipe, for us and for root alone. That it is there already is no error.
///
/// # Errors
/// The io error, without the path.
pub fn make(path: &Path) -> io::Result<()> {
    let _step = step("write", || file_name(path));
    match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(fault) => Err(fault.into()),
    }
}

/// Ends whoever listens at it, however many they are, and waits until they have: true if somebody did. That there is no pipe is no
/// error.
///
/// # Errors
/// The io error, without the path; `TimedOut`: after `limit` somebody still listens, or it could not be seen whether somebody does.
pub fn end(path: &Path, limit: Duration) -> io::Result<bool> {
    let end = Instant::now() + limit;
    let mut found = false;
    loop {
        // For writing, and without waiting: refused by the kernel where nobody listens.
        let pipe = match open(path, OpenOptions::new().write(true)) {
            Ok(pipe) => pipe,
            Err(fault) if fault.kind() == ErrorKind::NotFound || fault.raw_os_error() == Some(libc::ENXIO) => {
                return Ok(found);
            }
            // That this process or the machine is short of something says nothing of who listens.
            Err(fault) if is_short(&fault) => {
                if Instant::now() >= end {
                    return Err(ErrorKind::TimedOut.into());
                }
                poll(&mut [], Some(end.min(Instant::now() + ROUND)));
                continue;
            }
            Err(fault) => return Err(fault),
        };
        if found && Instant::now() >= end {
            return Err(ErrorKind::TimedOut.into());
        }
        found = true;
        // Again in each round: somebody else may have read the last one. That we have come and gone nobody can take from those who
        // listen as `listen` does.
        match (&pipe).write(b"!") {
            // Full: it has been told often enough. Broken: it has ended just now.
            Err(fault) if !matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::BrokenPipe) => return Err(fault),
            _ => {}
        }
        // Until the last of them has ended, or the round is over.
        poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::empty())], Some(end.min(Instant::now() + ROUND)));
    }
}

/// Listens at it from now on: it [`is_called`] once somebody wants us to end.
///
/// # Errors
/// The io error, without the path.
pub fn listen(path: &Path) -> io::Result<File> {
    // For reading alone: that a writer has come and gone since is then to be seen for good, whoever reads what was written. Linux does
    // not take a pipe to be at its end for who has opened it without waiting, as long as no writer has come.
    open(path, OpenOptions::new().read(true))
}

/// Whether somebody wants who listens there to end.
pub(super) fn is_called(pipe: &File) -> bool {
    let mut fds = [wait_for(pipe)];
    poll(&mut fds, Some(Instant::now()));
    fds[0].any() == Some(true)
}

/// For poll(2): ready once somebody wants who listens there to end. That it is at its end is told without being asked for.
pub(super) fn wait_for(pipe: &File) -> PollFd<'_> {
    PollFd::new(pipe.as_fd(), PollFlags::POLLIN)
}

/// Reads all that was written, so that it is not left for who listens next.
pub fn drain(mut pipe: &File) {
    let mut words = [0; 512];
    while pipe.read(&mut words).is_ok_and(|n| n > 0) {}
}

fn is_short(fault: &io::Error) -> bool {
    matches!(fault.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Neither a link nor anything but a pipe; no call waits.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let pipe = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if pipe.metadata()?.file_type().is_fifo() {
        Ok(pipe)
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "it is not a named pipe"))
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "in a test a panic is the report")]
mod tests {
    use super::*;
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(20);

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("hakuriver-recall-{name}-{}", crate::sys::random::hex(6)));
        std::fs::create_dir(&folder).expect("made");
        folder
    }

    /// Ends as process 1 does.
    fn listener(path: &Path) -> thread::JoinHandle<()> {
        let pipe = listen(path).expect("a pipe");
        thread::spawn(move || {
            poll(&mut [wait_for(&pipe)], None);
            drain(&pipe);
        })
    }

    #[test]
    fn who_listens_is_told_and_waited_for() {
        let folder = folder("told");
        let path = folder.join("recall");
        assert!(!end(&path, Duration::ZERO).expect("no pipe"), "there is no pipe");
        make(&path).expect("made");
        make(&path).expect("it is there");
        assert!(!end(&path, Duration::ZERO).expect("nobody"), "nobody listens");
        let pipe = listen(&path).expect("a pipe");
        assert!(!is_called(&pipe), "nobody has come");
        assert_eq!(end(&path, Duration::from_millis(20)).expect_err("it goes on").kind(), ErrorKind::TimedOut);
        assert!(is_called(&pipe), "somebody has");
        drop(pipe);
        let listener = listener(&path);
        assert!(end(&path, LIMIT).expect("it ends"), "somebody listened");
        listener.join().expect("it ended");
        assert!(!end(&path, Duration::ZERO).expect("nobody"), "nobody listens any more");
        // What was written is not left for who listens next.
        assert!(!is_called(&listen(&path).expect("a pipe")), "nobody has come since");
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn all_who_listen_are_told_and_waited_for() {
        let folder = folder("all");
        let path = folder.join("recall");
        make(&path).expect("made");
        let listeners = [(); 3].map(|()| listener(&path));
        assert!(end(&path, LIMIT).expect("they end"), "somebody listened");
        for listener in listeners {
            listener.join().expect("it ended");
        }
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_somebody_else_has_read_is_heard_all_the_same() {
        let folder = folder("stolen");
        let path = folder.join("recall");
        make(&path).expect("made");
        let pipe = listen(&path).expect("a pipe");
        let thief = listen(&path).expect("a pipe");
        let both = [(); 2].map(|()| end(&path, Duration::ZERO).expect_err("it goes on").kind());
        assert_eq!(both, [ErrorKind::TimedOut; 2]);
        drain(&thief);
        assert!(is_called(&pipe), "somebody has come");
        // One of an older version listens for what is written, and has the pipe open for writing itself; it is told again and again.
        let old = open(&path, OpenOptions::new().read(true).write(true)).expect("a pipe");
        drop(pipe);
        let teller = thread::spawn(move || end(&path, LIMIT));
        for _ in 0..3 {
            poll(&mut [PollFd::new(old.as_fd(), PollFlags::POLLIN)], None);
            drain(&thief);
        }
        drop((old, thief));
        assert!(teller.join().expect("it does not panic").expect("they have ended"), "somebody listened");
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_is_no_pipe_is_refused() {
        let folder = folder("odd");
        let file = folder.join("file");
        std::fs::write(&file, "as it was").expect("written");
        let link = folder.join("link");
        std::os::unix::fs::symlink(&file, &link).expect("made");
        for path in [&file, &link, &folder] {
            assert!(end(path, Duration::ZERO).is_err(), "{}", path.display());
            assert!(listen(path).is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read(&file).expect("there"), b"as it was");
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
