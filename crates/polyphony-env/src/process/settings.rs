//! The settings of an environment program.

use std::{
    ffi::OsStr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{ProcessError, ProcessFailure};

/// The longest time limit, in seconds: a week.
const LONGEST_SECS: f64 = 7.0 * 24.0 * 3600.0;

/// Extensions of the scripts that interpreters run.
const SCRIPTS: [&str; 13] = [
    "R", "cjs", "exs", "jl", "js", "lua", "mjs", "php", "pl", "py", "rb", "sh", "ts",
];

/// The settings of an environment program, as a recipe gives them.
///
/// ```
/// # use polyphony_env::Process;
/// let recipe = r#"(command: ["python3", "plate.py"], settings: {"digits": 4}, workers: 2)"#;
/// let process: Process = ron::from_str(recipe)?;
/// assert_eq!(process.settings["digits"], 4);
/// assert_eq!((process.workers.get(), process.step_secs), (2, 60.0));
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program, which is looked up in `PATH`, and its arguments. No shell interprets them.
    pub command: Vec<String>,
    /// Settings for the program, which it receives with the handshake. They may be nested.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// How many workers run the program in parallel. Each answers one call at a time.
    #[serde(default = "one_worker")]
    pub workers: NonZeroUsize,
    /// The time limit for starting the program and its handshake, in seconds.
    #[serde(default = "default_secs")]
    pub start_secs: f64,
    /// The time limit for every other answer, in seconds.
    #[serde(default = "default_secs")]
    pub step_secs: f64,
    /// The longest answer, in bytes.
    #[serde(default = "default_reply_bytes")]
    pub max_reply_bytes: NonZeroUsize,
    /// The working directory of the program; by default that of this process.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
}

fn one_worker() -> NonZeroUsize {
    NonZeroUsize::MIN
}

fn default_secs() -> f64 {
    60.0
}

fn default_reply_bytes() -> NonZeroUsize {
    const { NonZeroUsize::new(16 << 20).unwrap() }
}

impl Process {
    /// A program with its arguments, and defaults for everything else.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            settings: Map::new(),
            workers: one_worker(),
            start_secs: default_secs(),
            step_secs: default_secs(),
            max_reply_bytes: default_reply_bytes(),
            cwd: None,
        }
    }

    /// The program and its arguments in messages, shortened if they are long.
    pub(super) fn command_line(&self) -> String {
        const MAX_CHARS: usize = 200;
        let line = self.command.join(" ");
        match line.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// The name of the script if an interpreter runs one, otherwise of the program, without directory and
    /// extension.
    pub(super) fn program_name(&self) -> Option<String> {
        let is_script = |path: &&Path| {
            let extension = path.extension().and_then(OsStr::to_str);
            extension.is_some_and(|extension| SCRIPTS.contains(&extension))
        };
        let mut arguments = self.command.iter().skip(1).map(Path::new);
        let path = match arguments.find(is_script) {
            Some(script) => script,
            None => Path::new(self.command.first()?),
        };
        Some(path.file_stem()?.to_str()?.to_owned())
    }

    /// Refuses settings that cannot work.
    pub(super) fn validate(&self) -> Result<(), ProcessError> {
        let refuse = |reason: String| {
            Err(ProcessError {
                command: self.command_line(),
                failure: ProcessFailure::Setting(reason),
            })
        };
        if self.command.first().is_none_or(String::is_empty) {
            return refuse(
                "`command` names no program; give it and its arguments, such as \
                 [\"python3\", \"plate.py\"]"
                    .to_owned(),
            );
        }
        for (name, secs) in [
            ("start_secs", self.start_secs),
            ("step_secs", self.step_secs),
        ] {
            if !(secs > 0.0 && secs <= LONGEST_SECS) {
                return refuse(format!(
                    "`{name}` is {secs}; it must be above 0 and at most {LONGEST_SECS}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use polyphony_episode::EnvironmentSettings as _;

    use super::*;

    #[test]
    fn settings_are_read_strictly_and_may_be_nested() {
        let read = |text: &str| ron::from_str::<Process>(text);
        let text = r#"(command: ["x"], settings: {"a": 1, "b": [true, 0.5, "é"], "c": {"d": -2}})"#;
        let process = read(text).unwrap();
        let expected = serde_json::json!({"a": 1, "b": [true, 0.5, "é"], "c": {"d": -2}});
        assert_eq!(Value::Object(process.settings.clone()), expected);
        assert_eq!(read(&ron::to_string(&process).unwrap()).unwrap(), process);
        assert_eq!(read(r#"(command: ["x"])"#).unwrap(), Process::new(["x"]));
        for wrong in ["()", r#"(command: "x")"#, r#"(command: ["x"], worker: 2)"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn runs_are_named_after_the_script_or_the_program() {
        let rows: [(&[&str], Option<&str>); 8] = [
            (&["python3", "x/number_plate.py"], Some("number_plate")),
            (
                &["uv", "run", "-q", "plate.v2.py", "towns.py"],
                Some("plate.v2"),
            ),
            (&["/usr/bin/node", "./game.js"], Some("game")),
            (&["./plate.py"], Some("plate")),
            (
                &["target/release/plate", "--config", "a.yaml", "0.5"],
                Some("plate"),
            ),
            (
                &["python3", "-c", "import game\ngame.play()"],
                Some("python3"),
            ),
            (&[".."], None),
            (&[], None),
        ];
        for (command, name) in rows {
            let process = Process::new(command.iter().copied());
            assert_eq!(process.label().as_deref(), name, "{command:?}");
        }
    }

    #[test]
    fn operational_keys_are_keys() {
        let process = Process::new(["x"]);
        let written = serde_json::to_value(&process).unwrap();
        for key in process.operational_keys() {
            assert!(written.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let message = |process: Process| process.validate().unwrap_err().to_string();
        let valid = Process::new(["true"]);
        assert!(message(Process::new([""; 0])).contains("`command` names no program"));
        for (name, process) in [
            (
                "start_secs",
                Process {
                    start_secs: 0.0,
                    ..valid.clone()
                },
            ),
            (
                "step_secs",
                Process {
                    step_secs: f64::NAN,
                    ..valid.clone()
                },
            ),
            (
                "step_secs",
                Process {
                    step_secs: 1e9,
                    ..valid.clone()
                },
            ),
        ] {
            let message = message(process);
            assert!(message.contains(&format!("`{name}` is ")), "{message}");
            assert!(message.contains("at most 604800"), "{message}");
        }
    }
}
