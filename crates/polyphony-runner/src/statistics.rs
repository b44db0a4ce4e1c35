//! How sure a mean is, and pass@k.

use std::fmt;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Deserializer, Serialize};

/// Times that the sample is drawn anew for an interval.
const RESAMPLES: usize = 2000;

/// The share of resampled means that lies within an interval.
const CONFIDENCE: f64 = 0.95;

/// A mean and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The mean; NaN (`null` in JSON) of nothing.
    #[serde(deserialize_with = "or_nan")]
    pub mean: f64,
    /// The 95 % interval of the percentile bootstrap (Efron 1979); `None` of fewer than two values.
    pub interval: Option<[f64; 2]>,
}

/// A number that is not finite is `null` in JSON.
pub(crate) fn or_nan<'de, D: Deserializer<'de>>(reader: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or(f64::NAN))
}

impl fmt::Display for Estimate {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(output, "{:.3}", self.mean)?;
        match self.interval {
            Some(_) => write!(output, " ({})", self.interval_text()),
            None => Ok(()),
        }
    }
}

impl Estimate {
    /// The interval for people; nothing where there is none.
    pub(crate) fn interval_text(&self) -> String {
        let text = |[low, high]: [f64; 2]| format!("{low:.2} … {high:.2}");
        self.interval.map_or_else(String::new, text)
    }

    /// The mean over the tasks of one run.
    pub fn of_tasks(values: &[f64]) -> Self {
        Self::of_runs(&[values.to_vec()])
    }

    /// The mean over runs of the means over their tasks. For the interval, runs and tasks are drawn with
    /// replacement: runs that played as many tasks have played the same, and keep them together, so that
    /// more runs say nothing more of the tasks; others draw their own.
    pub fn of_runs(runs: &[Vec<f64>]) -> Self {
        let means: Vec<f64> = runs.iter().map(|values| mean(values)).collect();
        let few = runs.len() == 1 && runs.iter().any(|values| values.len() < 2);
        let interval = (!few && runs.iter().all(|values| !values.is_empty()) && !runs.is_empty())
            .then(|| interval(runs));
        Self {
            mean: mean(&means),
            interval,
        }
    }
}

/// The arithmetic mean; NaN of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The same values give the same interval.
fn interval(runs: &[Vec<f64>]) -> [f64; 2] {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let are_alike = runs.iter().all(|run| run.len() == runs[0].len());
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn = |random: &mut ChaCha8Rng, of: usize| -> Vec<usize> {
                (0..of).map(|_| random.random_range(0..of)).collect()
            };
            let together = are_alike.then(|| drawn(&mut random, runs[0].len()));
            let means = drawn(&mut random, runs.len()).into_iter().map(|run| {
                let values = &runs[run];
                let own = || drawn(&mut random, values.len());
                let tasks = together.clone().unwrap_or_else(own);
                mean(
                    &tasks
                        .into_iter()
                        .map(|task| values[task])
                        .collect::<Vec<_>>(),
                )
            });
            mean(&means.collect::<Vec<_>>())
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let outside = (1.0 - CONFIDENCE) / 2.0;
    [outside, 1.0 - outside]
        .map(|share| resampled[(share * (RESAMPLES - 1) as f64).round() as usize])
}

/// The chance that at least one of `k` answers is right, estimated without bias from `right` of `n`:
/// `1 − C(n − right, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374).
///
/// # Panics
/// If `k` is more than `n`, or `right` is.
pub fn pass_at(k: usize, n: usize, right: usize) -> f64 {
    assert!(k <= n && right <= n, "{k} and {right} of {n}");
    let wrong = n - right;
    // The share of sets of k answers that are all wrong, one factor an answer.
    let all_wrong: f64 = (0..k)
        .map(|drawn| wrong.saturating_sub(drawn) as f64 / (n - drawn) as f64)
        .product();
    1.0 - all_wrong
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn intervals_hold_the_mean_and_shrink_with_the_number_of_tasks() {
        let width = |n: usize| {
            let values: Vec<f64> = (0..n).map(|i| (i % 4) as f64).collect();
            let Estimate { mean, interval } = Estimate::of_tasks(&values);
            let [low, high] = interval.unwrap();
            assert_eq!(mean, 1.5);
            assert!(low < mean && mean < high, "{low} {high}");
            high - low
        };
        // The standard error of a mean of these is 1.118 / √n, and 95 % are 2 · 1.96 of them.
        for n in [16, 64, 256] {
            let expected = 2.0 * 1.96 * 1.118 / (n as f64).sqrt();
            assert!(
                (width(n) / expected - 1.0).abs() < 0.12,
                "{n}: {}",
                width(n)
            );
        }
        assert_eq!(Estimate::of_tasks(&[2.0, 2.0]).interval, Some([2.0, 2.0]));
    }

    #[test]
    fn of_few_values_there_is_no_interval() {
        assert_eq!(Estimate::of_tasks(&[1.0]).interval, None);
        assert!(Estimate::of_tasks(&[]).mean.is_nan());
        assert!(
            Estimate::of_runs(&[vec![1.0], vec![3.0]])
                .interval
                .is_some()
        );
        let text = serde_json::to_string(&Estimate::of_tasks(&[])).unwrap();
        assert_eq!(text, r#"{"mean":null,"interval":null}"#);
        assert!(
            serde_json::from_str::<Estimate>(&text)
                .unwrap()
                .mean
                .is_nan()
        );
    }

    #[test]
    fn a_run_twice_says_no_more_than_once() {
        let run: Vec<f64> = (0..20).map(f64::from).collect();
        let width = |estimate: Estimate| estimate.interval.map(|[low, high]| high - low).unwrap();
        let once = width(Estimate::of_tasks(&run));
        let twice = width(Estimate::of_runs(&[run.clone(), run.clone()]));
        assert!((twice / once - 1.0).abs() < 0.1, "{once} {twice}");
        // Other tasks do say more.
        let more = width(Estimate::of_runs(&[run.clone(), [run, vec![9.5]].concat()]));
        assert!(more < 0.85 * once, "{once} {more}");
    }

    #[test]
    fn runs_that_differ_widen_the_interval() {
        let alike = Estimate::of_runs(&[vec![1.0, 2.0, 3.0], vec![1.0, 2.0, 3.0]]);
        let apart = Estimate::of_runs(&[vec![0.0, 1.0, 2.0], vec![2.0, 3.0, 4.0]]);
        assert_eq!((alike.mean, apart.mean), (2.0, 2.0));
        let width = |estimate: Estimate| estimate.interval.map(|[low, high]| high - low).unwrap();
        assert!(width(apart) > 1.3 * width(alike));
    }

    proptest! {
        /// Against the definition: the share of all sets of `k` answers that hold a right one.
        #[test]
        fn pass_at_k_is_the_share_of_sets_with_a_right_answer(n in 1usize..9, k in 1usize..9, right in 0usize..9) {
            prop_assume!(k <= n && right <= n);
            let sets = (0u32..1 << n).filter(|set| set.count_ones() as usize == k);
            let (hit, all) = sets.fold((0, 0), |(hit, all), set| {
                let holds_one = set & ((1 << right) - 1) != 0;
                (hit + usize::from(holds_one), all + 1)
            });
            prop_assert!((pass_at(k, n, right) - f64::from(hit as u32) / f64::from(all)).abs() < 1e-12);
        }
    }
}
