//! `cargo xtask fuzz`: runs everything that reads untrusted bytes with libFuzzer.
//!
//! Only the crates of the workspace are instrumented. burn and the other dependencies come from the ordinary
//! build, so that they are not built twice. To achieve this, cargo calls this program instead of the
//! compiler when it compiles a member of the workspace ([`stands_in_for_rustc`]).

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::MetadataCommand;

use crate::process::{self, say};

/// The variable that is set when cargo calls this program as a wrapper of the compiler.
const COMPILES: &str = "POLYPHONY_FUZZ_COMPILES";

/// The flags that let libFuzzer see which code an input reaches, and which values the code compares. They are
/// those of `cargo fuzz --sanitizer none`.
const INSTRUMENTED: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Optimization, for more inputs per second, with the checks of the profile `dev`.
const OPTIMIZED: [&str; 3] = [
    "-Copt-level=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// The longest wall-clock time that an input may take. The limit on CPU time is lower; the
/// fuzzed program checks it itself.
const TIMEOUT_SECS: u32 = 60;
/// The most memory that the process may use.
const MEMORY_MIB: u32 = 1536;

/// The targets to fuzz, and how.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Plan {
    /// Fuzz this target instead of all targets.
    pub(crate) target: Option<String>,
    /// Run each target for this many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// Run this many processes at a time: on different targets, or all on TARGET if it is given.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) jobs: u32,
    /// Run only this input, for example after a crash.
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with_all = ["jobs", "keep"])]
    pub(crate) input: Option<PathBuf>,
    /// Afterwards, add the inputs that reach new code to the repository's corpus.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Whether there is a C++ compiler, which is needed to build libFuzzer.
pub(crate) fn has_compiler() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut version = Command::new(compiler);
    version.arg("--version");
    version.stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// The error message if there is no C++ compiler.
pub(crate) const NO_COMPILER: &str = "there is no C++ compiler, which is needed to build libFuzzer: on Debian, \
     `apt-get install g++` installs one; `CXX` can name another one";

/// If cargo called this program as a wrapper of the compiler, compiles the crate with the flags for libFuzzer
/// and returns the compiler's exit code. Otherwise returns `None`.
pub(crate) fn stands_in_for_rustc() -> Option<ExitCode> {
    std::env::var_os(COMPILES)?;
    let mut arguments = std::env::args_os().skip(1);
    let mut rustc = Command::new(arguments.next()?);
    let arguments: Vec<OsString> = arguments.collect();
    // Of several flags of a kind, rustc uses the last one.
    rustc.args(&arguments);
    if is_library(&arguments) {
        rustc.args(OPTIMIZED);
    }
    if is_fuzzed(&arguments) {
        rustc.args(INSTRUMENTED);
    }
    let status = rustc.status();
    let code = status.ok().and_then(|status| status.code()).unwrap_or(1);
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Whether rustc is to compile a library whose coverage matters: not the fuzz targets, and not code that only
/// tests use.
fn is_fuzzed(arguments: &[OsString]) -> bool {
    is_library(arguments)
        && !matches!(
            value_of("--crate-name", arguments),
            Some("polyphony_fuzz" | "polyphony_test_support")
        )
}

/// Whether rustc is to compile one of our libraries. Build scripts and macros run during compilation, without
/// libFuzzer.
fn is_library(arguments: &[OsString]) -> bool {
    let name = value_of("--crate-name", arguments).unwrap_or_default();
    name.starts_with("polyphony") && value_of("--crate-type", arguments) == Some("lib")
}

fn value_of<'a>(option: &str, arguments: &'a [OsString]) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == option)?;
    arguments.get(at + 1)?.to_str()
}

/// The paths of the program and of the inputs.
struct Paths {
    root: PathBuf,
    /// Cargo's target folder. It also holds the inputs that are not committed: found ones and failed ones.
    target: PathBuf,
    program: PathBuf,
}

