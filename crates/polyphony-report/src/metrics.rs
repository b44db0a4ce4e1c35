//! Metrics in a run's files: one JSON object per step, and a table of units and meanings.
//!
//! The code that computes a metric declares it as a [`Metric`]. Files store its value under a name made from
//! its key. Its unit and meaning are stored once per run, in the [`MetricCatalog`]. Metrics that this program
//! does not know are therefore shown like any other.

use std::collections::{BTreeMap, HashSet};

use indexmap::IndexMap;
use polyphony_episode::{Metric, MetricKey, MetricValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::legacy;

/// The prefix of metrics that depend on clocks or memory.
const TIMING: &str = "timing";

/// The key of the step's number in its object.
pub(crate) const STEP: &str = "step";

/// The name of a metric in TensorBoard and in reports: its key as text, with `timing.` moved to the front. The
/// key `writer/timing.update_secs` becomes `timing.writer/update_secs`.
pub fn flat_name(key: &MetricKey) -> String {
    flat(&key.to_string())
}

/// [`flat_name`] for the text of a key or of a pattern.
fn flat(name: &str) -> String {
    match name.split_once("timing.") {
        Some((before, after)) if before.is_empty() || before.ends_with('/') => {
            format!("{TIMING}.{before}{after}")
        }
        _ => name.to_owned(),
    }
}

/// The object of one step in `metrics.jsonl`: its number, counted from 1, and every metric in the given
/// order. The metrics that depend on clocks or memory are at its end, in the object `timing`.
///
/// # Errors
/// If two metrics have the same name, or one is called `step` or `timing`, returns that name.
pub(crate) fn line(step: usize, metrics: &[Metric]) -> Result<Map<String, Value>, String> {
    let mut line = Map::new();
    let mut timing = Map::new();
    line.insert(STEP.to_owned(), json!(step));
    for metric in metrics {
        let name = flat_name(&metric.key);
        let value = json!(metric.value);
        let previous = match name.strip_prefix("timing.") {
            Some(inner) => timing.insert(inner.to_owned(), value),
            None => line.insert(name.clone(), value),
        };
        if previous.is_some() || name == TIMING {
            return Err(name);
        }
    }
    if !timing.is_empty() {
        line.insert(TIMING.to_owned(), Value::Object(timing));
    }
    Ok(line)
}

/// The metrics with a finite value, with their names.
pub(crate) fn numbers(metrics: &[Metric]) -> impl Iterator<Item = (String, f64)> {
    let number = |metric: &Metric| Some((flat_name(&metric.key), number(metric.value)?));
    metrics.iter().filter_map(number)
}

fn number(value: MetricValue) -> Option<f64> {
    match value {
        MetricValue::Count(count) => Some(count as f64),
        MetricValue::Real(value) => Some(value).filter(|value| value.is_finite()),
        MetricValue::Missing => None,
    }
}

/// All values of a line with their names. Values of inner objects are called `name.inner`.
pub(crate) fn flat_values(line: &Map<String, Value>) -> impl Iterator<Item = (String, &Value)> {
    line.iter().flat_map(|(name, value)| match value {
        Value::Object(inner) => {
            let with_name = |(key, value)| (format!("{name}.{key}"), value);
            inner.iter().map(with_name).collect()
        }
        value => vec![(name.clone(), value)],
    })
}

/// The value of a line with a name from [`flat_values`].
pub(crate) fn flat_value<'a>(line: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let inner = || {
        let (outer, key) = name.split_once('.')?;
        line.get(outer)?.get(key)
    };
    line.get(name).or_else(inner)
}

/// The unit and the meaning of a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricInfo {
    /// Its unit; empty for a plain number.
    pub unit: String,
    /// Its meaning, in a few words.
    pub meaning: String,
}

/// The units and meanings of a run's metrics, by the patterns of their keys: `metrics.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetricCatalog {
    patterns: IndexMap<String, MetricInfo>,
}

impl MetricCatalog {
    /// Adds new metrics and updates changed ones. Returns whether anything changed.
    pub fn add(&mut self, metrics: &[Metric]) -> bool {
        let mut is_changed = false;
        for metric in metrics {
            let explanation = MetricInfo {
                unit: metric.unit.to_string(),
                meaning: metric.meaning.to_string(),
            };
            let pattern = metric.key.pattern();
            if self.patterns.get(&pattern) != Some(&explanation) {
                self.patterns.insert(pattern, explanation);
                is_changed = true;
            }
        }
        is_changed
    }

