//! `polyphony train` from a recipe file to a run directory, on tiny models.

use std::{collections::BTreeSet, fs};

use polyphony::{Program, Recipe};
use polyphony_model::sequence_logprobs;
use polyphony_test_support::{chat_model, load, weight_bits};
use serde_json::{Map, Value, json};

use crate::command::{TestDir, json_lines, text};

/// The parts of the writing reward.
const PARTS: [&str; 5] = [
    "structure",
    "length",
    "vocabulary",
    "transitions",
    "overlap",
];
const ROLES: [&str; 2] = ["summarizer", "elaborator"];

/// A recipe of a few steps on a few posts.
const RECIPE: &str = r#"(
    seed: 7,
    environment: Tldr,
    train: File(path: "posts.jsonl", fields: {"post": "body"}),
    held_out: Embedded(TldrHeldOut),
    team: Each(["model", "model"]),
    max_new_tokens: 48,
    algorithm: Magrpo(samples: 4),
    updates: (learning_rate: 1e-3, buffer: 2, minibatch: 2),
    steps: 2,
    tasks_per_step: 2,
    evaluation: (tasks: 2, samples: 2),
)"#;

/// A directory with a model, posts, and the recipe as `recipe.ron`.
pub(crate) fn test_dir() -> TestDir {
    test_dir_with(RECIPE)
}

/// [`test_dir`] with another recipe.
pub(crate) fn test_dir_with(recipe: &str) -> TestDir {
    let dir = TestDir::new();
    chat_model(&dir.path("model"), 4096);
    let posts = ["my cat sat", "i lost the letter", "he ran"].map(|body| json!({"body": body}));
    dir.write(
        "posts.jsonl",
        posts.map(|post| post.to_string() + "\n").concat(),
    );
    dir.write("recipe.ron", recipe);
    dir
}

fn train(dir: &TestDir, run: &str, more: &[&str]) {
    dir.succeed(&[&["train", "recipe.ron", "--run-dir", run], more].concat());
}

/// The metrics of a line without `timing`, and the value of `timing`.
fn split_timing(line: &Value) -> (Map<String, Value>, Value) {
    let mut object = line.as_object().unwrap().clone();
    let timing = object
        .shift_remove("timing")
        .expect("every line has `timing`");
    (object, timing)
}

/// The lines of a file without their `timing`.
pub(crate) fn untimed(dir: &TestDir, file: &str) -> Vec<String> {
    let lines = dir.read_lines(file);
    let untimed = lines
        .iter()
        .map(|line| Value::Object(split_timing(line).0).to_string());
    untimed.collect()
}

#[test]
fn a_run_leaves_recipe_metrics_rollouts_evaluations_and_agents() {
    let dir = test_dir();
    train(&dir, "run", &["--steps", "3", "--set", "seed=9"]);

    let program = Program::standard();
    let recipe = Recipe::from_ron(program.registry(), &dir.read("run/recipe.ron")).unwrap();
    assert_eq!(
        (recipe.steps, recipe.seed, recipe.max_new_tokens),
        (3, 9, 48)
    );

    check_metrics(&dir.read_lines("run/metrics.jsonl"));
    let explained = check_documented(&dir, "run");
    check_explanations(&explained);
    check_rollouts(&dir);

    let evaluations = dir.read_lines("run/evaluations.jsonl");
    assert_eq!(evaluations.len(), 2);
    for (evaluation, step) in evaluations.iter().zip([0, 3]) {
        assert_eq!(evaluation["step"], step);
        assert_eq!(evaluation["tasks"], 2);
        let value = &evaluation["return"];
        assert!(value["mean"].is_number() && value["interval"][1].is_number());
        let turns = &evaluation["episodes"][0]["turns"];
        assert_eq!(turns[0].as_array().unwrap().len(), 2);
        let parts: Vec<&String> = evaluation["parts"].as_object().unwrap().keys().collect();
        assert_eq!(parts, PARTS);
    }
}

/// The metrics of every step in an environment with one turn and without programs, as patterns of
/// `docs/metrics.md`.
const METRICS: [&str; 21] = [
    "step",
    "return",
    "reward/<part>",
    "completion_tokens",
    "skipped_tasks",
    "cut_episodes",
    "<role>/advantage_std",
    "<role>/zero_advantage_fraction",
    "<role>/entropy",
    "<role>/completion_length",
    "<role>/truncated_fraction",
    "<role>/gradient_steps",
    "<role>/grad_norm",
    "<role>/learning_rate",
    "<role>/skipped_groups",
    "<role>/skipped_updates",
    "<role>/logprob_gap",
    "<role>/ratio",
    "<role>/approx_kl",
    "<role>/clip_fraction",
    "<role>/kl",
];

