//! The page as a whole.

use std::fs;

use polyphony_episode::{Metric, MetricKey};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{evaluation::RoleReturn, fixture, run_directory::RunDirectory};

/// Writes a run of two steps with evaluations before and after each.
fn write(path: &Path, seed: u64) {
    let recipe = fixture::TLDR.replace("seed: 1,", &format!("seed: {seed},"));
    let mut run = RunDirectory::create(Some(path), &recipe, &fixture::info(seed)).unwrap();
    let metrics = |step: usize| {
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
            run.record(step, &metrics(step), [json!({"task": "a"})])
                .unwrap();
        }
        let mut evaluation = fixture::evaluation(&[(step as f64, "<script>alert(1)</script>")]);
        evaluation.step = Some(step);
        let role_return = RoleReturn {
            episode_return: 0.25,
            ..RoleReturn::default()
        };
        evaluation.episodes[0]
            .roles
            .insert("summarizer".to_owned(), role_return);
        run.record_evaluation(&evaluation).unwrap();
    }
}

#[test]
fn texts_of_a_run_do_not_control_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run\u{1b}[2J");
    let hidden = "\u{1b}]0;x\u{7}\u{7f}\u{9b}\u{202e}\u{2066}\u{200f}\r\0";
    let recipe = format!("{}// recipe{hidden}\n", fixture::TLDR);
    let mut info = fixture::info(1);
    info.environment.comparison_name = format!("team{hidden}");
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

/// All texts in the charts of a page.
fn chart_texts(page: &str) -> Vec<String> {
    fn collect(value: &serde_json::Value, texts: &mut Vec<String>) {
        match value {
            serde_json::Value::String(text) => texts.push(text.clone()),
            serde_json::Value::Array(values) => {
                values.iter().for_each(|inner| collect(inner, texts));
            }
            serde_json::Value::Object(object) => {
                object.values().for_each(|inner| collect(inner, texts));
            }
            _ => {}
        }
    }
    let mut texts = Vec::new();
    for block in page.split("<script type=\"application/json\"").skip(1) {
        let (_, block) = block.split_once('>').unwrap();
        let (block, _) = block.split_once("</script>").unwrap();
        collect(&serde_json::from_str(block).unwrap(), &mut texts);
    }
    texts
}

/// plotly.js turns markup in texts into links, line breaks and styles.
#[test]
fn texts_of_a_run_are_not_markup_in_a_chart() {
    let folder = tempfile::tempdir().unwrap();
    let marked = |what: &str| format!("{what}<a href='x'>&<b>");
    let paths = [1, 2].map(|seed| {
        let path = folder.path().join(marked(&seed.to_string()));
        let mut info = fixture::info(1);
        info.algorithm.method = marked("method");
        info.environment.roles = vec![marked("role")];
        let mut run = RunDirectory::create(Some(&path), fixture::TLDR, &info).unwrap();
        let keys = [
            MetricKey::new("return"),
            MetricKey::new("reward").part(marked("part")),
            MetricKey::new("entropy").of_role(marked("role")),
            MetricKey::new(marked("mood")),
            MetricKey::new(marked("mood")).of_role(marked("role")),
        ];
        let metrics = keys.map(|key| {
            // The axis of a plain number has its name.
            let unit = match key.name.starts_with("mood") {
                true => String::new(),
                false => marked("unit"),
            };
            Metric::new(key, 1.0, unit, marked("meaning"))
        });
        run.record(1, &metrics, [json!({"task": "a"})]).unwrap();
        let mut evaluation = fixture::evaluation(&[(1.0, "text"), (2.0, "text")]);
        evaluation.step = Some(1);
        for episode in &mut evaluation.episodes {
            episode.parts = [(marked("part"), 1.0)].into();
        }
        run.record_evaluation(&evaluation.summarized([marked("part")]))
            .unwrap();
        path
    });
    // Two runs that differ in a setting have their names in their labels.
    let recipe = fixture::TLDR.replace("temperature: 0.7", "temperature: 0.5");
    fs::write(paths[1].join("recipe.ron"), recipe).unwrap();
    let texts = chart_texts(&page(&paths.each_ref().map(|path| path.as_path())).unwrap());
    for text in &texts {
        // Labels of methods have one line break, which the program put there.
        let from_run = text.replacen("<br>", "", 1);
        assert!(!from_run.contains(['<', '>']), "{text}");
    }
    for what in ["method", "role", "part", "unit", "mood", "1", "2"] {
        let shown = format!("{what}&lt;a href='x'&gt;&amp;&lt;b&gt;");
        assert!(texts.iter().any(|text| text.contains(&shown)), "{what}");
    }
}

/// A browser refuses a script whose digest is not in the policy: after a change, update the digest there.
#[test]
fn the_page_may_run_only_its_own_scripts() {
    for script in [PLOTLY, SCRIPT] {
        let digest = base64(&Sha256::digest(script));
        assert!(POLICY.contains(&format!("'sha256-{digest}'")), "{digest}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    write(&path, 1);
    let page = page(&[&path]).unwrap();
    let policy = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">");
    let (before, _) = page.split_once(&policy).unwrap();
    assert!(!before.contains("<script") && !before.contains("<style"));
    for script in [PLOTLY, SCRIPT] {
        assert!(page.contains(&format!(">{script}</script>")));
    }
    // Attributes have no handlers, which the policy forbids, and no styles.
    let markup = page.replace(PLOTLY, "").replace(SCRIPT, "");
    assert!(!markup.contains(" onclick=") && !markup.contains(" style="));
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for bytes in bytes.chunks(3) {
        let byte = |index: usize| u32::from(bytes.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            text.push(match digit <= bytes.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]),
                false => '=',
            });
        }
    }
    text
}

