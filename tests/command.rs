//! Starts the `polyphony` command as users and scripts do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// The program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_polyphony");

/// The path of a Python for the sandbox. The command in a [`TestDir`] cannot find one, because its search
/// path is empty. Python itself reports the path, because `python3` may be a wrapper script.
pub(crate) fn python() -> String {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output();
    let output = output.expect("the sandbox needs a python3");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A temporary folder for the files of one test, in which the command runs. Its cache is empty, and programs
/// that could download something are not found.
pub(crate) struct TestDir {
    folder: TempDir,
}

/// The output of a command, and whether it succeeded.
#[derive(Debug)]
pub(crate) struct CommandResult {
    pub(crate) succeeded: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl TestDir {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// Reads a text file.
    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Reads a file of JSON lines.
    #[track_caller]
    pub(crate) fn read_lines(&self, name: &str) -> Vec<Value> {
        json_lines(&self.read(name))
    }

    /// The sorted paths of everything in the folder, relative to it.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn walk(path: &Path, paths: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, paths);
                }
                paths.push(path);
            }
        }
        let mut paths = Vec::new();
        walk(self.folder.path(), &mut paths);
        let relative = |path: PathBuf| path.strip_prefix(&self.folder).unwrap().to_owned();
        let mut files: Vec<PathBuf> = paths.into_iter().map(relative).collect();
        files.sort();
        files
    }

    /// The command, ready to be started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("POLYPHONY_CACHE", self.folder.path().join("cache"))
            .env("PATH", "")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs the command.
    pub(crate) fn run(&self, arguments: &[&str]) -> CommandResult {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs the command, which must succeed, and returns its output.
    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let result = self.run(arguments);
        assert!(result.succeeded, "{arguments:?}: {}", result.stderr);
        result.stdout
    }

    /// Runs the command, which must fail with an error that contains all of `expected`, print nothing, and
    /// leave the folder unchanged.
    #[track_caller]
    pub(crate) fn refuse(&self, arguments: &[&str], expected: &[&str]) {
        let before = self.files();
        let result = self.run(arguments);
        assert!(!result.succeeded, "{arguments:?} must not succeed");
        // Errors of the argument parser and of the program begin in the same way.
        let message = result
            .stderr
            .split_once("error: ")
            .map(|(_, message)| message);
        let message = message.unwrap_or_else(|| panic!("no error in: {}", result.stderr));
        for part in expected {
            assert!(
                message.contains(part),
                "{arguments:?}: {message}\nlacks: {part}"
            );
        }
        assert_eq!(result.stdout, "", "{arguments:?}");
        assert_eq!(self.files(), before, "{arguments:?} left something behind");
    }
}

impl From<Output> for CommandResult {
    fn from(output: Output) -> Self {
        Self {
            succeeded: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The objects of JSON lines.
#[track_caller]
pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(parse).collect()
}

/// A path as an argument.
#[track_caller]
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
