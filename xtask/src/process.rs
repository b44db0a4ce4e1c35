//! Child processes: cargo, tools, and the `polyphony` binary.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command with this program's input and output, and fails if the command fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command
        .status()
        .with_context(|| format!("`{line}` could not start"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

/// Runs a command and returns its standard output. Its standard error is shown immediately.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = command_line(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("`{line}` could not start"))?;
    ensure!(
        output.status.success(),
        "`{line}` failed: {}",
        output.status
    );
    Ok(output.stdout)
}

/// Builds the `polyphony` binary in release mode and runs it with these arguments.
///
/// If the binary fails, this program exits with the same code and without a second message: the binary has
/// explained the error already.
pub(crate) fn polyphony(command: &[&str], arguments: &[OsString]) -> Result<()> {
    let mut child = cargo();
    child.args(["run", "--release", "--package", "polyphony"]);
    child
        .args(["--bin", "polyphony", "--"])
        .args(command)
        .args(arguments);
    let line = command_line(&child);
    let status = child
        .status()
        .with_context(|| format!("`{line}` could not start"))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => anyhow::bail!("`{line}` was stopped: {status}"),
    }
}

/// Writes a line to standard error, because standard output is for results.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    // If standard error is closed, the error cannot be reported anywhere.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The command as a user would type it.
fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_child_is_named_with_its_arguments() {
        let error = run(Command::new("sh").args(["-c", "exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("`sh -c exit 3` failed"), "{error}");
        let error = output(&mut Command::new("no-such-program"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "`no-such-program` could not start");
    }
}
