//! What must hold of every outcome.

/// The longest error message that a person can still read, in bytes. Most excerpts end much earlier.
const LONGEST_MESSAGE: usize = 64 << 10;

/// Looks at a message: it says something, and not without end.
#[track_caller]
pub(crate) fn message(text: &str) {
    assert!(!text.trim().is_empty(), "an error without a message");
    assert!(
        text.len() <= LONGEST_MESSAGE,
        "an error message of {} bytes begins {:?}",
        text.len(),
        text.chars().take(200).collect::<String>()
    );
}

/// The same, and the message names the file.
#[track_caller]
pub(crate) fn message_about(text: &str, file: &str) {
    message(text);
    assert!(text.contains(file), "{text:?} does not name {file}");
}
