//! A program on a terminal of its own: what `docker exec -it` asks for, with us in the user's place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::command::{CommandFault, cannot_start, exit_number, open_pidfd, prepare};
use super::process::signal;
use super::ready::{self, Interest};
use super::shutdown::poll;

/// A program and the other side of its terminal. When this is dropped, the program loses its terminal (SIGHUP) and is killed.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    /// See [`Terminal::wait`].
    status: Option<i32>,
}

/// How often to look for the end of a program where the kernel has no pidfd (before 5.3).
const TICK: Duration = Duration::from_millis(20);

impl Terminal {
    /// Starts a program on a terminal of that size, in a session of its own. The terminal passes everything through as it is,
    /// until the program wants it otherwise: what is typed before that is neither echoed nor changed.
    ///
    /// # Errors
    /// There is no terminal left, or the program could not be started.
    pub fn start(argv: &[String], rows: u16, cols: u16) -> Result<Self, CommandFault> {
        let failed = |fault: io::Error| cannot_start(argv, &fault);
        let (master, slave) = open().map_err(failed)?;
        set_size(slave.as_fd(), rows, cols).map_err(failed)?;
        let mut command = prepare(argv, &[])?;
        let stream = || slave.try_clone().map_err(failed);
        command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
        // SAFETY: between fork and exec plain system calls are made, and no memory is touched.
        unsafe {
            command.pre_exec(|| {
                // Whoever started us may ignore them (nohup does the first): then the program would not hear what its terminal tells.
                for signal in [libc::SIGHUP, libc::SIGWINCH] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                // A new session has no terminal; the one that it takes tells it of a new size and of a hang-up.
                if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(failed)?;
        Ok(Self { master, child, status: None })
    }

    /// Gives the terminal another size; the program hears of it (SIGWINCH).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        set_size(self.master.as_fd(), rows, cols)
    }

    /// Tells the program once more that its terminal may have another size (SIGWINCH); one that is gone hears nothing.
    pub fn tell_size_again(&self) {
        // The child is ours and not waited for while `status` is None: its number is not another's.
        if self.status.is_none() {
            signal(self.child.id(), libc::SIGWINCH);
        }
    }

    /// Reads what the program has written: None if there is nothing now, 0 bytes at its end.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            return match self.master.read(buffer) {
                Ok(n) => Ok(Some(n)),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(None),
                // Nobody has the other side open any more: that is how a terminal tells the end.
                Err(fault) if fault.raw_os_error() == Some(libc::EIO) => Ok(Some(0)),
                Err(fault) => Err(fault),
            };
        }
    }

    /// Types `bytes`, as many as the terminal takes now; how many that were. (0: wait until it is ready again.)
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            return match self.master.write(bytes) {
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(0),
                other => other,
            };
        }
    }

    /// To be waited for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Reads and drops what the program still writes, until its end or `limit` later; true if it has ended.
    pub fn drain(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut buffer = [0; 4096];
        while Instant::now() < end {
            match self.read(&mut buffer) {
                Ok(Some(0)) | Err(_) => return true,
                Ok(Some(_)) => {}
                Ok(None) => {
                    ready::wait([(self.fd(), Interest::READ)], Some(end));
                }
            }
        }
        false
    }

    /// Waits for the program's end; after `limit` it is killed. The answer is its exit status, 128+n for signal n.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        if let Some(status) = self.status {
            return status;
        }
        let end = Instant::now() + limit;
        let pidfd = open_pidfd(&self.child);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break exit_number(status),
                Ok(None) if Instant::now() < end => {}
                Ok(None) | Err(_) => {
                    // It may hang in the kernel, but that it ends is sure.
                    let _ended = self.child.kill();
                    break self.child.wait().map_or(255, exit_number);
                }
            }
            match &pidfd {
                Some(pidfd) => poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], Some(end)),
                None => poll(&mut [], Some(end.min(Instant::now() + TICK))),
            }
        };
        self.status = Some(status);
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.wait(Duration::ZERO);
    }
}

/// Both sides of a new terminal that changes nothing; ours does not block.
fn open() -> io::Result<(File, File)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
    let slave = OpenOptions::new().read(true).write(true).custom_flags(flags).open(ptsname_r(&master)?)?;
    let mut modes = tcgetattr(&slave)?;
    cfmakeraw(&mut modes);
    tcsetattr(&slave, SetArg::TCSANOW, &modes)?;
    Ok((File::from(std::os::fd::OwnedFd::from(master)), slave))
}

fn set_size(fd: BorrowedFd<'_>, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one `winsize`, which lives as long as the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn start(argv: &[&str]) -> Terminal {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        Terminal::start(&argv, 33, 77).expect("it can be started")
    }

    /// What it writes until `end` stands there, or until its end.
    fn read_until(terminal: &mut Terminal, end: &str) -> String {
        let limit = Instant::now() + SOON;
        let mut got = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            let text = String::from_utf8_lossy(&got).into_owned();
            assert!(Instant::now() < limit, "{end:?} does not come: {text:?}");
            if !end.is_empty() && text.contains(end) {
                return text;
            }
            match terminal.read(&mut buffer).expect("it can be read") {
                Some(0) => return text,
                Some(n) => got.extend_from_slice(&buffer[..n]),
                None => drop(ready::wait([(terminal.fd(), Interest::READ)], Some(limit))),
            }
        }
    }

    #[test]
    fn a_program_has_a_terminal_its_size_and_its_signals() {
        let script = "stty size; tty -s && echo ready; read line; stty size; echo $line; exit 7";
        let mut terminal = start(&["sh", "-c", script]);
        assert_eq!(read_until(&mut terminal, "ready\n"), "33 77\nready\n");
        terminal.resize(44, 55).expect("it takes it");
        assert_eq!(terminal.write(b"typed\n").expect("room"), 6);
        // Nothing was echoed, and no line's end changed.
        assert_eq!(read_until(&mut terminal, ""), "44 55\ntyped\n");
        assert_eq!((terminal.wait(SOON), terminal.wait(SOON)), (7, 7));
        let script = "trap 'echo resized' WINCH; echo ready; while sleep 0.01; do :; done";
        let mut terminal = start(&["sh", "-c", script]);
        read_until(&mut terminal, "ready\n");
        terminal.resize(44, 55).expect("it takes it");
        read_until(&mut terminal, "resized\n");
    }

    #[test]
    fn what_does_not_end_is_killed_and_what_is_left_hangs_up() {
        let mut terminal = start(&["sleep", "1000"]);
        assert!(!terminal.drain(Duration::from_millis(10)));
        assert_eq!(terminal.wait(Duration::from_millis(10)), 128 + 9);
        assert!(terminal.drain(SOON));
        let mut terminal = start(&["bash", "-c", "trap '' HUP; echo ready; sleep 1000"]);
        read_until(&mut terminal, "ready");
        let pid = terminal.child.id();
        drop(terminal);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it was killed and waited for");
    }

    #[test]
    fn a_reader_that_stalls_stalls_its_writer() {
        let mut terminal = start(&["sleep", "1000"]);
        let mut taken = 0;
        loop {
            match terminal.write(&[b'x'; 1000]).expect("it takes it") {
                0 => break,
                n => taken += n,
            }
            assert!(taken < 1 << 20, "what is not read piles up somewhere");
        }
        let fault = Terminal::start(&["/no/such/program".to_owned()], 1, 1).expect_err("there is none").to_string();
        assert!(fault.starts_with("cannot start '/no/such/program'"), "{fault}");
    }
}
