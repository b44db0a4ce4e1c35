//! The metadata of a file's architecture: keys such as `qwen2.block_count`.

use super::reader::Gguf;
use crate::config::Architecture;
use crate::error::ModelError;

/// The architectures by llama.cpp's name, and the class that transformers has for each.
const ARCHITECTURES: [(&str, &str, Architecture); 3] = [
    ("llama", "LlamaForCausalLM", Architecture::Llama),
    ("qwen2", "Qwen2ForCausalLM", Architecture::Qwen2),
    ("qwen3", "Qwen3ForCausalLM", Architecture::Qwen3),
];

/// Access to the keys that begin with the architecture's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelKeys<'a> {
    /// The file.
    pub(crate) gguf: &'a Gguf<'a>,
    /// The architecture that it names.
    pub(crate) architecture: Architecture,
    /// What llama.cpp, and transformers as the model type, call it.
    pub(crate) name: &'static str,
    /// Its class in transformers.
    pub(crate) class: &'static str,
}

impl<'a> ModelKeys<'a> {
    /// Finds out the architecture.
    ///
    /// # Errors
    /// If the file does not name a supported one.
    pub(crate) fn new(gguf: &'a Gguf<'a>) -> Result<Self, ModelError> {
        const KEY: &str = "general.architecture";
        let supported = ARCHITECTURES.map(|(name, ..)| name).join(", ");
        let Some(given) = gguf.text(KEY)? else {
            return Err(gguf.missing(KEY, &format!("one of: {supported}")));
        };
        let mut known = ARCHITECTURES.into_iter();
        match known.find(|(name, ..)| *name == given) {
            Some((name, class, architecture)) => Ok(Self {
                gguf,
                architecture,
                name,
                class,
            }),
            None => Err(gguf.unsupported("architecture", given, &supported)),
        }
    }

    /// The whole key.
    pub(crate) fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.name)
    }

    /// A size that has to be there.
    ///
    /// # Errors
    /// If the key is absent, or holds something else than a whole number of at least 1.
    pub(crate) fn size(&self, rest: &str) -> Result<u64, ModelError> {
        const EXPECTED: &str = "a whole number of at least 1";
        match self.whole(rest)? {
            Some(0) => Err(self.gguf.invalid(&self.key(rest), 0, EXPECTED)),
            Some(size) => Ok(size),
            None => Err(self.gguf.missing(&self.key(rest), EXPECTED)),
        }
    }

    /// A whole number of at least 0.
    ///
    /// # Errors
    /// If the key holds something else.
    pub(crate) fn whole(&self, rest: &str) -> Result<Option<u64>, ModelError> {
        self.gguf.whole(&self.key(rest))
    }

    /// A finite number above 0.
    ///
    /// # Errors
    /// If the key holds something else.
    pub(crate) fn positive(&self, rest: &str) -> Result<Option<f64>, ModelError> {
        let number = self.gguf.float(&self.key(rest))?;
        match number.filter(|number| !(number.is_finite() && *number > 0.0)) {
            Some(wrong) => Err(self.invalid(rest, wrong, "a number above 0")),
            None => Ok(number),
        }
    }

    /// Refuses every number but one; absent is fine.
    ///
    /// # Errors
    /// If the key holds something else.
    pub(crate) fn only(&self, rest: &str, supported: f64) -> Result<(), ModelError> {
        let number = self.gguf.float(&self.key(rest))?;
        match number.filter(|number| *number != supported) {
            Some(other) => {
                Err(self.invalid(rest, other, format!("{supported} (all that is supported)")))
            }
            None => Ok(()),
        }
    }

    /// The error for a value out of range.
    pub(crate) fn invalid(
        &self,
        rest: &str,
        given: impl ToString,
        allowed: impl Into<String>,
    ) -> ModelError {
        self.gguf.invalid(&self.key(rest), given, allowed)
    }
}
