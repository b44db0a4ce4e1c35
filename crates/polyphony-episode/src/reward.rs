//! The reward of a joint action.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The reward of a joint action: one reward that all roles share, or one per role. Each is the sum of named
/// parts.
///
/// Parts keep the order in which they were given, so that reports show them in the order of the
/// environment's definition.
///
/// ```
/// # use polyphony_episode::Reward;
/// let shared = Reward::new([("letters", 0.5), ("balance", 1.0)]);
/// assert_eq!((shared.total(), shared.total_of(1)), (1.5, 1.5));
///
/// let each = Reward::per_role([[("letters", 0.5)], [("digits", 1.0)]]);
/// assert_eq!((each.total_of(0), each.total_of(1), each.total()), (0.5, 1.0, 0.75));
/// assert_eq!(each.part("digits"), Some(0.5));
/// ```
///
/// In files, a shared reward is `{"parts": [["letters", 0.5], …]}`. Rewards per role are
/// `{"per_role": [[["letters", 0.5], …], …]}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reward(Form);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Shared { parts: Parts },
    PerRole { per_role: Vec<Parts> },
}

/// Named values. The reward is their sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Parts(Vec<(String, f64)>);

impl Parts {
    fn new<N: Into<String>>(parts: impl IntoIterator<Item = (N, f64)>) -> Self {
        let part = |(name, value): (N, f64)| (name.into(), value);
        Self(parts.into_iter().map(part).collect())
    }

    fn total(&self) -> f64 {
        self.0.iter().map(|(_, value)| value).sum()
    }

    fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.iter()
            .find(|(part_name, _)| *part_name == name)
            .map(|(_, value)| value)
    }
}

impl Default for Reward {
    /// A shared reward without parts: zero.
    fn default() -> Self {
        Self(Form::Shared {
            parts: Parts::default(),
        })
    }
}

impl Reward {
    /// The largest magnitude that a part may have. Sums or squares of larger values could overflow.
    pub const LARGEST_PART: f64 = 1e30;

    /// A reward that all roles share, from its named parts.
    pub fn new<N: Into<String>>(parts: impl IntoIterator<Item = (N, f64)>) -> Self {
        Self(Form::Shared {
            parts: Parts::new(parts),
        })
    }

    /// One reward per role, each from its named parts, in the order of the environment's roles. Roles
    /// may have different parts.
    pub fn per_role<N: Into<String>>(
        rewards: impl IntoIterator<Item = impl IntoIterator<Item = (N, f64)>>,
    ) -> Self {
        Self(Form::PerRole {
            per_role: rewards.into_iter().map(Parts::new).collect(),
        })
    }

    /// The number of separate rewards, one per role; `None` if all roles share one.
    pub fn role_count(&self) -> Option<usize> {
        match &self.0 {
            Form::Shared { .. } => None,
            Form::PerRole { per_role } => Some(per_role.len()),
        }
    }

    /// The reward of some of the roles. A reward that all roles share stays the same.
    ///
    /// # Panics
    /// If there is one reward per role, but none for these roles.
    #[must_use]
    pub fn of_roles(&self, roles: Range<usize>) -> Self {
        Self(match &self.0 {
            Form::Shared { .. } => self.0.clone(),
            Form::PerRole { per_role } => Form::PerRole {
                per_role: per_role[roles].to_vec(),
            },
        })
    }

    /// The sum of the parts. With one reward per role, it is the mean over the roles.
    pub fn total(&self) -> f64 {
        match &self.0 {
            Form::Shared { parts } => parts.total(),
            Form::PerRole { per_role } => mean(per_role.iter().map(Parts::total), per_role.len()),
        }
    }

