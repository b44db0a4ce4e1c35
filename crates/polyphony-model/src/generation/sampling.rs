//! From logits to a token.

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

/// A token and its natural log-probability under the temperature-scaled, untruncated distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SampledToken {
    pub(crate) token: u32,
    pub(crate) logprob: f32,
}

/// Draws a token. `uniform` lies in `[0, 1)`.
pub(crate) fn sample_token(logits: &[f32], sampling: &Sampling, uniform: f64) -> SampledToken {
    let temperature = f64::from(sampling.scoring_temperature());
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scaled = |logit: f32| f64::from(logit - max) / temperature;
    let total: f64 = logits.iter().map(|&logit| scaled(logit).exp()).sum();
    let token = if sampling.temperature == 0.0 {
        argmax(logits)
    } else if sampling.truncates() {
        sample_truncated(logits, scaled, total, sampling, uniform)
    } else {
        inverse_cdf(
            logits
                .iter()
                .enumerate()
                .map(|(id, &logit)| (id, scaled(logit).exp())),
            uniform * total,
        )
    };
    SampledToken {
        token: token as u32,
        logprob: (scaled(logits[token]) - total.ln()) as f32,
    }
}

/// The index of the largest logit, the first one on a tie.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

/// The size of the first batch of tokens that is sorted.
const FIRST_RANKED: usize = 256;

fn sample_truncated(
    logits: &[f32],
    scaled: impl Fn(f32) -> f64,
    total: f64,
    sampling: &Sampling,
    uniform: f64,
) -> usize {
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut ranked_total = total;
    if let Some(k) = sampling.top_k.filter(|&k| k < ranked.len()) {
        ranked.select_nth_unstable_by(k - 1, by_logit);
        ranked.truncate(k);
        ranked_total = ranked.iter().map(|&id| scaled(logits[id]).exp()).sum();
    }
    let nucleus_weight = f64::from(sampling.top_p) * ranked_total;
    let mut sum = 0.0;
    let mut nucleus = Vec::new();
    let mut rest = ranked.as_mut_slice();
    'nucleus: while !rest.is_empty() {
        // The nucleus is usually a small part of the vocabulary, so tokens are sorted in batches until it
        // is complete. Batches grow fast, so that few are needed.
        let count = (15 * nucleus.len()).max(FIRST_RANKED).min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, by_logit);
        }
        let (most_likely, less_likely) = rest.split_at_mut(count);
        most_likely.sort_unstable_by(by_logit);
        for &mut id in most_likely {
            let weight = scaled(logits[id]).exp();
            nucleus.push((id, weight));
            sum += weight;
            if sampling.top_p < 1.0 && sum >= nucleus_weight {
                break 'nucleus;
            }
        }
        rest = less_likely;
    }
    inverse_cdf(nucleus, uniform * sum)
}

