//! A terminal with somebody at it: a program runs on it, keys are pressed, and what it shows is looked at.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlushArg, SetArg, Termios, tcflush, tcgetattr, tcsetattr};
use nix::unistd::Pid;

use crate::env::SOON;
use crate::wait;

/// One terminal.
pub struct Tty {
    master: File,
    /// Held open, so that the terminal outlives the program.
    slave: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    looks_away: Arc<AtomicBool>,
    is_left: AtomicBool,
    typed: AtomicUsize,
    before: Mutex<Termios>,
}

impl Tty {
    /// Starts a program on a terminal of 30 rows and 100 columns.
    pub fn start(mut command: Command) -> Self {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        let slave = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).unwrap();
        set_size(&slave, 30, 100);
        let before = Mutex::new(tcgetattr(&slave).unwrap());
        let stream = || slave.try_clone().unwrap();
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: two plain system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let master = File::from(std::os::fd::OwnedFd::from(master));
        let (shown, looks_away) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (mut reader, seen, away) = (master.try_clone().unwrap(), Arc::clone(&shown), Arc::clone(&looks_away));
        thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while Arc::strong_count(&seen) > 1 {
                if away.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                match reader.read(&mut buffer) {
                    Ok(n) if n > 0 => seen.lock().unwrap().extend_from_slice(&buffer[..n]),
                    _ => return,
                }
            }
        });
        let (is_left, typed) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { master, slave, child, shown, looks_away, is_left, typed, before }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Presses keys.
    pub fn type_in(&self, keys: impl AsRef<[u8]>) {
        (&self.master).write_all(keys.as_ref()).unwrap();
    }

    /// As [`Self::type_in`], until [`Self::leave`].
    pub fn try_type_in(&self, keys: &[u8]) {
        for part in keys.chunks(1_000) {
            if self.is_left.load(Ordering::Relaxed) || (&self.master).write_all(part).is_err() {
                return;
            }
            self.typed.fetch_add(part.len(), Ordering::Relaxed);
        }
    }

    /// Waits until some keys were taken, and then none for that long. (Nothing tells that a terminal takes no more but that it
    /// does not.)
    #[track_caller]
    pub fn await_stuck(&self, quiet: Duration) {
        let mut last = (0, Instant::now());
        wait::until("no key is taken any more", SOON, || {
            let taken = self.typed.load(Ordering::Relaxed);
            if taken != last.0 {
                last = (taken, Instant::now());
            }
            if taken > 0 && last.1.elapsed() >= quiet { Ok(()) } else { Err(format!("{taken} bytes taken")) }
        });
    }

    /// Types no more, whether or not anybody takes it.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Relaxed);
        tcflush(&self.slave, FlushArg::TCIFLUSH).unwrap();
    }

    /// Types a command line.
    pub fn line(&self, text: &str) {
        self.type_in(format!("{text}\r"));
    }

    /// Everything that was shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// The same as bytes.
    pub fn shown_raw(&self) -> Vec<u8> {
        self.shown.lock().unwrap().clone()
    }

    pub fn shown_bytes(&self) -> usize {
        self.shown.lock().unwrap().len()
    }

    /// Waits until this was shown, and forgets everything up to its end; the answer is what stood before it.
    #[track_caller]
    pub fn expect(&self, text: &str) -> String {
        self.expect_within(text, SOON)
    }

    #[track_caller]
    pub fn expect_within(&self, text: &str, limit: Duration) -> String {
        wait::until(&format!("{text:?} is shown"), limit, || {
            let mut shown = self.shown.lock().unwrap();
            match find(&shown, text.as_bytes()) {
                Some(at) => {
                    let rest = shown.split_off(at + text.len());
                    let mut before = std::mem::replace(&mut *shown, rest);
                    before.truncate(at);
                    Ok(String::from_utf8_lossy(&before).into_owned())
                }
                None => {
                    let from = shown.len().saturating_sub(2_000);
                    Err(format!("{:?}", String::from_utf8_lossy(&shown[from..])))
                }
            }
        })
    }

    /// Has the shell say something that its echo does not contain: it is ready, and all before was carried out.
    #[track_caller]
    pub fn ready(&self) {
        self.line("echo rea''dy");
        self.expect("ready\r\n");
    }

    /// Drags the window to another size.
    pub fn resize(&self, rows: u16, cols: u16) {
        set_size(&self.slave, rows, cols);
    }

    /// Does not read for a while, as a terminal in its scrollback does.
    pub fn look_away(&self, away: bool) {
        self.looks_away.store(away, Ordering::Relaxed);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Ok while the program has not ended.
    pub fn runs(&mut self) -> Result<(), String> {
        self.child.try_wait().unwrap().map_or(Ok(()), |status| Err(format!("it has ended with {status}")))
    }

    /// Waits for the program's end, and for the terminal being as it was before it; the answer is its exit status.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        let status = wait::until("the program ends", SOON, || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(format!("it runs; shown: {:?}", self.shown())),
        });
        let (before, after) = (self.before.lock().unwrap(), tcgetattr(&self.slave).unwrap());
        assert!(after == *before, "the terminal is another than before: {after:?}; before {before:?}");
        status.code().unwrap_or(-1)
    }

    /// Sets the terminal as it was before.
    pub fn put_right(&self) {
        tcsetattr(&self.slave, SetArg::TCSANOW, &self.before.lock().unwrap()).unwrap();
    }

    /// The terminal's modes are not those of before: the program reads every key.
    #[track_caller]
    pub fn await_raw(&self) {
        wait::until_true("the terminal is raw", SOON, || {
            (
                tcgetattr(&self.slave).unwrap() != *self.before.lock().unwrap(),
                format!("as before; shown: {:?}", self.shown()),
            )
        });
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.looks_away.store(false, Ordering::Relaxed);
    }
}

fn set_size(fd: &File, rows: u16, cols: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one `winsize`, which lives as long as the call.
    assert_eq!(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
