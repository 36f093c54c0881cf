//! A command line as text: as a shell reads it back, and as a terminal can show it.

use std::fmt::Write as _;

use crate::domain::raw_text;

/// One word: plain if no shell sees anything in it, else in single quotes.
pub(super) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '@' | '+' | ',');
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A program with its arguments, on one line, for a person: to be pasted into a bash or zsh. Control characters and bytes that are not
/// UTF-8 are escaped in `$'…'`.
pub(super) fn shown<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let shown = |word: &String| {
        if word.chars().any(|c| c.is_control() || raw_text::byte_of(c).is_some()) {
            escaped(word)
        } else {
            shell_word(word)
        }
    };
    words.into_iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn escaped(word: &str) -> String {
    let mut text = String::from("$'");
    for c in word.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            '\'' | '\\' => text.extend(['\\', c]),
            c if c.is_control() || raw_text::byte_of(c).is_some() => {
                for byte in raw_text::decode(c.encode_utf8(&mut [0; 4])).iter() {
                    // Three octal digits always: a hexadecimal form would swallow a digit that follows.
                    let _infallible = write!(text, "\\{byte:03o}");
                }
            }
            c => text.push(c),
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::command::{Output, Program};

    #[test]
    fn a_shell_reads_back_what_is_shown() {
        for bytes in [
            &b""[..],
            b"plain",
            b"it's \"x\" $(id) `id` \\ !",
            b"a\nb\tc\r",
            b"\xff1\xc3\x28'",
            b"\x1b[2J\x7f0",
            "ä \u{9b}9 \u{10ffff}".as_bytes(),
        ] {
            let word = raw_text::encode(bytes).into_owned();
            let line = shown([&word, &word]);
            assert!(!line.chars().any(char::is_control) && !raw_text::is_raw(&line), "{line:?}");
            let program =
                Program::new(["bash", "-c", &format!("printf '%s|' {line}")], std::time::Duration::from_secs(10));
            let output = program.run().and_then(Output::ok).expect("bash is there");
            assert_eq!(output, [bytes, b"|", bytes, b"|"].concat(), "{line}");
        }
        assert_eq!(shown(&["sh".into(), "-c".into(), "a b".into(), "\n".into()]), "sh -c 'a b' $'\\n'");
    }
}
