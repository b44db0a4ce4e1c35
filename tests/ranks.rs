//! Runs on several ranks, started by `mpirun`. They are built with the feature `mpi` only.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    command::{CommandResult, TestDir},
    training_run::{self, untimed},
};

/// The launcher of the MPI library, found as a user's shell finds it.
fn launcher() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).map(|folder| folder.join("mpirun"));
    folders
        .find(|program| program.is_file())
        .expect("`mpirun` is in the search path")
}

/// `polyphony` on this many ranks, which may be more than there are processors.
fn on_ranks(dir: &TestDir, ranks: usize, arguments: &[&str]) -> Command {
    several(dir, &[(ranks, "", arguments)])
}

/// `polyphony` with different arguments and in different folders of the directory on different ranks.
fn several(dir: &TestDir, groups: &[(usize, &str, &[&str])]) -> Command {
    let mut command = Command::new(launcher());
    for (index, (ranks, folder, arguments)) in groups.iter().enumerate() {
        let program = dir.command(arguments);
        if index > 0 {
            command.arg(":");
        }
        command
            .args(["-n", &ranks.to_string(), "-wdir"])
            .arg(dir.path(folder))
            .arg(program.get_program())
            .args(program.get_args());
    }
    let environment = dir.command(&[]);
    // The launcher looks for its own programs.
    for (name, value) in environment.get_envs().filter(|(name, _)| *name != "PATH") {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .current_dir(dir.path(""))
        // Tests may run in a container, where the only user is root.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_hwloc_base_binding_policy", "none");
    command
}

#[track_caller]
fn succeed(dir: &TestDir, ranks: usize, arguments: &[&str]) -> CommandResult {
    let result: CommandResult = on_ranks(dir, ranks, arguments).output().unwrap().into();
    assert!(
        result.succeeded,
        "{ranks} ranks, {arguments:?}: {}",
        result.stderr
    );
    result
}

/// The first error, with everything that follows it.
#[track_caller]
fn fail(command: &mut Command) -> String {
    let result: CommandResult = command.output().unwrap().into();
    assert!(!result.succeeded, "{command:?} must not succeed");
    let count = result.stderr.matches("error: ").count();
    assert_eq!(
        count, 1,
        "one rank explains what is wrong: {}",
        result.stderr
    );
    result.stderr
}

fn agent_weights(dir: &TestDir, run: &str) -> Vec<Vec<u8>> {
    let mut folders: Vec<PathBuf> = fs::read_dir(dir.path(run).join("agents"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let weights = ["model.safetensors", "adapter_model.safetensors"];
    let read = |folder: &PathBuf| {
        let file = weights
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.exists());
        fs::read(file.unwrap()).unwrap()
    };
    folders.iter().map(read).collect()
}

/// Checks that two runs have the same records and agents, timing apart.
#[track_caller]
fn assert_same(dir: &TestDir, one: &str, other: &str) {
    for file in ["metrics.jsonl", "evaluations.jsonl"] {
        let [one, other] = [one, other].map(|run| untimed(dir, &format!("{run}/{file}")));
        assert_eq!(one, other, "{file}");
    }
    let rollouts = |run: &str| dir.read(&format!("{run}/rollouts.jsonl"));
    assert!(rollouts(one) == rollouts(other), "the rollouts differ");
    assert!(
        agent_weights(dir, one) == agent_weights(dir, other),
        "the agents differ"
    );
}

fn info(dir: &TestDir, run: &str) -> Value {
    serde_json::from_str(&dir.read(&format!("{run}/run.json"))).unwrap()
}

#[test]
fn agents_on_ranks_of_their_own_do_what_one_process_does() {
    let dir = training_run::test_dir();
    let train = |run| ["train", "recipe.ron", "--steps", "3", "--run-dir", run];
    dir.succeed(&train("one"));
    let result = succeed(&dir, 2, &train("two"));
    assert_same(&dir, "one", "two");
    // Only one rank reports.
    assert_eq!(
        result.stderr.matches("Trained 3 steps.").count(),
        1,
        "{}",
        result.stderr
    );
    let ranks = &info(&dir, "two")["ranks"];
    assert_eq!(
        (&ranks["ranks"], &ranks["replicas"]),
        (&2.into(), &1.into())
    );
    assert!(
        ranks["library"]
            .as_str()
            .is_some_and(|library| library.contains("MPI")),
        "{ranks}"
    );
    assert!(info(&dir, "one")["ranks"].is_null());
    // What was sent is recorded beside the times.
    let line = &dir.read_lines("two/metrics.jsonl")[0];
    let timing = line["timing"].as_object().unwrap();
    assert!(timing.contains_key("sent_bytes.responses"), "{timing:?}");
    assert!(
        timing.contains_key("rank_1.communication_secs"),
        "{timing:?}"
    );

    // The trained team is evaluated in the same way.
    let evaluate = |run| ["eval", "--team", "two", "--run-dir", run];
    dir.succeed(&evaluate("eval-one"));
    succeed(&dir, 2, &evaluate("eval-two"));
    let [one, two] =
        ["eval-one", "eval-two"].map(|run| untimed(&dir, &format!("{run}/evaluations.jsonl")));
    assert_eq!(one, two);
}

#[test]
fn a_run_with_replicas_is_repeated_to_the_last_bit_and_resumes_with_another_number() {
    let dir = training_run::test_dir();
    let train = |run| {
        [
            "train",
            "recipe.ron",
            "--steps",
            "4",
            "--run-dir",
            run,
            "--set",
            "checkpoints=(every: 2, keep: 9)",
        ]
    };
    succeed(&dir, 4, &train("one"));
    succeed(&dir, 4, &train("two"));
    assert_same(&dir, "one", "two");
    // Gradients in bfloat16 have half of the bytes.
    let replicas = ["--set", "parallel=(replicas: 2, gradients: Bf16)"];
    let rounded = [
        "train",
        "recipe.ron",
        "--steps",
        "1",
        "--run-dir",
        "rounded",
    ];
    succeed(&dir, 2, &[&rounded[..], &replicas].concat());
    let [rounded, exact] =
        ["rounded", "one"].map(|run| dir.read_lines(&format!("{run}/metrics.jsonl")).remove(0));
    let sent = |line: &Value| line["timing"]["sent_bytes.gradients"].as_f64().unwrap();
    let ratio = sent(&rounded) / sent(&exact);
    assert!((0.5..0.51).contains(&ratio), "{ratio}");
    for role in ["summarizer", "elaborator"] {
        let norm = |line: &Value| line[format!("{role}/grad_norm")].as_f64().unwrap();
        let (rounded, exact) = (norm(&rounded), norm(&exact));
        assert!(
            rounded != exact && (rounded - exact).abs() < 4e-3 * exact,
            "{role}: {rounded} and {exact}"
        );
    }
    // The same tasks as in one process, up to rounding.
    dir.succeed(&train("alone"));
    let returns = |run: &str| -> Vec<f64> {
        let lines = dir.read_lines(&format!("{run}/metrics.jsonl"));
        lines
            .iter()
            .map(|line| line["return"].as_f64().unwrap())
            .collect()
    };
    assert_eq!(returns("one")[0], returns("alone")[0]);

    // Two ranks, without replicas, continue what four began.
    succeed(&dir, 2, &["resume", "one", "--from", "step-000002"]);
    assert_eq!(returns("one")[..2], returns("two")[..2]);
    assert_eq!(returns("one").len(), 4);
    // One process cannot, since each part has saved the state of its own agents.
    let message = dir.run(&["resume", "two", "--steps", "5"]).stderr;
    assert!(
        message.contains("holds the agents in 2 part(s), but now they are divided into 1"),
        "{message}"
    );
}

/// The arguments of a run that is long enough to be stopped in the middle.
fn long_run(run: &str) -> [&str; 8] {
    let checkpoints = "checkpoints=(every: 1, keep: 2)";
    let train = ["train", "recipe.ron", "--steps", "8"];
    [&train[..], &["--run-dir", run, "--set", checkpoints]]
        .concat()
        .try_into()
        .unwrap()
}

/// When a rank is killed.
enum Moment {
    /// Some time after this many steps were recorded: the file is read this many times before.
    AfterRecords(usize, usize),
    /// While the checkpoint after at least this many steps is written.
    InCheckpoint(usize),
}

impl Moment {
    /// Waits for the moment in a run, which must not end before.
    fn wait(&self, run: &Path, job: &mut Child) {
        // A directory is a run once it has a recipe; before, there is nothing to resume.
        let is_run = || run.join("recipe.ron").exists();
        let records = || {
            let text = fs::read_to_string(run.join("metrics.jsonl"));
            text.map(|text| text.lines().count()).ok()
        };
        let is_unfinished =
            |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(".polyphony");
        let in_checkpoint = || {
            let entries = fs::read_dir(run.join("checkpoints"));
            let mut entries = entries.into_iter().flatten().flatten();
            entries.any(|entry| is_unfinished(&entry.file_name()))
        };
        let is_here = || match self {
            Self::AfterRecords(steps, _) => records().is_some_and(|count| count >= *steps),
            Self::InCheckpoint(steps) => {
                records().is_some_and(|count| count >= *steps) && in_checkpoint()
            }
        };
        while !(is_run() && is_here()) {
            assert!(
                job.try_wait().unwrap().is_none(),
                "the job has ended too early"
            );
            std::thread::yield_now();
        }
        if let Self::AfterRecords(_, reads) = self {
            for _ in 0..*reads {
                records();
            }
        }
    }
}

#[test]
fn a_killed_rank_ends_the_job_and_the_run_resumes() {
    let dir = training_run::test_dir();
    succeed(&dir, 2, &long_run("whole"));
    // They are spread over sampling, scoring, updates and evaluation.
    let moments = [
        Moment::AfterRecords(0, 0),
        Moment::AfterRecords(1, 0),
        Moment::AfterRecords(1, 500),
        Moment::AfterRecords(2, 2000),
        Moment::AfterRecords(3, 5000),
        Moment::AfterRecords(4, 1000),
        Moment::AfterRecords(4, 3000),
        Moment::InCheckpoint(1),
        Moment::InCheckpoint(2),
        Moment::InCheckpoint(4),
    ];
    for (index, moment) in moments.iter().enumerate() {
        let (run, rank) = (format!("killed-{index}"), index % 2);
        let mut command = on_ranks(&dir, 2, &long_run(&run));
        let mut job = command.stderr(Stdio::piped()).spawn().unwrap();
        moment.wait(&dir.path(&run), &mut job);
        let ranks = ranks_of(&job);
        send(ranks[rank], libc::SIGKILL);
        let killed = Instant::now();
        let result: CommandResult = job.wait_with_output().unwrap().into();
        assert!(!result.succeeded);
        let expected = format!("process rank {rank} ");
        assert!(
            result.stderr.contains(&expected),
            "{}\nlacks: {expected}",
            result.stderr
        );
        // The launcher does not wait for the processes that it kills.
        for rank in ranks {
            while Path::new(&format!("/proc/{rank}")).exists() {
                assert!(
                    killed.elapsed() < Duration::from_secs(60),
                    "process {rank} is left"
                );
                std::thread::yield_now();
            }
        }
        succeed(&dir, 2, &["resume", &run]);
        assert_same(&dir, "whole", &run);
    }
}

#[test]
fn a_signal_to_one_rank_ends_the_run_in_order() {
    let dir = training_run::test_dir();
    succeed(&dir, 2, &long_run("whole"));
    let mut command = on_ranks(&dir, 2, &long_run("run"));
    let mut job = command.stderr(Stdio::piped()).spawn().unwrap();
    Moment::AfterRecords(2, 0).wait(&dir.path("run"), &mut job);
    send(ranks_of(&job)[1], libc::SIGTERM);
    let result: CommandResult = job.wait_with_output().unwrap().into();
    let steps = dir.read_lines("run/metrics.jsonl").len();
    assert!((2..8).contains(&steps), "{steps} steps: {}", result.stderr);
    assert!(
        result.stderr.contains(&format!("Trained {steps} steps.")),
        "{}",
        result.stderr
    );
    assert!(
        dir.path(&format!("run/checkpoints/step-{steps:06}/state.ron"))
            .exists()
    );
    succeed(&dir, 2, &["resume", "run"]);
    assert_same(&dir, "whole", "run");
}

/// The processes of a job, in the order of their ranks.
fn ranks_of(job: &Child) -> Vec<u32> {
    let mut ranks: Vec<(usize, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let parent = format!("PPid:\t{}\n", job.id());
        let environment = read("environ");
        let rank = environment
            .split('\0')
            .find_map(|line| line.strip_prefix("OMPI_COMM_WORLD_RANK="));
        if let (true, Some(rank)) = (read("status").contains(&parent), rank) {
            ranks.push((rank.parse().unwrap(), pid));
        }
    }
    ranks.sort_unstable();
    ranks.into_iter().map(|(_, pid)| pid).collect()
}

fn send(pid: u32, signal: i32) {
    // SAFETY: the process is a child of a job that has not been waited for, so no other process has its id.
    let outcome = unsafe { libc::kill(pid as i32, signal) };
    assert_eq!(outcome, 0);
}

#[test]
fn what_ranks_cannot_do_together_is_explained_once() {
    let dir = training_run::test_dir();
    let train = ["train", "recipe.ron", "--run-dir", "run"];
    // Other machines, each with a different file of the same name.
    let copy_to = |folder: &str| {
        let models = fs::read_dir(dir.path("model")).unwrap();
        let names = models.map(|file| file.unwrap().file_name().into_string().unwrap());
        let files = names.map(|name| format!("model/{name}"));
        for file in files.chain(["recipe.ron", "posts.jsonl"].map(str::to_owned)) {
            dir.write(
                &format!("{folder}/{file}"),
                fs::read(dir.path(&file)).unwrap(),
            );
        }
    };
    ["other", "third"].into_iter().for_each(copy_to);
    let posts = dir.read("posts.jsonl").replace("cat", "dog");
    dir.write("other/posts.jsonl", posts);
    // The last byte of the last weight.
    let mut weights = fs::read(dir.path("model/model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    dir.write("third/model/model.safetensors", weights);
    let replicas = [&train[..], &["--set", "parallel.replicas=2"]].concat();
    // The launcher of another library: it tells the size and the rank, but this library connects nobody.
    let mut foreign = dir.command(&train);
    foreign.envs([("PMI_SIZE", "2"), ("PMI_RANK", "0")]);
    // The library looks for its own programs.
    foreign.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let rows: [(&mut Command, &str); 9] = [
        (
            &mut foreign,
            "2 processes were started together, but the MPI library",
        ),
        (
            &mut several(&dir, &[(1, "", &train), (1, "other", &train)]),
            "the ranks have different tasks: those of rank 0 and rank 1 differ",
        ),
        (
            &mut several(&dir, &[(1, "", &replicas), (1, "third", &replicas)]),
            "the replicas of agent `summarizer` have different weights",
        ),
        (
            &mut several(
                &dir,
                &[
                    (1, "", &train),
                    (1, "", &["eval", "recipe.ron", "--run-dir", "run"]),
                ],
            ),
            "the ranks have different commands",
        ),
        (
            &mut on_ranks(&dir, 3, &train),
            "3 ranks cannot hold 2 agents: start 1, 2 ranks",
        ),
        (
            &mut on_ranks(
                &dir,
                4,
                &[&train[..], &["--set", "parallel.replicas=3"]].concat(),
            ),
            "4 ranks cannot be 3 replicas of 2 agents",
        ),
        (
            &mut several(
                &dir,
                &[
                    (1, "", &train),
                    (1, "", &[&train[..], &["--set", "seed=9"]].concat()),
                ],
            ),
            "the ranks have different recipes: those of rank 0 and rank 1 differ",
        ),
        (
            &mut on_ranks(&dir, 2, &["report", "run"]),
            "this command runs in one process",
        ),
        (
            &mut on_ranks(
                &dir,
                2,
                &[
                    "train",
                    "recipe.ron",
                    "--set",
                    r#"team=Each(["model", "absent"])"#,
                ],
            ),
            "absent",
        ),
    ];
    for (command, expected) in rows {
        let message = fail(command);
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
        assert!(!dir.path("run").exists());
    }
}
