//! Metrics and their keys. A key identifies a metric from the code that computes it to the page that shows
//! it.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Identifies a metric by its name and, where they apply, a role, a turn and a part of the reward.
///
/// Files and pages show a key as text:
///
/// ```
/// # use polyphony_episode::MetricKey;
/// let key = MetricKey::new("reward").of_role("writer").at_turn(2).part("style");
/// assert_eq!(key.to_string(), "writer/turn_2/reward/style");
/// assert_eq!(key.pattern(), "<role>/turn_<turn>/reward/<part>");
/// assert_eq!(MetricKey::new("completion_tokens").to_string(), "completion_tokens");
/// ```
///
/// A name may contain slashes, as in `sandbox/runs`. The names of metrics that depend on clocks or on memory
/// begin with `timing.`; files store these metrics in a separate object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MetricKey {
    /// The role that the metric is about; `None` for the whole team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The turn that the metric is about, counted from 1; `None` for all turns together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<usize>,
    /// What the metric measures, such as `reward`.
    pub name: Cow<'static, str>,
    /// The part of the reward that the metric is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

/// The prefix in the names of metrics that depend on clocks or memory.
const TIMING: &str = "timing.";

impl MetricKey {
    /// The key of a metric of the whole team over all turns.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            role: None,
            turn: None,
            name: name.into(),
            part: None,
        }
    }

    /// The key of the same metric for one role.
    #[must_use]
    pub fn of_role(self, role: impl Into<String>) -> Self {
        Self {
            role: Some(role.into()),
            ..self
        }
    }

    /// The key of the same metric at one turn, counted from 1.
    #[must_use]
    pub fn at_turn(self, turn: usize) -> Self {
        Self {
            turn: Some(turn),
            ..self
        }
    }

    /// The key of the same metric for one part of the reward.
    #[must_use]
    pub fn part(self, part: impl Into<String>) -> Self {
        Self {
            part: Some(part.into()),
            ..self
        }
    }

    /// Whether the metric depends on clocks or memory, so that repeating a run gives another value.
    pub fn is_timing(&self) -> bool {
        self.name.starts_with(TIMING)
    }

    /// The key as text with placeholders instead of the role, the turn and the part. Documents and tables
    /// use it for all keys of one kind.
    pub fn pattern(&self) -> String {
        let role = self.role.as_ref().map(|_| "<role>");
        let turn = self.turn.as_ref().map(|_| "<turn>");
        let part = self.part.as_ref().map(|_| "<part>");
        key_text(role, turn, &self.name, part)
    }
}

impl fmt::Display for MetricKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&key_text(
            self.role.as_ref(),
            self.turn,
            &self.name,
            self.part.as_ref(),
        ))
    }
}

fn key_text(
    role: Option<impl fmt::Display>,
    turn: Option<impl fmt::Display>,
    name: &str,
    part: Option<impl fmt::Display>,
) -> String {
    let role = role.map(|role| format!("{role}/")).unwrap_or_default();
    let turn = turn.map(|turn| format!("turn_{turn}/")).unwrap_or_default();
    let part = part.map(|part| format!("/{part}")).unwrap_or_default();
    [&role, &turn, name, &part].concat()
}

/// The value of a metric.
///
/// In JSON it is a number, or null if it is missing or not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricValue {
    /// A count.
    Count(u64),
    /// A real number.
    Real(f64),
    /// There is no value, such as the mean of no values.
    Missing,
}

impl MetricValue {
    /// The number; `None` if it is missing or not finite.
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Count(count) => Some(count as f64),
            Self::Real(value) => value.is_finite().then_some(value),
            Self::Missing => None,
        }
    }
}

impl From<u64> for MetricValue {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for MetricValue {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for MetricValue {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for MetricValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

impl Serialize for MetricValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Real(value) if value.is_finite() => serializer.serialize_f64(*value),
            Self::Real(_) | Self::Missing => serializer.serialize_unit(),
        }
    }
}

