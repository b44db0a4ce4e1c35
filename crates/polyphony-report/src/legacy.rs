//! Reads runs of older programs: it translates names that have changed, and derives what `run.json` lacks.
//!
//! The first programs wrote no `run.json`. Their recipes knew only the writing and coding environments and
//! MAGRPO with its relatives, so the missing facts follow from the recipe. A fact that the run records itself
//! is never derived.

use std::mem;

use serde_json::{Map, Value};

use crate::{
    evaluation::EvaluationRecord,
    info::{AlgorithmInfo, EnvironmentInfo, RunInfo},
    settings::FlatSettings,
};

/// Metrics that were renamed, by the last part of their names: old, new.
const RENAMED_METRICS: [(&str, &str); 8] = [
    ("sampled_tokens", "completion_tokens"),
    ("advantage_spread", "advantage_std"),
    ("zero_advantage_share", "zero_advantage_fraction"),
    ("response_tokens", "completion_length"),
    ("truncated_share", "truncated_fraction"),
    ("gradient_norm", "grad_norm"),
    ("refused_updates", "skipped_updates"),
    ("clipped_share", "clip_fraction"),
];

/// Recipe keys that were renamed: old, new.
const RENAMED_SETTINGS: [(&str, &str); 2] = [
    ("updates.max_gradient_norm", "updates.max_grad_norm"),
    ("updates.max_nonfinite", "updates.max_skipped_updates"),
];

/// The role of a single agent that does a team's work: old name, new name.
const SINGLE_ROLE: (&str, &str) = ("solo", "single");

/// The former name of [`SINGLE_AGENT`].
const SOLO: &str = "Solo";

/// The algorithm of recipes that named none.
const ALGORITHM: &str = "Magrpo";

/// The wrapper through which a single agent does a team's work.
const SINGLE_AGENT: &str = "SingleAgent";

/// The present name of a metric, or of its pattern in the catalog. Parts of a reward keep their names: the
/// environment chose them.
pub(crate) fn metric_name(name: &str) -> String {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let (prefix, last) = name.split_at(start);
    let mut renames = RENAMED_METRICS.iter();
    let renamed = renames.find(|(old, _)| *old == last && !prefix.ends_with("reward/"));
    format!("{prefix}{}", renamed.map_or(last, |(_, new)| new))
}

/// Whether an older program wrote a file with these metrics. Such a file has the first of [`RENAMED_METRICS`]
/// in every step. In newer files, a metric with an old name was added by a user's environment or algorithm.
pub(crate) fn is_old<'n>(names: impl IntoIterator<Item = &'n str>) -> bool {
    let (old, _) = RENAMED_METRICS[0];
    names.into_iter().any(|name| name == old)
}

/// Gives the metrics of a step their present names.
pub(crate) fn rename_metrics(line: &mut Map<String, Value>) {
    if is_old(line.keys().map(String::as_str)) {
        let before = mem::take(line).into_iter();
        line.extend(before.map(|(name, value)| (metric_name(&name), value)));
    }
}

/// Gives the role of a single agent its present name.
pub(crate) fn rename_role(
    info: &mut RunInfo,
    metrics: &mut [Map<String, Value>],
    evaluations: &mut [EvaluationRecord],
) {
    let (old, new) = SINGLE_ROLE;
    // Only our own wrapper had such a role; a user's role keeps its name.
    let wrapper = info.environment.name.split('(').next().unwrap_or_default();
    if ![SOLO, SINGLE_AGENT].contains(&wrapper) || info.environment.roles != [old] {
        return;
    }
    info.environment.roles = vec![new.to_owned()];
    let rename = |line: &mut Map<String, Value>| {
        let before = mem::take(line).into_iter();
        line.extend(before.map(|(name, value)| {
            let rest = name.strip_prefix(old).filter(|rest| rest.starts_with('/'));
            let renamed = rest.map(|rest| format!("{new}{rest}"));
            (renamed.unwrap_or(name), value)
        }));
    };
    for line in metrics {
        rename(line);
        if let Some(Value::Object(timing)) = line.get_mut("timing") {
            rename(timing);
        }
    }
    for evaluation in evaluations {
        if let Some(summary) = evaluation.roles.shift_remove(old) {
            evaluation.roles.insert(new.to_owned(), summary);
        }
        for episode in &mut evaluation.episodes {
            if let Some(role_return) = episode.roles.shift_remove(old) {
                episode.roles.insert(new.to_owned(), role_return);
            }
        }
    }
}