    /// The catalog with the present names of metrics, if an older program wrote it.
    pub(crate) fn renamed(self) -> Self {
        if !legacy::is_old(self.patterns.keys().map(String::as_str)) {
            return self;
        }
        let patterns = self.patterns.into_iter();
        let renamed = patterns.map(|(pattern, info)| (legacy::metric_name(&pattern), info));
        Self {
            patterns: renamed.collect(),
        }
    }

    /// Every pattern with its explanation.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetricInfo)> {
        let patterns = self.patterns.iter();
        patterns.map(|(pattern, explanation)| (pattern.as_str(), explanation))
    }

    /// The key and the explanation of the metric with a name; `None` if no pattern matches.
    pub fn find(&self, name: &str) -> Option<(MetricKey, &MetricInfo)> {
        let patterns = patterns_of(name).into_iter();
        let known = patterns.filter_map(|pattern| self.patterns.get_full(&pattern));
        let known: BTreeMap<usize, (&String, &MetricInfo)> = known
            .map(|(index, pattern, explanation)| (index, (pattern, explanation)))
            .collect();
        let matching = known.into_values().filter_map(|(pattern, explanation)| {
            Some((Pattern::parse(pattern).key(name)?, explanation))
        });
        // `turn_2/return` is the return of turn 2, not of a role called `turn_2`.
        matching.min_by_key(|(key, _)| (key.role.is_some(), key.part.is_some()))
    }

    /// The key of the metric called `name`. If the catalog does not know it, the name is parsed; `roles` are the
    /// run's roles.
    pub(crate) fn key(&self, name: &str, roles: &HashSet<&str>) -> MetricKey {
        match self.find(name) {
            Some((key, _)) => key,
            None => usual_key(name, roles),
        }
    }
}

/// Parses a name of the form `[timing.][ROLE/][turn_N/]NAME`, where `NAME` may be `reward/PART`. `ROLE` must be
/// one of `roles`.
fn usual_key(name: &str, roles: &HashSet<&str>) -> MetricKey {
    let is_timing = name.starts_with("timing.");
    let rest = name.strip_prefix("timing.").unwrap_or(name);
    let (role, rest) = match rest.split_once('/') {
        Some((role, rest)) if roles.contains(role) => (Some(role.to_owned()), rest),
        _ => (None, rest),
    };
    let (turn, rest) = match turn(rest) {
        Some((turn, rest)) => (Some(turn), rest),
        None => (None, rest),
    };
    let (rest, part) = match rest.strip_prefix("reward/") {
        Some(part) => ("reward", Some(part.to_owned())),
        None => (rest, None),
    };
    let name = match is_timing {
        true => format!("timing.{rest}"),
        false => rest.to_owned(),
    };
    MetricKey {
        role,
        turn,
        name: name.into(),
        part,
    }
}

/// The turn at the start of a name, and the rest of the name.
fn turn(name: &str) -> Option<(usize, &str)> {
    let (turn, rest) = name.strip_prefix("turn_")?.split_once('/')?;
    Some((turn.parse().ok()?, rest))
}

/// The longest name that is looked up, in bytes. No honest name is longer.
const MAX_NAME_BYTES: usize = 1024;

/// Only this many slashes of a name are tried as the start of its part. No honest name has more.
const MAX_SLASHES: usize = 16;

/// All patterns that a metric with this name may have. Looking them up is faster than trying every pattern of
/// the catalog, which comes from a file and may be long.
fn patterns_of(name: &str) -> Vec<String> {
    let mut patterns = Vec::new();
    if name.len() > MAX_NAME_BYTES {
        return patterns;
    }
    let timing = name.strip_prefix("timing.");
    let timing = timing.map(|rest| ("timing.", rest)).into_iter();
    for (timing, rest) in timing.chain([("", name)]) {
        let role = rest.split_once('/').map(|(_, rest)| ("<role>/", rest));
        for (role, rest) in role.into_iter().chain([("", rest)]) {
            let turn = turn(rest).map(|(_, rest)| ("turn_<turn>/", rest));
            for (turn, rest) in turn.into_iter().chain([("", rest)]) {
                patterns.push(format!("{role}{turn}{timing}{rest}"));
                let ends = rest.match_indices('/').take(MAX_SLASHES);
                let with_part = |(end, _)| format!("{role}{turn}{timing}{}/<part>", &rest[..end]);
                patterns.extend(ends.map(with_part));
            }
        }
    }
    patterns
}

