//! Which evaluations make one row, what it is called, and which are refused.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::fixture;

/// A run of a recipe with these settings changed. Each of `evaluations` is a step with the returns after it.
fn run(
    name: &str,
    recipe: &str,
    changes: &[&str],
    evaluations: &[(Option<usize>, [f64; 2])],
) -> Run {
    let evaluation = |(step, values): &(Option<usize>, [f64; 2])| {
        let texts = values.map(|value| format!("{name} {value}"));
        let episodes: Vec<(f64, &str)> = values
            .iter()
            .zip(&texts)
            .map(|(value, text)| (*value, text.as_str()))
            .collect();
        EvaluationRecord {
            step: *step,
            ..fixture::evaluation(&episodes)
        }
    };
    let steps = evaluations
        .iter()
        .filter_map(|(step, _)| *step)
        .max()
        .unwrap_or(0);
    let line = |step: usize| json!({"step": step}).as_object().unwrap().clone();
    Run {
        metrics: (1..=steps).map(line).collect(),
        evaluations: evaluations.iter().map(evaluation).collect(),
        ..fixture::run(name, recipe, changes)
    }
}

/// A saved evaluation of a trained run.
fn saved(name: &str, training: &Run, changes: &[&str], step: usize, values: [f64; 2]) -> Run {
    let team = r#"team=Each(["runs/x/agents/a", "runs/x/agents/b"])"#;
    let evaluation = run(
        name,
        fixture::TLDR,
        &[&[team], changes].concat(),
        &[(Some(step), values)],
    );
    Run {
        training: Some(training.settings.clone()),
        info: RunInfo {
            training: Some(Box::new(training.info.clone())),
            ..evaluation.info
        },
        metrics: Vec::new(),
        ..evaluation
    }
}

/// The environment, method, steps, seeds and mean return of a row.
type Short<'a> = (&'a str, &'a str, Option<usize>, &'a [u64], f64);

/// Checks the rows.
#[track_caller]
fn check(runs: &[Run], expected: &[Short<'_>]) {
    let rows = compare(runs).unwrap();
    let short: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.environment.as_str(),
                row.method.as_str(),
                row.step,
                row.seeds.as_slice(),
                row.mean_return.mean,
            )
        })
        .collect();
    assert_eq!(short, expected);
}

const TLDR: &str = "tldr, TldrHeldOut";

#[test]
fn seeds_are_one_row_and_methods_and_tasks_are_not() {
    let team = |seed: &str, values| {
        run(
            "team",
            fixture::TLDR,
            &[seed],
            &[(Some(0), [1.0, 1.0]), (Some(40), values)],
        )
    };
    let single = run(
        "single",
        fixture::TLDR,
        &["environment=SingleAgent(Tldr)"],
        &[(Some(0), [0.5, 0.5]), (Some(40), [1.5, 1.5])],
    );
    let arxiv = run(
        "arxiv",
        fixture::TLDR,
        &[
            "environment=Arxiv",
            "held_out=Embedded(ArxivHeldOut)",
            "algorithm.baseline=Zero",
            "steps=60",
        ],
        &[(Some(60), [2.0, 2.0])],
    );
    check(
        &[
            team("seed=2", [3.0, 3.0]),
            single,
            team("seed=1", [2.0, 3.0]),
            arxiv,
        ],
        &[
            ("arxiv, ArxivHeldOut", "MAREINFORCE", Some(60), &[1], 2.0),
            (TLDR, "parallel", Some(0), &[1, 2], 1.0),
            (TLDR, "single agent", Some(0), &[1], 0.5),
            (TLDR, "MAGRPO", Some(40), &[1, 2], 2.75),
            (TLDR, "GRPO, single agent", Some(40), &[1], 1.5),
        ],
    );
}

