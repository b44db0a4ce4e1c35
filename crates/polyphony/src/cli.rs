//! The command line: its commands, and how results and errors reach the user.
//!
//! Standard output carries only results, one JSON object per line if there are several. Logs and errors go
//! to standard error.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, builder::Styles};

use polyphony_report::{ReportError, excerpt, is_control};
use polyphony_runner::{Registry, Unfinished};

use crate::{
    commands::{
        baseline, bench, compare, device, environment, eval, generate, logprobs, models, plan,
        report, resume, sandbox, score, train, watch,
    },
    launch::Launch,
    summary::program,
    terminal,
};

/// Fine-tune several language models to work together.
#[derive(Debug, Parser)]
#[command(name = "polyphony", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a team of agents from a recipe.
    Train(train::Arguments),
    /// Resume a stopped run from its newest checkpoint.
    Resume(resume::Arguments),
    /// Evaluate a team on the held-out tasks of a recipe.
    Eval(eval::Arguments),
    /// Evaluate a baseline: a team that was not trained to work together.
    Baseline(baseline::Arguments),
    /// Compare the results and the cost of runs and baselines.
    Compare(compare::Arguments),
    /// Write an HTML page that shows runs in a browser.
    Report(report::Arguments),
    /// Show the progress of a training run in the terminal.
    Watch(watch::Arguments),
    /// Generate answers to prompts with a model.
    Generate(generate::Arguments),
    /// Print the log-probabilities of token sequences.
    Logprobs(logprobs::Arguments),
    /// Score texts with the reward of an environment.
    Score(score::Arguments),
    /// List the environments of this program, or check an external environment program.
    Environment(environment::Arguments),
    /// List known and cached models, fetch a model, or merge adapters.
    Models(models::Arguments),
    /// List the devices that models can run on.
    Device(device::Arguments),
    /// Check how this machine can isolate untrusted programs, or run a program in the sandbox.
    Sandbox(sandbox::Arguments),
    /// Measure the time of training steps on a fixed workload.
    Bench(bench::Arguments),
    /// Predict memory and time of a run on several processes and machines.
    Plan(plan::Arguments),
}

/// Runs the command in the arguments of this process.
pub(crate) fn main(registry: &Registry, launch: &Launch) -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse_on(launch, &error),
    };
    terminal::start_logging(launch.world().as_ref());
    let mut output: Box<dyn io::Write> = match launch.is_first() {
        true => Box::new(io::stdout().lock()),
        false => Box::new(io::sink()),
    };
    let outcome = registry
        .check()
        .and_then(|()| run(registry, launch, arguments.command, &mut output))
        .and_then(|status| {
            output.flush()?;
            Ok(status)
        });
    match outcome {
        Ok(status) => status,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => launch.fail(&error, || {
            fail(&error);
        }),
    }
}

/// Explains an error to the user.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    terminal::write(&explanation(error));
    ExitCode::FAILURE
}

/// Reads the arguments of this process.
fn parse() -> Result<Arguments, clap::Error> {
    let command = match may_control_terminal() {
        // clap's colours would be escaped together with the control characters of a quoted argument.
        true => Arguments::command().styles(Styles::plain()),
        false => Arguments::command(),
    };
    Arguments::from_arg_matches(&command.try_get_matches()?)
}

/// Explains what is wrong with the arguments, or prints the requested help.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !may_control_terminal() {
        error.exit();
    }
    terminal::write(&error.render().ansi().to_string());
    ExitCode::from(error.exit_code() as u8)
}

/// [`refuse`] if there may be several ranks. All of them have the same arguments, unless something is wrong.
fn refuse_on(launch: &Launch, error: &clap::Error) -> ExitCode {
    if launch.world().size() == 1 {
        return refuse(error);
    }
    if error.use_stderr() {
        let cause = anyhow::anyhow!("the arguments cannot be used");
        return launch.fail(&cause, || terminal::write(&error.render().to_string()));
    }
    if launch.is_first() {
        // Help. The process must not exit here, since MPI expects an orderly end.
        let _ = writeln!(io::stdout(), "{}", error.render());
    }
    ExitCode::SUCCESS
}

/// Whether an argument of this process contains control characters, which an error must not quote unchanged.
fn may_control_terminal() -> bool {
    std::env::args_os().any(|argument| argument.to_string_lossy().contains(is_control))
}

