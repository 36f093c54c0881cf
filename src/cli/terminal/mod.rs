//! The user's side of a shell: the own terminal becomes the shell's, and is put right again whatever happens.

mod modes;
mod screen;
mod session;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use super::fault::Fault;
use super::host_api::{self, Host};
use super::{interrupt, output};
use crate::api::terminal::{LARGEST_MESSAGE, Size};
use crate::net::http_client::{Answer, ClientFault};
use crate::net::websocket::{self, ConnectFault, Socket};
use crate::sys::tty::{self, RawMode, Signals};
use session::Over;

/// For the Host's answer, which asks Docker first.
const ANSWER: Duration = Duration::from_secs(40);

/// Uses the shell behind `path` until one side ends; the shell's exit status is this command's.
pub(super) fn run(host: &Host, path: &str) -> Result<(), Fault> {
    if !io::stdin().is_terminal() {
        let text =
            "a shell needs a terminal, and the input of this command is none; start it from one, or with 'script'";
        return Err(Fault::Usage(text.to_owned()));
    }
    let cannot = |fault: io::Error| Fault::Refused(format!("cannot use this terminal: {fault}"));
    // Started with '&', it waits for its terminal while a signal still ends it.
    tty::await_foreground().map_err(cannot)?;
    let socket = connect(host, path, own_size())?;
    // From here on; until then Ctrl-C ends us as it ends any program.
    let signals = Signals::begin().map_err(cannot)?;
    let raw = RawMode::begin().map_err(cannot)?;
    let end = session::run(socket, &signals, &raw).map_err(cannot)?;
    drop(raw);
    if end.in_line && !matches!(end.over, Over::Exit(_)) {
        // What we say begins a line of its own.
        output::error_line("");
    }
    match (end.over, end.error) {
        (Over::Exit(0), None) => Ok(()),
        (Over::Exit(status), None) => Err(Fault::Status(status)),
        (Over::Signal(signal), _) => Err(Fault::Status(interrupt::status(signal))),
        (_, Some(text)) => Err(Fault::Refused(text)),
        (Over::Closed(reason), None) if reason.is_empty() => {
            Err(Fault::Refused("the Host has ended the connection; is it being stopped?".to_owned()))
        }
        (Over::Closed(reason), None) => Err(Fault::Refused(format!("the Host has ended the connection: {reason}"))),
        (Over::Lost(reason), None) => {
            Err(Fault::Unreachable(format!("the connection to the Host at {} is lost: {reason}", host.client().base())))
        }
    }
}

fn own_size() -> Size {
    tty::size().map_or_else(Size::default, |(rows, cols)| Size { rows, cols })
}

fn connect(host: &Host, path: &str, size: Size) -> Result<Socket, Fault> {
    let base = host.client().base();
    let address = base.strip_prefix("http://").unwrap_or(base);
    let (token, _) = host_api::token(&host.loaded.config);
    let path = format!("{path}?rows={}&cols={}", size.rows, size.cols);
    match websocket::connect(address, &path, token.as_deref(), ANSWER, LARGEST_MESSAGE) {
        Ok(socket) => Ok(socket),
        Err(ConnectFault::Unreachable(reason)) => {
            Err(host.unreachable(&ClientFault::Unreachable { url: base.to_owned(), reason }))
        }
        Err(ConnectFault::Refused { status, body }) => match host.success(Answer { status, body }) {
            Err(fault) => Err(fault),
            Ok(_) => Err(Fault::Refused(format!("the Host at {base} knows no shells: is its version another?"))),
        },
    }
}
