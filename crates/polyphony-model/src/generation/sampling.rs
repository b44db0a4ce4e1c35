//! How tokens are drawn, and the random numbers that decide.

use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How tokens are drawn. Temperature comes first, then top-k, then top-p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the most likely tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the most likely tokens; `None` keeps all.
    pub top_k: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
        }
    }
}

/// The lowest temperature above 0. Below it, sampling is greedy in all but name, and very small temperatures would
/// overflow.
const MIN_TEMPERATURE: f32 = 1e-3;

impl Sampling {
    /// Always takes the most likely token.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// If a setting is out of range; the error names it, its value and the allowed values.
    pub fn validate(&self) -> Result<(), ModelError> {
        let invalid = |key, given: String, allowed| {
            Err(ModelError::Setting {
                key,
                given,
                allowed,
            })
        };
        let in_range = (MIN_TEMPERATURE..f32::INFINITY).contains(&self.temperature);
        if !(self.temperature == 0.0 || in_range) {
            let allowed = "0 (greedy) or a number from 0.001 up";
            return invalid("temperature", self.temperature.to_string(), allowed);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return invalid("top_p", self.top_p.to_string(), "above 0 and at most 1");
        }
        if self.top_k == Some(0) {
            return invalid("top_k", "0".to_owned(), "at least 1, or left out");
        }
        Ok(())
    }

    /// Whether top-p or top-k removes tokens from the distribution before sampling.
    pub fn truncates(&self) -> bool {
        self.top_p < 1.0 || self.top_k.is_some()
    }

    /// The temperature of the distribution whose log-probabilities are recorded: the sampling
    /// temperature, or 1 if sampling is greedy.
    pub fn scoring_temperature(&self) -> f32 {
        if self.temperature == 0.0 {
            1.0
        } else {
            self.temperature
        }
    }
}

/// Selects the stream of random numbers of one response. Equal keys give equal streams, whatever else
/// is in the batch. The caller decides how keys are derived, and gives different responses different
/// keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKey(pub [u8; 32]);

impl StreamKey {
    /// The uniform number in `[0, 1)` at a position of the stream. Sampling uses it to choose the
    /// token at that position of the response.
    ///
    /// ChaCha is a counter-based generator: the key is its seed, and the position its counter.
    pub fn uniform(&self, position: usize) -> f64 {
        let mut rng = ChaCha8Rng::from_seed(self.0);
        rng.set_word_pos(2 * position as u128);
        (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let table = [
            (
                Sampling {
                    temperature: -1.0,
                    ..Sampling::default()
                },
                "temperature",
            ),
            (
                Sampling {
                    temperature: f32::NAN,
                    ..Sampling::default()
                },
                "temperature",
            ),
            (
                Sampling {
                    top_p: 1.5,
                    ..Sampling::default()
                },
                "top_p",
            ),
            (
                Sampling {
                    top_p: 0.0,
                    ..Sampling::default()
                },
                "top_p",
            ),
            (
                Sampling {
                    top_k: Some(0),
                    ..Sampling::default()
                },
                "top_k",
            ),
        ];
        for (sampling, key) in table {
            let message = sampling.validate().unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")), "{message}");
        }
        assert!(Sampling::default().validate().is_ok());
    }

    proptest! {
        #[test]
        fn every_byte_of_the_key_changes_the_stream(
            key: [u8; 32],
            byte in 0usize..32,
            position in 0usize..4096,
        ) {
            let mut other = key;
            other[byte] ^= 1;
            let [key, other] = [key, other].map(StreamKey);
            let drawn = key.uniform(position);
            prop_assert!((0.0..1.0).contains(&drawn));
            prop_assert_eq!(drawn, key.uniform(position));
            prop_assert_ne!(drawn, key.uniform(position + 1));
            prop_assert_ne!(drawn, other.uniform(position));
        }
    }
}
