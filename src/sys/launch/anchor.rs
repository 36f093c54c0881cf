//! A process that does nothing but stay, so that the control group that it is in stays.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Leaves such a process behind, which ends when the other end of `line` (a socket) is closed. It is nobody's child: a program
/// that waits for its children must not find one that it does not know. The answer is its pid. Only for a process with
/// a single thread.
///
/// # Errors
/// The kernel makes no process.
pub fn leave(line: &File) -> io::Result<u32> {
    let (mut number, answer) = io::pipe()?;
    // SAFETY: this process has one thread, so its child may do what it likes; it makes system calls alone.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above; the pid goes through a pipe as four bytes.
            unsafe {
                let pid = libc::fork();
                if pid == 0 {
                    stay(line.as_raw_fd());
                }
                let bytes = pid.to_ne_bytes();
                libc::write(answer.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
                libc::_exit(0);
            }
        }
        between => {
            drop(answer);
            let mut bytes = [0; 4];
            let told = io::Read::read_exact(&mut number, &mut bytes);
            // SAFETY: our own child, which ends at once.
            unsafe { libc::waitpid(between, std::ptr::null_mut(), 0) };
            told?;
            u32::try_from(i32::from_ne_bytes(bytes))
                .map_err(|_negative| io::Error::other("the kernel makes no process"))
        }
    }
}

/// Out of reach of signals that are meant for the task, spared by the out-of-memory killer, holding nothing open.
fn stay(line: i32) -> ! {
    // SAFETY: system calls on numbers, on static strings and on structures of this function.
    unsafe {
        libc::setsid();
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::dup2(line, 0);
        let shield = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        libc::write(shield, b"-1000".as_ptr().cast(), 5);
        libc::chdir(c"/".as_ptr());
        if libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) < 0 {
            for fd in 1..65_536 {
                libc::close(fd);
            }
        }
        let mut byte = 0_u8;
        loop {
            let got = libc::read(0, (&raw mut byte).cast(), 1);
            if got == 0 || got < 0 && *libc::__errno_location() != libc::EINTR {
                libc::_exit(0);
            }
        }
    }
}
