//! Digests, which identify the contents of a file.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    str::FromStr,
};

use ring::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::error::{During as _, HubError};

/// The number of hexadecimal digits of a SHA-256 digest.
const DIGITS: usize = 64;

/// A file's SHA-256 digest, as lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sha256Digest(String);

impl Sha256Digest {
    /// The digest of a file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let mut digest = Context::new(&SHA256);
        read_through(path, |bytes| digest.update(bytes))?;
        Ok(Self(digits(&digest.finish())))
    }

    /// Checks that a file has this digest.
    ///
    /// # Errors
    /// If it has another digest; the message names both.
    pub(crate) fn check(&self, path: &Path) -> Result<(), HubError> {
        let found = Self::of_file(path).during("reading", path)?;
        if found == *self {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default();
        Err(HubError::Digest {
            file: name.to_string_lossy().into_owned(),
            found: found.0,
            expected: self.0.clone(),
        })
    }

    /// The digits.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sha256Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!(
                "`{text}` is not a SHA-256 digest, which has {DIGITS} hexadecimal digits"
            ))
        }
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The git object id of a file's contents.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn git_id(path: &Path) -> io::Result<String> {
    let bytes = path.metadata()?.len();
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(format!("blob {bytes}\0").as_bytes());
    read_through(path, |bytes| digest.update(bytes))?;
    Ok(digits(&digest.finish()))
}

/// A digest as lower-case hexadecimal digits.
fn digits(digest: &Digest) -> String {
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file piece by piece, and passes each piece to a function.
fn read_through(path: &Path, mut on_piece: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => on_piece(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_the_known_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(Sha256Digest::of_file(&path).unwrap().as_str(), sha256);
        // What `git hash-object` prints.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(git_id(&path).unwrap(), git);
    }
}