/// Gives the settings of a recipe their present names, and names the algorithm where the recipe does not, so
/// that runs of older and newer programs compare as equal.
pub(crate) fn complete(settings: &mut FlatSettings) {
    for (old, new) in RENAMED_SETTINGS {
        if let Some(value) = settings.shift_remove(old) {
            settings.entry(new.to_owned()).or_insert(value);
        }
    }
    if let Some(environment) = settings.get_mut("environment")
        && let Some(team) = environment.strip_prefix(SOLO)
        && team.starts_with('(')
    {
        *environment = format!("{SINGLE_AGENT}{team}");
    }
    let has_settings = settings.keys().any(|path| path.starts_with("algorithm."));
    if has_settings && !settings.contains_key("algorithm") {
        settings.insert("algorithm".to_owned(), ALGORITHM.to_owned());
    }
}

/// The info of a run, as far as its settings contain it. `roles` are those that its files name.
pub(crate) fn derive(settings: &FlatSettings, roles: Vec<String>) -> RunInfo {
    let environment = environment(settings, roles);
    RunInfo {
        held_out: settings
            .get("held_out")
            .map_or_else(String::new, |source| data_set(source)),
        algorithm: algorithm(settings, environment.is_single_agent),
        seed: number(settings, "seed").unwrap_or(0.0) as u64,
        steps: number(settings, "steps").unwrap_or(0.0) as usize,
        models: models(settings, environment.roles.len()),
        environment,
        ..RunInfo::default()
    }
}

fn number(settings: &FlatSettings, path: &str) -> Option<f64> {
    settings.get(path)?.parse().ok()
}

fn environment(settings: &FlatSettings, roles: Vec<String>) -> EnvironmentInfo {
    let name = settings.get("environment").cloned().unwrap_or_default();
    let team = name
        .strip_prefix(SINGLE_AGENT)
        .and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')'));
    let team_name = team.unwrap_or(&name).to_lowercase();
    let turns = number(settings, "environment.settings.turns");
    EnvironmentInfo {
        label: match team {
            Some(_) => format!("{team_name}-single-agent"),
            None => team_name.clone(),
        },
        is_single_agent: team.is_some(),
        comparison_name: team_name,
        name,
        roles,
        horizon: turns.map_or(1, |turns| turns as usize),
    }
}

fn algorithm(settings: &FlatSettings, is_single_agent: bool) -> AlgorithmInfo {
    let name = settings.get("algorithm").map_or(ALGORITHM, String::as_str);
    let baseline = settings.get("algorithm.baseline").map(String::as_str);
    let method = match (name, baseline.unwrap_or("GroupMean"), is_single_agent) {
        (ALGORITHM, "GroupMean", true) => "GRPO",
        (ALGORITHM, "GroupMean", false) => "MAGRPO",
        (ALGORITHM, "LeaveOneOut", _) => "MARLOO",
        (ALGORITHM, "GroupMax", _) => "MAReMax",
        (ALGORITHM, "Zero", _) => "MAREINFORCE",
        (name, ..) => name,
    };
    AlgorithmInfo {
        name: name.to_owned(),
        method: method.to_owned(),
        discount: number(settings, "algorithm.discount").unwrap_or(1.0),
    }
}

/// The name of a data set: its own name if it is embedded, otherwise the name of its file.
fn data_set(source: &str) -> String {
    if let Some(name) = source.strip_prefix("Embedded(") {
        return name.trim_end_matches(')').to_owned();
    }
    let Some((_, rest)) = source.split_once("path:\"") else {
        return source.to_owned();
    };
    let path = rest.split('"').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or(path);
    let (_, rest) = source.split_once("skip:").unwrap_or_default();
    let skipped: String = rest.chars().take_while(char::is_ascii_digit).collect();
    match skipped.as_str() {
        "" | "0" => file.to_owned(),
        skipped => format!("{file} from {skipped}"),
    }
}

/// The most roles whose models are listed. No older program had as many, but a file may name a million.
const MAX_ROLES: usize = 16;

/// The models of the key `team`: `Copies("a")`, `Each(["a","b"])` or `Shared("a")`.
fn models(settings: &FlatSettings, roles: usize) -> Vec<String> {
    let Some(team) = settings.get("team") else {
        return Vec::new();
    };
    let texts = team.split('"').skip(1).step_by(2).map(str::to_owned);
    let named: Vec<String> = texts.collect();
    match named.as_slice() {
        [one] if team.starts_with("Copies(") => vec![one.clone(); roles.clamp(1, MAX_ROLES)],
        _ => named,
    }
}

