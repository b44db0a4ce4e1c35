//! Starting the `polyphony` command as users and scripts do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// The program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_polyphony");

/// The path of a Python for the sandbox, which the command does not find by itself: see [`Place`].
/// Python is asked, since what is on the search path may be a script that looks for it in turn.
pub(crate) fn python() -> String {
    let asked = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output();
    let asked = asked.expect("the sandbox needs a python3");
    String::from_utf8(asked.stdout).unwrap().trim().to_owned()
}

/// A folder for one test's files, which is where the command runs. Its cache is empty, and programs
/// that could download something are not found.
pub(crate) struct Place {
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) succeeded: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The path of something in the folder.
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

    /// Everything in the folder, relative to it, sorted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn walk(path: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                }
                found.push(path);
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found);
        let relative = |path: PathBuf| path.strip_prefix(&self.folder).unwrap().to_owned();
        let mut files: Vec<PathBuf> = found.into_iter().map(relative).collect();
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
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs the command, which must succeed; gives back what it printed.
    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert!(ended.succeeded, "{arguments:?}: {}", ended.stderr);
        ended.stdout
    }

    /// Runs the command, which must fail with an error that holds all of `expected`, print nothing
    /// and leave the folder as it was.
    #[track_caller]
    pub(crate) fn refuse(&self, arguments: &[&str], expected: &[&str]) {
        let before = self.files();
        let ended = self.run(arguments);
        assert!(!ended.succeeded, "{arguments:?} must not succeed");
        // The command line's parser and the program word their errors alike.
        let message = ended
            .stderr
            .split_once("error: ")
            .map(|(_, message)| message);
        let message = message.unwrap_or_else(|| panic!("no error in: {}", ended.stderr));
        for part in expected {
            assert!(
                message.contains(part),
                "{arguments:?}: {message}\nlacks: {part}"
            );
        }
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert_eq!(self.files(), before, "{arguments:?} left something behind");
    }
}

impl From<Output> for Ended {
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
