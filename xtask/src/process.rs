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

/// Runs a command and returns its standard output. What else it writes is shown only if it fails: the end of it
/// is in the error.
pub(crate) fn captured(command: &mut Command) -> Result<Vec<u8>> {
    let line = command_line(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{line}` could not start"))?;
    ensure!(
        output.status.success(),
        "`{line}` failed: {}; the end of its output:{}",
        output.status,
        end_of([&output.stdout, &output.stderr])
    );
    Ok(output.stdout)
}

/// The last lines of these texts, each indented on a line of its own.
fn end_of(texts: [&[u8]; 2]) -> String {
    const LINES: usize = 20;
    let texts = texts.map(String::from_utf8_lossy);
    let lines: Vec<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        // Of a progress bar, only the last state is of interest.
        .filter_map(|line| line.trim_end().rsplit('\r').next())
        .filter(|line| !line.is_empty())
        .collect();
    let end = &lines[lines.len().saturating_sub(LINES)..];
    end.iter().map(|line| format!("\n    {line}")).collect()
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

    #[test]
    fn the_end_of_a_failing_output_is_shown() {
        let script = r"echo out; printf '1 %%\r2 %%\n\nbad \n' >&2; exit 3";
        let error = captured(Command::new("sh").args(["-c", script])).unwrap_err();
        let expected = "; the end of its output:\n    out\n    2 %\n    bad";
        assert!(error.to_string().ends_with(expected), "{error}");
        let many: String = (0..30).map(|line| format!("{line}\n")).collect();
        let end = end_of([many.as_bytes(), b""]);
        assert!(
            end.starts_with("\n    10\n") && end.ends_with("\n    29"),
            "{end}"
        );
    }
}
