//! Testing a program before anything is trained with it.

use std::{error::Error, fmt};

use polyphony_episode::{
    Environment, FinishReason, JointAction, Next, Observation, Outcome, Response, Split, Task, Turn,
};

use super::{environment::ProcessEnvironment, error::ProcessError, settings::Process};

/// How many tasks are played at most.
const MOST_TASKS: usize = 3;

/// The results of testing a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The result of each check, in order.
    pub findings: Vec<Finding>,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the program passed.
    pub is_fine: bool,
    /// What was observed and, if something is wrong, how to fix it.
    pub text: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_fine(&self) -> bool {
        self.findings.iter().all(|finding| finding.is_fine)
    }

    fn fine(&mut self, text: impl Into<String>) {
        self.findings.push(Finding {
            is_fine: true,
            text: text.into(),
        });
    }

    fn wrong(&mut self, text: impl Into<String>) {
        self.findings.push(Finding {
            is_fine: false,
            text: text.into(),
        });
    }

    /// Adds everything that a check found wrong, or else that it is fine.
    fn note(&mut self, fine: impl Into<String>, problems: Vec<String>) {
        match problems.is_empty() {
            true => self.fine(fine),
            false => problems.into_iter().for_each(|problem| self.wrong(problem)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = if finding.is_fine { "fine " } else { "WRONG" };
            let text = finding.text.replace('\n', "\n       ");
            writeln!(formatter, "{mark}  {text}")?;
        }
        let wrong = self
            .findings
            .iter()
            .filter(|finding| !finding.is_fine)
            .count();
        match wrong {
            0 => writeln!(formatter, "Nothing is wrong."),
            1 => writeln!(formatter, "1 thing is wrong."),
            more => writeln!(formatter, "{more} things are wrong."),
        }
    }
}

/// Tests a program: starts it twice and plays a few episodes with made-up answers.
///
/// The tasks are the given ones, or else the program's own. Some answers are empty, some are long, and some
/// hold several scripts, quotes, or control characters. Each call is made twice in one process and once in
/// another, and must be answered the same every time. So must the handshake, except for `description`.
///
/// ```no_run
/// use polyphony_env::{Process, process};
///
/// let program = Process::new(["python3", "docs/examples/process/number_plate.py"]);
/// let report = process::check(&program, None)?;
/// assert!(report.is_fine(), "{report}");
/// # Ok::<(), process::ProcessError>(())
/// ```
///
/// # Errors
/// If the program cannot be started or does not answer the handshake as the protocol says.
pub fn check(settings: &Process, tasks: Option<Vec<Task>>) -> Result<Report, ProcessError> {
    let mut report = Report::default();
    let first = settings.start()?;
    describe(&mut report, &first);
    let tasks = tasks.unwrap_or_else(|| own_tasks(&first));
    if tasks.is_empty() {
        report.wrong(
            "there are no tasks to play: the program has none of its own, so give it some of a data set",
        );
        return Ok(report);
    }
    // What depends on the process shows in a second one.
    let second = settings.start()?;
    match first.difference(&second) {
        None => report.fine("the handshake is the same in another process"),
        Some(key) => report.wrong(format!(
            "the handshake has a different value of `{key}` in another process: everything but \
             `description` must depend on the settings alone"
        )),
    }
    let pair = Pair {
        first: &first,
        second: &second,
    };
    pair.starts(&mut report, &tasks[..tasks.len().min(MOST_TASKS)]);
    for (kind, texts) in answers() {
        let tasks = tasks.iter().take(MOST_TASKS);
        let problems: Vec<String> = tasks.flat_map(|task| pair.episode(task, &texts)).collect();
        report.note(
            format!("{kind} answers are scored the same every time"),
            problems,
        );
    }
    pair.strange_calls(&mut report, &tasks[0]);
    drop(second);
    match first.stop() {
        true => report.fine("it ends when its standard input is closed"),
        false => report.wrong(
            "it does not end when its standard input is closed and has to be killed: leave the loop at \
             the end of the input",
        ),
    }
    Ok(report)
}

fn describe(report: &mut Report, environment: &ProcessEnvironment) {
    let names: Vec<&str> = environment.roles().iter().map(|role| &*role.name).collect();
    let reward = match environment.is_per_role() {
        true => "a reward per role",
        false => "one reward for all",
    };
    report.fine(format!(
        "the handshake: roles {}; {reward}, of the parts {}; at most {} turns",
        names.join(", "),
        environment.reward_parts().join(", "),
        environment.horizon()
    ));
    for split in [Split::Train, Split::HeldOut] {
        if let Some(tasks) = environment.tasks(split) {
            report.fine(format!("tasks of its own for `{split}`: {}", tasks.len()));
        }
    }
}

fn own_tasks(environment: &ProcessEnvironment) -> Vec<Task> {
    let splits = [Split::Train, Split::HeldOut].into_iter();
    splits
        .filter_map(|split| environment.tasks(split))
        .flatten()
        .collect()
}

