//! Bad recipes, bad data and full disks: errors name the cause and the way out, and leave no files behind.

use std::fs::File;

use polyphony_test_support::fixture;
use serde_json::Value;

use crate::{
    command::{CommandResult, TestDir, text},
    training_run,
};

/// Checks that `polyphony train` refuses the recipe of the training tests after a change by `--set`.
#[track_caller]
fn refuse_set(dir: &TestDir, change: &str, expected: &[&str]) {
    let arguments = ["train", "recipe.ron", "--run-dir", "run", "--set", change];
    dir.refuse(&arguments, expected);
}

#[test]
fn recipes_that_cannot_be_read() {
    let dir = training_run::test_dir();
    let recipe = dir.read("recipe.ron");
    let rows = [
        (
            recipe.replacen("samples: 4", "sampels: 4", 1),
            "line 8, column 23: there is no key `sampels` in Magrpo; did you mean `samples`?",
        ),
        (
            recipe.replacen("seed: 7", "sed: 7", 1),
            "line 2, column 5: there is no key `sed` in a recipe; did you mean `seed`?",
        ),
        (
            recipe.replacen("environment: Tldr,", "", 1),
            "the key `environment` is missing",
        ),
        (
            recipe.replacen("steps: 2", "steps: two", 1),
            "line 10, column 12",
        ),
        (
            recipe[..recipe.find(", \"model\"").unwrap()].to_owned(),
            "line 6, column 24: expected a comma or a closing bracket here",
        ),
    ];
    for (recipe, expected) in rows {
        dir.write("mine.ron", recipe);
        dir.refuse(&["train", "mine.ron", "--run-dir", "run"], &[expected]);
    }
    dir.refuse(
        &["train", "tldr.ron"],
        &["`tldr.ron` is neither a recipe that ships"],
    );
    // A folder can be found but not read.
    dir.refuse(&["train", "model"], &["reading model"]);
}

#[test]
fn values_out_of_range() {
    let dir = training_run::test_dir();
    let rows = [
        (
            "algorithm.samples=1",
            "`algorithm.samples` is 1, but must be from 2 to 4096",
        ),
        (
            "updates.learning_rate=-1e-5",
            "`updates.learning_rate` is -0.00001, but must be above 0 and at most 1",
        ),
        (
            "sampling.top_p=1.5",
            "`sampling.top_p` is 1.5, but must be above 0 and at most 1",
        ),
        (
            "updates.minibatch=3",
            "`updates.minibatch` is 3, but must be at most `buffer`",
        ),
        ("steps=0", "`steps` is 0, but must be from 1 to 4294967294"),
        (
            "max_new_tokens=18446744073709551615",
            "`max_new_tokens` is 18446744073709551615, but must be from 1 to 16777216",
        ),
        (
            "max_new_tokens=16777216",
            "a response may have 16777216, but the model's context holds 4096",
        ),
        (
            "sampling.temperature=0",
            "`sampling.temperature` is 0, but must be above 0 for training",
        ),
        (
            "devices=Each([Cpu])",
            "`devices` lists 1 device, but must list 2",
        ),
        (
            "fine_tuning=Lora(rank: 0)",
            "`fine_tuning.rank` is 0, but must be at least 1",
        ),
        (
            "algorithm.sampels=4",
            "there is no key `sampels` in `algorithm`; did you mean `samples`?",
        ),
        (
            "tasks_per_step=4",
            "`tasks_per_step` is 4, but `train` has only 3 tasks",
        ),
        (
            "updates.epochs=2",
            "`updates.epochs` is 2, but must be 1 with `objective: PolicyGradient`",
        ),
        (
            "updates.learning_rates={\"poet\": 1e-5}",
            "`updates.learning_rates` names `poet`, but the agents are called summarizer, elaborator",
        ),
        (
            "algorithm=Magrpo(samples: 300, joint_mode: Cross)",
            "`algorithm.samples` is 300 with `joint_mode: Cross` for 2 roles and 1 turns",
        ),
        (
            "algorithm.objective=Clipped(low: 1.5, high: 0.2)",
            "`algorithm.objective.low` is 1.5, but must be above 0 and below 1",
        ),
        (
            "team=Each([\"model\"])",
            "`team` lists 1 model, but must list 2",
        ),
        (
            "team=Copies(\"nowhere\")",
            "`nowhere` is neither a model that polyphony knows",
        ),
    ];
    for (change, expected) in rows {
        refuse_set(&dir, change, &[expected]);
    }
    dir.refuse(&["train", "recipe.ron", "--steps", "0"], &["`steps` is 0"]);
    dir.refuse(&["train", "recipe.ron", "--steps", "-1"], &["-1"]);
}