#[test]
fn seeds_with_skipped_episodes_are_one_row_that_reports_them() {
    let evaluated = |seed: &str| {
        let mut run = run(seed, fixture::COOP, &[seed], &[(Some(0), [1.0, 2.0])]);
        let evaluation = &mut run.evaluations[0];
        evaluation.samples = 2;
        let second_samples = evaluation.episodes.clone();
        evaluation.episodes.extend(second_samples);
        for episode in &mut evaluation.episodes {
            episode.solved = Some(episode.task == "t0");
        }
        let rates = [1, 2].map(|k| (k, Estimate::of_run(evaluation.pass_by_task(k))));
        evaluation.pass_at = rates.into();
        run
    };
    // The prompt of its second task never fitted, that of the first task fitted once.
    let mut short = evaluated("seed=2");
    let evaluation = &mut short.evaluations[0];
    evaluation.episodes.truncate(1);
    (evaluation.tasks, evaluation.skipped_episodes) = (1, 3);
    evaluation.pass_at.shift_remove(&2);
    let whole = evaluated("seed=1");
    for runs in [[whole.clone(), short.clone()], [short, whole]] {
        let rows = compare(&runs).unwrap();
        let [row] = rows.as_slice() else {
            panic!("{rows:?}");
        };
        assert_eq!(
            (row.seeds.len(), row.tasks, row.skipped_episodes),
            (2, 2, 3)
        );
        assert_eq!(row.mean_return.mean, (1.5 + 1.0) / 2.0);
        // pass@2 is missing: one run has no task with two episodes.
        let rates: Vec<(usize, f64)> = row
            .pass_at
            .iter()
            .map(|(k, rate)| (*k, rate.mean))
            .collect();
        assert_eq!(rates, [(1, (0.5 + 1.0) / 2.0)]);
    }
}

#[test]
fn settings_that_affect_results_separate_rows() {
    let evaluated =
        |name: &str, changes: &[&str]| run(name, fixture::TLDR, changes, &[(Some(0), [1.0, 1.0])]);
    let rows = |changes: &[&str]| {
        compare(&[evaluated("a", &[]), evaluated("b", changes)])
            .unwrap()
            .len()
    };
    for changes in [
        "algorithm.discount=0.9",
        "sampling.temperature=0.5",
        "max_new_tokens=8",
        "evaluation.samples=7",
    ] {
        assert_eq!(rows(&[changes, "seed=2"]), 2, "{changes}");
    }
    // Settings of the training do not matter for an untrained team.
    for changes in [
        "updates.learning_rate=0.001",
        "algorithm.samples=9",
        "steps=3",
        "checkpoints.every=1",
    ] {
        assert_eq!(rows(&[changes, "seed=2"]), 1, "{changes}");
    }
    let turns = run(
        "turns",
        fixture::COOP,
        &["environment.settings.turns=2"],
        &[(Some(0), [1.0, 1.0])],
    );
    check(
        &[turns],
        &[(
            "coding, 2 turns, CoopHeldOut",
            "parallel",
            Some(0),
            &[1],
            1.0,
        )],
    );
}

#[test]
fn a_saved_evaluation_belongs_to_its_teams_training() {
    let trained = |seed: &str| run("run", fixture::TLDR, &[seed], &[(Some(40), [2.0, 2.0])]);
    let (one, two) = (trained("seed=1"), trained("seed=2"));
    // Evaluated with the seed of the training. The path of the agents does not matter.
    check(
        &[one.clone(), saved("k", &two, &["seed=2"], 40, [3.0, 3.0])],
        &[(TLDR, "MAGRPO", Some(40), &[1, 2], 2.5)],
    );
    // Agents that were saved before their first step have learned nothing.
    check(
        &[saved("k", &one, &["seed=1"], 0, [1.0, 1.0])],
        &[(TLDR, "parallel", Some(0), &[1], 1.0)],
    );
    // Their seeds are therefore the seeds of their answers.
    check(
        &[
            saved("k5", &one, &["seed=5"], 0, [1.0, 1.0]),
            saved("k6", &one, &["seed=6"], 0, [2.0, 2.0]),
        ],
        &[(TLDR, "parallel", Some(0), &[5, 6], 1.5)],
    );
    // Two teams that were evaluated with another seed are two seeds of a separate row.
    check(
        &[
            one.clone(),
            saved("k1", &one, &["seed=5"], 40, [1.0, 1.0]),
            saved("k2", &two, &["seed=5"], 40, [2.0, 2.0]),
        ],
        &[
            (TLDR, "MAGRPO", Some(40), &[1], 2.0),
            (TLDR, "MAGRPO (seed: 5)", Some(40), &[1, 2], 1.5),
        ],
    );
}