/// Kinds of made-up answers, each with a few texts that the roles take turns to give.
fn answers() -> Vec<(&'static str, Vec<String>)> {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    vec![
        ("empty", texts(&[""])),
        ("plain", texts(&["AB", "12", "a short answer"])),
        (
            "long",
            vec!["long words ".repeat(10_000), "7".repeat(100_000)],
        ),
        (
            "Unicode",
            texts(&["Grüße, 你好, שלום", "🐍🏳️‍🌈 e\u{301}", "\u{2028}\u{feff}"]),
        ),
        (
            "quoted",
            texts(&["\"}]\\\" '", "{\"id\": 0}", "\\u0000 \\n"]),
        ),
        (
            "control-character",
            texts(&["\0\x01\x1b[2J\x7f", "a\r\nb\rc\n\n", "\t\u{85}"]),
        ),
    ]
}

/// A program that was started twice.
struct Pair<'a> {
    first: &'a ProcessEnvironment,
    second: &'a ProcessEnvironment,
}

impl Pair<'_> {
    fn starts(&self, report: &mut Report, tasks: &[Task]) {
        let problems = tasks.iter().filter_map(|task| self.start(task).err());
        let problems = problems.collect();
        report.note(
            "tasks start with one observation per role, the same every time",
            problems,
        );
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, String> {
        let [one, again, other] = [self.first, self.first, self.second].map(|environment| {
            environment
                .start(task)
                .map_err(|error| with_sources(&error))
        });
        let (one, again, other) = (one?, again?, other?);
        match one == again && one == other {
            true => Ok(one),
            false => Err(format!(
                "task `{}` does not start with the same observations every time: an episode must \
                 depend on nothing but the task and the responses",
                task.id
            )),
        }
    }

    /// Plays an episode to its end; returns the first problem.
    fn episode(&self, task: &Task, texts: &[String]) -> Option<String> {
        let mut observations = match self.start(task) {
            Ok(observations) => observations,
            // `starts` reports it.
            Err(_) => return None,
        };
        let mut past: Vec<Turn> = Vec::new();
        loop {
            let action = self.action(texts, past.len());
            let next = match self.step(task, &past, &action) {
                Ok(outcome) => outcome.next,
                Err(problem) => return Some(problem),
            };
            let Next::Continue(next) = next else {
                return None;
            };
            let horizon = self.first.horizon().get();
            if past.len() + 1 >= horizon {
                return Some(format!(
                    "task `{}` continues after turn {horizon}, the last one that the handshake's \
                     `horizon` allows",
                    task.id
                ));
            }
            past.push(Turn {
                observations: std::mem::replace(&mut observations, next),
                action,
            });
        }
    }

    fn step(&self, task: &Task, past: &[Turn], action: &JointAction) -> Result<Outcome, String> {
        let [one, again, other] = [self.first, self.first, self.second].map(|environment| {
            let outcome = environment.step(task, past, action);
            outcome.map_err(|error| with_sources(&error))
        });
        let (one, again, other) = (one?, again?, other?);
        if one == again && one == other {
            return Ok(one);
        }
        let place = match one == again {
            true => "in another process",
            false => "in the same process",
        };
        Err(format!(
            "task `{}`: the same joint action at turn {} is answered differently when it is repeated \
             {place}: an episode must depend on nothing but the task and the responses",
            task.id,
            past.len() + 1
        ))
    }

    fn action(&self, texts: &[String], turn: usize) -> JointAction {
        let roles = 0..self.first.roles().len();
        let response = |role: usize| Response {
            finish: match (role + turn) % 2 {
                0 => FinishReason::Stop,
                _ => FinishReason::Length,
            },
            ..Response::from_text(texts[(role + turn) % texts.len()].as_str())
        };
        JointAction::new(roles.map(response).collect())
    }

    /// Makes calls that no run makes. The program may refuse them, but must survive them.
    fn strange_calls(&self, report: &mut Report, task: &Task) {
        let survives = || self.start(task).is_ok();
        let nothing = Task::new("without fields", [("", ""); 0]);
        let refusal = self
            .first
            .start(&nothing)
            .err()
            .map(|error| with_sources(&error));
        match (refusal, survives()) {
            (Some(refusal), true) => report.fine(format!("a task without fields: {refusal}")),
            (None, true) => report.fine("a task without fields is played"),
            (_, false) => {
                report.wrong("after a task without fields it no longer starts other tasks")
            }
        }
        let Ok(observations) = self.start(task) else {
            return;
        };
        let turn = Turn {
            observations,
            action: self.action(&["late".to_owned()], 0),
        };
        let past = vec![turn; self.first.horizon().get()];
        let outcome = self.first.step(task, &past, &past[0].action);
        let outcome = outcome.map_err(|error| with_sources(&error));
        match (outcome, survives()) {
            (Err(refusal), true) => report.fine(format!("a turn after the last: {refusal}")),
            (Ok(outcome), true) if outcome.next == Next::End => {
                report.fine("a turn after the last ends the episode");
            }
            (Ok(_), true) => report.wrong(
                "a turn after the last does not end the episode: it must end once `past` holds `horizon` \
                 turns less one",
            ),
            (_, false) => report.wrong("after a turn too many it no longer starts other tasks"),
        }
    }
}

fn with_sources(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_sources(source)),
        None => error.to_string(),
    }
}
