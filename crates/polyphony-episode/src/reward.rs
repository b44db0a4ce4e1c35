//! The reward that all agents of a joint action share.

use serde::{Deserialize, Serialize};

/// One shared reward, the sum of named parts.
///
/// Parts keep the order in which they were given, so that reports read like the environment's own
/// definition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    parts: Vec<(String, f64)>,
}

impl Reward {
    /// A reward from its named parts.
    pub fn new<N: Into<String>>(parts: impl IntoIterator<Item = (N, f64)>) -> Self {
        Self {
            parts: parts
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        }
    }

    /// The sum of the parts.
    pub fn total(&self) -> f64 {
        self.parts.iter().map(|(_, value)| value).sum()
    }

    /// The parts with their names, in the environment's order.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (&str, f64)> {
        self.parts
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
    }

    /// A part's value; `None` where this reward has no such part.
    pub fn part(&self, name: &str) -> Option<f64> {
        self.parts
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_total_is_the_sum_of_the_parts(values in prop::collection::vec(-3.0..3.0f64, 0..6)) {
            let names: Vec<String> = (0..values.len()).map(|i| format!("part{i}")).collect();
            let reward = Reward::new(names.iter().cloned().zip(values.iter().copied()));
            prop_assert!((reward.total() - values.iter().sum::<f64>()).abs() < 1e-12);
            for (name, value) in names.iter().zip(&values) {
                prop_assert_eq!(reward.part(name), Some(*value));
            }
            let text = serde_json::to_string(&reward).unwrap();
            prop_assert_eq!(serde_json::from_str::<Reward>(&text).unwrap().parts().len(), values.len());
        }
    }

    #[test]
    fn an_unknown_part_is_none() {
        assert_eq!(Reward::new([("style", 1.0)]).part("length"), None);
    }
}
