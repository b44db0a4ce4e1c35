//! External programs as environments: the recipe of the example trains, and so does a program with a reward
//! per role.

use std::{fs, path::Path};

use polyphony_test_support::chat_model;
use serde_json::Value;

use crate::{
    command::{TestDir, python, text},
    training_run::check_documented,
};

/// An environment program for two agents with separate rewards: one for long answers, the other for short
/// ones. The argument is the number of turns.
const REWARD_PER_ROLE: &str = r#"
import json, sys
horizon = int(sys.argv[1])
tell = ["Answer at length.", "Answer in a word."]
for line in sys.stdin:
    call = json.loads(line)
    if call["call"] == "hello":
        tasks = [{"id": "one", "fields": {}}]
        answer = {"protocol": 1, "roles": [{"name": "long"}, {"name": "short"}],
                  "reward_parts": ["length"], "horizon": horizon, "per_role": True,
                  "tasks": {"train": tasks, "held_out": tasks}}
    elif call["call"] == "start":
        answer = {"observations": tell}
    else:
        long, short = [len(set(response["text"])) for response in call["responses"]]
        is_last = len(call["past"]) + 1 == horizon
        answer = {"reward": [{"length": long}, {"length": -short}],
                  **({"end": True} if is_last else {"observations": tell})}
    print(json.dumps({"id": call["id"], **answer}), flush=True)
"#;

fn test_dir() -> TestDir {
    let dir = TestDir::new();
    chat_model(&dir.path("model"), 4096);
    dir
}

#[test]
fn the_recipe_of_the_example_trains() {
    let dir = test_dir();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/process");
    let program = examples.join("number_plate.py");
    let command = format!(
        "environment.command={:?}",
        [python().as_str(), text(&program)]
    );
    dir.succeed(&[
        "train",
        text(&examples.join("number_plate.ron")),
        "--steps",
        "3",
        "--run-dir",
        "run",
        "--set",
        &command,
        "--set",
        "team=Copies(\"model\")",
    ]);
    let metrics = dir.read_lines("run/metrics.jsonl");
    assert_eq!(metrics.len(), 3);
    assert!(
        metrics
            .iter()
            .all(|line| line["reward/balance"].is_number())
    );
    let check = ["environment", "check", "--command"];
    let command = serde_json::to_string(&[python().as_str(), text(&program)]).unwrap();
    let report = dir.succeed(&[&check[..], &[&command]].concat());
    assert!(report.ends_with("Nothing is wrong.\n"), "{report}");
}

/// The only block of code in this language on a page of Markdown.
fn code_block<'p>(page: &'p str, language: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    let (block, rest) = rest.split_once("```\n").unwrap();
    assert!(!rest.contains(&format!("```{language}\n")));
    block
}

#[test]
fn the_environment_of_the_tutorial_trains() {
    let dir = test_dir();
    let tutorial = "../../docs/tutorials/own-environment.md";
    let tutorial = Path::new(env!("CARGO_MANIFEST_DIR")).join(tutorial);
    let page = fs::read_to_string(tutorial).unwrap();
    dir.write("plates.py", code_block(&page, "python"));
    let recipe = code_block(&page, "ron");
    dir.write(
        "plates.ron",
        recipe.replace("\"python3\"", &format!("{:?}", python())),
    );
    let command = serde_json::to_string(&[python().as_str(), "plates.py"]).unwrap();
    let report = dir.succeed(&["environment", "check", "--command", &command]);
    assert!(report.ends_with("Nothing is wrong.\n"), "{report}");
    let team = "team=Copies(\"model\")";
    dir.succeed(&[
        "train",
        "plates.ron",
        "--steps",
        "2",
        "--run-dir",
        "run",
        "--set",
        team,
    ]);
    let metrics = dir.read_lines("run/metrics.jsonl");
    assert_eq!(metrics.len(), 2);
    for line in metrics {
        assert!(line["reward/letters"].is_number() && line["reward/digits"].is_number());
        assert_eq!(line["digits/gradient_steps"], 1);
    }
}

/// Trains with a reward per role over this many turns, with this algorithm.
fn train_with_reward_per_role(dir: &TestDir, turns: usize, algorithm: &str) {
    dir.write("game.py", REWARD_PER_ROLE);
    let environment = format!(
        "Process(command: [{:?}, \"game.py\", \"{turns}\"])",
        python()
    );
    dir.write(
        "game.ron",
        format!(
            "(environment: {environment}, team: Copies(\"model\"), max_new_tokens: 8, steps: 3, \
             algorithm: {algorithm}, updates: (learning_rate: 1e-3), evaluation: (tasks: 1))"
        ),
    );
    dir.succeed(&["train", "game.ron", "--run-dir", "run"]);
}

#[test]
fn each_role_learns_from_its_reward() {
    let dir = test_dir();
    train_with_reward_per_role(&dir, 1, "Magrpo(samples: 4)");
    for line in dir.read_lines("run/metrics.jsonl") {
        let metric = |name: &str| line[name].as_f64().unwrap();
        assert!(
            metric("long/return") > 0.0 && metric("short/return") < 0.0,
            "{line}"
        );
        assert_eq!(metric("long/reward/length"), metric("long/return"));
        let mean = (metric("long/return") + metric("short/return")) / 2.0;
        assert!((metric("return") - mean).abs() < 1e-9, "{line}");
        assert_eq!(metric("long/gradient_steps"), 1.0);
    }
    let evaluations = dir.read_lines("run/evaluations.jsonl");
    let long_return = |evaluation: &Value| evaluation["roles"]["long"]["return"]["mean"].as_f64();
    assert!(evaluations.iter().all(|line| long_return(line) > Some(0.0)));
    dir.succeed(&["report", "run", "-o", "page.html"]);
    assert!(dir.read("page.html").contains("Return of each role"));
}

