//! Characters that do something to whoever shows them, instead of being shown.

/// Whether a terminal or a reader of lines would take it for an order: control characters, other ends of lines, and the marks that turn
/// the direction of what follows.
pub fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_told_from_text() {
        for c in "\0\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{2028}\u{202e}\u{2066}\u{61c}".chars() {
            assert!(steers(c), "{c:?}");
        }
        for c in " aä€😀\u{10ff41}\u{301}עا".chars() {
            assert!(!steers(c), "{c:?}");
        }
    }
}
