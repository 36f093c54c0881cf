//! A socket between processes of one machine and one user: abstract (no file to be left over), with the other side checked.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use super::shutdown::{is_ready, poll};

/// Listens under an abstract name. Nobody else can while this lives.
///
/// # Errors
/// `AddrInUse`: somebody does already.
pub fn listen(name: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to an abstract name.
///
/// # Errors
/// `ConnectionRefused`: nobody listens there.
pub fn connect(name: &str) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Whether the other side is a process of our own user, or root's: an abstract name protects nothing by itself.
///
/// # Errors
/// The kernel does not tell.
pub fn is_ours(socket: &UnixStream) -> io::Result<bool> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).expect("a few bytes");
    // SAFETY: the kernel writes at most `length` bytes, the size of `peer`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw())
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Read,
    ReadAndWrite,
}

/// Waits until something can be read from (or written to) one of these, or `end` has come; says which.
pub fn ready(sources: &[(BorrowedFd<'_>, Interest)], end: Option<Instant>) -> Vec<bool> {
    let mut fds: Vec<PollFd<'_>> = sources
        .iter()
        .map(|(fd, interest)| {
            let flags = match interest {
                Interest::Read => PollFlags::POLLIN,
                Interest::ReadAndWrite => PollFlags::POLLIN | PollFlags::POLLOUT,
            };
            PollFd::new(*fd, flags)
        })
        .collect();
    poll(&mut fds, end);
    fds.iter().map(is_ready).collect()
}
