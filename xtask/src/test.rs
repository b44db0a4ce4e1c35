//! `cargo xtask test`: all tests, then all examples, then the example package outside of the workspace.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Message, TargetKind, camino::Utf8PathBuf};

use crate::{
    mpi, outside,
    process::{self, say},
};

/// Runs the tests of the workspace, including those in the documentation, then each example, and then the
/// tests of [`outside`]. Without MPI, the tests of several ranks are left out.
pub(crate) fn run() -> Result<()> {
    process::run(
        process::cargo()
            .args(["test", "--workspace"])
            .args(mpi::features()),
    )?;
    for example in build_examples()? {
        say(format_args!(
            "\n== example {} ==",
            example.file_name().unwrap_or_default()
        ));
        process::run(&mut Command::new(example))?;
    }
    say(format_args!("\n== the package outside of the workspace =="));
    outside::run()?;
    if let Some(missing) = mpi::missing() {
        say(format_args!(
            "\nnot tested: runs on several ranks, because {missing}"
        ));
    }
    Ok(())
}

/// The programs of all examples. They were built with the tests, so cargo only reports their paths.
/// `cargo run --example` would build them again with other features.
fn build_examples() -> Result<Vec<Utf8PathBuf>> {
    let messages = process::output(
        process::cargo()
            .args([
                "build",
                "--quiet",
                "--workspace",
                "--examples",
                "--message-format=json-render-diagnostics",
            ])
            .args(mpi::features()),
    )?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(messages.as_slice()) {
        if let Message::CompilerArtifact(artifact) = message.context("reading cargo's messages")?
            && artifact.target.is_kind(TargetKind::Example)
        {
            programs.extend(artifact.executable);
        }
    }
    ensure!(
        !programs.is_empty(),
        "the workspace has no examples: they should be under crates/*/examples"
    );
    programs.sort();
    Ok(programs)
}
