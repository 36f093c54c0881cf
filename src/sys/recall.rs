//! A named pipe by which process 1 of a container is reached without Docker.
//!
//! dockerd that dies between containerd's start of a container and its own record of it takes that container, when it is back, for
//! one that never ran. What runs in it is then known to nobody, and no call of Docker's ends it. So process 1 reads this pipe, and
//! ends the container when something is written there.

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

/// Ends whoever listens at it, and waits until it has: true if somebody did. That there is no pipe is no error.
///
/// # Errors
/// The io error, without the path; `TimedOut`: after `limit` somebody still listens.
pub fn end(path: &Path, limit: Duration) -> io::Result<bool> {
    let end = Instant::now() + limit;
    // For writing, and without waiting: refused by the kernel where nobody listens.
    let mut pipe = match open(path, OpenOptions::new().write(true)) {
        Ok(pipe) => pipe,
        Err(fault) if fault.kind() == ErrorKind::NotFound || fault.raw_os_error() == Some(libc::ENXIO) => {
            return Ok(false);
        }
        Err(fault) => return Err(fault),
    };
    match pipe.write(b"!") {
        // Full: it has been told often enough. Broken: it has ended just now.
        Err(fault) if !matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::BrokenPipe) => return Err(fault),
        _ => {}
    }
    loop {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
        poll(&mut fds, Some(end));
        if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// Listens at it from now on: it is readable once somebody wants us to end.
///
/// # Errors
/// The io error, without the path.
pub fn listen(path: &Path) -> io::Result<File> {
    // For both, so that it is not at its end whenever nobody writes.
    open(path, OpenOptions::new().read(true).write(true))
}

/// Reads all that was written, so that it is not left for who listens next.
pub fn drain(mut pipe: &File) {
    let mut words = [0; 512];
    while pipe.read(&mut words).is_ok_and(|n| n > 0) {}
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

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("hakuriver-recall-{name}-{}", crate::sys::random::hex(6)));
        std::fs::create_dir(&folder).expect("made");
        folder
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
        assert_eq!(end(&path, Duration::from_millis(20)).expect_err("it goes on").kind(), ErrorKind::TimedOut);
        let listener = thread::spawn(move || {
            poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], None);
            drain(&pipe);
            drop(pipe);
        });
        assert!(end(&path, Duration::from_secs(20)).expect("it ends"), "somebody listened");
        listener.join().expect("it ended");
        assert!(!end(&path, Duration::ZERO).expect("nobody"), "nobody listens any more");
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
