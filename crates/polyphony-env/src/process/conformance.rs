//! Tests an environment program before you train on it.

use polyphony_episode::{
    Environment, FinishReason, JointAction, Next, Observation, Outcome, Response, Split, Task,
    Turn, check_names,
};

use super::{
    environment::{ProcessEnvironment, Purpose},
    error::{ProcessError, ProcessFailure},
    report::{Fault, Problems, Report},
    settings::Process,
};

/// At most this many tasks are played.
const MAX_TASKS: usize = 3;

const SPLITS: [Split; 2] = [Split::Train, Split::HeldOut];

/// Tests a program: starts it twice and plays a few episodes with made-up responses.
///
/// The tasks are `tasks` or, if that is `None`, the program's own. Some responses are empty, some are
/// long, and some contain several scripts, quotes, or control characters. Each call is made twice in one
/// process and once in another one, and the program must give the same answer every time. The handshake,
/// except for its `description`, must be the same in both processes. A problem that several calls show is
/// reported once. A program that ends during a call is reported, although a run would restart it.
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
/// If the program cannot be started or does not answer the handshake according to the protocol.
pub fn check(settings: &Process, tasks: Option<Vec<Task>>) -> Result<Report, ProcessError> {
    let mut report = Report::default();
    let first = settings.start_for(Purpose::Check)?;
    describe(&mut report, &first);
    let tasks = tasks.unwrap_or_else(|| own_tasks(&first));
    if tasks.is_empty() {
        report.wrong(
            "there are no tasks to play: the program has none of its own, so give it tasks of a data set",
        );
        return Ok(report);
    }
    // A second process shows whether an answer depends on the process.
    let second = settings.start_for(Purpose::Check)?;
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
    let mut problems = Problems::default();
    pair.play(
        &mut report,
        &mut problems,
        &tasks[..tasks.len().min(MAX_TASKS)],
    );
    if !problems.is_full() {
        pair.unusual_calls(&mut report, &mut problems, &tasks[0]);
    }
    problems.report(&mut report);
    let stderr_tail = first.standard_error();
    if !stderr_tail.is_empty() && !report.mentions(&stderr_tail) {
        report.note(format!("its standard error ends with\n{stderr_tail}"));
    }
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
        "the handshake: roles {}; {reward}, with the parts {}; at most {} turns",
        names.join(", "),
        environment.reward_parts().join(", "),
        environment.horizon()
    ));
    if let Err(error) = check_names(environment) {
        report.wrong(format!("a recipe would refuse its handshake: {error}"));
    }
    let has_tasks = !own_tasks(environment).is_empty();
    for split in SPLITS {
        match environment.tasks(split) {
            Some(tasks) => report.fine(format!("tasks of its own for `{split}`: {}", tasks.len())),
            None if has_tasks => report.note(format!(
                "no tasks of its own for `{split}`: training needs tasks of both splits, so add some to \
                 `tasks`, or name a data set for `{split}` in the recipe"
            )),
            None => {}
        }
    }
}

fn own_tasks(environment: &ProcessEnvironment) -> Vec<Task> {
    SPLITS
        .into_iter()
        .filter_map(|split| environment.tasks(split))
        .flatten()
        .collect()
}

