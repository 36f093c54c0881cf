//! A socket between processes of one machine and one user: abstract (no file to be left over), with the other side checked.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
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

/// Connects to an abstract name. Never waits: who listens may be anybody, and may take no connections.
///
/// # Errors
/// `ConnectionRefused`: nobody listens there; `WouldBlock`: too many wait there already.
pub fn connect(name: &str) -> io::Result<UnixStream> {
    // SAFETY: zero is a value of all its fields.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).expect("a small number");
    // An abstract name begins with a zero byte.
    let Some(room) = address.sun_path.get_mut(1..=name.len()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the name @{name} is too long")));
    };
    room.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte.cast_signed());
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len();
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    let length = libc::socklen_t::try_from(length).expect("a few bytes");
    // SAFETY: `length` is that of the part of `address` that was filled.
    if unsafe { libc::connect(fd, (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Whether the other side is a process of our own user, or root's, and in our own PID namespace: an abstract name protects nothing
/// by itself, and a container that shares our network shares these names too, with root's number for its own root.
///
/// # Errors
/// The kernel does not tell.
pub fn is_ours(socket: &UnixStream) -> io::Result<bool> {
    let nobody = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let peer = option(socket, libc::SO_PEERCRED, nobody)?;
    if peer.uid != 0 && peer.uid != nix::unistd::geteuid().as_raw() {
        return Ok(false);
    }
    let process = match option(socket, SO_PEERPIDFD, -1) {
        // SAFETY: the kernel has made it for us.
        Ok(fd) => Some(unsafe { OwnedFd::from_raw_fd(fd) }),
        // Before Linux 6.5 only the number is known.
        Err(fault) if fault.raw_os_error() == Some(libc::ENOPROTOOPT) => None,
        // It has ended.
        Err(_) => return Ok(false),
    };
    let namespace = |process: &str| {
        let seen = fs::metadata(format!("/proc/{process}/ns/pid"));
        seen.map(|seen| (seen.dev(), seen.ino()))
    };
    let is_here = match (namespace("self"), namespace(&peer.pid.to_string())) {
        (Ok(ours), Ok(its)) => ours == its,
        // A kernel without such namespaces.
        (Err(_), _) => true,
        // It has ended, or cannot be seen from here, or is none that we may look at.
        (Ok(_), Err(_)) => false,
    };
    // While it lives, its number is nobody else's.
    Ok(is_here && process.is_none_or(|process| !has_ended(&process)))
}

/// Linux 6.5; not in libc yet.
const SO_PEERPIDFD: libc::c_int = 77;

/// An option of a socket that is a plain structure.
fn option<T: Copy>(socket: &UnixStream, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).expect("a few bytes");
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, and the two structures that are asked for take all
    // that it writes.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The descriptor of a process is readable from its end on.
fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, Some(Instant::now()));
    is_ready(&fds[0])
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn this_process_is_ours_to_itself() {
        let name = format!("hakuriver-test-{}", crate::sys::random::hex(8));
        let listener = listen(&name).expect("the name is free");
        let ours = connect(&name).expect("it listens");
        let (theirs, _) = listener.accept().expect("it has come");
        assert!(is_ours(&ours).expect("the kernel tells") && is_ours(&theirs).expect("the kernel tells"));
    }

    #[test]
    fn a_listener_that_takes_no_connections_is_not_waited_for() {
        let name = format!("hakuriver-test-{}", crate::sys::random::hex(8));
        assert_eq!(connect(&name).expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(&"x".repeat(200)).expect_err("too long").kind(), io::ErrorKind::InvalidInput);
        let listener = listen(&name).expect("the name is free");
        // SAFETY: a descriptor that is open, and a number: none may wait but one.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let connected: Vec<_> = (0..3).map(|_| connect(&name)).collect();
        let fault = connected.into_iter().find_map(Result::err).expect("there is no room for three");
        assert_eq!(fault.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn root_of_a_container_that_shares_the_network_is_a_stranger() {
        let name = format!("hakuriver-test-{}", crate::sys::random::hex(8));
        let listener = listen(&name).expect("the name is free");
        let address = SocketAddr::from_abstract_name(&name).expect("it is short");
        // Only the children of this one thread are in another namespace.
        let container = std::thread::spawn(move || {
            // SAFETY: a plain number.
            if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
                return None;
            }
            // SAFETY: the child makes system calls alone, and ends with them.
            match unsafe { libc::fork() } {
                0 => {
                    let _connected = UnixStream::connect_addr(&address).map(std::mem::forget);
                    // SAFETY: it waits until it is killed.
                    unsafe {
                        libc::pause();
                        libc::_exit(0)
                    }
                }
                child => Some(child),
            }
        });
        let Some(child) = container.join().expect("it does not panic") else {
            eprintln!("NOT TESTED: root_of_a_container_that_shares_the_network_is_a_stranger needs root");
            return;
        };
        assert!(ready(&[(listener.as_fd(), Interest::Read)], Some(Instant::now() + Duration::from_secs(20)))[0]);
        let (socket, _) = listener.accept().expect("it has come");
        let told = is_ours(&socket);
        // SAFETY: our own child, which waits for that.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        assert!(!told.expect("the kernel tells"));
    }
}
