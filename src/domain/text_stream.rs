//! A stream of bytes, cut anywhere, as text: a character that two pieces share waits for its other half.

use super::raw_text;

/// Turns pieces of a stream into text in the form of [`raw_text`], so that joined and decoded it is the same stream again.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character: three bytes at most.
    held: Vec<u8>,
}

impl TextStream {
    /// The text of the next piece, without a character at its end that is not yet whole.
    pub fn take(&mut self, piece: &[u8]) -> String {
        self.held.extend_from_slice(piece);
        let whole = self.held.len() - unfinished(&self.held);
        let rest = self.held.split_off(whole);
        let text = raw_text::encode(&self.held).into_owned();
        self.held = rest;
        text
    }

    /// Is the beginning of a character held back?
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Gives what is held back as it is: nothing has followed it.
    pub fn give_up(&mut self) -> String {
        raw_text::encode(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// How many bytes at the end could be the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let longest = bytes.len().min(3);
    (1..=longest)
        .find(|length| {
            let tail = &bytes[bytes.len() - length..];
            // An error without a length is an input that ends too early (see `Utf8Error`).
            std::str::from_utf8(tail).is_err_and(|fault| fault.valid_up_to() == 0 && fault.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_anywhere_it_is_the_same_stream() {
        let all = "aé€😀\u{10FF41}\x1b[1m".bytes().chain(*b"\xff\xc3(\xf0\x9f\xe2\x82").chain("ü".bytes());
        let all: Vec<u8> = all.collect();
        for size in 1..=all.len() {
            let mut stream = TextStream::default();
            let mut text: String = all.chunks(size).map(|piece| stream.take(piece)).collect();
            text.push_str(&stream.give_up());
            assert_eq!(raw_text::decode(&text), all, "pieces of {size}");
            assert!(text.starts_with("aé€😀") && text.ends_with('ü'), "pieces of {size}: {text:?}");
        }
    }

    #[test]
    fn only_what_can_become_a_character_is_held_back() {
        for (piece, text, waits) in [
            (&b"abc"[..], "abc", false),
            (b"a\xe2\x82", "a", true),
            (b"a\xe2\x82\xac", "a\u{20ac}", false),
            (b"\xf0\x9f\x98", "", true),
            // No character begins so.
            (b"\xff", "\u{10ffff}", false),
            (b"\x80", "\u{10ff80}", false),
            (b"\xe2\x28", "\u{10ffe2}(", false),
        ] {
            let mut stream = TextStream::default();
            assert_eq!((stream.take(piece).as_str(), stream.is_waiting()), (text, waits), "{piece:?}");
        }
        let mut stream = TextStream::default();
        assert_eq!((stream.take(b"\xe2"), stream.give_up().as_str()), (String::new(), "\u{10ffe2}"));
        assert!(!stream.is_waiting());
    }
}
