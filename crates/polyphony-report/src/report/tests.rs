//! The page as a whole.

use std::fs;

use polyphony_episode::{Metric, MetricKey};
use serde_json::json;

use super::*;
use crate::{evaluation::Earned, fixture, run_directory::RunDirectory};

/// Writes a run of two steps that was evaluated before and after.
fn write(path: &Path, seed: u64) {
    let recipe = fixture::TLDR.replace("seed: 1,", &format!("seed: {seed},"));
    let mut run = RunDirectory::create(Some(path), &recipe, &fixture::info(seed)).unwrap();
    let figure = |step: usize| {
        let key = MetricKey::new("value_loss").of_role("summarizer");
        [
            Metric::new(
                MetricKey::new("return"),
                step as f64,
                "reward",
                "Mean return",
            ),
            Metric::new(
                key,
                1.0 / step as f64,
                "reward²",
                "How far the critic is off",
            ),
        ]
    };
    for step in 0..=2 {
        if step > 0 {
            run.record(step, &figure(step), [json!({"task": "a"})])
                .unwrap();
        }
        let mut evaluation = fixture::evaluation(&[(step as f64, "<script>alert(1)</script>")]);
        evaluation.step = Some(step);
        let earned = Earned {
            value: 0.25,
            ..Earned::default()
        };
        evaluation.episodes[0]
            .roles
            .insert("summarizer".to_owned(), earned);
        run.record_evaluation(&evaluation).unwrap();
    }
}

#[test]
fn nothing_of_a_run_controls_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run\u{1b}[2J");
    let hidden = "\u{1b}]0;x\u{7}\u{7f}\u{9b}\u{202e}\u{2066}\u{200f}\r\0";
    let recipe = format!("{}// recipe{hidden}\n", fixture::TLDR);
    let mut info = fixture::info(1);
    info.environment.team_name = format!("team{hidden}");
    info.models = vec![format!("model{hidden}")];
    let mut run = RunDirectory::create(Some(&path), &recipe, &info).unwrap();
    for step in 1..=2 {
        let key = MetricKey::new(format!("mood{hidden}")).of_role(format!("role{hidden}"));
        let metric = Metric::new(
            key,
            1.0,
            format!("unit{hidden}"),
            format!("meaning{hidden}"),
        );
        run.record(step, &[metric], [json!({"task": "a"})]).unwrap();
    }
    let mut evaluation = fixture::evaluation(&[(1.0, &format!("a\n\tb{hidden}"))]);
    evaluation.episodes[0].task = format!("task{hidden}");
    run.record_evaluation(&evaluation).unwrap();

    let page = page(&[&path]).unwrap();
    let control = page
        .char_indices()
        .find(|(_, character)| !matches!(character, '\n' | '\t') && crate::is_control(*character));
    if let Some((index, character)) = control {
        let around: String = page[..index].chars().rev().take(80).collect();
        panic!(
            "{character:?} after {:?}",
            around.chars().rev().collect::<String>()
        );
    }
    let shown = "\\u{1b}]0;x\\u{7}\\u{7f}\\u{9b}\\u{202e}\\u{2066}\\u{200f}\\u{d}\\u{0}";
    for what in ["team", "model", "task", "a\n\tb", "recipe"] {
        assert!(page.contains(&format!("{what}{shown}")), "{what}");
    }
}

#[test]
fn a_page_shows_all_runs_and_asks_no_site() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["run-1", "run-2"].map(|name| folder.path().join(name));
    for (seed, path) in (1..).zip(&paths) {
        write(path, seed);
    }
    let page = page(&paths.each_ref().map(|path| path.as_path())).unwrap();
    for text in [
        "<title>Polyphony: tldr</title>",
        "MAGRPO",
        "2 seeds",
        "polyphony 0.1.0",
        "How far the critic is off.",
        "reward²",
        "Before and after",
        "learning_rate: 3e-5",
        "summarizer 0.25",
        "greatest of the seeds",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<script>alert(1)") && page.contains("alert(1)"));
    // The library's own text names sites; the page asks none.
    let (before, rest) = page
        .split_once("<script type=\"text/javascript\">")
        .unwrap();
    let (library, after) = rest.split_once("</script>").unwrap();
    assert!(library.contains("plotly.js") && library.len() > 1_000_000);
    for own in [before, after] {
        assert!(!own.contains("src=") && !own.contains("http"));
    }
}

#[test]
fn a_run_of_an_older_program_is_shown_with_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old");
    write(&path, 1);
    for name in ["run.json", "metrics.json"] {
        fs::remove_file(path.join(name)).unwrap();
    }
    let page = page(&[&path]).unwrap();
    let texts = [
        "MAGRPO",
        "has no run.json",
        "has no metrics.json",
        "<h3>value_loss</h3>",
    ];
    for text in texts {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn a_page_of_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    RunDirectory::create(Some(&path), fixture::TLDR, &fixture::info(1)).unwrap();
    let message = page(&[&path]).unwrap_err().to_string();
    assert!(
        message.contains("has neither steps nor evaluations yet: wait"),
        "{message}"
    );
    assert!(matches!(page(&[]), Err(ReportError::NoRuns)));
}
