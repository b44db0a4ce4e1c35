//! Snapshots of the help of every command, and of the most common errors.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p polyphony --test polyphony snapshots` rewrites the files in
//! `tests/snapshots`.

use std::path::{Path, PathBuf};

use polyphony_test_support::{assert_snapshot, fixture};

use crate::{command::TestDir, training_run};

/// A file under `tests/snapshots`.
fn snapshot(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/snapshots");
    Path::new(folder).join(name)
}

/// The help of a command, and the names of its subcommands.
fn help(dir: &TestDir, command: &[&str]) -> (String, Vec<String>) {
    let text = dir.succeed(&[command, &["--help"]].concat());
    let (_, commands) = text.split_once("Commands:\n").unwrap_or_default();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    // The description of a command follows its name, or is on the next line, indented further.
    let names = commands.filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' '));
    let names = names.filter_map(|line| line.split(' ').next());
    let names = names.filter(|name| *name != "help").map(str::to_owned);
    let names = names.collect();
    (text, names)
}

#[test]
fn every_command_explains_itself() {
    let dir = TestDir::new();
    let mut open = vec![Vec::new()];
    let mut count = 0;
    while let Some(command) = open.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let (text, below) = help(&dir, &words);
        let name = [&["polyphony"], words.as_slice()].concat().join(" ");
        assert_snapshot(&snapshot(&format!("help/{name}.txt")), &text);
        let longer = |name| [command.as_slice(), &[name]].concat();
        open.extend(below.into_iter().map(longer));
        count += 1;
    }
    assert!(count > 12, "only {count} commands were found");
}

/// Errors, each with the arguments that cause it. Arguments that begin with an option are for
/// `train recipe.ron`; an argument that begins with `@` changes that recipe first, `from => to`.
const ERRORS: &[(&str, &[&str])] = &[
    // The command line.
    ("a misspelt command", &["tarin"]),
    ("a misspelt option", &["train", "--step", "3"]),
    ("an option without its value", &["train", "--steps"]),
    // Recipes.
    ("a recipe that does not exist", &["train", "nosuch"]),
    ("a recipe file that does not exist", &["train", "gone.ron"]),
    ("a folder as a recipe", &["train", "model"]),
    ("a misspelt key", &["@samples: 4 => sampels: 4"]),
    ("a misspelt key at the top", &["@seed: 7 => sed: 7"]),
    ("a key that is missing", &["@steps: 2, => "]),
    ("a word as a number", &["@steps: 2 => steps: two"]),
    ("a number that is too small", &["@steps: 2 => steps: -2"]),
    (
        "a bracket that is missing",
        &["@(samples: 4) => (samples: 4"],
    ),
    (
        "a misspelt environment",
        &["@environment: Tldr => environment: Tdlr"],
    ),
    (
        "an environment that does not exist",
        &["@environment: Tldr => environment: Chess"],
    ),
    (
        "a misspelt algorithm",
        &["@algorithm: Magrpo => algorithm: Magrop"],
    ),
    (
        "an algorithm without its name",
        &["@algorithm: Magrpo( => algorithm: ("],
    ),
    (
        "a misspelt data source",
        &["@Embedded(TldrHeldOut) => Embeded(TldrHeldOut)"],
    ),
    (
        "data that is not embedded",
        &["@Embedded(TldrHeldOut) => Embedded(TldrHoldOut)"],
    ),
    // Changes on the command line.
    (
        "a change of a misspelt key",
        &["--set", "algorithm.sampels=4"],
    ),
    (
        "a change of a key without its path",
        &["--set", "samples=4"],
    ),
    ("a change without a value", &["--set", "seed"]),
    ("a change below a number", &["--set", "seed.x=1"]),
    ("a change to the wrong type", &["--set", "steps=two"]),
    ("no steps", &["--steps", "0"]),
    ("too few samples", &["--set", "algorithm.samples=1"]),
    (
        "a negative learning rate",
        &["--set", "updates.learning_rate=-1e-5"],
    ),
    (
        "more tasks per step than there are",
        &["--set", "tasks_per_step=9"],
    ),
    // Models, devices and data.
    (
        "a model that does not exist",
        &["--set", "team=Copies(\"nowhere\")"],
    ),
    ("too few models", &["--set", "team=Each([\"model\"])"]),
    ("a device that does not exist", &["--device", "tpu"]),
    ("a device that was not built", &["--device", "cuda"]),
    (
        "prompts that are too long",
        &["--set", "max_new_tokens=4096"],
    ),
    (
        "a data set that does not exist",
        &[
            "--set",
            "train=File(path: \"gone.jsonl\", fields: {\"post\": \"body\"})",
        ],
    ),
    (
        "a field that does not exist",
        &[
            "--set",
            "train=File(path: \"posts.jsonl\", fields: {\"post\": \"text\"})",
        ],
    ),
    (
        "an empty data set",
        &[
            "--set",
            "train=File(path: \"empty.jsonl\", fields: {\"post\": \"body\"})",
        ],
    ),
    // Runs.
    (
        "a run directory that is there already",
        &["--run-dir", "taken"],
    ),
    ("a baseline, watched", &["watch", "baseline"]),
    ("a baseline, resumed", &["resume", "baseline"]),
    ("a run that does not exist", &["resume", "gone"]),
    ("a folder that is not a run, resumed", &["resume", "model"]),
    (
        "a folder that is not a run, compared",
        &["compare", "model"],
    ),
    ("a folder that is not a run, reported", &["report", "model"]),
    ("a folder that is not a run, watched", &["watch", "model"]),
    (
        "a team that does not exist",
        &["eval", "recipe.ron", "--team", "gone"],
    ),
    // Other commands.
    (
        "scores of an environment that does not exist",
        &["score", "--env", "chess", "--input", "-"],
    ),
    (
        "scores of a file that does not exist",
        &["score", "--env", "tldr", "--input", "gone.jsonl"],
    ),
    (
        "a model that cannot be fetched",
        &["models", "fetch", "nowhere"],
    ),
    (
        "a token that does not exist",
        &["logprobs", "--model", "MODEL", "--input", "ids.jsonl"],
    ),
    (
        "an environment whose program does not exist",
        &["environment", "check", "--command", "[\"no-such-program\"]"],
    ),
];

