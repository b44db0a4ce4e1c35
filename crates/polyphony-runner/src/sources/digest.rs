//! SHA-256 digests: how it is known that a file is the one that was meant.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    str::FromStr,
};

use anyhow::{Context as _, Error, Result, ensure};
use sha2::{Digest as _, Sha256};

/// The number of hexadecimal digits.
const DIGITS: usize = 64;

/// A file's SHA-256 digest, as lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sha256Digest(String);

impl Sha256Digest {
    /// The digest of a file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
        }
        let bytes = digest.finalize();
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// Checks that a file has this digest.
    ///
    /// # Errors
    /// If it has another: names both.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let found = Self::of_file(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ensure!(
            found == *self,
            "{name} has the SHA-256 digest {found}, but must have {self}"
        );
        Ok(())
    }

    /// The digits.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sha256Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(
            text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "`{text}` is no SHA-256 digest, which has {DIGITS} hexadecimal digits"
        );
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
