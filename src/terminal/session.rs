//! One shell and the one who uses it: keys in, output out, and nothing piled up in between.

use std::time::{Duration, Instant};

use super::FAREWELL;
use super::container::Shell;
use crate::api::terminal::{FromShell, ToShell, exit_reason};
use crate::domain::text_stream::TextStream;
use crate::net::websocket::{Ending, Incoming, Socket};
use crate::sys::ready::{self, Interest};
use crate::sys::shutdown::Stop;

/// How long the beginning of a character waits for its rest before it is sent as it is.
const HALF_A_CHARACTER: Duration = Duration::from_millis(100);
/// For a shell whose terminal is at its end to be gone.
const END: Duration = Duration::from_secs(5);
/// When after the beginning a size that has come meanwhile is told once more: `docker` reads the size, hands it on, and only then
/// listens for another one, which it misses in between. (So it does in Docker 20.10; on a busy machine that takes a second.)
const SIZE_AGAIN: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];
/// What is read of a terminal at once: as much as its buffer holds.
const PIECE: usize = 4 << 10;

/// How a session ends.
#[derive(Debug, PartialEq, Eq)]
enum Over {
    /// The shell is at its end.
    Shell,
    /// The user has closed the connection, or is gone.
    User,
    /// The user sends what is not understood.
    Misfit(String),
    /// This process ends.
    Stopped,
}

/// What was typed and is not yet taken.
#[derive(Default)]
struct Typed {
    bytes: Vec<u8>,
    at: usize,
}

impl Typed {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn took(&mut self, n: usize) {
        self.at += n;
        if self.is_empty() {
            // A large paste gives its memory back.
            *self = Self::default();
        }
    }
}

/// Which of [`SIZE_AGAIN`] is to come.
struct SizeAgain {
    begin: Instant,
    /// A size has come that may have been missed.
    is_new: bool,
    next: usize,
}

impl SizeAgain {
    fn begin() -> Self {
        Self { begin: Instant::now(), is_new: false, next: 0 }
    }

    fn due(&self) -> Option<Instant> {
        SIZE_AGAIN.get(self.next).filter(|_| self.is_new).map(|after| self.begin + *after)
    }

    /// Is it due now? Those that nobody waited for are passed over.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        self.next = SIZE_AGAIN.iter().filter(|after| self.begin + **after <= now).count();
        is_due
    }
}

/// Carries a shell until it ends, its user goes, or `stop` is set; then both are ended.
pub fn serve(mut socket: Socket, mut shell: Shell, stop: &Stop) {
    match carry(&mut socket, &mut shell, stop) {
        Over::Shell => {
            let code = shell.terminal.wait(END);
            let _answered = socket.close(Ending::Done, &exit_reason(code), FAREWELL);
        }
        Over::User => shell.hang_up(),
        Over::Misfit(reason) => {
            shell.hang_up();
            super::refuse(socket, &reason);
        }
        Over::Stopped => {
            // First the shell: whoever has asked us to end does not wait for long.
            shell.hang_up();
            let _answered = socket.close(Ending::Away, "", Duration::from_millis(500));
        }
    }
}

fn carry(socket: &mut Socket, shell: &mut Shell, stop: &Stop) -> Over {
    let terminal = &mut shell.terminal;
    let mut typed = Typed::default();
    let mut text = TextStream::default();
    let mut half_since: Option<Instant> = None;
    let mut piece = vec![0; PIECE];
    let mut size_again = SizeAgain::begin();
    loop {
        // The next message is heard when all of the last one was taken.
        while typed.is_empty() {
            match socket.receive() {
                Ok(Some(Incoming::Text(message))) => match ToShell::decode(&message) {
                    Ok(Some(ToShell::Input(bytes))) => typed = Typed { bytes, at: 0 },
                    // A terminal that is at its end is seen below.
                    Ok(Some(ToShell::Resize(size))) => {
                        drop(terminal.resize(size.rows, size.cols));
                        size_again.is_new = true;
                    }
                    Ok(None) => {}
                    Err(fault) => return Over::Misfit(format!("what the client sends is not understood: {fault}")),
                },
                Ok(None) => break,
                Ok(Some(Incoming::Closed(_))) | Err(_) => return Over::User,
            }
        }
        let (listening, speaking) = (typed.is_empty(), !socket.has_unsent());
        let of_terminal = Interest { read: speaking, write: !listening, end: false };
        let waited = [socket.wanted(listening, true), (terminal.fd(), of_terminal), (stop.fd(), Interest::READ)];
        // Only where it could be sent: else it would be due again and again.
        let half_until = half_since.filter(|_| speaking).map(|since| since + HALF_A_CHARACTER);
        let due = size_again.due().map_or(socket.due(), |again| again.min(socket.due()));
        let until = half_until.map_or(due, |half| half.min(due));
        let [user, keys, stopped] = ready::wait(waited, Some(until));
        if stopped.read {
            return Over::Stopped;
        }
        if size_again.is_due(Instant::now()) {
            terminal.tell_size_again();
        }
        // Who goes while the shell takes no input is missed all the same.
        if user.ended && !listening || socket.tend(user, listening).is_err() {
            return Over::User;
        }
        if keys.write && !listening {
            match terminal.write(typed.rest()) {
                Ok(n) => typed.took(n),
                // It is at its end, which reading tells; nobody will take the rest.
                Err(_) => typed = Typed::default(),
            }
        }
        if socket.has_unsent() {
            continue;
        }
        let (mut output, mut is_over) = (String::new(), false);
        if keys.read && speaking {
            match terminal.read(&mut piece) {
                Ok(Some(n)) if n > 0 => output = text.take(&piece[..n]),
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => {
                    is_over = true;
                    output = text.give_up();
                }
            }
            half_since = text.is_waiting().then(Instant::now);
        } else if half_until.is_some_and(|until| Instant::now() >= until) {
            output = text.give_up();
            half_since = None;
        }
        if !output.is_empty() && socket.send(FromShell::output(&output)).is_err() {
            return Over::User;
        }
        if is_over {
            return Over::Shell;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_told_again_while_the_shell_begins_and_only_if_one_has_come() {
        let mut again = SizeAgain::begin();
        let begin = again.begin;
        let after = |ms| begin + Duration::from_millis(ms);
        assert!(!again.is_due(after(600)) && again.due().is_none(), "none has come");
        again.is_new = true;
        assert_eq!(again.due(), Some(after(2_000)));
        assert!(!again.is_due(after(1_999)) && again.is_due(after(2_000)) && !again.is_due(after(2_001)));
        assert!(again.is_due(after(11_000)), "late is better than never");
        assert_eq!((again.due(), again.is_due(after(20_000))), (None, false));
    }
}