#[test]
fn data_sets_that_cannot_be_used() {
    let dir = training_run::test_dir();
    let rows: [(&str, &str, &[&str]); 5] = [
        (
            "empty.jsonl",
            "",
            &["loading `train`", "`empty.jsonl` holds no records"],
        ),
        (
            "other.jsonl",
            "{\"body\": \"a\"}\n{\"text\": \"b\"}\n",
            &[
                "loading `train`",
                "`other.jsonl`, line 2: no field `body`; the record has: text",
            ],
        ),
        (
            "broken.jsonl",
            "{\"body\": \"a\"}\n{\"body\": ",
            &["`broken.jsonl`, line 2, column"],
        ),
        (
            "blank.jsonl",
            "{\"body\": \"a\"}\n{\"body\": \"  \"}\n",
            &["checking `train`", "field `post`", "is blank"],
        ),
        (
            "posts.csv",
            "body\na\n",
            &["`posts.csv`: unknown data set format", ".jsonl"],
        ),
    ];
    for (name, contents, expected) in rows {
        dir.write(name, contents);
        let change = format!("train=File(path: \"{name}\", fields: {{\"post\": \"body\"}})");
        refuse_set(&dir, &change, expected);
    }
    let missing = "held_out=File(path: \"gone.jsonl\", fields: {\"post\": \"body\"})";
    refuse_set(
        &dir,
        missing,
        &["loading `held_out`", "cannot open data set `gone.jsonl`"],
    );
}

/// The model of this recipe cannot be downloaded in a test, so an attempt to download it would give another
/// error.
#[test]
fn cheap_checks_come_before_a_model_is_downloaded() {
    let dir = training_run::test_dir();
    dir.write("taken/notes.txt", "mine");
    let known = "team=Copies(\"smollm2-135m\")";
    let rows: &[(&[&str], &str)] = &[
        (
            &["--run-dir", "taken"],
            "the run directory taken exists already",
        ),
        (
            &["--set", "environment=Arxiv"],
            "task `posts/1` has no field `abstract`; it has: post",
        ),
        (
            &["--set", "team=Each([\"smollm2-135m\", \"nowhere\"])"],
            "`nowhere` is neither a model that polyphony knows",
        ),
    ];
    for (more, expected) in rows {
        let train = ["train", "recipe.ron", "--set", known];
        dir.refuse(&[&train, *more].concat(), &[expected]);
    }
    let result = dir.run(&["train", "recipe.ron", "--set", known]);
    let expected = "the model `smollm2-135m` could not be obtained";
    assert!(result.stderr.contains(expected), "{}", result.stderr);
}

