//! What a full-screen program has changed about the terminal, so that it can be changed back when the program cannot.
//!
//! Only modes that make a terminal unusable are followed: the second screen, the hidden cursor, mouse and focus reports, bracketed
//! paste, the other meaning of cursor keys and keypad (xterm's "Control Sequences", DECSET, DECKPAM).

/// Modes that are off in a terminal at rest, in the order in which they are put back.
const OFF_AT_REST: [u16; 15] = [9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 2004, 1, 66, 47, 1047, 1049];
/// The one that is on: the cursor is seen.
const CURSOR: u16 = 25;
/// Longer than any sequence that is meant here.
const LONGEST: usize = 64;

/// What was changed so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Modes {
    /// Of [`OFF_AT_REST`].
    on: Vec<u16>,
    cursor_hidden: bool,
    keypad: bool,
    place: Place,
    numbers: Vec<u8>,
}

/// Where in a sequence the last byte stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Text,
    /// `ESC`
    Escape,
    /// `ESC [`
    Bracket,
    /// `ESC [ ?` and digits
    Private,
}

impl Modes {
    /// Follows what is written to the terminal, cut anywhere.
    pub(super) fn watch(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.place = match (self.place, byte) {
                (_, 0x1b) => Place::Escape,
                (Place::Escape, b'[') => Place::Bracket,
                (Place::Escape, b'=' | b'>') => {
                    self.keypad = *byte == b'=';
                    Place::Text
                }
                (Place::Bracket, b'?') => {
                    self.numbers.clear();
                    Place::Private
                }
                (Place::Private, b'0'..=b'9' | b';') if self.numbers.len() < LONGEST => {
                    self.numbers.push(*byte);
                    Place::Private
                }
                (Place::Private, b'h' | b'l') => {
                    self.set(*byte == b'h');
                    Place::Text
                }
                (Place::Text | Place::Escape | Place::Bracket | Place::Private, _) => Place::Text,
            };
        }
    }

    fn set(&mut self, on: bool) {
        let numbers = std::mem::take(&mut self.numbers);
        let numbers = numbers.split(|byte| *byte == b';').filter_map(|digits| std::str::from_utf8(digits).ok());
        for mode in numbers.filter_map(|digits| digits.parse().ok()) {
            if mode == CURSOR {
                self.cursor_hidden = !on;
            } else if OFF_AT_REST.contains(&mode) {
                self.on.retain(|known| *known != mode);
                if on {
                    self.on.push(mode);
                }
            }
        }
    }

    /// What makes it again what it was before [`Self::undo`]; the program's own picture is not in it.
    pub(super) fn again(&self) -> Vec<u8> {
        let mut sequence: String = self.on.iter().map(|mode| format!("\x1b[?{mode}h")).collect();
        if self.cursor_hidden {
            sequence.push_str("\x1b[?25l");
        }
        if self.keypad {
            sequence.push_str("\x1b=");
        }
        sequence.into_bytes()
    }

    /// What puts the terminal back to rest; nothing where nothing was left.
    pub(super) fn undo(&self) -> Vec<u8> {
        let mut sequence = String::new();
        for mode in OFF_AT_REST.iter().filter(|mode| self.on.contains(mode)) {
            sequence.push_str(&format!("\x1b[?{mode}l"));
        }
        if self.cursor_hidden {
            sequence.push_str("\x1b[?25h");
        }
        if self.keypad {
            sequence.push_str("\x1b>");
        }
        if !sequence.is_empty() {
            // Whoever left these has hardly put the colours right.
            sequence.push_str("\x1b[0m");
        }
        sequence.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(pieces: &[&[u8]]) -> String {
        let mut modes = Modes::default();
        pieces.iter().for_each(|piece| modes.watch(piece));
        String::from_utf8(modes.undo()).expect("it is text").replace('\x1b', "^")
    }

    #[test]
    fn what_was_left_is_put_back_and_nothing_else() {
        for (written, expected) in [
            ("plain \x1b[1mbold\x1b[0m \x1b[2J \x1b]0;title\x07", ""),
            ("\x1b[?1049h\x1b[?25l", "^[?1049l^[?25h^[0m"),
            ("\x1b[?1049h\x1b[?25l\x1b[?25h\x1b[?1049l", ""),
            ("\x1b[?1000;1006h\x1b[?2004h", "^[?1000l^[?1006l^[?2004l^[0m"),
            ("\x1b[?1000;1006h\x1b[?1000l", "^[?1006l^[0m"),
            ("\x1b=\x1b[?1h", "^[?1l^>^[0m"),
            ("\x1b=\x1b[?1h\x1b>\x1b[?1l", ""),
            // Wrapping of lines, and what is no mode.
            ("\x1b[?7h\x1b[?999999h\x1b[?h\x1b[?;;h\x1b[25l\x1b[?25\x1b[?25x", ""),
        ] {
            assert_eq!(undo(&[written.as_bytes()]), expected, "{written:?}");
            let single: Vec<&[u8]> = written.as_bytes().chunks(1).collect();
            assert_eq!(undo(&single), expected, "{written:?} in single bytes");
        }
        let mut modes = Modes::default();
        modes.watch(b"text \x1b[?1049;1000h\x1b[?25l\x1b= and more");
        assert_eq!(String::from_utf8_lossy(&modes.again()).replace('\x1b', "^"), "^[?1049h^[?1000h^[?25l^=");
        assert!(Modes::default().again().is_empty());
        assert_eq!(undo(&[b"\x1b[?", &[b'1'; 10_000], b"h\x1b[?2004h"]), "^[?2004l^[0m", "no length is too much");
    }
}