impl Paths {
    /// The inputs in the repository.
    fn corpus(&self, target: &str) -> PathBuf {
        corpora(&self.root).join(target)
    }

    /// The inputs that were found on this machine.
    fn found(&self, target: &str) -> PathBuf {
        self.target.join("fuzz/corpus").join(target)
    }

    /// The inputs that failed.
    fn failures(&self, target: &str) -> PathBuf {
        self.target.join("fuzz/failures").join(target)
    }
}

fn corpora(root: &Path) -> PathBuf {
    root.join("tests/fuzz/corpus")
}

/// Fuzzes the targets, and fails if an input failed.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .context("reading `cargo metadata`")?;
    let root: PathBuf = metadata.workspace_root.into();
    let targets = targets(&root, plan.target.as_deref())?;
    ensure!(has_compiler(), "{NO_COMPILER}");
    let paths = Paths {
        program: build(metadata.target_directory.as_std_path())?,
        target: metadata.target_directory.into(),
        root,
    };
    if let (Some(input), [target]) = (&plan.input, &targets[..]) {
        return one_input(&paths, target, input);
    }
    let failed = match plan.target {
        Some(_) => fuzz(&paths, &targets[0], plan, plan.jobs).map(|passed| match passed {
            true => Vec::new(),
            false => targets,
        })?,
        None => all(&paths, targets, plan)?,
    };
    ensure!(failed.is_empty(), "inputs failed: {}", failed.join(", "));
    Ok(())
}

/// The targets to run. Each target has a folder of inputs; a test of `polyphony-fuzz` checks this.
fn targets(root: &Path, requested: Option<&str>) -> Result<Vec<String>> {
    let folder = corpora(root);
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    match requested {
        Some(target) if names.iter().any(|name| name == target) => Ok(vec![target.to_owned()]),
        Some(target) => bail!(
            "there is no fuzz target `{target}`; there are: {}",
            names.join(", ")
        ),
        None => Ok(names),
    }
}

/// Builds the program with all targets.
fn build(target: &Path) -> Result<PathBuf> {
    let this_program = std::env::current_exe().context("finding this program")?;
    let mut cargo = process::cargo();
    // The program is built as an example of the whole workspace, because its dependencies then have the same
    // features as in `cargo xtask test`.
    cargo
        .args(["build", "--quiet", "--workspace", "--example", "fuzz"])
        .args(["--features", "polyphony-fuzz/engine"])
        .env("RUSTC_WORKSPACE_WRAPPER", this_program)
        .env(COMPILES, "1")
        .env("CARGO_INCREMENTAL", "0");
    process::run(&mut cargo)?;
    Ok(target
        .join("debug/examples")
        .join(format!("fuzz{}", std::env::consts::EXE_SUFFIX)))
}