#[test]
fn rows_with_the_same_label_list_the_settings_that_differ() {
    let trained =
        |changes: &[&str], value| run("run", fixture::TLDR, changes, &[(Some(40), [value, value])]);
    check(
        &[
            trained(&["updates.learning_rate=0.001"], 1.0),
            trained(&["updates.learning_rate=0.002", "max_new_tokens=8"], 2.0),
        ],
        &[
            (
                TLDR,
                "MAGRPO (max_new_tokens: 96, learning_rate: 0.001)",
                Some(40),
                &[1],
                1.0,
            ),
            (
                TLDR,
                "MAGRPO (max_new_tokens: 8, learning_rate: 0.002)",
                Some(40),
                &[1],
                2.0,
            ),
        ],
    );
    // A setting of the environment is listed without the rest of the environment.
    let evaluated = |change: &str, value| {
        run(
            "run",
            fixture::COOP,
            &[change],
            &[(Some(0), [value, value])],
        )
    };
    let environment = "coding, CoopHeldOut";
    check(
        &[
            evaluated("environment.settings.visible_asserts=First(1)", 1.0),
            evaluated("environment.settings.visible_asserts=All", 2.0),
        ],
        &[
            (
                environment,
                "parallel (visible_asserts: First(1))",
                Some(0),
                &[1],
                1.0,
            ),
            (
                environment,
                "parallel (visible_asserts: All)",
                Some(0),
                &[1],
                2.0,
            ),
        ],
    );
    // The training data of untrained teams is not listed.
    let evaluated = |folder: &str, value| {
        let posts = format!(
            r#"held_out=File(path: "{folder}/test.jsonl", fields: {{"post": "post"}}, id: None, limit: None)"#
        );
        run(
            "run",
            fixture::TLDR,
            &[&posts],
            &[(Some(0), [value, value])],
        )
    };
    let method = |folder: &str| {
        format!(
            r#"parallel (held_out: File(path:"{folder}/test.jsonl",fields:{{"post":"post"}},id:None,limit:None))"#
        )
    };
    let environment = "tldr, test.jsonl";
    check(
        &[evaluated("a", 1.0), evaluated("b", 2.0)],
        &[
            (environment, &method("a"), Some(0), &[1], 1.0),
            (environment, &method("b"), Some(0), &[1], 2.0),
        ],
    );
    // Settings are listed even if one run has the default, or if they are choices.
    let linear = ["updates.schedule=Linear(last: 0.5)", "algorithm.samples=2"];
    let constant = ["updates.schedule=Constant", "algorithm.samples=4"];
    check(
        &[trained(&linear, 1.0), trained(&constant, 2.0)],
        &[
            (
                TLDR,
                "MAGRPO (samples: 2, schedule: Linear(last:0.5))",
                Some(40),
                &[1],
                1.0,
            ),
            (
                TLDR,
                "MAGRPO (samples: 4, schedule: Constant)",
                Some(40),
                &[1],
                2.0,
            ),
        ],
    );
    // A setting that has a column is not listed.
    let evaluated = |tasks: &str, seed| {
        run(
            "run",
            fixture::TLDR,
            &[tasks, seed],
            &[(Some(0), [1.0, 1.0])],
        )
    };
    check(
        &[
            evaluated("evaluation.samples=1", "seed=1"),
            evaluated("evaluation.samples=2", "seed=2"),
        ],
        &[
            (TLDR, "parallel", Some(0), &[1], 1.0),
            (TLDR, "parallel", Some(0), &[2], 1.0),
        ],
    );
}

#[test]
fn maps_are_compared_key_by_key() {
    let evaluated = |bonus: &str, value| {
        let changes = [
            format!("environment.settings.bonus={bonus}"),
            format!("environment.settings={{\"bonus\": {bonus}}}"),
        ];
        run(
            "run",
            fixture::TLDR,
            &changes.each_ref().map(String::as_str),
            &[(Some(0), [value, value])],
        )
    };
    check(
        &[evaluated("1", 1.0), evaluated("2", 2.0)],
        &[
            (TLDR, "parallel (bonus: 1)", Some(0), &[1], 1.0),
            (TLDR, "parallel (bonus: 2)", Some(0), &[1], 2.0),
        ],
    );
}

