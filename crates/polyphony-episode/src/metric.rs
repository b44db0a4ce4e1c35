//! The identity of a figure, from where it is computed to the page that shows it.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Names a figure: what it measures, and of which role, turn and part of the reward.
///
/// Its text is how files and pages name it:
///
/// ```
/// # use polyphony_episode::MetricKey;
/// let key = MetricKey::new("reward").of_role("writer").at_turn(2).part("style");
/// assert_eq!(key.to_string(), "writer/turn_2/reward/style");
/// assert_eq!(key.pattern(), "<role>/turn_<turn>/reward/<part>");
/// assert_eq!(MetricKey::new("completion_tokens").to_string(), "completion_tokens");
/// ```
///
/// A name may hold slashes, as `sandbox/runs`. The name of a figure that depends on clocks or on memory
/// begins with `timing.`, and such figures stand in an object of their own in files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MetricKey {
    /// The role that it is about; `None` for the whole team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The turn that it is about, counted from 1; `None` for all turns together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<usize>,
    /// What it measures.
    pub name: Cow<'static, str>,
    /// The part of the reward that it is about, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

/// What the name of a figure begins with that depends on clocks or memory.
const TIMING: &str = "timing.";

impl MetricKey {
    /// A figure of the whole team over all turns.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            role: None,
            turn: None,
            name: name.into(),
            part: None,
        }
    }

    /// The same figure of one role.
    #[must_use]
    pub fn of_role(self, role: impl Into<String>) -> Self {
        Self {
            role: Some(role.into()),
            ..self
        }
    }

    /// The same figure at one turn, counted from 1.
    #[must_use]
    pub fn at_turn(self, turn: usize) -> Self {
        Self {
            turn: Some(turn),
            ..self
        }
    }

    /// The same figure of one part of the reward.
    #[must_use]
    pub fn part(self, part: impl Into<String>) -> Self {
        Self {
            part: Some(part.into()),
            ..self
        }
    }

    /// Whether it depends on clocks or memory, so that repeating a run gives another value.
    pub fn is_timing(&self) -> bool {
        self.name.starts_with(TIMING)
    }

    /// The form that all figures of this kind share, for documents and tables: placeholders stand for
    /// role, turn and part.
    pub fn pattern(&self) -> String {
        let role = self.role.as_ref().map(|_| "<role>");
        let turn = self.turn.as_ref().map(|_| "<turn>");
        let part = self.part.as_ref().map(|_| "<part>");
        joined(role, turn, &self.name, part)
    }
}

impl fmt::Display for MetricKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&joined(
            self.role.as_ref(),
            self.turn,
            &self.name,
            self.part.as_ref(),
        ))
    }
}

fn joined(
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

/// The value of a figure.
///
/// In JSON it is a number, or null where it is missing or not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricValue {
    /// How many.
    Count(u64),
    /// A real number.
    Real(f64),
    /// There is nothing to measure, as the mean of nothing.
    Missing,
}

impl MetricValue {
    /// The number; `None` where it is missing or not finite.
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

/// A figure, with its unit and what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is of.
    pub key: MetricKey,
    /// Its value.
    pub value: MetricValue,
    /// Its unit; empty for a plain number.
    pub unit: Cow<'static, str>,
    /// What it says, in a few words.
    pub meaning: Cow<'static, str>,
}

impl Metric {
    /// A figure.
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

/// Something that an environment counts or adds up from when it was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    /// What it counts.
    pub key: MetricKey,
    /// The total so far. It never falls.
    pub total: f64,
    /// Its unit; empty for a plain number.
    pub unit: Cow<'static, str>,
    /// What it says of one step, in a few words.
    pub meaning: Cow<'static, str>,
}

impl Counter {
    /// A counter.
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

    /// Its growth since an earlier total, as the figure of a step. What counts whole things is a count:
    /// everything that does not depend on clocks or memory and is a whole number.
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
            let written = serde_json::to_string(&key).unwrap();
            assert_eq!(serde_json::from_str::<MetricKey>(&written).unwrap(), key);
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
            let again: MetricValue = serde_json::from_str(text).unwrap();
            assert_eq!(again.number(), number, "{text}");
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
        let part = counter("cost", 1.5).since(0.25);
        assert_eq!(part.value, MetricValue::Real(1.25));
    }
}