/// Fuzzes all targets, several at a time, and returns the names of those with failures.
fn all(paths: &Paths, targets: Vec<String>, plan: &Plan) -> Result<Vec<String>> {
    let waiting = Mutex::new(targets.into_iter());
    let failed = Mutex::new(Vec::new());
    let next = || waiting.lock().ok()?.next();
    let work = || -> Result<()> {
        while let Some(target) = next() {
            if !fuzz(paths, &target, plan, 1)?
                && let Ok(mut failed) = failed.lock()
            {
                failed.push(target);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort();
    Ok(failed)
}

/// Fuzzes a target with `jobs` processes, and returns whether all inputs passed.
fn fuzz(paths: &Paths, target: &str, plan: &Plan, jobs: u32) -> Result<bool> {
    let (found, failures) = (paths.found(target), paths.failures(target));
    for folder in [&found, &failures] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let before = files(&failures)?;
    let outputs = std::thread::scope(|scope| {
        let one = || {
            let scratch = scratch()?;
            let mut engine = engine(paths, target, scratch.path());
            engine
                .arg(format!("-max_total_time={}", plan.seconds))
                .args(["-print_final_stats=1", "-reload=1", "-use_value_profile=1"])
                .arg(format!("-artifact_prefix={}/", failures.display()))
                .args([&found, &paths.corpus(target)]);
            let output = engine.output().context("starting the fuzzer")?;
            Ok(Output {
                passed: output.status.success(),
                text: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        };
        let running: Vec<_> = (0..jobs).map(|_| scope.spawn(one)).collect();
        let join = |running: std::thread::ScopedJoinHandle<'_, Result<Output>>| {
            running
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    say(format_args!("{}", line(target, &outputs)));
    let new = files(&failures)?
        .into_iter()
        .filter(|file| !before.contains(file));
    for file in new {
        say(format_args!(
            "  {}\n    to run it again: cargo xtask fuzz {target} --input {0}\n    after the fix, keep it: mv {0} {}",
            file.display(),
            paths.corpus(target).display()
        ));
    }
    let passed = outputs.iter().all(|output| output.passed);
    for output in outputs.iter().filter(|output| !output.passed) {
        say(format_args!("{}", failure_report(&output.text)));
    }
    match (plan.keep, passed) {
        (true, true) => merge(paths, target)?,
        (true, false) => say(format_args!("  nothing was kept, because an input failed")),
        (false, _) => {}
    }
    Ok(passed)
}

/// The engine on a target, with its limits.
fn engine(paths: &Paths, target: &str, scratch: &Path) -> Command {
    let mut engine = Command::new(&paths.program);
    engine
        .env("POLYPHONY_FUZZ_TARGET", target)
        .env("POLYPHONY_FUZZ_FOLDER", scratch)
        .env("RUST_BACKTRACE", "1")
        .arg(format!("-timeout={TIMEOUT_SECS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .current_dir(&paths.root);
    engine
}

/// A folder for the files of one process, in memory if possible.
fn scratch() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    folder.context("making a folder for the inputs")
}

fn one_input(paths: &Paths, target: &str, input: &Path) -> Result<()> {
    let input = input
        .canonicalize()
        .with_context(|| format!("finding {}", input.display()))?;
    // libFuzzer would take a directory as a corpus, fuzz without end, and write into it.
    ensure!(
        input.is_file(),
        "{} is not a file: give one input",
        input.display()
    );
    let scratch = scratch()?;
    process::run(engine(paths, target, scratch.path()).arg(input))
}

/// The most bytes of the whole corpus. A test of `polyphony-fuzz` checks the same limit.
const MAX_CORPUS: u64 = 1_000_000;

/// Adds the inputs that reach new code to the repository's corpus, including inputs that earlier runs on this
/// machine found.
fn merge(paths: &Paths, target: &str) -> Result<()> {
    let before = files(&paths.corpus(target))?.len();
    let scratch = scratch()?;
    let mut engine = engine(paths, target, scratch.path());
    engine.args(["-merge=1", "-max_len=20000"]);
    engine.args([paths.corpus(target), paths.found(target)]);
    engine.stderr(Stdio::null());
    process::run(&mut engine)?;
    let kept = files(&paths.corpus(target))?.len() - before;
    let bytes = corpus_bytes(&paths.root)?;
    say(format_args!(
        "  kept {kept} inputs; the corpus has {bytes} of {MAX_CORPUS} bytes"
    ));
    ensure!(
        bytes <= MAX_CORPUS,
        "the corpus is too large: remove inputs from {} that reach no more code than the others",
        paths.corpus(target).display()
    );
    Ok(())
}

/// The size of all inputs in the repository.
fn corpus_bytes(root: &Path) -> Result<u64> {
    let mut bytes = 0;
    for target in targets(root, None)? {
        for file in files(&corpora(root).join(target))? {
            bytes += fs::metadata(&file)?.len();
        }
    }
    Ok(bytes)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// The output of a process, and whether it passed.
struct Output {
    passed: bool,
    text: String,
}

/// One line with the statistics of a target.
fn line(target: &str, outputs: &[Output]) -> String {
    let sum = |name: &str| -> u64 {
        outputs
            .iter()
            .filter_map(|output| statistic(&output.text, name))
            .sum()
    };
    let coverage = outputs
        .iter()
        .filter_map(|output| coverage(&output.text))
        .max();
    let failed = outputs.iter().filter(|output| !output.passed).count();
    format!(
        "{target:18} {:9} runs {:7} per second, {:6} edges covered, {:5} new inputs, {failed} failures",
        sum("stat::number_of_executed_units:"),
        sum("stat::average_exec_per_sec:"),
        coverage.unwrap_or_default(),
        sum("stat::new_units_added:"),
    )
}

/// A statistic at the end of libFuzzer's output.
fn statistic(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// How many edges of the code were covered in the end.
fn coverage(text: &str) -> Option<u64> {
    let last = text
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: "))?
        .1;
    last.split_whitespace().next()?.parse().ok()
}

/// The part of a process's output about its failure: from the panic or the engine's error on, but at most 20
/// lines.
fn failure_report(text: &str) -> String {
    let is_start = |line: &str| line.contains("panicked at") || line.contains("ERROR: libFuzzer");
    let lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|line| is_start(line))
        .unwrap_or(lines.len().saturating_sub(20));
    lines[first..]
        .iter()
        .take(20)
        .map(|line| format!("    {line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_from_the_output_of_the_engine() {
        let text = "#2\tINITED cov: 17 ft: 18 corp: 1/1b exec/s: 0 rss: 40Mb\n\
             #64\tNEW    cov: 1234 ft: 2000 corp: 9/80b lim: 4 exec/s: 32 rss: 41Mb\n\
             Done 900 runs in 3 second(s)\n\
             stat::number_of_executed_units: 900\n\
             stat::average_exec_per_sec:     300\n\
             stat::new_units_added:          12\n";
        let output = |passed| Output {
            passed,
            text: text.to_owned(),
        };
        assert_eq!(
            line("gguf", &[output(true), output(false)]),
            "gguf                    1800 runs     600 per second,   1234 edges covered,    24 new inputs, \
             1 failures"
        );
    }

    #[test]
    fn a_directory_is_not_an_input() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().to_owned(),
            target: folder.path().to_owned(),
            program: "no-such-program".into(),
        };
        let error = one_input(&paths, "gguf", folder.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("is not a file"), "{message}");
    }

    #[test]
    fn a_failure_report_begins_with_the_panic() {
        let text = "#2\tINITED\nthread 'main' panicked at a.rs:3\nboom\n==9== ERROR: libFuzzer: deadly signal\n";
        let report = failure_report(text);
        assert!(report.starts_with("    thread 'main' panicked"), "{report}");
        assert!(report.contains("deadly signal"), "{report}");
    }

    #[test]
    fn libraries_alone_are_instrumented() {
        let is_fuzzed = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            is_fuzzed(&words)
        };
        assert!(is_fuzzed(
            "--crate-name polyphony_env --edition=2024 --crate-type lib"
        ));
        for line in [
            "-vV",
            "--crate-name ___ --crate-type lib",
            "--crate-name build_script_build --crate-type bin",
            "--crate-name polyphony_macros --crate-type proc-macro",
            "--crate-name polyphony_fuzz --crate-type lib",
            "--crate-name fuzz --crate-type bin",
        ] {
            assert!(!is_fuzzed(line), "{line}");
        }
    }

    #[test]
    fn an_error_about_an_unknown_target_lists_the_targets() {
        let root = tempfile::tempdir().unwrap();
        for name in ["gguf", "config"] {
            fs::create_dir_all(corpora(root.path()).join(name)).unwrap();
        }
        assert_eq!(targets(root.path(), None).unwrap(), ["config", "gguf"]);
        assert_eq!(targets(root.path(), Some("gguf")).unwrap(), ["gguf"]);
        let error = targets(root.path(), Some("guff")).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no fuzz target `guff`; there are: config, gguf"
        );
    }
}
