//! How bytes that are not UTF-8 travel in text: a program's arguments are bytes, and JSON, SQLite and this program's own
//! types have text.

use std::borrow::Cow;

/// The first character of the range that stands for single bytes: the last 256 of Unicode's last private plane.
const FIRST: u32 = 0x10_FF00;

/// Bytes as text. UTF-8 is left as it is; each byte that is none becomes one character of a private range, U+10FF00 + byte;
/// and so does each byte of a character of that range, so that [`decode`] gives back exactly these bytes.
pub fn encode(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.chars().any(is_mark)
    {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if is_mark(char) {
                let mut buffer = [0; 4];
                encoded.extend(char.encode_utf8(&mut buffer).bytes().map(mark));
            } else {
                encoded.push(char);
            }
        }
        encoded.extend(chunk.invalid().iter().copied().map(mark));
    }
    Cow::Owned(encoded)
}

/// The bytes of a text from [`encode`]. (Of other text, the text's own bytes, unless it has characters of that range.)
pub fn decode(text: &str) -> Cow<'_, [u8]> {
    if !is_raw(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for char in text.chars() {
        match byte_of(char) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

/// Whether a text stands for bytes that are not UTF-8.
pub fn is_raw(text: &str) -> bool {
    text.chars().any(is_mark)
}

fn mark(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).expect("U+10FF00 to U+10FFFF are characters")
}

/// The byte that a character of [`encode`]'s range stands for.
pub fn byte_of(char: char) -> Option<u8> {
    u32::from(char).checked_sub(FIRST).and_then(|byte| u8::try_from(byte).ok())
}

fn is_mark(char: char) -> bool {
    byte_of(char).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_itself_and_bytes_come_back() {
        for text in ["", "echo", "$(id>file) \"ü\"\n😀", "\u{10FEFF}"] {
            assert_eq!(encode(text.as_bytes()), text);
            assert_eq!(decode(text), text.as_bytes());
            assert!(!is_raw(text));
        }
        assert_eq!(encode(b"a\xffb"), "a\u{10FFFF}b");
        for bytes in [&b"\xff"[..], b"\x80\xc3", "\u{10FFFF}".as_bytes(), "x\u{10FF00}\u{e9}".as_bytes(), b"\xe2\x82"] {
            let text = encode(bytes);
            assert!(is_raw(&text), "{text:?}");
            assert_eq!(decode(&text), bytes, "{text:?}");
        }
    }

    #[test]
    fn all_bytes_in_all_orders_come_back() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..20_000_usize {
            let bytes: Vec<u8> = (0..round % 24)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    // Mostly such bytes as begin and continue characters, the marks' own among them.
                    [0xf4, 0x8f, 0xbc, 0xbf, 0x80, 0xff, 0xc3, b'a', (state >> 24) as u8][(state >> 16) as usize % 9]
                })
                .collect();
            assert_eq!(decode(&encode(&bytes)), bytes);
        }
    }
}