/// A parsed pattern, such as `<role>/turn_<turn>/reward/<part>`.
struct Pattern<'a> {
    has_role: bool,
    has_turn: bool,
    has_part: bool,
    name: &'a str,
}

impl<'a> Pattern<'a> {
    fn parse(pattern: &'a str) -> Self {
        let (has_role, rest) = stripped(pattern, str::strip_prefix, "<role>/");
        let (has_turn, rest) = stripped(rest, str::strip_prefix, "turn_<turn>/");
        let (has_part, name) = stripped(rest, str::strip_suffix, "/<part>");
        Self {
            has_role,
            has_turn,
            has_part,
            name,
        }
    }

    /// The key of the metric with a name, if the name matches.
    fn key(&self, name: &str) -> Option<MetricKey> {
        let (stem, rest) = match self.name.strip_prefix("timing.") {
            Some(stem) => (stem, name.strip_prefix("timing.")?),
            None => (self.name, name),
        };
        let (role, rest) = match self.has_role {
            true => {
                let (role, rest) = rest.split_once('/')?;
                (Some(role.to_owned()), rest)
            }
            false => (None, rest),
        };
        let (turn, rest) = match self.has_turn {
            true => {
                let (turn, rest) = turn(rest)?;
                (Some(turn), rest)
            }
            false => (None, rest),
        };
        let rest = rest.strip_prefix(stem)?;
        let part = match self.has_part {
            true => Some(rest.strip_prefix('/')?.to_owned()),
            false => None,
        };
        (self.has_part || rest.is_empty()).then(|| MetricKey {
            role,
            turn,
            name: self.name.to_owned().into(),
            part,
        })
    }
}

