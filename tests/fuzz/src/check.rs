//! Checks that every outcome must pass.

/// The longest error message that a person can still read, in bytes. Most messages quote far less.
const LONGEST_MESSAGE: usize = 64 << 10;

/// Checks that a message is not empty and not too long.
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

/// [`message`], and checks that the message names the file.
#[track_caller]
pub(crate) fn message_about(text: &str, file: &str) {
    message(text);
    assert!(text.contains(file), "{text:?} does not name {file}");
}
