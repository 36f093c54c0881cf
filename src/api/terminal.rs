//! What goes over a terminal's WebSocket: JSON in text frames, as 0.3 has them.
//!
//! The connection ends with the shell: the reason of its close frame is then `exit N`, with the shell's exit status.

#![allow(clippy::question_mark, reason = "nanoserde's derive writes such code")]

use nanoserde::{DeJson, SerJson};

use super::json::{self, JsonFault};
use crate::domain::raw_text;

/// The largest message taken, in bytes: a browser sends what is pasted as one, and JSON may make six bytes of each.
pub const LARGEST_MESSAGE: usize = 8 << 20;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub cols: u16,
}

impl Default for Size {
    /// What programs assume of a terminal that does not tell.
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

/// To the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToShell {
    Input(Vec<u8>),
    Resize(Size),
}

/// From the shell, and from those who carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromShell {
    Output(Vec<u8>),
    /// One sentence for the user; the end follows.
    Error(String),
}

#[derive(DeJson)]
struct Incoming {
    #[nserde(rename = "type")]
    kind: String,
    data: Option<String>,
    rows: Option<u32>,
    cols: Option<u32>,
}

#[derive(SerJson)]
struct Text<'a> {
    #[nserde(rename = "type")]
    kind: &'static str,
    data: &'a str,
}

#[derive(SerJson)]
struct Resize {
    #[nserde(rename = "type")]
    kind: &'static str,
    rows: u16,
    cols: u16,
}

impl ToShell {
    /// None: of a kind that this version does not know, and passed over.
    ///
    /// # Errors
    /// It is no such JSON.
    pub fn decode(text: &str) -> Result<Option<Self>, JsonFault> {
        let frame: Incoming = json::decode(text.as_bytes())?;
        Ok(match frame.kind.as_str() {
            "input" => Some(Self::Input(raw_text::decode(&frame.data.unwrap_or_default()).into_owned())),
            "resize" => size(frame.rows, frame.cols).map(Self::Resize),
            _ => None,
        })
    }

    /// What was typed, as text in the form of [`raw_text`].
    pub fn input(text: &str) -> String {
        json::encode(&Text { kind: "input", data: text })
    }

    /// The terminal has another size.
    pub fn resize(size: Size) -> String {
        json::encode(&Resize { kind: "resize", rows: size.rows, cols: size.cols })
    }
}

impl FromShell {
    /// As [`ToShell::decode`].
    ///
    /// # Errors
    /// It is no such JSON.
    pub fn decode(text: &str) -> Result<Option<Self>, JsonFault> {
        let frame: Incoming = json::decode(text.as_bytes())?;
        let data = frame.data.unwrap_or_default();
        Ok(match frame.kind.as_str() {
            "output" => Some(Self::Output(raw_text::decode(&data).into_owned())),
            "error" => Some(Self::Error(data)),
            _ => None,
        })
    }

    /// What the shell wrote, as text in the form of [`raw_text`].
    pub fn output(text: &str) -> String {
        json::encode(&Text { kind: "output", data: text })
    }

    /// Why there is no shell (any more).
    pub fn error(text: &str) -> String {
        json::encode(&Text { kind: "error", data: text })
    }
}

/// None: it is not told, or none that a terminal can have.
pub fn size(rows: Option<u32>, cols: Option<u32>) -> Option<Size> {
    let number = |number: Option<u32>| number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    Some(Size { rows: number(rows)?, cols: number(cols)? })
}

/// The reason of the close frame when the shell has ended.
pub fn exit_reason(code: i32) -> String {
    format!("{EXIT}{code}")
}

/// The shell's exit status in a close frame's reason; None: it ended otherwise.
pub fn exit_code(reason: &str) -> Option<u8> {
    reason.strip_prefix(EXIT)?.parse().ok()
}

const EXIT: &str = "exit ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_0_3() {
        for (text, frame) in [
            (r#"{"type":"input","data":"ls\n"}"#, Some(ToShell::Input(b"ls\n".to_vec()))),
            (r#"{"type": "resize", "rows": 24, "cols": 80}"#, Some(ToShell::Resize(Size::default()))),
            (r#"{"type":"input","data":null,"rows":null}"#, Some(ToShell::Input(Vec::new()))),
            (r#"{"type":"resize","rows":0,"cols":80}"#, None),
            (r#"{"type":"resize","rows":70000,"cols":80}"#, None),
            (r#"{"type":"resize"}"#, None),
            (r#"{"type":"dance","data":"x"}"#, None),
        ] {
            assert_eq!(ToShell::decode(text), Ok(frame), "{text}");
        }
        for text in ["", "x", "{}", r#"{"type":7}"#, r#"{"type":"input","data":7}"#, r#"{"type":"resize","rows":-1}"#] {
            assert!(ToShell::decode(text).is_err(), "{text}");
        }
        assert_eq!(FromShell::output("a\"\n"), r#"{"type":"output","data":"a\"\n"}"#);
        assert_eq!(FromShell::error("gone"), r#"{"type":"error","data":"gone"}"#);
        assert_eq!(ToShell::resize(Size { rows: 3, cols: 4 }), r#"{"type":"resize","rows":3,"cols":4}"#);
    }

    #[test]
    fn every_byte_arrives_both_ways() {
        let bytes: Vec<u8> = (0..=255).chain("é\u{10ff41}".bytes()).collect();
        let text = raw_text::encode(&bytes);
        assert_eq!(ToShell::decode(&ToShell::input(&text)), Ok(Some(ToShell::Input(bytes.clone()))));
        assert_eq!(FromShell::decode(&FromShell::output(&text)), Ok(Some(FromShell::Output(bytes))));
    }

    #[test]
    fn the_exit_status_is_the_reason_of_the_end() {
        for code in [0, 1, 130, 255] {
            assert_eq!(exit_code(&exit_reason(code)).map(i32::from), Some(code));
        }
        for other in ["", "exit", "exit x", "exit 256", "going away"] {
            assert_eq!(exit_code(other), None, "{other}");
        }
    }
}