/// Replaces derived values by those in the file's object. Keys that the file lacks keep their derived values.
pub(crate) fn overlay(derived: &mut Value, file: Map<String, Value>) {
    let Value::Object(derived) = derived else {
        *derived = Value::Object(file);
        return;
    };
    for (key, value) in file {
        match (derived.get_mut(&key), value) {
            (Some(inner @ Value::Object(_)), Value::Object(value)) => overlay(inner, value),
            (_, value) => {
                derived.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::settings;

    fn derived(recipe: &str) -> RunInfo {
        let mut settings = settings(recipe);
        complete(&mut settings);
        derive(&settings, vec!["a".to_owned(), "b".to_owned()])
    }

    #[test]
    fn a_recipe_without_names_says_what_it_was() {
        let info = derived(
            r#"(seed: 7, environment: Coding(settings: (turns: 2), sandbox: ()), team: Copies("m"),
               held_out: Problems(path: "data/HumanEval.jsonl.gz", skip: 100, limit: None),
               algorithm: (baseline: LeaveOneOut, discount: 0.9), steps: 40)"#,
        );
        let environment = &info.environment;
        assert_eq!(
            (
                environment.name.as_str(),
                environment.label.as_str(),
                environment.horizon
            ),
            ("Coding", "coding", 2)
        );
        assert!(!environment.is_single_agent);
        assert_eq!(info.held_out, "HumanEval.jsonl.gz from 100");
        let expected = AlgorithmInfo {
            name: "Magrpo".to_owned(),
            method: "MARLOO".to_owned(),
            discount: 0.9,
        };
        assert_eq!(info.algorithm, expected);
        assert_eq!((info.seed, info.steps), (7, 40));
        assert_eq!(info.models, ["m", "m"]);
    }

    #[test]
    fn one_agent_and_unknown_names_are_called_as_before() {
        let info = derived(
            r#"(environment: Solo(Tldr), held_out: Embedded(TldrHeldOut), team: Each(["m", "n"]),
               algorithm: (baseline: GroupMean))"#,
        );
        let environment = &info.environment;
        let names = [
            &environment.name,
            &environment.label,
            &environment.comparison_name,
        ];
        assert_eq!(names, ["SingleAgent(Tldr)", "tldr-single-agent", "tldr"]);
        assert!(environment.is_single_agent);
        assert_eq!(
            (info.held_out.as_str(), info.algorithm.method.as_str()),
            ("TldrHeldOut", "GRPO")
        );
        assert_eq!(info.models, ["m", "n"]);
        let other = derived("(environment: Plate(digits: 4), algorithm: Mine(samples: 2))");
        assert_eq!(other.algorithm.method, "Mine");
        assert_eq!(
            (other.environment.label.as_str(), other.environment.horizon),
            ("plate", 1)
        );
    }

    #[test]
    fn renamed_metrics_are_read_under_their_present_names() {
        for (old, current) in [
            ("sampled_tokens", "completion_tokens"),
            ("writer/turn_2/response_tokens", "writer/completion_length"),
            ("<role>/gradient_norm", "<role>/grad_norm"),
            ("return", "return"),
            ("my_response_tokens", "my_response_tokens"),
            (
                "writer/turn_2/reward/response_tokens",
                "writer/reward/response_tokens",
            ),
        ] {
            let current = current.replace("writer/", "writer/turn_2/");
            assert_eq!(metric_name(old), current);
        }
        let old = json!({"step": 1, "sampled_tokens": 9, "a/clipped_share": 0.5});
        let renamed = json!({"step": 1, "completion_tokens": 9, "a/clip_fraction": 0.5});
        // A user's own metric beside ours.
        let new = json!({"step": 1, "completion_tokens": 9, "game/response_tokens": 0.5});
        for (line, expected) in [(&old, &renamed), (&new, &new)] {
            let mut line = line.as_object().unwrap().clone();
            rename_metrics(&mut line);
            assert_eq!(Value::Object(line), *expected);
        }
    }

    #[test]
    fn renamed_settings_are_those_of_newer_recipes() {
        let complete = |recipe: &str| {
            let mut settings = settings(recipe);
            complete(&mut settings);
            settings
        };
        assert_eq!(
            complete(
                "(environment: Solo(Tldr), updates: (max_gradient_norm: 1.0, max_nonfinite: 3))"
            ),
            complete(
                "(environment: SingleAgent(Tldr), updates: (max_grad_norm: 1.0, max_skipped_updates: 3))"
            )
        );
    }

    #[test]
    fn what_a_file_says_counts_and_what_it_lacks_is_derived() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "d": null});
        let file = json!({"a": {"b": 3, "e": 4}, "d": {"f": 5}});
        overlay(&mut value, file.as_object().unwrap().clone());
        assert_eq!(value, json!({"a": {"b": 3, "c": 2, "e": 4}, "d": {"f": 5}}));
    }
}
