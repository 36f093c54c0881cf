//! The check that comes before every decoder: RFC 8259, without recursion.

use std::borrow::Cow;

use super::{JsonFault, value};

/// Nothing of ours is deeper than 6.
const DEEPEST: usize = 32;
/// Values in one text. Each costs tens of bytes where it is decoded, and may have no more than two here: the largest body taken, of
/// 16 MiB, has so many if each has four.
const MOST_VALUES: usize = 4 << 20;

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value, or the end of the list just begun.
    ValueOrEnd,
    Key,
    /// A key, or the end of the object just begun.
    KeyOrEnd,
    /// `,` or the end of the innermost list or object; at the top: nothing.
    CommaOrEnd,
}

/// The keys of an object that is open, without their escapes; None is a list.
type Frame<'a> = Option<Vec<Cow<'a, str>>>;

/// Checks `bytes`: one JSON value, UTF-8, at most 32 deep and 4,194,304 values, integers within 64 bits with sign, no key twice in an object.
///
/// # Errors
/// [`JsonFault::Malformed`] with the place.
pub(super) fn check(bytes: &[u8]) -> Result<&str, JsonFault> {
    let text = std::str::from_utf8(bytes)
        .map_err(|fault| JsonFault::Malformed(format!("no UTF-8 at byte {}", fault.valid_up_to() + 1)))?;
    let mut stack: Vec<Frame<'_>> = Vec::new();
    let mut expect = Expect::Value;
    let mut at = blank(bytes, 0);
    let mut values = 0_usize;
    loop {
        let fault = |what: &str| Err(JsonFault::Malformed(format!("{what} at byte {}", at + 1)));
        if matches!(expect, Expect::Value | Expect::ValueOrEnd) {
            values += 1;
            if values > MOST_VALUES {
                return fault("it has more than 4194304 values");
            }
        }
        let Some(&byte) = bytes.get(at) else {
            return if stack.is_empty() && expect == Expect::CommaOrEnd {
                Ok(text)
            } else {
                fault("it ends too early")
            };
        };
        match (expect, byte) {
            (Expect::Value | Expect::ValueOrEnd, b'{' | b'[') => {
                if stack.len() == DEEPEST {
                    return fault("it is deeper than 32");
                }
                let object = byte == b'{';
                stack.push(object.then(Vec::new));
                expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
                at += 1;
            }
            // Nothing in it.
            (Expect::ValueOrEnd, b']') | (Expect::KeyOrEnd, b'}') => {
                stack.pop();
                expect = Expect::CommaOrEnd;
                at += 1;
            }
            (Expect::Value | Expect::ValueOrEnd, _) => {
                at = match scalar(bytes, at) {
                    Ok(end) => end,
                    Err(what) => return fault(what),
                };
                expect = Expect::CommaOrEnd;
            }
            (Expect::Key | Expect::KeyOrEnd, b'"') => {
                let end = match string(bytes, at) {
                    Ok(end) => end,
                    Err(what) => return fault(what),
                };
                let Some(Some(keys)) = stack.last_mut() else { unreachable!("keys are expected in objects alone") };
                // Each is remembered: more than a few hundred keys are nobody's honest request.
                if keys.len() == 4_096 {
                    return fault("an object with more than 4096 keys");
                }
                // `"a"` and `"\u0061"` are the same key.
                let inner = &text[at + 1..end - 1];
                let plain = !inner.contains('\\');
                keys.push(if plain { Cow::Borrowed(inner) } else { Cow::Owned(value::unescaped(&text[at..end])) });
                at = blank(bytes, end);
                if bytes.get(at) != Some(&b':') {
                    return Err(JsonFault::Malformed(format!("expected ':' at byte {}", at + 1)));
                }
                at += 1;
                expect = Expect::Value;
            }
            (Expect::Key | Expect::KeyOrEnd, _) => return fault("expected a key in double quotes"),
            (Expect::CommaOrEnd, _) => {
                let Some(frame) = stack.last() else { return fault("something follows the value") };
                match (frame, byte) {
                    (Some(_), b',') => expect = Expect::Key,
                    (None, b',') => expect = Expect::Value,
                    (Some(_), b'}') | (None, b']') => {
                        if stack.pop().flatten().is_some_and(has_twins) {
                            return fault("the same key twice in the object that ends");
                        }
                    }
                    (Some(_), _) => return fault("expected ',' or '}'"),
                    (None, _) => return fault("expected ',' or ']'"),
                }
                at += 1;
            }
        }
        at = blank(bytes, at);
    }
}

