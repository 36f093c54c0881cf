//! Socket options that std does not offer, and the address that routes to a host.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::poll::{PollFd, PollFlags};

use super::shutdown::{Stop, is_ready, poll};

/// The address of this machine from which packets to `host` leave; None if `host` is unknown or not routed.
///
/// Nothing is sent: connecting a UDP socket only makes the kernel choose the route.
pub fn address_towards(host: &str, port: u16) -> Option<IpAddr> {
    // Port 0 cannot be connected to; any other chooses the same route.
    (host, port.max(1)).to_socket_addrs().ok()?.find_map(|target| {
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Whether nothing listens there.
pub fn is_free(address: SocketAddr) -> bool {
    #[cfg(test)]
    if let Some(world) = super::simulated::world() {
        return world.is_free(address);
    }
    TcpListener::bind(address).is_ok()
}

/// Lets the kernel find out that the other side is gone: first after `idle_s` seconds of silence, then every
/// `interval_s`, given up after three.
///
/// # Errors
/// The kernel refuses.
pub fn keep_alive(socket: &TcpStream, idle_s: u32, interval_s: u32) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    let number = |seconds: u32| libc::c_int::try_from(seconds.clamp(1, 32_767)).expect("below 32,768");
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, number(idle_s))?;
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, number(interval_s))?;
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3)
}

/// Makes the end of this connection a reset: what is on its way is lost, and the other side sees the end without reading.
///
/// # Errors
/// The kernel refuses.
pub fn reset_at_close(socket: &TcpStream) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, now)
}

/// Waits for the next connection; Ok(None) when `stop` is set. The listener is made non-blocking.
///
/// # Errors
/// What accept(2) says: often that of one connection alone (`ECONNABORTED`), or that no descriptor is free (`EMFILE`).
pub fn accept(listener: &TcpListener, stop: &Stop) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    use std::os::fd::AsFd as _;
    listener.set_nonblocking(true)?;
    loop {
        let mut fds = [PollFd::new(stop.fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, None);
        if is_ready(&fds[0]) {
            return Ok(None);
        }
        match listener.accept() {
            Ok((socket, peer)) => {
                socket.set_nonblocking(false)?;
                return Ok(Some((socket, peer)));
            }
            Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(fault) => return Err(fault),
        }
    }
}

/// `T` is what socket(7) or tcp(7) say that the option's value is.
fn set_option<T: Copy>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).expect("a few bytes");
    // SAFETY: the pointer and the size describe the value, which the kernel reads.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback() {
        assert_eq!(address_towards("127.0.0.1", 0), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(address_towards("no such host", 80), None);
    }

    #[test]
    fn keep_alive_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let socket = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        keep_alive(&socket, 30, 10).expect("the kernel takes it");
        keep_alive(&socket, 0, u32::MAX).expect("the figures are brought into range");
    }
}
