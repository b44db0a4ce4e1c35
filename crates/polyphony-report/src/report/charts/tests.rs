//! In which section each metric has its chart, and with which caption.

use polyphony_episode::Metric;
use serde_json::json;

use super::*;
use crate::{fixture, info::RanksInfo, metrics, report::groups::groups, run::Run};

#[test]
fn the_pieces_of_a_step_are_the_step() {
    let of = |secs: f64| vec![(1, secs), (2, 2.0 * secs)];
    let (step, rollout, reward, update) = (of(10.0), of(4.0), of(1.0), of(5.0));
    let pieces = time_pieces(&step, &rollout, &reward, &update);
    let names_and_secs = pieces.each_ref().map(|(name, series)| (*name, series[1].1));
    let expected = [
        ("sampling", 6.0),
        ("scoring", 2.0),
        ("updates", 10.0),
        ("rest", 2.0),
    ];
    assert_eq!(names_and_secs, expected);
    let whole: f64 = pieces.iter().map(|(_, series)| series[0].1).sum();
    assert_eq!(whole, step[0].1);
}

/// A run of two steps with metrics of all kinds.
fn run(name: &str, seed: &str, has_catalog: bool) -> Run {
    let key = MetricKey::new;
    let real = |key: MetricKey, unit: &'static str, meaning: &'static str| {
        Metric::new(key, 1.5, unit, meaning)
    };
    let mut of_step = vec![
        real(key("return"), "reward", "Mean return"),
        real(key("reward").part("style"), "reward", "Mean part"),
        real(
            key("reward").part("style").at_turn(2),
            "reward",
            "Mean part",
        ),
        real(key("completion_tokens"), "tokens", "Tokens"),
        real(key("plates/seen"), "plates", "Plates that were seen"),
        real(key("replayed"), "games", "Games of the buffer"),
    ];
    for role in ["summarizer", "elaborator"] {
        let of_role = |name: &'static str| key(name).of_role(role);
        of_step.extend([
            real(of_role("return"), "reward", "Return of the role"),
            real(
                of_role("reward").part("style"),
                "reward",
                "Part of the role",
            ),
            real(of_role("entropy"), "nats/token", "How undecided it is"),
            real(
                of_role("entropy").at_turn(2),
                "nats/token",
                "The same at a turn",
            ),
            real(of_role("grad_norm"), "", "Largest norm"),
            real(
                of_role("value_loss"),
                "reward²",
                "How far the critic is off",
            ),
            real(of_role("skipped_groups"), "groups", "Groups left out"),
        ]);
        of_step.push(Metric::new(
            of_role("kl"),
            None::<f64>,
            "nats",
            "Divergence",
        ));
    }
    of_step.push(real(key("timing.tokens_per_sec"), "tokens/s", "Speed"));
    let mut run = fixture::run(name, fixture::TLDR, &[seed]);
    run.metrics = (1..=2)
        .map(|step| metrics::line(step, &of_step).unwrap())
        .collect();
    if has_catalog {
        run.catalog.add(&of_step);
    }
    run
}

/// The title of a chart and the names of its lines.
type Shown<'a> = (&'a str, Vec<&'a str>);

fn shown(charts: &[Chart]) -> Vec<Shown<'_>> {
    let lines = charts.iter().map(|chart| {
        let traces = chart.plot["data"].as_array().unwrap();
        let lines = traces
            .iter()
            .filter(|trace| trace["line"]["width"] == json!(2.5));
        let names = lines.filter_map(|trace| trace["name"].as_str());
        (chart.title.as_str(), names.collect())
    });
    lines.collect()
}

const ROLES: [&str; 2] = ["summarizer", "elaborator"];

