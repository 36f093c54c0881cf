//! Whether an SSH server answers: the first line of RFC 4253, 4.2.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::sys::clock;
use crate::sys::shutdown::Stop;

/// Loopback or the next machine: it answers at once or not at all.
const CONNECT: Duration = Duration::from_millis(500);
/// A server on a busy machine needs its time; asking anew would only add to its load.
const READ: Duration = Duration::from_secs(5);
/// How often to look up from reading.
const SLICE: Duration = Duration::from_millis(100);
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Banner,
    /// The time was up.
    Nothing,
    /// One of the stops was set.
    Interrupted,
}

/// Tries until the banner was read, `until` has come, or one of `stops` is set.
pub(super) fn listen(address: SocketAddr, until: Instant, stops: &[&Stop]) -> Heard {
    let interrupted = || stops.iter().any(|stop| stop.is_set());
    let mut wait = FIRST_WAIT;
    loop {
        if interrupted() {
            return Heard::Interrupted;
        }
        if answers(address, &interrupted) {
            return Heard::Banner;
        }
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Heard::Nothing;
        }
        // A server that is not there yet can only be asked again; the wait is so short that one of the stops is enough.
        stops.first().map(|stop| stop.wait(wait.min(left)));
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// One try. Docker's proxy takes connections also while nobody listens in the container: only the banner counts.
fn answers(address: SocketAddr, interrupted: &dyn Fn() -> bool) -> bool {
    #[cfg(test)]
    if let Some(world) = crate::sys::simulated::world() {
        return world.answers(address);
    }
    let Ok(mut socket) = TcpStream::connect_timeout(&address, CONNECT) else { return false };
    if socket.set_read_timeout(Some(SLICE)).is_err() {
        return false;
    }
    let until = clock::now() + READ;
    let mut heard = Vec::new();
    let mut buffer = [0; 256];
    while clock::now() < until && heard.len() < 8192 && !interrupted() {
        match socket.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => heard.extend_from_slice(&buffer[..count]),
            Err(fault)
                if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
        if is_banner(&heard) {
            return true;
        }
    }
    false
}

/// A server may send other lines before it.
fn is_banner(heard: &[u8]) -> bool {
    heard.split_inclusive(|byte| *byte == b'\n').any(|line| line.starts_with(b"SSH-") && line.ends_with(b"\n"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_banner_is_a_whole_line_and_may_come_after_others() {
        assert!(is_banner(b"SSH-2.0-OpenSSH_9.2p1\r\n"));
        assert!(is_banner(b"hello\r\nSSH-2.0-x\n"));
        for not in [&b"SSH-2.0-Open"[..], b"HTTP/1.1 400\r\n", b"xSSH-2.0\n", b""] {
            assert!(!is_banner(not), "{not:?}");
        }
    }

    #[test]
    fn a_server_that_hangs_up_at_first_is_asked_again() {
        let server = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = server.local_addr().expect("it is bound");
        let serving = std::thread::spawn(move || {
            for _ in 0..3 {
                drop(server.accept().expect("it is asked"));
            }
            let (mut socket, _) = server.accept().expect("it is asked again");
            socket.write_all(b"SSH-2.0-test\r\n").expect("it listens");
        });
        let stop = Stop::new();
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(listen(address, far, &[&stop]), Heard::Banner);
        serving.join().expect("no panic");
        assert_eq!(listen(address, Instant::now() + Duration::from_millis(20), &[&stop]), Heard::Nothing);
        stop.set();
        assert_eq!(listen(address, far, &[&stop]), Heard::Interrupted);
    }
}