/// The metrics that depend on clocks and memory, in the object `timing`.
const TIMING: [&str; 6] = [
    "step_secs",
    "rollout_secs",
    "reward_secs",
    "update_secs",
    "tokens_per_sec",
    "peak_memory_mib",
];

fn check_metrics(lines: &[Value]) {
    let mut expected = Vec::new();
    for name in METRICS {
        let replacements: &[&str] = match name {
            name if name.contains("<part>") => &PARTS,
            name if name.contains("<role>") => &ROLES,
            _ => &[""],
        };
        let concrete = |word: &&str| name.replace("<part>", word).replace("<role>", word);
        expected.extend(replacements.iter().map(concrete));
    }
    expected.sort();
    assert_eq!(lines.len(), 3);
    for (number, line) in (1..).zip(lines) {
        let (object, timing) = split_timing(line);
        let first: Vec<&String> = object.keys().take(7).collect();
        let parts = PARTS.map(|part| format!("reward/{part}"));
        assert_eq!(first[..2], ["step", "return"]);
        assert_eq!(first[2..], parts.iter().collect::<Vec<_>>());
        assert_eq!(object["step"], number);
        let sum: f64 = parts
            .iter()
            .map(|part| object[part].as_f64().unwrap())
            .sum();
        assert!(
            (object["return"].as_f64().unwrap() - sum).abs() < 1e-9,
            "{line}"
        );
        let mut keys: Vec<String> = object.keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, expected);
        let mut timed: Vec<&String> = timing.as_object().unwrap().keys().collect();
        timed.sort();
        let mut expected = TIMING;
        expected.sort_unstable();
        assert_eq!(timed, expected);
    }
}

/// Checks that all metrics except the step's number are explained, and nothing else.
fn check_explanations(explained: &Map<String, Value>) {
    let mut names: Vec<&String> = explained.keys().collect();
    names.sort();
    let patterns = METRICS.iter().filter(|name| **name != "step");
    let mut expected: Vec<String> = patterns.map(ToString::to_string).collect();
    expected.extend(TIMING.map(|name| format!("timing.{name}")));
    expected.sort();
    assert_eq!(names, expected.iter().collect::<Vec<_>>());
    for (name, explanation) in explained {
        let meaning = explanation["meaning"].as_str().unwrap();
        assert!(!meaning.is_empty(), "{name}");
    }
}

/// Checks that `docs/metrics.md` has every metric that a run explains, with the same unit, and every key of
/// its rollouts. Returns the explanations of the run.
pub(crate) fn check_documented(dir: &TestDir, run: &str) -> Map<String, Value> {
    let text = dir.read(&format!("{run}/metrics.json"));
    let explained: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let documentation = include_str!("../docs/metrics.md");
    for (name, explanation) in &explained {
        let begin = format!("| `{name}` |");
        let row = documentation.lines().find(|row| row.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("docs/metrics.md lacks `{name}`"));
        let unit = match explanation["unit"].as_str().unwrap() {
            "" => "–",
            unit => unit,
        };
        assert!(row.ends_with(&format!("| {unit} |")), "{unit}: {row}");
    }
    let mut rows = documentation.lines();
    let rollouts = rows.find(|row| row.starts_with("`rollouts.jsonl` has one object per node"));
    for key in rollout_keys(&dir.read_lines(&format!("{run}/rollouts.jsonl"))) {
        let is_there = rollouts.unwrap().contains(&format!("`{key}`"));
        assert!(is_there, "docs/metrics.md lacks `{key}` of rollouts.jsonl");
    }
    explained
}

/// The keys of nodes, and of the agents, responses and joint actions in them.
fn rollout_keys(nodes: &[Value]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for object in nodes.iter().filter_map(Value::as_object) {
        keys.extend(object.keys().cloned());
        for inner in ["agents", "responses", "joint_actions"] {
            let objects = object.get(inner).and_then(Value::as_array);
            keys.extend(objects.map_or_else(BTreeSet::new, |objects| rollout_keys(objects)));
        }
    }
    keys
}