#[test]
fn every_metric_has_a_section_and_so_have_unknown_ones() {
    let runs = [run("a", "seed=1", true)];
    let groups = groups(&runs);
    let group = ["MAGRPO"];
    let rows: [(Vec<Chart>, Vec<Shown<'_>>); 6] = [
        (
            returns(&groups),
            vec![
                ("Return over training", group.into()),
                ("Return of each role", ROLES.into()),
            ],
        ),
        (
            parts(&groups),
            vec![
                ("reward/style", group.into()),
                ("turn_2/reward/style", group.into()),
                ("reward/style", ROLES.into()),
            ],
        ),
        (
            agents(&groups),
            vec![(
                "entropy",
                vec![
                    "summarizer",
                    "summarizer, turn 2",
                    "elaborator",
                    "elaborator, turn 2",
                ],
            )],
        ),
        (health(&groups), vec![("grad_norm", ROLES.into())]),
        (
            algorithm(&groups),
            vec![("value_loss", ROLES.into()), ("replayed", group.into())],
        ),
        (
            speed(&groups),
            vec![("timing.tokens_per_sec", group.into())],
        ),
    ];
    for (charts, expected) in &rows {
        assert_eq!(shown(charts), *expected);
    }
    let names = runs[0].metrics.iter().flat_map(metrics::flat_values);
    let names: IndexSet<String> = names
        .map(|(name, _)| name)
        .filter(|name| name != "step")
        .collect();
    let all = all(&groups);
    let titles: Vec<&str> = all.iter().map(|chart| chart.title.as_str()).collect();
    assert!(titles.iter().copied().eq(&names), "{titles:?} {names:?}");
}

#[test]
fn the_time_of_each_rank_is_split_into_computing_and_waiting() {
    let secs = |name: &'static str, value: f64| Metric::new(MetricKey::new(name), value, "s", "");
    let of_step = [
        secs("timing.step_secs", 10.0),
        secs("timing.rank_0.communication_secs", 2.0),
        secs("timing.rank_1.communication_secs", 4.0),
    ];
    let mut run = fixture::run("a", fixture::TLDR, &["seed=1"]);
    run.metrics = vec![metrics::line(1, &of_step).unwrap()];
    run.info.ranks = Some(RanksInfo {
        ranks: 2,
        ..RanksInfo::default()
    });
    let runs = [run];
    let groups = groups(&runs);
    let chart = where_time_of_ranks_goes(&groups[0]).unwrap();
    let bars = |index: usize| {
        let trace = &chart.plot["data"][index];
        (trace["x"].clone(), trace["y"].clone())
    };
    assert_eq!(bars(0), (json!(["rank 0", "rank 1"]), json!([8.0, 6.0])));
    assert_eq!(bars(1).1, json!([2.0, 4.0]));
}

#[test]
fn captions_and_units_come_from_the_catalog_of_the_run() {
    let caption = |has_catalog, title: &str| {
        let runs = [
            run("a", "seed=1", has_catalog),
            run("b", "seed=2", has_catalog),
        ];
        let groups = groups(&runs);
        let charts = [algorithm(&groups), all(&groups)].concat();
        let chart = charts.iter().find(|chart| chart.title == title).unwrap();
        let unit = chart.plot["layout"]["yaxis"]["title"]["text"]
            .as_str()
            .unwrap();
        (chart.caption.clone(), unit.to_owned())
    };
    let pair = |caption: &str, unit: &str| (caption.to_owned(), unit.to_owned());
    let loss = "How far the critic is off.";
    assert_eq!(caption(true, "value_loss"), pair(loss, "reward²"));
    assert_eq!(
        caption(true, "elaborator/value_loss"),
        pair(loss, "reward²")
    );
    assert_eq!(
        caption(true, "plates/seen"),
        pair("Plates that were seen.", "plates")
    );
    let nothing = "Divergence. No step has a value.";
    assert_eq!(caption(true, "summarizer/kl"), pair(nothing, "nats"));
    // An older run has no catalog. Its metrics are drawn anyway.
    assert_eq!(caption(false, "value_loss"), pair("", "value_loss"));
    assert_eq!(
        caption(false, "summarizer/kl"),
        pair("No step has a value.", "summarizer/kl")
    );
}

#[test]
fn seeds_are_a_band_and_one_run_is_dots() {
    let runs = [run("a", "seed=1", true), run("b", "seed=2", true)];
    let both = groups(&runs);
    let names = |charts: &[Chart]| {
        let traces = charts[0].plot["data"].as_array().unwrap();
        let names = traces
            .iter()
            .map(|trace| trace["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(
        names(&returns(&both)),
        [
            "MAGRPO, minimum of the seeds",
            "MAGRPO, maximum of the seeds",
            "MAGRPO"
        ]
    );
    let one = groups(&runs[..1]);
    assert_eq!(names(&returns(&one)), ["MAGRPO, each step", "MAGRPO"]);
    // The colours of a theme are used up after eight lines.
    let ninth = line([(1, 2.0)], "x", 8, 1.0);
    assert_eq!(
        (&ninth["line"]["color"], &ninth["line"]["dash"]),
        (&json!("$0"), &json!("dash"))
    );
}