#[test]
fn all_metrics_of_rewards_per_role_and_critics_over_turns_are_documented() {
    let dir = test_dir();
    train_with_reward_per_role(&dir, 2, "IndependentActorCritic()");
    let explained = check_documented(&dir, "run");
    for name in [
        "<role>/turn_<turn>/return",
        "<role>/turn_<turn>/reward/<part>",
        "<role>/value_loss",
    ] {
        assert!(explained.contains_key(name), "{name}");
    }
    let action = &dir.read_lines("run/rollouts.jsonl")[0]["joint_actions"][0];
    assert!(action["per_role"].is_array(), "{action}");
}

/// An environment program that fails from the fifth call of training on, until there is a file `mended`.
const FAILS_LATER: &str = r#"
import json, os, sys
for line in sys.stdin:
    call = json.loads(line)
    if call["call"] == "hello":
        answer = {"protocol": 1, "roles": [{"name": "solver"}], "reward_parts": ["length"],
                  "tasks": {"train": [{"id": "one", "fields": {}}],
                            "held_out": [{"id": "two", "fields": {}}]}}
    elif call["call"] == "start":
        answer = {"observations": ["Answer."]}
    else:
        if call["task"]["id"] == "one":
            with open("calls", "a") as calls:
                calls.write("x")
        if os.path.getsize("calls") > 4 and not os.path.exists("mended"):
            answer = {"error": "out of order"}
        else:
            answer = {"reward": {"length": len(set(call["responses"][0]["text"]))}, "end": True}
    print(json.dumps({"id": call["id"], **answer}), flush=True)
"#;

/// A directory with the failing program and a recipe. The program starts as if training had already called it
/// `calls` times.
fn failing_environment(calls: usize) -> TestDir {
    let dir = test_dir();
    dir.write("game.py", FAILS_LATER);
    dir.write("calls", "x".repeat(calls));
    dir.write(
        "game.ron",
        format!(
            "(environment: Process(command: [{:?}, \"game.py\"], workers: 1), \
             team: Copies(\"model\"), max_new_tokens: 8, steps: 4, algorithm: Magrpo(samples: 2), \
             updates: (learning_rate: 1e-3), evaluation: (tasks: 1), checkpoints: (every: 20))",
            python()
        ),
    );
    dir
}

/// Trains in the directory `run` until the program fails.
#[track_caller]
fn fail(dir: &TestDir, expected: &[&str]) {
    let result = dir.run(&["train", "game.ron", "--run-dir", "run"]);
    assert!(!result.succeeded);
    for part in expected {
        assert!(
            result.stderr.contains(part),
            "{}\nlacks: {part}",
            result.stderr
        );
    }
    let hint = "resume run` continues it\n";
    assert!(result.stderr.ends_with(hint), "{}", result.stderr);
}

#[test]
fn a_run_that_fails_in_its_first_step_saves_no_agents() {
    let dir = failing_environment(4);
    fail(&dir, &["out of order", "because: step 1"]);
    assert!(!dir.path("run/agents").exists());
    dir.write("mended", "");
    dir.succeed(&["resume", "run"]);
    assert_eq!(dir.read_lines("run/metrics.jsonl").len(), 4);
    assert!(dir.path("run/agents/solver").is_dir());
}

#[test]
fn a_step_that_fails_before_it_learns_leaves_a_checkpoint_of_the_steps_before_it() {
    let dir = failing_environment(0);
    fail(
        &dir,
        &[
            "out of order",
            "the checkpoint after step 2 keeps what was learned",
            "saving the agents in run/agents",
            "the run in run did not finish",
        ],
    );
    assert!(dir.path("run/checkpoints/step-000002").is_dir());
    dir.refuse(
        &["resume", "run", "--set", "algorithm.samples=3"],
        &[
            "`algorithm.samples` is 2 in this run",
            "may change `steps`",
            "`environment.step_secs`",
        ],
    );
    dir.refuse(
        &["resume", "run", "--set", "environment.settings.bonus=3"],
        &["`environment.settings` is {} in this run"],
    );
    dir.write("mended", "");
    dir.succeed(&["resume", "run", "--set", "environment.step_secs=50"]);
    assert_eq!(dir.read_lines("run/metrics.jsonl").len(), 4);
    assert!(dir.read("run/recipe.ron").contains("step_secs: 50"));
    assert_eq!(
        dir.read("calls").len(),
        9,
        "two calls per step, and the call that failed"
    );
}

#[test]
fn a_program_that_cannot_start_is_named() {
    let dir = test_dir();
    let recipe = "(environment: Process(command: [\"no-such-program\"]), team: Copies(\"model\"), \
                  max_new_tokens: 8, steps: 1)";
    dir.write("game.ron", recipe);
    let train = ["train", "game.ron", "--run-dir", "run"];
    dir.refuse(&train, &["no-such-program"]);
    assert!(!dir.path("run").exists());
}
