//! The outputs that show a run to people: the report, the live view and the TensorBoard files.

use std::fs;

use crate::{
    command::TestDir,
    training_run::{self, test_dir_with},
};

/// A directory with training runs of two seeds, and a baseline.
fn with_runs() -> TestDir {
    let dir = training_run::test_dir();
    for seed in ["1", "2"] {
        let run = format!("run-{seed}");
        let seed = format!("seed={seed}");
        dir.succeed(&["train", "recipe.ron", "--run-dir", &run, "--set", &seed]);
    }
    dir.succeed(&[
        "baseline",
        "discussion",
        "recipe.ron",
        "--run-dir",
        "discussion",
    ]);
    dir
}

/// The names of all metrics of a run; those of inner objects as `name.inner`.
fn metric_names(dir: &TestDir, run: &str) -> Vec<String> {
    let line = dir.read_lines(&format!("{run}/metrics.jsonl")).remove(0);
    let names =
        line.as_object()
            .unwrap()
            .iter()
            .flat_map(|(name, value)| match value.as_object() {
                Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
                None => vec![name.clone()],
            });
    names.filter(|name| name != "step").collect()
}

#[test]
fn a_report_shows_every_metric_and_the_responses_without_fetching_anything() {
    let dir = with_runs();
    dir.succeed(&["report", "run-1", "run-2", "discussion", "-o", "page.html"]);
    let page = dir.read("page.html");
    let names = metric_names(&dir, "run-1");
    assert!(names.len() > 30, "{names:?}");
    for name in &names {
        assert!(
            page.contains(&format!("<h3>{}</h3>", name.replace('/', "&#x2f;"))),
            "{name} has no chart"
        );
    }
    for text in [
        "MAGRPO",
        "discussion",
        "Where the time goes",
        "2 seeds",
        "Before and after",
        "learning_rate: 0.001",
        "Responses that the length limit cut.",
        "nats/token",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // Two seeds are drawn together, with the range between them.
    assert!(page.contains("maximum of the seeds"));
    let last = &dir.read_lines("run-1/evaluations.jsonl")[1];
    let task = last["episodes"][0]["task"].as_str().unwrap();
    assert!(page.contains(task), "{task}");
    // The text of the chart library contains URLs, but the page fetches nothing.
    let (before, rest) = page
        .split_once("<script type=\"text/javascript\">")
        .unwrap();
    let (_, after) = rest.split_once("</script>").unwrap();
    for text in [before, after] {
        assert!(
            !text.contains("src=") && !text.contains("http:") && !text.contains("https:"),
            "something is fetched"
        );
    }
    // The page replaces an existing one.
    dir.succeed(&["report", "run-2", "-o", "page.html"]);
    assert!(!dir.read("page.html").contains("run-1"));
}

#[test]
fn responses_of_models_cannot_become_part_of_the_page() {
    let dir = with_runs();
    let evaluations = dir.read("run-1/evaluations.jsonl");
    let response = "</script><script>alert(1)</script>";
    let mut changed = String::new();
    for line in evaluations.lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["episodes"][0]["turns"][0][0] = response.into();
        changed += &format!("{line}\n");
    }
    dir.write("run-1/evaluations.jsonl", changed);
    dir.succeed(&["report", "run-1"]);
    let page = dir.read("report.html");
    assert!(!page.contains(response) && page.contains("alert(1)"));
}

#[test]
fn a_report_of_something_else_than_runs_is_refused() {
    let dir = test_dir_with("(no recipe)");
    dir.refuse(
        &["report", "model"],
        &["model is not the directory of a run"],
    );
    dir.refuse(
        &["watch", "model"],
        &["model is not the directory of a run"],
    );
    dir.refuse(&["report"], &["<RUN>"]);
    let dir = with_runs();
    dir.refuse(
        &["watch", "run-1"],
        &["no terminal", "report run-1` writes a page"],
    );
    dir.refuse(
        &["watch", "discussion"],
        &[
            "discussion is not a training run",
            "report discussion` writes a page",
        ],
    );
    dir.refuse(
        &["report", "run-1", "-o", "no/such/page.html"],
        &["no/such/page.html cannot be written: there is no folder no/such"],
    );
}

#[test]
fn tensorboard_finds_every_metric_under_its_name() {
    let dir = with_runs();
    let events = fs::read(dir.path("run-1/tensorboard/events.out.tfevents.polyphony")).unwrap();
    // A tag is the protobuf field 1 and begins with its length, so a part of a longer tag is not found.
    let has_tag = |name: &str| {
        let tag = [&[0x0a, name.len() as u8], name.as_bytes()].concat();
        events.windows(tag.len()).any(|window| window == tag)
    };
    let line = dir.read_lines("run-1/metrics.jsonl").pop().unwrap();
    for name in metric_names(&dir, "run-1") {
        // A metric without a value at any step has no scalar.
        let has_value = line.get(&name).is_none_or(|value| value.is_number());
        assert_eq!(has_tag(&name), has_value, "{name}");
    }
    assert!(has_tag("held_out/return"));
    assert_eq!(has_tag("held_out/reward/style"), has_tag("reward/style"));
}
