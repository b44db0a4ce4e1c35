//! What shows a run to people: the report, the live view and TensorBoard's files.

use std::fs;

use crate::{
    command::Place,
    training_run::{self, place_for},
};

/// Trains two seeds and a baseline.
fn trained() -> Place {
    let place = training_run::place();
    for seed in ["1", "2"] {
        let run = format!("run-{seed}");
        let seed = format!("seed={seed}");
        place.succeed(&["train", "recipe.ron", "--run-dir", &run, "--set", &seed]);
    }
    place.succeed(&[
        "baseline",
        "discussion",
        "recipe.ron",
        "--run-dir",
        "discussion",
    ]);
    place
}

/// All names of a run's metrics, those of inner objects as `name.inner`.
fn metric_names(place: &Place, run: &str) -> Vec<String> {
    let line = place.read_lines(&format!("{run}/metrics.jsonl")).remove(0);
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
fn a_report_shows_every_metric_and_what_was_said_and_needs_nothing_else() {
    let place = trained();
    place.succeed(&["report", "run-1", "run-2", "discussion", "-o", "page.html"]);
    let page = place.read("page.html");
    let names = metric_names(&place, "run-1");
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
    // Two seeds are drawn together, with what lies between them.
    assert!(page.contains("maximum of the seeds"));
    let last = &place.read_lines("run-1/evaluations.jsonl")[1];
    let task = last["episodes"][0]["task"].as_str().unwrap();
    assert!(page.contains(task), "{task}");
    // The library's own text names sites; the page asks none.
    let (before, rest) = page
        .split_once("<script type=\"text/javascript\">")
        .unwrap();
    let (_, after) = rest.split_once("</script>").unwrap();
    for own in [before, after] {
        assert!(
            !own.contains("src=") && !own.contains("http:") && !own.contains("https:"),
            "something is fetched"
        );
    }
    // The page replaces an existing one.
    place.succeed(&["report", "run-2", "-o", "page.html"]);
    assert!(!place.read("page.html").contains("run-1"));
}

#[test]
fn what_models_say_cannot_become_part_of_the_page() {
    let place = trained();
    let evaluations = place.read("run-1/evaluations.jsonl");
    let task = "</script><script>alert(1)</script>";
    let mut changed = String::new();
    for line in evaluations.lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["episodes"][0]["turns"][0][0] = task.into();
        changed += &format!("{line}\n");
    }
    place.write("run-1/evaluations.jsonl", changed);
    place.succeed(&["report", "run-1"]);
    let page = place.read("report.html");
    assert!(!page.contains(task) && page.contains("alert(1)"));
}

#[test]
fn a_page_of_nothing_is_refused() {
    let place = place_for("(no recipe)");
    place.refuse(
        &["report", "model"],
        &["model is not the directory of a run"],
    );
    place.refuse(
        &["watch", "model"],
        &["model is not the directory of a run"],
    );
    place.refuse(&["report"], &["<RUN>"]);
    let place = trained();
    place.refuse(
        &["watch", "run-1"],
        &["no terminal", "hint: `polyphony report run-1`"],
    );
    place.refuse(
        &["watch", "discussion"],
        &[
            "discussion is not a training run",
            "hint: `polyphony report discussion`",
        ],
    );
    place.refuse(
        &["report", "run-1", "-o", "no/such/page.html"],
        &["no/such/page.html cannot be written: there is no folder no/such"],
    );
}

#[test]
fn tensorboard_finds_every_metric_under_its_name() {
    let place = trained();
    let events = fs::read(place.path("run-1/tensorboard/events.out.tfevents.polyphony")).unwrap();
    // A tag is a protobuf field of number 1, with its length before it: no part of another one.
    let holds = |name: &str| {
        let tag = [&[0x0a, name.len() as u8], name.as_bytes()].concat();
        events.windows(tag.len()).any(|window| window == tag)
    };
    let line = place.read_lines("run-1/metrics.jsonl").pop().unwrap();
    for name in metric_names(&place, "run-1") {
        // A metric without a value at any step has no scalar.
        let has_value = line.get(&name).is_none_or(|value| value.is_number());
        assert_eq!(holds(&name), has_value, "{name}");
    }
    assert!(holds("held_out/return") && holds("held_out/reward/style") == holds("reward/style"));
}
