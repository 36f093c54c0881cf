//! Telling systemd that a service is ready (sd_notify(3)), where one waits for it.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says so to whoever has started this process with `NOTIFY_SOCKET` in its environment; nothing happens where nobody did.
///
/// # Errors
/// There is such a variable, and nobody listens where it leads.
pub fn ready() -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(name) if !name.is_empty() => send(&name, b"READY=1"),
        _ => Ok(()),
    }
}

/// A name that begins with `@` stands in no folder.
fn send(name: &OsStr, text: &[u8]) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::Scratch;

    #[test]
    fn it_is_told_by_path_and_by_name() {
        let scratch = Scratch::new();
        let path = scratch.path().join("notify");
        let named = format!("hakuriver-test-notify-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&named).expect("short");
        for (listener, name) in [
            (UnixDatagram::bind(&path), path.display().to_string()),
            (UnixDatagram::bind_addr(&by_name), format!("@{named}")),
        ] {
            let listener = listener.expect("free");
            send(OsStr::new(&name), b"READY=1").expect("somebody listens");
            let mut buffer = [0; 32];
            let count = listener.recv(&mut buffer).expect("it came");
            assert_eq!(&buffer[..count], b"READY=1", "{name}");
        }
        send(OsStr::new("/nonexistent/notify"), b"READY=1").expect_err("nobody is there");
    }
}
