//! Foreign text in messages.

use std::ffi::OsStr;

use unicode_general_category::{GeneralCategory, get_general_category};

/// Longer texts are cut.
const MOST_BYTES: usize = 400;

/// A text as part of a message: on one line, with escapes in place of what a terminal would obey or
/// not show, and not longer than a reader can use.
pub(super) fn printable(text: impl AsRef<OsStr>) -> String {
    let text = text.as_ref().to_string_lossy();
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() >= MOST_BYTES {
            shown.push('…');
            break;
        }
        match get_general_category(character) {
            GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator => shown.extend(character.escape_debug()),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_length_is_bounded() {
        let rows = [
            (
                "It's \"Ça\" 雨 e\u{301} C:\\x",
                "It's \"Ça\" 雨 e\u{301} C:\\x",
            ),
            ("a\n\tb\r\0", r"a\n\tb\r\0"),
            ("\u{1b}[2J\u{7f}\u{9b}", r"\u{1b}[2J\u{7f}\u{9b}"),
            (
                "\u{202e}\u{2066}\u{200b}\u{2028}",
                r"\u{202e}\u{2066}\u{200b}\u{2028}",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(printable(text), expected);
        }
        let long = printable("x".repeat(1_000_000));
        assert_eq!(long, format!("{}…", "x".repeat(MOST_BYTES)));
    }
}
