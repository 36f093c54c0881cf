//! The client's end of the tunnel: for ssh's ProxyCommand, and for a local port.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::fault::Fault;
use crate::cli::{host_api, output};
use crate::config::{Config, Loaded, address};
use crate::domain::ids::TaskId;
use crate::net::{relay, tunnel};
use crate::sys::thread;

/// For the connection to the Host.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For its answer: it gives itself 8 s to reach the node.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// A connection to the VPS's SSH port, through the Host.
fn open(config: &Config, id: TaskId) -> Result<TcpStream, Fault> {
    let (host, port) = address::tunnel(config).map_err(|fault| Fault::Unreachable(fault.0))?;
    let shown = address::join(&host, port);
    let cannot = |fault: &io::Error| {
        Fault::Unreachable(format!(
            "cannot reach the Host's SSH proxy at {shown}: {fault}\n\
             is the Host running, and network.host_ssh_proxy_port right?"
        ))
    };
    let socket = connect(&host, port).map_err(|fault| cannot(&fault))?;
    // Keystrokes must not wait for one another.
    socket.set_nodelay(true).map_err(|fault| cannot(&fault))?;
    let (token, token_fault) = host_api::token(config);
    match tunnel::say_hello(&socket, &id.to_string(), token.as_deref(), ANSWER_TIME) {
        Ok(Ok(())) => Ok(socket),
        // The Host's own words, as they are; where it wants a token and there is none, also why there is none.
        Ok(Err(reason)) => Err(Fault::Refused(match token_fault {
            Some(fault) if reason.starts_with("Not authorised") => format!("{reason}\n{}", fault.0.replace('\n', "; ")),
            _ => reason,
        })),
        Err(fault) => Err(cannot(&fault)),
    }
}

/// Tries every address of the name.
fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(socket) => return Ok(socket),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// Connects stdin and stdout with the VPS until both sides are at their end.
pub(super) fn stdio(loaded: &Loaded, id: TaskId) -> Result<(), Fault> {
    let socket = open(&loaded.config, id)?;
    let cannot = |fault: io::Error| Fault::Refused(format!("cannot carry the tunnel: {fault}"));
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(cannot)?;
    relay::stdio(input, output, socket).map_err(cannot)
}

/// Listens on a port of 127.0.0.1 for as long as the process lives, and carries every connection to the VPS; the port.
pub(super) fn listen(port: u16, loaded: &Loaded, id: TaskId) -> Result<u16, Fault> {
    let cannot = |fault: io::Error| {
        Fault::Refused(format!("cannot listen on 127.0.0.1:{port}: {fault}; choose another --local-port"))
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(cannot)?;
    let chosen = listener.local_addr().map_err(cannot)?.port();
    let config = Arc::new(loaded.config.clone());
    thread::spawn("listener", move || {
        // The listener has no end of its own: a connection that fails to be accepted is that connection's fault.
        for connection in listener.incoming().filter_map(Result::ok) {
            let config = Arc::clone(&config);
            let carried = thread::spawn("tunnel", move || match open(&config, id) {
                Ok(socket) => {
                    relay::run(connection, socket);
                }
                Err(fault) => {
                    fault.report();
                }
            });
            if let Err(fault) = carried {
                output::error_line(&format!("warning: a connection could not be carried: {fault}"));
            }
        }
    })
    .map_err(cannot)?;
    Ok(chosen)
}
