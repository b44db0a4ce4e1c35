//! Programs as environments: the example's recipe trains, and a game with a reward per role does.

use std::path::Path;

use polyphony_test_support::chat_model;
use serde_json::Value;

use crate::{
    command::{Place, python, text},
    training_run::check_documented,
};

/// Two agents, each with a reward of its own for the same answer, and as many turns as the argument says.
const OWN_REWARDS: &str = r#"
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

fn place() -> Place {
    let place = Place::new();
    chat_model(&place.path("model"), 4096);
    place
}

#[test]
fn the_recipe_of_the_example_trains() {
    let place = place();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/process");
    let program = examples.join("number_plate.py");
    let command = format!(
        "environment.command={:?}",
        [python().as_str(), text(&program)]
    );
    place.succeed(&[
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
    let metrics = place.read_lines("run/metrics.jsonl");
    assert_eq!(metrics.len(), 3);
    assert!(
        metrics
            .iter()
            .all(|line| line["reward/balance"].is_number())
    );
    let checked = ["environment", "check", "--command"];
    let command = serde_json::to_string(&[python().as_str(), text(&program)]).unwrap();
    let report = place.succeed(&[&checked[..], &[&command]].concat());
    assert!(report.ends_with("Nothing is wrong.\n"), "{report}");
}

/// Trains in the game of this many turns, with this algorithm.
fn train_with_own_rewards(place: &Place, turns: usize, algorithm: &str) {
    place.write("game.py", OWN_REWARDS);
    let environment = format!(
        "Process(command: [{:?}, \"game.py\", \"{turns}\"])",
        python()
    );
    place.write(
        "game.ron",
        format!(
            "(environment: {environment}, team: Copies(\"model\"), max_new_tokens: 8, steps: 3, \
             algorithm: {algorithm}, updates: (learning_rate: 1e-3), evaluation: (tasks: 1))"
        ),
    );
    place.succeed(&["train", "game.ron", "--run-dir", "run"]);
}

#[test]
fn each_role_learns_from_a_reward_of_its_own() {
    let place = place();
    train_with_own_rewards(&place, 1, "Magrpo(samples: 4)");
    for line in place.read_lines("run/metrics.jsonl") {
        let of = |name: &str| line[name].as_f64().unwrap();
        assert!(
            of("long/return") > 0.0 && of("short/return") < 0.0,
            "{line}"
        );
        assert_eq!(of("long/reward/length"), of("long/return"));
        let mean = (of("long/return") + of("short/return")) / 2.0;
        assert!((of("return") - mean).abs() < 1e-9, "{line}");
        assert_eq!(of("long/gradient_steps"), 1.0);
    }
    let evaluations = place.read_lines("run/evaluations.jsonl");
    let own = |evaluation: &Value| evaluation["roles"]["long"]["return"]["mean"].as_f64();
    assert!(evaluations.iter().all(|line| own(line) > Some(0.0)));
    place.succeed(&["report", "run", "-o", "page.html"]);
    assert!(place.read("page.html").contains("Return of each role"));
}

#[test]
fn all_figures_of_own_rewards_and_critics_over_turns_are_documented() {
    let place = place();
    train_with_own_rewards(&place, 2, "IndependentActorCritic()");
    let explained = check_documented(&place, "run");
    for name in [
        "<role>/turn_<turn>/return",
        "<role>/turn_<turn>/reward/<part>",
        "<role>/value_loss",
    ] {
        assert!(explained.contains_key(name), "{name}");
    }
    let action = &place.read_lines("run/rollouts.jsonl")[0]["joint_actions"][0];
    assert!(action["per_role"].is_array(), "{action}");
}

/// A game that fails in the third step of a training, until there is a file `mended`.
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

/// The game with a recipe, as if it had been called this often in training.
fn failing_game(calls: usize) -> Place {
    let place = place();
    place.write("game.py", FAILS_LATER);
    place.write("calls", "x".repeat(calls));
    place.write(
        "game.ron",
        format!(
            "(environment: Process(command: [{:?}, \"game.py\"], workers: 1), \
             team: Copies(\"model\"), max_new_tokens: 8, steps: 4, algorithm: Magrpo(samples: 2), \
             updates: (learning_rate: 1e-3), evaluation: (tasks: 1), checkpoints: (every: 20))",
            python()
        ),
    );
    place
}

/// Trains in the directory `run` until the game fails.
#[track_caller]
fn fail(place: &Place, expected: &[&str]) {
    let ended = place.run(&["train", "game.ron", "--run-dir", "run"]);
    assert!(!ended.succeeded);
    for part in expected {
        assert!(
            ended.stderr.contains(part),
            "{}\nlacks: {part}",
            ended.stderr
        );
    }
    let hint = "resume run` continues it\n";
    assert!(ended.stderr.ends_with(hint), "{}", ended.stderr);
}

#[test]
fn a_run_that_fails_in_its_first_step_saves_no_agents() {
    let place = failing_game(4);
    fail(&place, &["out of order", "because: step 1"]);
    assert!(!place.path("run/agents").exists());
    place.write("mended", "");
    place.succeed(&["resume", "run"]);
    assert_eq!(place.read_lines("run/metrics.jsonl").len(), 4);
    assert!(place.path("run/agents/solver").is_dir());
}

#[test]
fn a_step_that_fails_before_it_learns_leaves_a_checkpoint_of_the_steps_before_it() {
    let place = failing_game(0);
    fail(
        &place,
        &[
            "out of order",
            "the checkpoint after step 2 keeps what was learned",
            "saving the agents in run/agents",
            "the run in run did not finish",
        ],
    );
    assert!(place.path("run/checkpoints/step-000002").is_dir());
    place.refuse(
        &["resume", "run", "--set", "algorithm.samples=3"],
        &[
            "`algorithm.samples` is 2 in this run",
            "may change `steps`",
            "`environment.step_secs`",
        ],
    );
    place.refuse(
        &["resume", "run", "--set", "environment.settings.bonus=3"],
        &["`environment.settings` is {} in this run"],
    );
    place.write("mended", "");
    place.succeed(&["resume", "run", "--set", "environment.step_secs=50"]);
    assert_eq!(place.read_lines("run/metrics.jsonl").len(), 4);
    assert!(place.read("run/recipe.ron").contains("step_secs: 50"));
    assert_eq!(
        place.read("calls").len(),
        9,
        "two calls of each step, and the one that failed"
    );
}

#[test]
fn a_program_that_cannot_start_is_named() {
    let place = place();
    let recipe = "(environment: Process(command: [\"no-such-program\"]), team: Copies(\"model\"), \
                  max_new_tokens: 8, steps: 1)";
    place.write("game.ron", recipe);
    let train = ["train", "game.ron", "--run-dir", "run"];
    place.refuse(&train, &["no-such-program"]);
    assert!(!place.path("run").exists());
}