fn stripped<'a>(
    text: &'a str,
    strip: fn(&'a str, &'static str) -> Option<&'a str>,
    affix: &'static str,
) -> (bool, &'a str) {
    match strip(text, affix) {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metric(key: MetricKey, value: impl Into<MetricValue>) -> Metric {
        Metric::new(key, value, "unit", "Meaning")
    }

    #[test]
    fn a_step_is_one_object_with_timing_at_its_end() {
        let key = MetricKey::new;
        let metrics = [
            metric(key("return"), 1.5),
            metric(key("reward").part("style"), f64::NAN),
            metric(key("timing.step_secs"), 2.0),
            metric(key("return").at_turn(1).of_role("writer"), 0.5),
            metric(key("timing.update_secs").of_role("writer"), 1.0),
            metric(key("completion_tokens"), 64usize),
            metric(key("kl").of_role("writer"), None::<f64>),
        ];
        let text = serde_json::to_string(&line(3, &metrics).unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"step":3,"return":1.5,"reward/style":null,"writer/turn_1/return":0.5,"completion_tokens":64,"writer/kl":null,"timing":{"step_secs":2.0,"writer/update_secs":1.0}}"#
        );
        let object = line(3, &metrics).unwrap();
        let names: Vec<String> = flat_values(&object).map(|(name, _)| name).skip(1).collect();
        let mut expected: Vec<String> = metrics
            .iter()
            .map(|metric| flat_name(&metric.key))
            .collect();
        expected.sort_by_key(|name| name.starts_with("timing."));
        assert_eq!(names, expected);
        for name in &names {
            assert!(flat_value(&object, name).is_some(), "{name}");
        }
        let with_value: Vec<String> = numbers(&metrics).map(|(name, _)| name).collect();
        assert!(!with_value.contains(&"reward/style".to_owned()) && with_value.len() == 5);
    }

    #[test]
    fn duplicate_names_are_refused() {
        let plain = |name: &'static str| metric(MetricKey::new(name), 1.0);
        for names in [
            ["a/b", "a/b"],
            ["step", "x"],
            ["timing.x", "timing.x"],
            ["timing", "x"],
        ] {
            assert!(line(1, &names.map(plain)).is_err(), "{names:?}");
        }
        let twice = [plain("a/b"), metric(MetricKey::new("b").of_role("a"), 1.0)];
        assert_eq!(line(1, &twice), Err("a/b".to_owned()));
    }

    #[test]
    fn a_name_is_found_by_its_pattern() {
        let key = MetricKey::new;
        let keys = [
            key("return"),
            key("return").at_turn(2),
            key("return").of_role("writer"),
            key("reward").part("style"),
            key("reward").part("style/short").at_turn(10),
            key("reward").part("style").of_role("writer").at_turn(1),
            key("sandbox/runs"),
            key("timing.sandbox_secs"),
            key("timing.update_secs").of_role("writer"),
            key("value_loss").of_role("turn_1"),
        ];
        let mut catalog = MetricCatalog::default();
        let metrics: Vec<Metric> = keys.iter().map(|key| metric(key.clone(), 1.0)).collect();
        assert!(catalog.add(&metrics) && !catalog.add(&metrics));
        for key in &keys {
            let (found, explanation) = catalog.find(&flat_name(key)).unwrap();
            assert_eq!((&found, explanation.unit.as_str()), (key, "unit"));
            let written = serde_json::to_string(&catalog).unwrap();
            assert_eq!(
                serde_json::from_str::<MetricCatalog>(&written).unwrap(),
                catalog
            );
        }
        for unknown in [
            "mood",
            "writer/mood",
            "rewards/style",
            "timing.return",
            "turn_x/return2",
        ] {
            assert!(catalog.find(unknown).is_none(), "{unknown}");
        }
        // An unknown name is interpreted by its structure.
        let roles = ["writer"].into();
        let mood = key("mood").of_role("writer").at_turn(2);
        assert_eq!(catalog.key("writer/turn_2/mood", &roles), mood);
        assert_eq!(catalog.key("plates/seen", &roles), key("plates/seen"));
    }

    #[test]
    fn changed_units_are_updated_and_unknown_keys_are_ignored() {
        let text = r#"{"a": {"unit": "x", "meaning": "m", "formula": "?"}, "b": {}}"#;
        let mut catalog: MetricCatalog = serde_json::from_str(text).unwrap();
        let b = catalog.find("b").unwrap().1;
        assert_eq!((b.unit.as_str(), b.meaning.as_str()), ("", ""));
        assert!(catalog.add(&[metric(MetricKey::new("a"), 1.0)]));
        assert_eq!(catalog.find("a").unwrap().1.unit, "unit");
        assert_eq!(catalog.iter().count(), 2);
    }

    #[test]
    fn a_name_that_matches_several_patterns_has_the_plainest() {
        // The first pattern of each pair matches better, or stands first in the catalog.
        for (name, patterns) in [
            ("turn_2/x", ["turn_<turn>/x", "<role>/x"]),
            ("turn_2/x", ["turn_2/x", "turn_<turn>/x"]),
            ("turn_2/x", ["turn_<turn>/x", "turn_2/x"]),
            ("a/x/b", ["a/x/b", "a/<part>"]),
            ("a/x/b", ["a/x/<part>", "<role>/x/<part>"]),
            ("a/x/b", ["a/<part>", "a/x/<part>"]),
            ("a/x/b", ["a/x/<part>", "a/<part>"]),
            ("timing.a/b", ["timing.a/b", "<role>/timing.b"]),
            ("timing.a/b", ["<role>/timing.b", "<role>/b"]),
            ("/b", ["/<part>", "<role>/b"]),
        ] {
            let text = patterns.map(|pattern| format!("{pattern:?}: {{\"unit\": {pattern:?}}}"));
            let catalog: MetricCatalog =
                serde_json::from_str(&format!("{{{}}}", text.join(","))).unwrap();
            assert_eq!(catalog.find(name).unwrap().1.unit, patterns[0], "{name}");
            // Both patterns match.
            for pattern in patterns {
                assert!(
                    Pattern::parse(pattern).key(name).is_some(),
                    "{name} {pattern}"
                );
            }
        }
    }

    proptest! {
        /// If the run's roles are known, the name of any key leads back to the key.
        #[test]
        fn names_lead_back_to_their_keys(
            role in proptest::option::of("[a-z]{1,6}"),
            turn in proptest::option::of(1usize..20),
            name in "(timing\\.)?[a-z_]{1,8}",
            part in proptest::option::of("[a-z]{1,6}(/[a-z]{1,3})?"),
        ) {
            let key = MetricKey { role: role.clone(), turn, name: name.into(), part };
            let mut catalog = MetricCatalog::default();
            catalog.add(&[metric(key.clone(), 1.0)]);
            prop_assert_eq!(catalog.find(&flat_name(&key)).unwrap().0, key.clone());
            if key.part.is_none() {
                let roles = role.as_deref().into_iter().collect();
                let plain = MetricCatalog::default().key(&flat_name(&key), &roles);
                prop_assert_eq!(plain, key);
            }
        }
    }
}
