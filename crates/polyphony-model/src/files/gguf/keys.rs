//! Access to the metadata of a file's architecture: keys such as `qwen2.block_count`.

use super::reader::Gguf;
use crate::error::ModelError;

/// The keys that begin with the architecture's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelKeys<'a> {
    /// The file.
    pub(crate) gguf: &'a Gguf<'a>,
    /// llama.cpp's name of the architecture.
    pub(crate) name: &'static str,
}

impl ModelKeys<'_> {
    /// The full key, with the architecture's prefix.
    pub(crate) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name)
    }

    /// A required size.
    ///
    /// # Errors
    /// If the key is absent, or its value is not a whole number of at least 1.
    pub(crate) fn size(&self, suffix: &str) -> Result<u64, ModelError> {
        const EXPECTED: &str = "a whole number of at least 1";
        match self.whole(suffix)? {
            Some(0) => Err(self.gguf.invalid(&self.key(suffix), 0, EXPECTED)),
            Some(size) => Ok(size),
            None => Err(self.gguf.missing(&self.key(suffix), EXPECTED)),
        }
    }

    /// A whole number of at least 0.
    ///
    /// # Errors
    /// If the key has another value.
    pub(crate) fn whole(&self, suffix: &str) -> Result<Option<u64>, ModelError> {
        self.gguf.whole(&self.key(suffix))
    }

    /// A finite number above 0.
    ///
    /// # Errors
    /// If the key has another value.
    pub(crate) fn positive(&self, suffix: &str) -> Result<Option<f64>, ModelError> {
        let number = self.gguf.float(&self.key(suffix))?;
        match number.filter(|number| !(number.is_finite() && *number > 0.0)) {
            Some(number) => Err(self.invalid(suffix, number, "a number above 0")),
            None => Ok(number),
        }
    }

    /// Refuses every number but one; an absent key is accepted.
    ///
    /// # Errors
    /// If the key has another value.
    pub(crate) fn only(&self, suffix: &str, supported: f64) -> Result<(), ModelError> {
        let number = self.gguf.float(&self.key(suffix))?;
        match number.filter(|number| *number != supported) {
            Some(number) => Err(self.invalid(
                suffix,
                number,
                format!("{supported} (all that is supported)"),
            )),
            None => Ok(()),
        }
    }

    /// The error for a value out of range.
    pub(crate) fn invalid(
        &self,
        suffix: &str,
        given: impl ToString,
        allowed: impl Into<String>,
    ) -> ModelError {
        self.gguf.invalid(&self.key(suffix), given, allowed)
    }
}