/// Checks that scoring the rollouts again, by the environment and by the model, gives the recorded values.
fn check_rollouts(dir: &TestDir) {
    let nodes = dir.read_lines("run/rollouts.jsonl");
    assert_eq!(nodes.len(), 6, "3 steps of 2 tasks");
    let (mut pairs, mut scores) = (String::new(), Vec::new());
    for node in &nodes {
        let actions = node["joint_actions"].as_array().unwrap();
        assert_eq!(actions.len(), 4);
        for action in actions {
            let response = |agent: usize| {
                let pick = action["picks"][agent].as_u64().unwrap() as usize;
                node["agents"][agent]["responses"][pick]["text"].clone()
            };
            pairs += &(json!({"responses": [response(0), response(1)]}).to_string() + "\n");
            scores.push(json!({"reward": action["reward"], "parts": action["parts"]}));
        }
    }
    dir.write("pairs.jsonl", pairs);
    let again = dir.succeed(&["score", "--env", "tldr", "--input", "pairs.jsonl"]);
    assert_eq!(json_lines(&again), scores);
    assert!(
        scores
            .iter()
            .any(|score| score["reward"].as_f64() > Some(0.0)),
        "all rewards are 0"
    );

    // In the first step, the agents were still equal to the model from which they started.
    let model = load(&dir.path("model"));
    for agent in nodes[0]["agents"].as_array().unwrap() {
        let ids = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
        let prompt = ids(&agent["prompt_tokens"]);
        let response = &agent["responses"][1];
        let all = [prompt.clone(), ids(&response["tokens"])].concat();
        let scored = sequence_logprobs(&model, &all).unwrap();
        let recorded: Vec<f32> = serde_json::from_value(response["logprobs"].clone()).unwrap();
        for (recorded, scored) in recorded.iter().zip(&scored[prompt.len() - 1..]) {
            assert!(
                (recorded - scored).abs() < 1e-3,
                "{recorded} is not {scored}"
            );
        }
    }
}

#[test]
fn a_seed_determines_everything_but_timing() {
    let dir = test_dir();
    for (run, seed) in [
        ("first", "seed=7"),
        ("again", "seed=7"),
        ("other", "seed=8"),
    ] {
        train(&dir, run, &["--set", seed]);
    }
    for file in ["metrics.jsonl", "evaluations.jsonl"] {
        let lines = |run| untimed(&dir, &format!("{run}/{file}"));
        assert_eq!(lines("first"), lines("again"), "{file}");
        assert_ne!(lines("first"), lines("other"), "{file}");
    }
    let weights = |role: &str| format!("agents/{role}/model.safetensors");
    let files = ["rollouts.jsonl".to_owned()];
    for file in files.into_iter().chain(ROLES.map(weights)) {
        let bytes = |run: &str| fs::read(dir.path(run).join(&file)).unwrap();
        assert!(bytes("first") == bytes("again"), "{file} differs");
        assert!(
            file.contains("agents/") || bytes("first") != bytes("other"),
            "{file} is the same"
        );
    }
}

#[test]
fn saved_agents_can_be_opened_asked_and_trained_again() {
    let dir = test_dir();
    train(&dir, "run", &["--steps", "1"]);
    let ids = [1, 70, 80, 90];
    dir.write("ids.jsonl", json!({"ids": ids}).to_string());
    let mut weights = vec![weight_bits(&load(&dir.path("model")))];
    for role in ROLES {
        let path = dir.path("run/agents").join(role);
        let model = load(&path);
        let printed = dir.succeed(&["logprobs", "--model", text(&path), "--input", "ids.jsonl"]);
        let logprobs: Vec<f32> =
            serde_json::from_value(json_lines(&printed)[0]["logprobs"].clone()).unwrap();
        assert_eq!(logprobs, sequence_logprobs(&model, &ids).unwrap());
        let arguments = ["--prompt", "the cat", "--max-new-tokens", "4"];
        dir.succeed(&[&["generate", "--model", text(&path)], &arguments[..]].concat());
        assert!(
            !weights.contains(&weight_bits(&model)),
            "{role} did not learn by itself"
        );
        weights.push(weight_bits(&model));
    }
    let team = r#"team=Each(["run/agents/summarizer", "run/agents/elaborator"])"#;
    train(&dir, "on", &["--steps", "1", "--set", team]);
}

#[test]
fn an_existing_run_directory_is_left_alone() {
    let dir = test_dir();
    dir.write("run/precious.txt", "mine");
    let arguments = ["train", "recipe.ron", "--run-dir", "run"];
    let expected = [
        "the run directory run exists already",
        "give another one, or remove it",
    ];
    dir.refuse(&arguments, &expected);
}

#[test]
fn without_a_name_runs_are_numbered() {
    let dir = test_dir();
    for _ in 0..2 {
        dir.succeed(&["train", "recipe.ron", "--steps", "1"]);
    }
    for run in ["runs/tldr-1", "runs/tldr-2"] {
        assert_eq!(dir.read_lines(&format!("{run}/metrics.jsonl")).len(), 1);
    }
}
