//! Keys to the shell, its output to the screen, one thread for both; a second one writes, as a terminal may take its time.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::modes::Modes;
use super::own_size;
use super::screen::Screen;
use crate::api::terminal::{FromShell, ToShell, exit_code};
use crate::domain::text_stream::TextStream;
use crate::net::websocket::{Ending, Incoming, Socket};
use crate::sys::ready::{self, Interest};
use crate::sys::tty::{self, RawMode, Signalled, Signals};

/// How long the beginning of a character waits for its rest before it is sent as it is.
const HALF_A_CHARACTER: Duration = Duration::from_millis(100);
/// For the Host to hear that we go.
const FAREWELL: Duration = Duration::from_millis(500);
/// Keys that are read at once: a paste in pieces that the Host's side takes one after the other.
const PIECE: usize = 16 << 10;
/// What a terminal that is gone is told with.
const SIGHUP: i32 = crate::sys::process::SIGHUP;

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// With the shell, which had this exit status.
    Exit(u8),
    /// The Host has closed the connection, with this reason.
    Closed(String),
    Lost(String),
    /// We were asked to end.
    Signal(i32),
}

/// The end, and what is to be said of it.
pub(super) struct End {
    pub(super) over: Over,
    /// What the Host told.
    pub(super) error: Option<String>,
    /// The cursor does not stand at the beginning of a line.
    pub(super) in_line: bool,
}

struct Session<'a> {
    socket: Socket,
    signals: &'a Signals,
    raw: &'a RawMode,
    screen: Screen,
    modes: Modes,
    keys: File,
    error: Option<String>,
    in_line: bool,
    /// On request, with the screen put right; others may have the terminal.
    has_stopped: bool,
}

/// Carries until it is over, and puts the screen right.
pub(super) fn run(socket: Socket, signals: &Signals, raw: &RawMode) -> io::Result<End> {
    let keys = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let screen = Screen::start()?;
    let modes = Modes::default();
    let mut session =
        Session { socket, signals, raw, screen, modes, keys, error: None, in_line: false, has_stopped: false };
    let over = session.carry();
    let Session { mut socket, mut screen, modes, error, in_line, has_stopped, .. } = session;
    if !has_stopped {
        screen.show(modes.undo());
    }
    // Also a fault of this machine leaves the screen as it should be.
    let over = over.unwrap_or_else(|fault| Over::Lost(format!("this terminal cannot be used any more: {fault}")));
    let in_a_hurry = matches!(over, Over::Signal(_)).then_some(FAREWELL);
    let over = match screen.finish(signals, in_a_hurry)? {
        Some(signal) => Over::Signal(signal),
        None => over,
    };
    if matches!(over, Over::Signal(_)) && !socket.close(Ending::Done, "", FAREWELL) {
        socket.abort();
    }
    Ok(End { over, error, in_line })
}

impl Session<'_> {
    fn carry(&mut self) -> io::Result<Over> {
        let mut text = TextStream::default();
        let mut half_since: Option<Instant> = None;
        // The window may have got another size before we listened.
        let mut resized = true;
        let mut piece = vec![0; PIECE];
        loop {
            if let Some(over) = self.hear() {
                return Ok(over);
            }
            if resized && !self.socket.has_unsent() {
                resized = false;
                if let Err(fault) = self.socket.send(ToShell::resize(own_size())) {
                    return Ok(Over::Lost(fault.0));
                }
            }
            let (listening, typing) = (self.screen.has_room(), !self.socket.has_unsent());
            let waited = [
                self.socket.wanted(listening, false),
                (self.keys.as_fd(), Interest { read: typing, ..Interest::default() }),
                (self.signals.fd(), Interest::READ),
                (self.screen.fd(), Interest::READ),
            ];
            let due = self.socket.due();
            // Only where it could be sent: else it would be due again and again.
            let half_until = half_since.filter(|_| typing).map(|since| since + HALF_A_CHARACTER);
            let [host, keys, _, _] = ready::wait(waited, Some(half_until.map_or(due, |half| half.min(due))));
            let mut is_continued = false;
            while let Some(signalled) = self.signals.next()? {
                match signalled {
                    Signalled::End(signal) => return Ok(Over::Signal(signal)),
                    Signalled::Resized => resized = true,
                    Signalled::Stop => {
                        if let Some(signal) = self.stop()? {
                            return Ok(Over::Signal(signal));
                        }
                    }
                    Signalled::Continued => is_continued = true,
                }
            }
            // Only now: one that is made to go on in order to end is in the background.
            if is_continued || self.has_stopped {
                self.go_on()?;
                resized = true;
            }
            if !self.screen.heard() {
                // Nobody sees any more what the shell says.
                return Ok(Over::Signal(SIGHUP));
            }
            if let Err(fault) = self.socket.tend(host, listening) {
                return Ok(Over::Lost(fault.0));
            }
            if self.socket.has_unsent() {
                continue;
            }
            let mut input = String::new();
            if keys.read && typing {
                match self.keys.read(&mut piece) {
                    Ok(n) if n > 0 => input = text.take(&piece[..n]),
                    Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                    // The terminal is gone.
                    Ok(_) | Err(_) => return Ok(Over::Signal(SIGHUP)),
                }
                half_since = text.is_waiting().then(Instant::now);
            } else if half_until.is_some_and(|until| Instant::now() >= until) {
                input = text.give_up();
                half_since = None;
            }
            if !input.is_empty()
                && let Err(fault) = self.socket.send(ToShell::input(&input))
            {
                return Ok(Over::Lost(fault.0));
            }
        }
    }

    /// Leaves the terminal to others until we are to go on; Some: we are to end instead, with that signal.
    fn stop(&mut self) -> io::Result<Option<i32>> {
        self.screen.show(self.modes.undo());
        if let Some(signal) = self.screen.finish(self.signals, Some(FAREWELL))? {
            return Ok(Some(signal));
        }
        self.raw.put_right();
        self.has_stopped = true;
        tty::stop()?;
        Ok(None)
    }

    /// Takes the terminal again, if it is given to us; else stops again, and the next signal tells more.
    fn go_on(&mut self) -> io::Result<()> {
        if !tty::is_in_foreground() {
            return tty::await_foreground();
        }
        self.raw.again()?;
        if std::mem::take(&mut self.has_stopped) {
            self.screen.show(self.modes.again());
        }
        Ok(())
    }

    /// Shows what has come, as far as the screen takes it.
    fn hear(&mut self) -> Option<Over> {
        while self.screen.has_room() {
            match self.socket.receive() {
                Ok(Some(Incoming::Text(message))) => match FromShell::decode(&message) {
                    Ok(Some(FromShell::Output(bytes))) => self.show(bytes),
                    Ok(Some(FromShell::Error(text))) => self.error = Some(text),
                    Ok(None) => {}
                    Err(fault) => return Some(Over::Lost(format!("what it says is not understood: {fault}"))),
                },
                Ok(Some(Incoming::Closed(reason))) => {
                    return Some(exit_code(&reason).map_or(Over::Closed(reason), Over::Exit));
                }
                Ok(None) => return None,
                Err(fault) => return Some(Over::Lost(fault.0)),
            }
        }
        None
    }

    fn show(&mut self, bytes: Vec<u8>) {
        self.modes.watch(&bytes);
        if let Some(last) = bytes.last() {
            self.in_line = *last != b'\n';
        }
        self.screen.show(bytes);
    }
}
