//! Writes two runs as a training loop would, and compares them.
//!
//! `cargo run -p polyphony-report --example compare_runs`

#![expect(clippy::print_stdout, reason = "an example shows what it found")]

use std::{error::Error, path::Path};

use polyphony_episode::{Metric, MetricKey};
use polyphony_report::{
    AlgorithmInfo, EnvironmentInfo, EpisodeRecord, EvaluationRecord, EvaluationTiming, ProgramInfo,
    Run, RunDirectory, RunInfo, compare, comparison_text, page,
};
use serde_json::json;

const STEPS: usize = 20;
const TASKS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let paths = ["slow", "fast"].map(|name| folder.path().join(name));
    write(&paths[0], 1, 0.02)?;
    write(&paths[1], 1, 0.05)?;

    let runs = [Run::read(&paths[0])?, Run::read(&paths[1])?];
    println!("{}", comparison_text(&compare(&runs)?));
    let page = page(&[&paths[0], &paths[1]])?;
    println!("The report of both has {} KiB.", page.len() >> 10);
    Ok(())
}

/// Writes a run whose return grows by `rate` per step.
fn write(path: &Path, seed: u64, rate: f64) -> Result<(), Box<dyn Error>> {
    let recipe =
        format!("(seed: {seed}, environment: Plate(digits: 4), algorithm: Mine(rate: {rate}))");
    let info = RunInfo {
        program: Some(ProgramInfo {
            name: "compare_runs".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        environment: EnvironmentInfo {
            name: "Plate".to_owned(),
            label: "plate".to_owned(),
            comparison_name: "plate".to_owned(),
            roles: vec!["reader".to_owned(), "writer".to_owned()],
            horizon: 1,
            ..EnvironmentInfo::default()
        },
        algorithm: AlgorithmInfo {
            name: "Mine".to_owned(),
            method: "MINE".to_owned(),
            discount: 1.0,
        },
        held_out: "plates.jsonl".to_owned(),
        seed,
        steps: STEPS,
        ..RunInfo::default()
    };
    let mut run = RunDirectory::create(Some(path), &recipe, &info)?;
    run.record_evaluation(&evaluation(0, 0.0))?;
    for step in 1..=STEPS {
        let value = rate * step as f64;
        let loss = MetricKey::new("value_loss").of_role("reader");
        let metrics = [
            Metric::new(MetricKey::new("return"), value, "reward", "Mean return"),
            Metric::new(loss, 1.0 - value, "reward²", "How far the critic is off"),
        ];
        run.record(step, &metrics, [json!({"task": "t0", "turn": 0})])?;
    }
    run.record_evaluation(&evaluation(STEPS, rate * STEPS as f64))?;
    Ok(())
}

/// An evaluation whose returns are `value` or a little more.
fn evaluation(step: usize, value: f64) -> EvaluationRecord {
    let episode = |task: usize| {
        let value = value + task as f64 / 100.0;
        EpisodeRecord {
            task: format!("t{task}"),
            episode_return: value,
            parts: [("spelling".to_owned(), value)].into(),
            turns: vec![vec!["A".to_owned(), "7".to_owned()]],
            ..EpisodeRecord::default()
        }
    };
    let evaluation = EvaluationRecord {
        step: Some(step),
        timing: EvaluationTiming {
            secs: 2.0,
            ..EvaluationTiming::default()
        },
        episodes: (0..TASKS).map(episode).collect(),
        ..EvaluationRecord::default()
    };
    evaluation.summarized(["spelling"])
}