#[test]
fn operational_settings_do_not_separate_rows() {
    let evaluated = |changes: &[&str], keys: &[&str]| {
        let mut run = run(
            "run",
            fixture::COOP,
            changes,
            &[(Some(0), [1.0, 1.0]), (Some(40), [2.0, 2.0])],
        );
        run.info.operational_keys = keys.iter().map(|&key| key.to_owned()).collect();
        run
    };
    let four = [
        "seed=2",
        "environment.sandbox.workers=Some(4)",
        "held_out.bounds={}",
        "held_out.bounds.records=9",
    ];
    let coop = "coding, CoopHeldOut";
    let one_row: [Short<'_>; 2] = [
        (coop, "parallel", Some(0), &[1, 2], 1.0),
        (coop, "MAGRPO", Some(40), &[1, 2], 2.0),
    ];
    let keys = ["environment.sandbox.workers", "held_out.bounds"];
    check(&[evaluated(&[], &keys), evaluated(&four, &keys)], &one_row);
    // A run of an older program does not list its operational keys.
    check(&[evaluated(&[], &[]), evaluated(&four, &keys)], &one_row);
    let limited = [&four[..], &["environment.sandbox.limits.cpu_secs=3"]].concat();
    let rows = compare(&[evaluated(&[], &keys), evaluated(&limited, &keys)]).unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[3].method, "MAGRPO (cpu_secs: 3)");
    let rows = compare(&[evaluated(&[], &[]), evaluated(&four, &[])]).unwrap();
    assert_eq!(rows[3].method, "MAGRPO (workers: Some(4), records: 9)");
}

#[test]
fn agents_of_unknown_training_are_labelled_as_given() {
    let given = run("given", fixture::TLDR, &[], &[(None, [1.0, 2.0])]);
    check(
        &[given],
        &[(TLDR, "given agents, parallel", None, &[1], 1.5)],
    );
}

#[test]
fn the_same_seed_twice_is_one_result_or_an_error() {
    let evaluated = |name: &str, value: f64| {
        run("same", fixture::TLDR, &[], &[(Some(0), [value, value])]).renamed(name)
    };
    check(
        &[evaluated("a", 1.0), evaluated("b", 1.0)],
        &[(TLDR, "parallel", Some(0), &[1], 1.0)],
    );
    let error = compare(&[evaluated("a", 1.0), evaluated("b", 2.0)])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("runs/a and runs/b have the same recipe and seed"),
        "{error}"
    );
}

#[test]
fn skipped_episodes_count_towards_the_cost_of_an_episode() {
    let mut evaluated = run("run", fixture::TLDR, &[], &[(Some(0), [1.0, 1.0])]);
    evaluated.evaluations[0].skipped_episodes = 6;
    evaluated.evaluations[0].completion_tokens = 80;
    assert_eq!(compare(&[evaluated]).unwrap()[0].completion_tokens, 10.0);
}

#[test]
fn runs_without_an_evaluation_or_with_different_parts_are_refused() {
    let empty = run("empty", fixture::TLDR, &[], &[]);
    let error = compare(&[empty]).unwrap_err().to_string();
    assert!(
        error.starts_with("runs/empty has no evaluation yet"),
        "{error}"
    );
    let mut other = run("new", fixture::TLDR, &["seed=2"], &[(Some(0), [1.0, 1.0])]);
    other.evaluations[0].parts.shift_remove("style");
    let old = run("old", fixture::TLDR, &[], &[(Some(0), [1.0, 1.0])]);
    // Even if they are in different rows: all rows of a table share its columns.
    let later = run("later", fixture::TLDR, &[], &[(Some(40), [1.0, 1.0])]);
    for first in [old, later] {
        let error = compare(&[first.clone(), other.clone()])
            .unwrap_err()
            .to_string();
        let expected = format!("{} and runs/new have different parts", first.path.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}

impl Run {
    fn renamed(self, name: &str) -> Self {
        Self {
            path: PathBuf::from("runs").join(name),
            ..self
        }
    }
}
