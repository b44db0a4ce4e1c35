//! Makes untrusted text safe to show: the text cannot control a terminal or change the direction of other
//! text, and long text is cut to a length that a person reads.

use std::borrow::Cow;

/// Characters of a text that [`excerpt`] keeps.
const EXCERPT: usize = 2000;

/// The text with all dangerous characters escaped, as in `\u{1b}`. These are control characters except
/// newlines and tabs, and characters that set the direction of text: they could control a terminal or a page.
///
/// All text from files, models and programs goes through this function before it is shown.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |character| {
        is_control(character) && !matches!(character, '\n' | '\t')
    })
}

/// The text on one line: like [`visible`], with newlines and tabs escaped too.
pub(crate) fn visible_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// The text if it is short; otherwise its beginning and its end, with the number of characters left out
/// between them.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    let boundary = |character| text.char_indices().nth(character).map(|(index, _)| index);
    if boundary(EXCERPT).is_none() {
        return Cow::Borrowed(text);
    }
    let half = EXCERPT / 2;
    let head = boundary(half).unwrap_or(0);
    let tail = text.char_indices().rev().nth(half - 1);
    let tail = tail.map_or(text.len(), |(index, _)| index);
    let left_out = text[head..tail].chars().count();
    Cow::Owned(format!(
        "{} … [{left_out} characters left out] … {}",
        &text[..head],
        &text[tail..]
    ))
}

/// Whether a character controls a terminal (Unicode's category Cc) or the direction of text (its property
/// `Bidi_Control`).
pub fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

fn escaped(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match is_hidden(character) {
            true => shown.extend(character.escape_unicode()),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_other_text_stays() {
        for (text, expected) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("ä “quotes” 日本 🦀 שלום", "ä “quotes” 日本 🦀 שלום"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\r\n\0\u{7f}", "a\\u{d}\n\\u{0}\\u{7f}"),
            ("\u{80}\u{9b}\u{9f}\u{a0}", "\\u{80}\\u{9b}\\u{9f}\u{a0}"),
            (
                "\u{202e}gpj\u{2066}x\u{2069}",
                "\\u{202e}gpj\\u{2066}x\\u{2069}",
            ),
            (
                "\u{200e}\u{200f}\u{61c}\u{200d}",
                "\\u{200e}\\u{200f}\\u{61c}\u{200d}",
            ),
        ] {
            assert_eq!(visible(text), expected, "{text:?}");
        }
        assert_eq!(visible_line("a\n\tb"), "a\\u{a}\\u{9}b");
    }

    #[test]
    fn every_character_below_a_space_is_escaped() {
        for character in (0..0x20).map(char::from) {
            let shown = visible(&character.to_string()).into_owned();
            let is_unchanged = shown == character.to_string();
            assert_eq!(
                is_unchanged,
                character == '\n' || character == '\t',
                "{shown}"
            );
        }
    }

    #[test]
    fn long_text_keeps_its_beginning_and_its_end() {
        let fits = "ä".repeat(EXCERPT);
        assert_eq!(excerpt(&fits), fits);
        let text = format!("begin{}end", "ä".repeat(1_000_000));
        let shown = excerpt(&text);
        assert!(shown.starts_with("beginä") && shown.ends_with("äend"));
        assert!(shown.contains("ä … [998008 characters left out] … ä"));
        assert!(shown.chars().count() < EXCERPT + 50);
    }
}
