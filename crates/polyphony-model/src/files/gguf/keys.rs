//! Access to the metadata of a file's architecture: keys such as `qwen2.block_count`.

use super::reader::Gguf;
use crate::architectures::Architecture;
use crate::error::ModelError;

/// The keys that begin with the architecture's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelKeys<'a> {
    /// The file.
    pub(crate) gguf: &'a Gguf<'a>,
    /// The architecture that it names.
    pub(crate) architecture: Architecture,
}

impl<'a> ModelKeys<'a> {
    /// Reads the architecture.
    ///
    /// # Errors
    /// If the file does not name a supported one.
    pub(crate) fn new(gguf: &'a Gguf<'a>) -> Result<Self, ModelError> {
        const KEY: &str = "general.architecture";
        let supported = Architecture::ALL.map(|known| known.row().model_type);
        let supported = supported.join(", ");
        let Some(given) = gguf.text(KEY)? else {
            return Err(gguf.missing(KEY, &format!("one of: {supported}")));
        };
        let mut known = Architecture::ALL.into_iter();
        match known.find(|known| known.row().model_type == given) {
            Some(architecture) => Ok(Self { gguf, architecture }),
            None => Err(gguf.unsupported("architecture", given, &supported)),
        }
    }

    /// The architecture's name in llama.cpp.
    pub(crate) fn name(&self) -> &'static str {
        self.architecture.row().model_type
    }

    /// The full key, with the architecture's prefix.
    pub(crate) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name())
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