/// Kinds of made-up responses. Each kind has a few texts, which rotate over the roles and the turns.
fn made_up_responses() -> Vec<(&'static str, Vec<String>)> {
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
    /// Starts all tasks. Plays every task that can be started, once with each kind of responses.
    fn play(&self, report: &mut Report, problems: &mut Problems, tasks: &[Task]) {
        let mut playable = Vec::new();
        for task in tasks {
            match self.start(task) {
                Ok(_) => playable.push(task),
                Err(fault) => problems.add(fault, format!("at the start of task `{}`", task.id)),
            }
        }
        if playable.len() == tasks.len() {
            report.fine("tasks start with one observation per role, the same every time");
        }
        for (kind, texts) in made_up_responses() {
            let mut is_fine = !playable.is_empty();
            for task in &playable {
                if problems.is_full() {
                    return;
                }
                if let Err((fault, turn)) = self.episode(task, &texts) {
                    is_fine = false;
                    let call = format!("with {kind} answers to task `{}` in turn {turn}", task.id);
                    problems.add(fault, call);
                }
            }
            if is_fine {
                report.fine(format!("{kind} answers are scored the same every time"));
            }
        }
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, Fault> {
        let first = self.first.try_start(task)?;
        let same_process = self.first.try_start(task)?;
        let other_process = self.second.try_start(task)?;
        match find_difference(&first, &same_process, &other_process) {
            None => Ok(first),
            Some(process) => Err(Fault::new(format!(
                "it starts the task with other observations when `start` is repeated {process}: an \
                 episode must depend on nothing but the task and the responses"
            ))),
        }
    }

    /// Plays an episode to its end; the error is the first fault and its turn.
    fn episode(&self, task: &Task, texts: &[String]) -> Result<(), (Fault, usize)> {
        let mut observations = self.start(task).map_err(|fault| (fault, 1))?;
        let mut past: Vec<Turn> = Vec::new();
        let horizon = self.first.horizon().get();
        for turn in 1..=horizon {
            let action = self.action(texts, past.len());
            let outcome = self.step(task, &past, &action);
            let Next::Continue(next) = outcome.map_err(|fault| (fault, turn))?.next else {
                return Ok(());
            };
            past.push(Turn {
                observations: std::mem::replace(&mut observations, next),
                action,
            });
        }
        let fault = Fault::new(format!(
            "the episode continues after turn {horizon}, the last one that the handshake's `horizon` \
             allows"
        ));
        Err((fault, horizon))
    }

    fn step(&self, task: &Task, past: &[Turn], action: &JointAction) -> Result<Outcome, Fault> {
        let first = self.first.try_step(task, past, action)?;
        let same_process = self.first.try_step(task, past, action)?;
        let other_process = self.second.try_step(task, past, action)?;
        match find_difference(&first, &same_process, &other_process) {
            None => Ok(first),
            Some(process) => Err(Fault::new(format!(
                "the same joint action is answered differently when it is repeated {process}: an episode \
                 must depend on nothing but the task and the responses"
            ))),
        }
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

    /// Makes calls that no run makes. The program may refuse them with an error, but must survive them.
    fn unusual_calls(&self, report: &mut Report, problems: &mut Problems, task: &Task) {
        let empty_task = Task::new("without fields", [("", ""); 0]);
        match self.first.try_start(&empty_task) {
            Ok(_) => report.fine("a task without fields is played"),
            Err(ProcessError {
                failure: ProcessFailure::Reported { message, .. },
                ..
            }) => report.fine(format!("a task without fields is refused: {message}")),
            Err(error) => {
                problems.add(error.into(), "at the start of a task without fields".into())
            }
        }
        let observations = match self.start(task) {
            Ok(observations) => observations,
            Err(fault) => {
                let call = format!(
                    "at the start of task `{}` after one without fields",
                    task.id
                );
                problems.add(fault, call);
                return;
            }
        };
        let turn = Turn {
            observations,
            action: self.action(&["late".to_owned()], 0),
        };
        let action = turn.action.clone();
        let past = vec![turn; self.first.horizon().get() - 1];
        match self.first.try_step(task, &past, &action) {
            Ok(outcome) if outcome.next == Next::End => {
                report.fine("the last turn ends the episode");
            }
            Ok(_) => report.wrong(
                "the last turn does not end the episode: it must end as soon as `past` holds \
                 `horizon` - 1 turns",
            ),
            Err(ProcessError {
                failure: ProcessFailure::Reported { message, .. },
                ..
            }) => report.fine(format!("the last turn is refused: {message}")),
            Err(error) => problems.add(error.into(), "in the last turn".into()),
        }
        if let Err(fault) = self.start(task) {
            let call = format!("at the start of task `{}` after a turn too many", task.id);
            problems.add(fault, call);
        }
    }
}

/// Names the process that answered a repeated call differently, if there is one.
fn find_difference<T: PartialEq>(
    first: &T,
    same_process: &T,
    other_process: &T,
) -> Option<&'static str> {
    match (first == same_process, first == other_process) {
        (false, _) => Some("in the same process"),
        (true, false) => Some("in another process"),
        (true, true) => None,
    }
}
