//! Finds the Python that runs the programs, and the files that it needs.

use std::{
    env,
    io::{self, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Interpreter, SandboxError};

const PROBE: &str = include_str!("../python/probe.py");
/// The time limit of the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer of the probe, in bytes. Real answers are far smaller.
const ANSWER_LIMIT: u64 = 1 << 20;

/// A file or directory that the interpreter needs: its real path, and other names under which it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequiredFile {
    pub(super) path: PathBuf,
    pub(super) aliases: Vec<PathBuf>,
}

/// An interpreter and everything that it needs from the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installation {
    pub(super) interpreter: Interpreter,
    /// The dynamic loader that the system starts first, as named in the interpreter's ELF header.
    pub(super) loader: Option<PathBuf>,
    /// Directories of its standard library.
    pub(super) libraries: Vec<RequiredFile>,
    /// Shared libraries, the loader's real file among them.
    pub(super) shared: Vec<RequiredFile>,
}

/// Finds the interpreter, or takes the given one, and asks which files it needs.
///
/// # Errors
///
/// [`SandboxError::NoInterpreter`], [`SandboxError::Interpreter`] or
/// [`SandboxError::InterpreterTooOld`].
pub(super) fn find(path: Option<&Path>) -> Result<Installation, SandboxError> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => in_search_path("python3").ok_or(SandboxError::NoInterpreter)?,
    };
    let unusable = |reason: String| SandboxError::Interpreter {
        path: path.clone(),
        reason,
    };
    let answer = run_probe(&path).map_err(|error| unusable(error.to_string()))?;
    let answer = Answer::parse(&answer).map_err(unusable)?;
    if let Some(version) = answer.outdated_version() {
        return Err(SandboxError::InterpreterTooOld {
            path: path.clone(),
            version,
        });
    }
    answer.installation().map_err(unusable)
}

fn in_search_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs the probe for at most [`PROBE_TIMEOUT`].
fn run_probe(interpreter: &Path) -> io::Result<String> {
    let mut child = Command::new(interpreter)
        .args(["-I", "-S", "-B", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = read_answer(&mut child);
    // The interpreter may still run, for example after the time limit.
    let _ = child.kill();
    let _ = child.wait();
    answer
}

fn read_answer(child: &mut Child) -> io::Result<String> {
    if let Some(mut stdin) = child.stdin.take() {
        // Errors are ignored, since a program that is not Python may not read its input.
        let _ = stdin.write_all(PROBE.as_bytes());
    }
    let Some(mut stdout) = child.stdout.take() else {
        return Ok(String::new());
    };
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let mut answer = Vec::new();
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).map_err(io::Error::other)?;
        let mut ready = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
        if poll(&mut ready, Some(&timeout))? == 0 {
            return Err(io::Error::other(format!(
                "it gave no answer within {} s",
                PROBE_TIMEOUT.as_secs()
            )));
        }
        let mut piece = [0; 4096];
        let length = stdout.read(&mut piece)?;
        answer.extend_from_slice(&piece[..length]);
        if length == 0 || answer.len() as u64 > ANSWER_LIMIT {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

/// The output of the probe.
#[derive(Default)]
struct Answer {
    version: String,
    executable: PathBuf,
    loader: Option<PathBuf>,
    libraries: Vec<RequiredFile>,
    shared: Vec<RequiredFile>,
}

impl Answer {
    fn parse(text: &str) -> Result<Self, String> {
        let mut answer = Self::default();
        let mut last_is_shared = false;
        for line in text.lines() {
            let Some((key, value)) = line.split_once(' ') else {
                return Err(unexpected(line));
            };
            let path = PathBuf::from(value);
            let required_file = || RequiredFile {
                path: path.clone(),
                aliases: Vec::new(),
            };
            match key {
                "version" => answer.version = value.to_owned(),
                "executable" => answer.executable = path,
                "loader" => answer.loader = Some(path),
                "library" => answer.libraries.push(required_file()),
                "shared" => answer.shared.push(required_file()),
                "alias" => {
                    let list = if last_is_shared {
                        &mut answer.shared
                    } else {
                        &mut answer.libraries
                    };
                    let last = list.last_mut().ok_or_else(|| unexpected(line))?;
                    last.aliases.push(path);
                    continue;
                }
                _ => return Err(unexpected(line)),
            }
            last_is_shared = key == "shared";
        }
        if answer.version.is_empty() {
            return Err("it does not answer like Python".to_owned());
        }
        Ok(answer)
    }

    /// The version, if it is too old.
    fn outdated_version(&self) -> Option<String> {
        let mut numbers = self
            .version
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let version: (u32, u32) = (numbers.next()?, numbers.next()?);
        (version < (3, 9)).then(|| self.version.clone())
    }

    fn installation(self) -> Result<Installation, String> {
        if self.executable.as_os_str().is_empty() || self.libraries.is_empty() {
            return Err("it does not report where it and its library are".to_owned());
        }
        Ok(Installation {
            interpreter: Interpreter {
                path: self.executable,
                version: self.version,
            },
            loader: self.loader,
            libraries: self.libraries,
            shared: self.shared,
        })
    }
}

fn unexpected(line: &str) -> String {
    let line: String = line.chars().take(60).collect();
    format!("it does not answer like Python: {line:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "\
version 3.12.1
executable /opt/my python/bin/python3.12
loader /lib64/ld.so
library /opt/my python/lib/python3.12
alias /opt/link
shared /usr/lib/libm.so.6
shared /usr/lib/libz.so.1.2
alias /usr/lib/libz.so.1
";

    #[test]
    fn an_answer_is_parsed() {
        let file = |path: &str, aliases: &[&str]| RequiredFile {
            path: path.into(),
            aliases: aliases.iter().map(PathBuf::from).collect(),
        };
        let installation = Answer::parse(ANSWER).unwrap().installation().unwrap();
        let expected = Installation {
            interpreter: Interpreter {
                path: "/opt/my python/bin/python3.12".into(),
                version: "3.12.1".to_owned(),
            },
            loader: Some("/lib64/ld.so".into()),
            libraries: vec![file("/opt/my python/lib/python3.12", &["/opt/link"])],
            shared: vec![
                file("/usr/lib/libm.so.6", &[]),
                file("/usr/lib/libz.so.1.2", &["/usr/lib/libz.so.1"]),
            ],
        };
        assert_eq!(installation, expected);
    }

    #[test]
    fn a_malformed_answer_is_an_error() {
        for text in ["", "y\ny\n", "version 3.9.1\nalias /x\n", "hello world\n"] {
            assert!(Answer::parse(text).is_err(), "{text:?}");
        }
        let without_paths = Answer::parse("version 3.9.1\n").unwrap();
        assert!(without_paths.installation().is_err());
    }

    #[test]
    fn versions_before_3_9_are_too_old() {
        let rows = [
            ("2.7.18", true),
            ("3.8.20", true),
            ("3.9.0", false),
            ("3.14.0", false),
            ("4.0.0", false),
        ];
        for (version, expected) in rows {
            let answer = Answer::parse(&format!("version {version}\n")).unwrap();
            assert_eq!(answer.outdated_version().is_some(), expected, "{version}");
        }
    }
}
