//! How bytes that are not UTF-8 travel in text: a program's arguments are bytes, and JSON, SQLite and this program's own
//! types have text.

use std::borrow::Cow;

/// Bytes as text. UTF-8 is left as it is; each byte that is none becomes one character of a private range, U+10FF00 + byte;
/// and so does each byte of a character of that range, so that [`decode`] gives back exactly these bytes.
pub fn encode(_bytes: &[u8]) -> Cow<'_, str> {
    unimplemented!()
}

/// The bytes of a text from [`encode`]. (Of other text, the text's own bytes, unless it has characters of that range.)
pub fn decode(_text: &str) -> Cow<'_, [u8]> {
    unimplemented!()
}

/// Whether a text stands for bytes that are not UTF-8.
pub fn is_raw(_text: &str) -> bool {
    unimplemented!()
}