/// Is a key in it twice? At the end of an object, and sorted: looking through all of them for each new one would make
/// a body of a few megabytes cost minutes.
fn has_twins(mut keys: Vec<Cow<'_, str>>) -> bool {
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// The first place from `at` that is not blank.
fn blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of the string, number or word that begins at `at`.
fn scalar(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    match bytes[at] {
        b'"' => string(bytes, at),
        b'-' | b'0'..=b'9' => number(bytes, at),
        _ => [&b"true"[..], b"false", b"null"]
            .into_iter()
            .find(|word| bytes[at..].starts_with(word))
            .map(|word| at + word.len())
            .filter(|end| !bytes.get(*end).is_some_and(u8::is_ascii_alphanumeric))
            .ok_or("expected a value"),
    }
}

/// The end of the string whose opening quote is at `at`.
fn string(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    let mut at = at + 1;
    loop {
        match bytes.get(at) {
            None => return Err("a string without an end"),
            Some(b'"') => return Ok(at + 1),
            Some(0..=0x1f) => return Err("a control character in a string"),
            Some(b'\\') => match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u') => at = unicode(bytes, at)?,
                _ => return Err("an unknown escape in a string"),
            },
            Some(_) => at += 1,
        }
    }
}

/// The end of the `\uXXXX` at `at`, with its second half where it is one of a pair.
fn unicode(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    const FAULT: &str = "a \\u escape that is no character";
    let unit = |at: usize| -> Option<u32> {
        let escape = bytes.get(at..at + 6)?;
        if !escape.starts_with(b"\\u") || !escape[2..].iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        u32::from_str_radix(std::str::from_utf8(&escape[2..]).ok()?, 16).ok()
    };
    match unit(at) {
        Some(0xd800..=0xdbff) => match unit(at + 6) {
            Some(0xdc00..=0xdfff) => Ok(at + 12),
            _ => Err(FAULT),
        },
        Some(0xdc00..=0xdfff) | None => Err(FAULT),
        Some(_) => Ok(at + 6),
    }
}

/// The end of the number that begins at `at`.
fn number(bytes: &[u8], start: usize) -> Result<usize, &'static str> {
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let first = if bytes[start] == b'-' { start + 1 } else { start };
    let mut at = digits(first);
    if at == first || (bytes[first] == b'0' && at > first + 1) {
        return Err("a malformed number");
    }
    let integer_end = at;
    if bytes.get(at) == Some(&b'.') {
        let end = digits(at + 1);
        if end == at + 1 {
            return Err("a malformed number");
        }
        at = end;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let first = if matches!(bytes.get(at + 1), Some(b'+' | b'-')) { at + 2 } else { at + 1 };
        at = digits(first);
        if at == first {
            return Err("a malformed number");
        }
    }
    let text = std::str::from_utf8(&bytes[start..at]).map_err(|_| "a malformed number")?;
    // nanoserde wraps what is larger.
    if at == integer_end && text.parse::<i64>().is_err() {
        return Err("an integer beyond 64 bits");
    }
    // One that overflows to infinity could not be written back.
    if !text.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err("a number out of range");
    }
    Ok(at)
}

/// The last key whose value begins before the place (`line` and `col` from 0, in characters) of a text that was checked.
pub(super) fn key_before(text: &str, line: usize, col: usize) -> Option<&str> {
    // nanoserde counts the newline as column 0 of the next line, and has read one character beyond the token.
    let mut lines = 0;
    let mut column = 0;
    let mut limit = text.len();
    for (at, char) in text.char_indices() {
        if char == '\n' {
            lines += 1;
            column = 0;
        } else {
            column += 1;
        }
        if (lines, column) >= (line, col) {
            limit = at;
            break;
        }
    }
    let bytes = text.as_bytes();
    let (mut at, mut last) = (0, None);
    while at < limit {
        if bytes[at] != b'"' {
            at += 1;
            continue;
        }
        let Ok(end) = string(bytes, at) else { break };
        let after = blank(bytes, end);
        if bytes.get(after) == Some(&b':') && after < limit {
            last = Some(&text[at + 1..end - 1]);
        }
        at = end;
    }
    last
}
