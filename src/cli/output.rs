//! stdout and stderr. A reader that has gone away (`| head`) is no fault and no panic.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::domain::steering::steers;
use crate::domain::{raw_text, span};

/// Why something that was printed did not arrive.
static LOST: OnceLock<String> = OnceLock::new();

/// Why something that was printed did not arrive (the disk is full), if anything.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Writes to stdout at once; a line that a program waits for must not stay in a buffer.
pub fn print(text: &str) {
    write(&[text.as_bytes()]);
}

fn write(parts: &[&[u8]]) {
    let mut out = io::stdout().lock();
    match parts.iter().try_for_each(|part| out.write_all(part)).and_then(|()| out.flush()) {
        Ok(()) => {}
        // Nobody reads any more: there is no one left to tell.
        Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => {}
        // The first reason is the one that counts.
        Err(fault) => drop(LOST.set(format!("cannot write to stdout: {fault}"))),
    }
}

/// A line on stdout, as [`printable`]: much of it was said by others.
pub fn line(text: &str) {
    print(&format!("{}\n", printable(text)));
}

/// Bytes on stdout, as they are, with a line's end if they have none.
pub fn body(bytes: &[u8]) {
    let end: &[u8] = if bytes.ends_with(b"\n") { b"" } else { b"\n" };
    write(&[bytes, end]);
}

/// A line on stderr. Control characters are escaped: what a Host or a file says must not steer the terminal.
pub fn error_line(text: &str) {
    let mut out = io::stderr().lock();
    let _gone = out.write_all(format!("{}\n", printable(text)).as_bytes());
}

/// A shell makes `span:1 span:2` of `span:{1..2}`, and no fault of it: says so, for what follows would surprise.
pub(super) fn warn_of_unquoted_spans(command: &[String]) {
    if let Some(word) = span::expanded(command) {
        let what = "is no span, and is passed on as it is";
        error_line(&format!("warning: '{word}' {what}; a span must be quoted, or the shell expands its braces"));
    }
}

/// `text` with everything escaped that would steer a terminal, but the line's end, and bytes that are not UTF-8 shown as `\xff`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if let Some(byte) = raw_text::byte_of(c) {
            shown.push_str(&format!("\\x{byte:02x}"));
        } else if steers(c) && c != '\n' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// One line on stderr that says what is being waited for: written over on a terminal, else one line a change, and where only numbers
/// change one in [`PAUSE`].
pub struct Progress {
    in_place: bool,
    shown: String,
    at: Option<Instant>,
}

/// In a log nobody wants a line for each percent.
const PAUSE: Duration = Duration::from_secs(5);

impl Default for Progress {
    /// Nothing shown yet.
    fn default() -> Self {
        // NO_COLOR asks for no escape codes of any kind; a plain line a change is readable everywhere.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { in_place: !plain && io::stderr().is_terminal(), shown: String::new(), at: None }
    }
}

impl Progress {
    /// Shows it, if it is not shown already.
    pub fn show(&mut self, text: &str) {
        let text = printable(text).replace('\n', " ");
        if text == self.shown || !self.in_place && self.is_too_soon(&text) {
            return;
        }
        let mut out = io::stderr().lock();
        // \r goes to the line's beginning, ESC [K clears what stood there.
        let line = if self.in_place { format!("\r\x1b[K{text}") } else { format!("{text}\n") };
        let _gone = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        self.shown = text;
        self.at = Some(Instant::now());
    }

    /// Whether it is what was shown but for its numbers, and that a moment ago.
    fn is_too_soon(&self, text: &str) -> bool {
        let is_digit = |c: char| c.is_ascii_digit();
        let is_same = text
            .split(is_digit)
            .filter(|part| !part.is_empty())
            .eq(self.shown.split(is_digit).filter(|part| !part.is_empty()));
        is_same && self.at.is_some_and(|at| at.elapsed() < PAUSE)
    }

    /// Shows it where it can be written over: of what changes a thousand times, nobody wants a line each.
    pub fn show_in_place(&mut self, text: &str) {
        if self.in_place {
            self.show(text);
        }
    }

    /// Takes the line away, so that what follows begins a line of its own.
    pub fn clear(&mut self) {
        if self.in_place && !self.shown.is_empty() {
            let mut out = io::stderr().lock();
            let _gone = out.write_all(b"\r\x1b[K").and_then(|()| out.flush());
        }
        self.shown.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d"), "a\\u{1b}[2Jb\nc\\u{9b}d");
        assert_eq!(printable("a\u{202e}b\u{2028}c"), "a\\u{202e}b\\u{2028}c");
        assert_eq!(printable(&raw_text::encode(b"a\xff\x9b")), "a\\xff\\x9b");
    }

    #[test]
    fn numbers_alone_are_no_news_at_once() {
        let mut progress = Progress { in_place: false, shown: "saving x7 (1%)".to_owned(), at: Some(Instant::now()) };
        assert!(progress.is_too_soon("saving x7 (99%)") && !progress.is_too_soon("checking x7"));
        progress.at = Instant::now().checked_sub(PAUSE);
        assert!(!progress.is_too_soon("saving x7 (99%)"));
    }
}