#[test]
fn a_page_shows_all_runs_and_loads_nothing() {
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
        "maximum of the seeds",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<script>alert(1)") && page.contains("alert(1)"));
    // The text of the library contains addresses; the rest of the page must not.
    let (before, rest) = page
        .split_once("<script type=\"text/javascript\">")
        .unwrap();
    let (library, after) = rest.split_once("</script>").unwrap();
    assert!(library.contains("plotly.js") && library.len() > 1_000_000);
    for part in [before, after] {
        assert!(!part.contains("src=") && !part.contains("http:") && !part.contains("https:"));
    }
}

#[test]
fn a_run_of_an_older_program_is_shown_with_notes_on_what_it_lacks() {
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
fn any_numbers_are_compared_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("recipe.ron"), "()").unwrap();
    fs::write(path.join("metrics.jsonl"), "").unwrap();
    let null = r#"{"step":0,"parts":{"x":{}},"episodes":[{"task":"a","return":null},{"task":"b","return":null}]}"#;
    let huge = r#"{"step":9,"skipped_episodes":18446744073709551615,"cut_episodes":1,"pass_at":{"0":{},"18446744073709551615":{}},
        "completion_tokens":18446744073709551615,"parts":{"x":{"mean":1e308,"interval":[1e308,-1e308]}},
        "episodes":[{"task":"a","return":1.7e308,"solved":true},{"task":"b","return":1.7e308},{"task":"c","return":-1.7e308}]}"#;
    let rows: [&[&str]; 5] = [&["{}"], &[null], &[huge], &[null, huge], &["{}", "{}"]];
    for evaluations in rows {
        let lines = evaluations.iter().map(|line| line.replace('\n', "") + "\n");
        fs::write(path.join("evaluations.jsonl"), lines.collect::<String>()).unwrap();
        let run = Run::read(path).unwrap();
        let compared = compare([&run]).map(|rows| crate::comparison_text(&rows));
        for outcome in [compared, page(&[path])] {
            assert!(outcome.is_ok(), "{evaluations:?}: {:?}", outcome.err());
        }
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
