//! The key to an endpoint, which no message and no log may show.

use std::fmt;

use super::ExpertError;

/// What stands in a message in place of the key.
const HIDDEN: &str = "<key>";

/// A key that shows itself only when asked to.
pub(super) struct Key(String);

impl Key {
    /// The key that an environment variable holds; `value` is nothing where it holds no text.
    ///
    /// # Errors
    /// Names the variable if it is missing, empty, or holds what cannot be sent.
    pub(super) fn read(variable: &str, value: Option<String>) -> Result<Self, ExpertError> {
        let value = value.unwrap_or_default();
        let key = value.trim();
        let variable = || variable.to_owned();
        if key.is_empty() {
            return Err(ExpertError::NoKey {
                variable: variable(),
            });
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ExpertError::BadKey {
                variable: variable(),
            });
        }
        Ok(Self(key.to_owned()))
    }

    /// The key itself, to be sent and nothing else.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// The text with the key made unreadable.
    pub(super) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}