/// Whether the arguments are options for `train recipe.ron`, instead of a command.
fn is_for_train(arguments: &[&str]) -> bool {
    arguments[0].starts_with(['@', '-'])
}

#[test]
fn the_most_likely_errors() {
    let dir = training_run::test_dir();
    let recipe = dir.read("recipe.ron");
    dir.write("taken/notes.txt", "mine");
    dir.write("baseline/recipe.ron", &recipe);
    dir.write("empty.jsonl", "");
    dir.write("ids.jsonl", "{\"ids\": [300]}\n");
    let model = fixture("tiny-llama");
    let mut all = String::new();
    for (what, arguments) in ERRORS {
        let mut words: Vec<&str> = match is_for_train(arguments) {
            true => vec!["train", "recipe.ron"],
            false => Vec::new(),
        };
        let mut changed = recipe.clone();
        for argument in *arguments {
            match argument.strip_prefix('@') {
                Some(change) => {
                    let (from, to) = change.split_once(" => ").unwrap();
                    assert!(recipe.contains(from), "{what}: the recipe lacks {from}");
                    changed = recipe.replacen(from, to, 1);
                }
                None if *argument == "MODEL" => words.push(model.to_str().unwrap()),
                None => words.push(argument),
            }
        }
        dir.write("recipe.ron", &changed);
        let files = dir.files();
        let result = dir.run(&words);
        assert!(!result.succeeded, "{what}: {words:?} must not succeed");
        assert_eq!(result.stdout, "", "{what}");
        assert_eq!(dir.files(), files, "{what}: something was left behind");
        let folder = dir.path("");
        let hide = |text: &str| {
            let text = text.replace(env!("CARGO_BIN_EXE_polyphony"), "polyphony");
            let text = text.replace(folder.to_str().unwrap().trim_end_matches('/'), "PLACE");
            text.replace(model.to_str().unwrap(), "MODEL")
        };
        let line = words.join(" ");
        all += &format!("## {what}\n$ polyphony {}\n", hide(&line));
        if changed != recipe {
            all += &format!("  {}\n", arguments[0]);
        }
        all += &hide(&result.stderr);
        all += "\n";
    }
    assert!(ERRORS.len() >= 30);
    assert_snapshot(&snapshot("errors.txt"), &all);
}