/// The item at which the running sum of weights passes `threshold`. If rounding leaves the total below
/// the threshold, it is the last item with a positive weight.
fn inverse_cdf(weights: impl IntoIterator<Item = (usize, f64)>, threshold: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (id, weight) in weights {
        if weight > 0.0 {
            last = id;
            sum += weight;
            if sum > threshold {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, -1.0, 1.5];

    fn probabilities(temperature: f32) -> Vec<f64> {
        let weights = LOGITS.map(|l| f64::from(l / temperature).exp());
        weights
            .iter()
            .map(|w| w / weights.iter().sum::<f64>())
            .collect()
    }

    /// How often each token is drawn, over an even grid of uniform numbers.
    fn frequencies(sampling: &Sampling) -> Vec<f64> {
        let n = 20_000;
        let mut counts = vec![0.0; LOGITS.len()];
        for i in 0..n {
            let sampled = sample_token(&LOGITS, sampling, (f64::from(i) + 0.5) / f64::from(n));
            counts[sampled.token as usize] += 1.0 / f64::from(n);
        }
        counts
    }

    #[test]
    fn tokens_are_drawn_with_their_probability() {
        for temperature in [0.5, 1.0, 2.0] {
            let sampling = Sampling {
                temperature,
                ..Sampling::default()
            };
            for (frequency, expected) in frequencies(&sampling)
                .iter()
                .zip(probabilities(temperature))
            {
                assert!(
                    (frequency - expected).abs() < 1e-3,
                    "{frequency} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn truncation_keeps_the_most_likely_tokens_in_proportion() {
        let p = probabilities(1.0);
        let top_two = Sampling {
            top_k: Some(2),
            ..Sampling::default()
        };
        let frequency = frequencies(&top_two);
        assert!((frequency[1] - p[1] / (p[1] + p[4])).abs() < 1e-3);
        assert_eq!((frequency[0], frequency[2], frequency[3]), (0.0, 0.0, 0.0));
        // p[1] is 0.46 and p[4] 0.28: three quarters need a third token, p[2].
        let nucleus = Sampling {
            top_p: 0.75,
            ..Sampling::default()
        };
        let frequency = frequencies(&nucleus);
        assert!((frequency[2] - p[2] / (p[1] + p[4] + p[2])).abs() < 1e-3);
        assert_eq!((frequency[0], frequency[3]), (0.0, 0.0));
    }

    #[test]
    fn log_probabilities_ignore_truncation_and_follow_temperature() {
        let sampling = Sampling {
            temperature: 0.7,
            top_p: 0.5,
            top_k: Some(2),
        };
        let sampled = sample_token(&LOGITS, &sampling, 0.1);
        assert_eq!(sampled.token, 1);
        assert!((f64::from(sampled.logprob) - probabilities(0.7)[1].ln()).abs() < 1e-6);
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_most_likely_tokens() {
        let sampled = sample_token(&[1.0, 3.0, 3.0], &Sampling::greedy(), 0.99);
        assert_eq!(sampled.token, 1);
        assert!((f64::from(sampled.logprob) - (1.0 / (2.0 + (-2f64).exp())).ln()).abs() < 1e-6);
    }

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

    /// The token that sorting the whole vocabulary gives.
    fn by_full_ranking(logits: &[f32], sampling: &Sampling, uniform: f64) -> u32 {
        let mut ranked: Vec<usize> = (0..logits.len()).collect();
        ranked.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        ranked.truncate(sampling.top_k.unwrap_or(logits.len()));
        let temperature = f64::from(sampling.temperature);
        let weight = |id: usize| (f64::from(logits[id] - logits[ranked[0]]) / temperature).exp();
        let total: f64 = ranked.iter().map(|&id| weight(id)).sum();
        let mut count = 0;
        let mut reached = 0.0;
        while count < ranked.len() && (count == 0 || reached < f64::from(sampling.top_p) * total) {
            reached += weight(ranked[count]);
            count += 1;
        }
        let mut sum = 0.0;
        let passes = ranked[..count].iter().find(|&&id| {
            sum += weight(id);
            sum > uniform * reached
        });
        *passes.unwrap_or(&ranked[count - 1]) as u32
    }

    proptest! {
        #[test]
        fn a_large_vocabulary_is_ranked_as_far_as_needed(
            seed in 0u64..1000,
            size in 1usize..3000,
            scale in prop::sample::select(vec![0.0f32, 0.5, 4.0]),
            top_p in prop::sample::select(vec![1.0f32, 0.99, 0.9, 0.3]),
            top_k in prop::option::of(1usize..3000),
            uniform in 0.0..1.0f64,
        ) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            // Whole multiples of `scale`, so that many logits are equal.
            let logits: Vec<f32> =
                (0..size).map(|_| scale * (random.next_u32() % 9) as f32).collect();
            let sampling = Sampling { temperature: 1.0, top_p, top_k };
            prop_assume!(sampling.truncates());
            let sampled = sample_token(&logits, &sampling, uniform);
            prop_assert_eq!(sampled.token, by_full_ranking(&logits, &sampling, uniform));
        }

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