#[test]
fn prompts_that_do_not_fit() {
    let dir = training_run::test_dir();
    polyphony_test_support::chat_model(&dir.path("model"), 128);
    let expected = [
        "the prompt of agent `summarizer` has",
        "context holds 128",
        "long_prompts: Skip",
    ];
    dir.refuse(&["train", "recipe.ron", "--run-dir", "run"], &expected);
    let expected = "`train`: none of 3 tasks fits into the context";
    refuse_set(&dir, "long_prompts=Skip", &[expected]);

    let ids = vec!["7"; 120].join(", ");
    dir.write("ids.jsonl", format!("{{\"ids\": [{ids}]}}\n"));
    let model = fixture("tiny-llama");
    let generate = [
        "generate",
        "--model",
        text(&model),
        "--input",
        "ids.jsonl",
        "--max-new-tokens",
        "9",
    ];
    let expected = [
        "ids.jsonl, line 1",
        "the prompt has 120 tokens and a response may have 9",
        "holds 128",
    ];
    dir.refuse(&generate, &expected);
    dir.write("ids.jsonl", format!("{{\"ids\": [{ids}, {ids}]}}\n"));
    let logprobs = ["logprobs", "--model", text(&model), "--input", "ids.jsonl"];
    dir.refuse(&logprobs, &["ids.jsonl, line 1", "240", "128"]);
}

#[test]
fn inputs_of_the_scoring_commands() {
    let dir = TestDir::new();
    dir.refuse(
        &["score", "--env", "tldr", "--input", "gone.jsonl"],
        &["opening gone.jsonl"],
    );
    dir.refuse(
        &["score", "--env", "chess", "--input", "in.jsonl"],
        &["no environment `chess`", "Tldr, Arxiv"],
    );
    dir.write("one.jsonl", "{\"responses\": [\"a\"]}\n");
    let expected = [
        "one.jsonl, line 1",
        "`responses` holds 1 texts, but must hold 2",
    ];
    dir.refuse(
        &["score", "--env", "tldr", "--input", "one.jsonl"],
        &expected,
    );
    dir.write("bad.jsonl", "{\"responses\": [\"a\", \n");
    dir.refuse(
        &["score", "--env", "tldr", "--input", "bad.jsonl"],
        &["bad.jsonl, line 1", "column 20"],
    );
    let model = fixture("tiny-llama");
    dir.write("ids.jsonl", "{\"ids\": [300]}\n");
    let logprobs = ["logprobs", "--model", text(&model), "--input", "ids.jsonl"];
    dir.refuse(
        &logprobs,
        &[
            "ids.jsonl, line 1",
            "token id 300 is outside the vocabulary of 256",
        ],
    );
}

/// On the device `/dev/full`, every write fails for lack of space.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_standard_output() {
    let dir = TestDir::new();
    dir.write("in.jsonl", "{\"responses\": [\"a\", \"b\"]}\n");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = dir.command(&["score", "--env", "tldr", "--input", "in.jsonl"]);
    let output = command.stdout(full).output().unwrap();
    let result = CommandResult::from(output);
    assert!(!result.succeeded);
    assert!(
        result.stderr.contains("No space left on device"),
        "{}",
        result.stderr
    );
}

/// A limit on the size of files simulates a disk that is full when the agents are saved.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_while_agents_are_saved() {
    let dir = training_run::test_dir();
    let train = dir.command(&["train", "recipe.ron", "--steps", "1", "--run-dir", "run"]);
    let mut limited = std::process::Command::new("/bin/sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\""])
        .arg(train.get_program())
        .args(train.get_args())
        .envs(
            train
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(train.get_current_dir().unwrap());
    let result = CommandResult::from(limited.output().unwrap());
    assert!(!result.succeeded);
    for part in [
        "cannot write",
        "agents/summarizer",
        "no partial file was left behind",
    ] {
        assert!(
            result.stderr.contains(part),
            "{}\nlacks: {part}",
            result.stderr
        );
    }
    let remaining: Vec<_> = dir
        .files()
        .into_iter()
        .filter(|path| path.starts_with("run/agents/"))
        .collect();
    assert!(
        remaining.iter().all(|path| path.ends_with("agents")),
        "{remaining:?}"
    );
    let metrics: Vec<Value> = dir.read_lines("run/metrics.jsonl");
    assert_eq!(metrics.len(), 1, "the earlier records are intact");
}