impl<'de> Deserialize<'de> for MetricValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl de::Visitor<'_> for ValueVisitor {
    type Value = MetricValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number or null")
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<MetricValue, E> {
        Ok(MetricValue::Count(count))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<MetricValue, E> {
        Ok(MetricValue::Real(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<MetricValue, E> {
        Ok(MetricValue::Real(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<MetricValue, E> {
        Ok(MetricValue::Missing)
    }
}

/// A metric: its value, unit and meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Identifies the metric.
    pub key: MetricKey,
    /// Its value.
    pub value: MetricValue,
    /// Its unit; empty for a plain number.
    pub unit: Cow<'static, str>,
    /// What the metric means, in a few words.
    pub meaning: Cow<'static, str>,
}

impl Metric {
    /// A metric from its key, value, unit and meaning.
    pub fn new(
        key: MetricKey,
        value: impl Into<MetricValue>,
        unit: impl Into<Cow<'static, str>>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            key,
            value: value.into(),
            unit: unit.into(),
            meaning: meaning.into(),
        }
    }
}

/// A running total that an environment has counted since it was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    /// Identifies what is counted.
    pub key: MetricKey,
    /// The total so far. It never falls.
    pub total: f64,
    /// Its unit; empty for a plain number.
    pub unit: Cow<'static, str>,
    /// What its growth over one step means, in a few words.
    pub meaning: Cow<'static, str>,
}

impl Counter {
    /// A counter from its key, total, unit and meaning.
    pub fn new(
        key: MetricKey,
        total: f64,
        unit: impl Into<Cow<'static, str>>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            key,
            total,
            unit: unit.into(),
            meaning: meaning.into(),
        }
    }

    /// The growth since an earlier total, as the metric of one step. The value is a [`MetricValue::Count`]
    /// if the growth is a whole number and the counter does not depend on clocks or memory. Otherwise it
    /// is a [`MetricValue::Real`].
    #[must_use]
    pub fn since(&self, earlier: f64) -> Metric {
        let growth = self.total - earlier;
        let is_count = !self.key.is_timing() && growth >= 0.0 && growth.fract() == 0.0;
        let value = match is_count {
            true => MetricValue::Count(growth as u64),
            false => MetricValue::Real(growth),
        };
        Metric {
            key: self.key.clone(),
            value,
            unit: self.unit.clone(),
            meaning: self.meaning.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_from_the_role_down_to_the_part() {
        let key = MetricKey::new;
        for (key, text, pattern) in [
            (key("return"), "return", "return"),
            (key("reward").part("a"), "reward/a", "reward/<part>"),
            (key("nodes").at_turn(1), "turn_1/nodes", "turn_<turn>/nodes"),
            (key("kl").of_role("w"), "w/kl", "<role>/kl"),
            (key("sandbox/runs"), "sandbox/runs", "sandbox/runs"),
            (
                key("timing.step_secs"),
                "timing.step_secs",
                "timing.step_secs",
            ),
        ] {
            assert_eq!(
                (key.to_string().as_str(), key.pattern().as_str()),
                (text, pattern)
            );
            let json = serde_json::to_string(&key).unwrap();
            assert_eq!(serde_json::from_str::<MetricKey>(&json).unwrap(), key);
        }
        assert!(key("timing.step_secs").is_timing() && !key("sandbox/runs").is_timing());
    }

    #[test]
    fn values_are_numbers_or_null() {
        for (value, text, number) in [
            (MetricValue::from(3u64), "3", Some(3.0)),
            (MetricValue::from(-0.5), "-0.5", Some(-0.5)),
            (MetricValue::from(f64::NAN), "null", None),
            (MetricValue::from(f64::INFINITY), "null", None),
            (MetricValue::from(None::<f64>), "null", None),
            (MetricValue::from(Some(7usize)), "7", Some(7.0)),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(value.number(), number);
            let parsed: MetricValue = serde_json::from_str(text).unwrap();
            assert_eq!(parsed.number(), number, "{text}");
        }
        let count: MetricValue = serde_json::from_str("3").unwrap();
        assert_eq!(count, MetricValue::Count(3));
        assert!(serde_json::from_str::<MetricValue>("\"3\"").is_err());
    }

    #[test]
    fn a_counter_grows_step_by_step() {
        let counter = |name: &'static str, total| {
            Counter::new(MetricKey::new(name), total, "programs", "Programs")
        };
        let runs = counter("sandbox/runs", 7.0).since(5.0);
        assert_eq!(
            (runs.value, &*runs.unit),
            (MetricValue::Count(2), "programs")
        );
        let secs = counter("timing.sandbox_secs", 3.0).since(1.0);
        assert_eq!(secs.value, MetricValue::Real(2.0));
        let cost = counter("cost", 1.5).since(0.25);
        assert_eq!(cost.value, MetricValue::Real(1.25));
    }
}