fn run(
    registry: &Registry,
    launch: &Launch,
    command: Command,
    output: &mut dyn io::Write,
) -> Result<ExitCode> {
    let several_ranks = matches!(
        command,
        Command::Train(_) | Command::Resume(_) | Command::Eval(_) | Command::Baseline(_)
    );
    if !several_ranks {
        launch.refuse_ranks()?;
    }
    match command {
        Command::Train(arguments) => return train::run(registry, launch, &arguments),
        Command::Resume(arguments) => return resume::run(registry, launch, &arguments),
        Command::Eval(arguments) => eval::run(registry, launch, &arguments, output),
        Command::Baseline(arguments) => baseline::run(registry, launch, &arguments, output),
        Command::Compare(arguments) => compare::run(&arguments, output),
        Command::Report(arguments) => report::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments, output),
        Command::Logprobs(arguments) => logprobs::run(&arguments, output),
        Command::Score(arguments) => score::run(registry, &arguments, output),
        Command::Environment(arguments) => environment::run(registry, &arguments, output),
        Command::Models(arguments) => models::run(&arguments, output),
        Command::Device(arguments) => device::run(&arguments, output),
        Command::Sandbox(arguments) => sandbox::run(&arguments, output),
        Command::Bench(arguments) => bench::run(&arguments, output),
        Command::Plan(arguments) => plan::run(registry, &arguments, output),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the error is that the reader of our output has stopped reading, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The error and its causes, one per line, and a hint on what to do. A cause is omitted if a message above
/// already contains it. The middle of a long message, which quotes external text, is cut out.
fn explanation(error: &anyhow::Error) -> String {
    let mut messages = error.to_string();
    let mut text = format!("error: {}\n", excerpt(&messages));
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !messages.contains(&cause) {
            text.push_str(&format!("  because: {}\n", excerpt(&cause)));
            messages.push_str(&cause);
        }
    }
    if let Some(hint) = hint(error) {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    text
}

/// A hint on what to do about an error. Only the command line can give it, because it knows commands and
/// options.
fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(Unfinished { run }) = error.downcast_ref::<Unfinished>() {
        let program = program();
        return Some(format!("`{program} resume {}` continues it", run.display()));
    }
    match error.chain().find_map(|cause| cause.downcast_ref())? {
        ReportError::Exists { .. } => {
            Some("use `--run-dir` to choose another directory".to_owned())
        }
        ReportError::NoTrainingRun { path } | ReportError::NoTerminal { path } => Some(format!(
            "`{} report {}` writes a page that shows it in a browser",
            program(),
            path.display()
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context as _, anyhow};

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_forms_that_scripts_use_are_read() {
        for line in [
            "score --env tldr --input in.jsonl",
            "score --env arxiv --input -",
            "logprobs --model DIR --input in.jsonl",
            "generate --model DIR --prompt Hello --greedy --max-new-tokens 8",
            "generate --model DIR --input in.jsonl --ignore-eos --max-new-tokens 8",
            "train",
            "train mine.ron --set a=1 --set b.c=(2) --run-dir out --steps 5",
            "resume runs/one",
            "resume runs/one --from step-000020 --steps 80",
            "eval",
            "eval mine.ron --set a=1 --team runs/one",
            "eval --team first --team second mine.ron",
            "eval --team runs/one --run-dir out",
            "baseline pipeline",
            "baseline single mine.ron --set seed=2 --run-dir out",
            "compare one two",
            "report one two -o out.html",
            "watch runs/one",
            "bench",
            "bench --model DIR --samples 4 --new-tokens 64 --steps 3",
            "models",
            "models fetch smollm2-135m",
        ] {
            let words = std::iter::once("polyphony").chain(line.split(' '));
            Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "generate --model DIR --max-new-tokens 8",
            "generate --model DIR --prompt Hello --input in.jsonl",
            "generate --model DIR --prompt Hello --greedy --temperature 1",
        ] {
            let words = std::iter::once("polyphony").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn an_error_is_explained_down_to_its_root() {
        let error = anyhow!("the disk is full")
            .context("writing a")
            .context("saving");
        let expected = "error: saving\n  because: writing a\n  because: the disk is full\n";
        assert_eq!(explanation(&error), expected);
        let error = anyhow!("no entry").context("reading a: no entry");
        assert_eq!(explanation(&error), "error: reading a: no entry\n");
    }

    #[test]
    fn the_middle_of_a_long_cause_is_left_out() {
        let long = format!("begin {} end", "x".repeat(1 << 20));
        let error = anyhow!("root {long}").context(long.clone()).context(long);
        let text = explanation(&error);
        assert_eq!(text.lines().count(), 2, "{text:.80}");
        for line in text.lines() {
            assert!(line.len() < 2100 && line.ends_with("x end"), "{line:.80}");
        }
        assert!(text.contains("  because: root begin x") && text.contains("characters left out"));
    }

    #[test]
    fn an_error_of_a_library_gets_the_hint_of_the_command_line() {
        let path = || "runs/a".into();
        let report = format!(
            "  hint: `{} report runs/a` writes a page that shows it in a browser\n",
            program()
        );
        let report = report.as_str();
        for (error, hint) in [
            (
                ReportError::Exists { path: path() },
                "  hint: use `--run-dir` to choose another directory\n",
            ),
            (ReportError::NoTrainingRun { path: path() }, report),
            (ReportError::NoTerminal { path: path() }, report),
            (ReportError::NoRuns, ""),
        ] {
            let expected = format!("error: watching\n  because: {error}\n{hint}");
            let error = anyhow::Error::new(error).context("watching");
            assert_eq!(explanation(&error), expected);
        }
    }

    #[test]
    fn an_unfinished_run_ends_with_the_command_that_resumes_it() {
        let run = "runs/a".into();
        let error = anyhow!("out of order")
            .context("step 3")
            .context(Unfinished { run });
        let expected = format!(
            "error: the run in runs/a did not finish\n  because: step 3\n  because: out of order\n  hint: \
             `{} resume runs/a` continues it\n",
            program()
        );
        assert_eq!(explanation(&error), expected);
        assert_eq!(
            explanation(&error.context("training")),
            format!("error: training\n  because: {}", &expected[7..])
        );
    }

    #[test]
    fn a_broken_pipe_is_recognized() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(
            &Err::<(), _>(pipe()).context("printing").unwrap_err()
        ));
        assert!(!is_broken_pipe(&anyhow!("another")));
    }
}
