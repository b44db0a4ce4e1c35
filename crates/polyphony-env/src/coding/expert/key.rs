//! The API key of an endpoint, which no message and no log may show.

use std::fmt;

use super::ExpertError;

/// Replaces the key in messages.
const HIDDEN: &str = "<key>";

/// A key that its `Debug` output does not show.
pub(super) struct Key(String);

impl Key {
    /// The key in an environment variable; `value` is `None` if the variable is not set to a text.
    ///
    /// # Errors
    /// If the variable is missing, empty, or has characters that cannot be sent. The error names the
    /// variable.
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

    /// The key itself. Use it only to send it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// The text with the key replaced by `<key>`.
    pub(super) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}