    /// The parts with their names, in the order in which the environment gave them. With one reward per role,
    /// they have the order of their first appearance, each part is its mean over the roles, and a role that
    /// lacks it counts as 0. So the parts sum to the [total](Self::total).
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (&str, f64)> {
        let parts: Vec<(&str, f64)> = match &self.0 {
            Form::Shared { parts } => parts.iter().collect(),
            Form::PerRole { per_role } => {
                let mut names: Vec<&str> = Vec::new();
                for (name, _) in per_role.iter().flat_map(Parts::iter) {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                let value = |name| (name, mean_part(per_role, name));
                names.into_iter().map(value).collect()
            }
        };
        parts.into_iter()
    }

    /// A part's value. With one reward per role, it is the mean over the roles. `None` if no role has such a
    /// part.
    pub fn part(&self, name: &str) -> Option<f64> {
        match &self.0 {
            Form::Shared { parts } => parts.get(name),
            Form::PerRole { per_role } => per_role
                .iter()
                .any(|parts| parts.get(name).is_some())
                .then(|| mean_part(per_role, name)),
        }
    }

    /// The sum of the parts that one role earns.
    ///
    /// # Panics
    /// If there is one reward per role, but none for this role.
    pub fn total_of(&self, role: usize) -> f64 {
        self.of(role).total()
    }

    /// The parts that one role earns, with their names.
    ///
    /// # Panics
    /// If there is one reward per role, but none for this role.
    pub fn parts_of(&self, role: usize) -> impl ExactSizeIterator<Item = (&str, f64)> {
        self.of(role).iter().collect::<Vec<_>>().into_iter()
    }

    /// The value of a part that one role earns; `None` if its reward has no such part.
    ///
    /// # Panics
    /// If there is one reward per role, but none for this role.
    pub fn part_of(&self, role: usize, name: &str) -> Option<f64> {
        self.of(role).get(name)
    }

    fn of(&self, role: usize) -> &Parts {
        match &self.0 {
            Form::Shared { parts } => parts,
            Form::PerRole { per_role } => &per_role[role],
        }
    }
}

/// The mean of a part over the roles; a role that lacks it counts as 0. If one role has two parts of this
/// name, both count, as they do in the role's total.
fn mean_part(per_role: &[Parts], name: &str) -> f64 {
    let role_value = |parts: &Parts| -> f64 {
        let values = parts.iter().filter(|(part_name, _)| *part_name == name);
        values.map(|(_, value)| value).sum()
    };
    mean(per_role.iter().map(role_value), per_role.len())
}

fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    /// Some of the names with values, in any order.
    fn parts() -> impl Strategy<Value = Vec<(&'static str, f64)>> {
        prop::sample::subsequence(NAMES.to_vec(), 0..=NAMES.len())
            .prop_shuffle()
            .prop_flat_map(|names| {
                let count = names.len();
                prop::collection::vec(-3.0..3.0f64, count)
                    .prop_map(move |values| names.iter().copied().zip(values).collect())
            })
    }

    fn round_trip(reward: &Reward) -> Reward {
        serde_json::from_str(&serde_json::to_string(reward).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn a_shared_total_is_the_sum_of_the_parts(parts in parts()) {
            let reward = Reward::new(parts.iter().copied());
            let sum: f64 = parts.iter().map(|(_, value)| value).sum();
            prop_assert_eq!(reward.total(), sum);
            prop_assert_eq!(reward.role_count(), None);
            prop_assert_eq!(reward.parts().collect::<Vec<_>>(), parts.clone());
            prop_assert_eq!(reward.parts_of(7).collect::<Vec<_>>(), parts.clone());
            prop_assert_eq!(reward.total_of(7), sum);
            for (name, value) in &parts {
                prop_assert_eq!(reward.part(name), Some(*value));
                prop_assert_eq!(reward.part_of(7, name), Some(*value));
            }
            prop_assert_eq!(round_trip(&reward), reward);
        }

        #[test]
        fn mean_parts_of_roles_sum_to_the_mean_total(roles in prop::collection::vec(parts(), 1..5)) {
            let reward = Reward::per_role(roles.clone());
            prop_assert_eq!(reward.role_count(), Some(roles.len()));
            for first in 0..roles.len() {
                let some = reward.of_roles(first..roles.len());
                prop_assert_eq!(some.role_count(), Some(roles.len() - first));
                prop_assert_eq!(some.total_of(0), reward.total_of(first));
            }
            let totals: f64 = (0..roles.len()).map(|role| reward.total_of(role)).sum();
            prop_assert!((reward.total() - totals / roles.len() as f64).abs() < 1e-12);
            let parts: f64 = reward.parts().map(|(_, value)| value).sum();
            prop_assert!((parts - reward.total()).abs() < 1e-12);
            for (role, parts) in roles.iter().enumerate() {
                let sum: f64 = parts.iter().map(|(_, value)| value).sum();
                prop_assert_eq!(reward.total_of(role), sum);
                prop_assert_eq!(&reward.parts_of(role).collect::<Vec<_>>(), parts);
            }
            for name in NAMES {
                let part = reward.parts().find(|(part_name, _)| *part_name == name);
                prop_assert_eq!(reward.part(name), part.map(|(_, value)| value));
            }
            prop_assert_eq!(round_trip(&reward), reward);
        }
    }

    #[test]
    fn rewards_of_earlier_runs_are_read() {
        let text = r#"{"parts": [["style", 0.5], ["length", -1.0]]}"#;
        let reward: Reward = serde_json::from_str(text).unwrap();
        assert_eq!(reward, Reward::new([("style", 0.5), ("length", -1.0)]));
    }

    #[test]
    fn rewards_per_role_are_serialized_by_role() {
        let reward = Reward::per_role([vec![("style", 0.5)], vec![]]);
        let text = r#"{"per_role":[[["style",0.5]],[]]}"#;
        assert_eq!(serde_json::to_string(&reward).unwrap(), text);
    }

    #[test]
    fn a_part_that_no_role_has_is_none() {
        assert_eq!(Reward::new([("style", 1.0)]).part("length"), None);
        let each = Reward::per_role([[("style", 1.0)], [("length", 4.0)]]);
        assert_eq!(each.part("depth"), None);
        assert_eq!(each.part_of(0, "length"), None);
        assert_eq!(each.part("length"), Some(2.0));
    }

    #[test]
    fn nothing_earned_is_zero() {
        assert_eq!(Reward::default().total(), 0.0);
        assert_eq!(Reward::per_role([[("x", 0.0); 0]; 0]).total(), 0.0);
    }
}
