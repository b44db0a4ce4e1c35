//! How sure a mean is, and pass@k.

use std::fmt;

use indexmap::{IndexMap, IndexSet};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Deserializer, Serialize};

/// Times that the sample is drawn anew for an interval.
const RESAMPLES: usize = 2000;

/// The share of resampled means that lies within an interval.
const CONFIDENCE: f64 = 0.95;

/// A figure of every task that a run has played, by the tasks' identifiers.
pub type ByTask<'a> = IndexMap<&'a str, f64>;

/// A mean and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Estimate {
    /// The mean; NaN (`null` in JSON) of nothing.
    #[serde(deserialize_with = "or_nan")]
    pub mean: f64,
    /// The 95 % interval of the percentile bootstrap (Efron 1979); `None` of fewer than two values.
    pub interval: Option<[f64; 2]>,
}

impl Default for Estimate {
    fn default() -> Self {
        Self {
            mean: f64::NAN,
            interval: None,
        }
    }
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
    pub fn interval_text(&self) -> String {
        let text = |[low, high]: [f64; 2]| format!("{low:.2} … {high:.2}");
        self.interval.map_or_else(String::new, text)
    }

    /// How far the interval goes below the mean and above it; nowhere where there is none.
    pub fn reach(&self) -> (f64, f64) {
        self.interval.map_or((0.0, 0.0), |[low, high]| {
            (self.mean - low, high - self.mean)
        })
    }

    /// The mean over the tasks of one run.
    pub fn of_run(run: ByTask<'_>) -> Self {
        Self::of_runs(&[run])
    }

    /// The mean over runs of the means over their tasks. For the interval, runs and tasks are drawn with
    /// replacement, the same tasks for all runs: more runs say nothing more of the tasks. What n drawn runs
    /// deviate from all of them by is stretched by √(n / (n − 1)), since its variance is too small by the
    /// square of that, but not beyond the least and greatest value of a task. Where few runs differ much
    /// more than chance in their tasks explains, this is still too narrow: the interval holds the truth in 61
    /// of 100 cases with two runs and in 81 with three.
    ///
    /// A value that is not finite counts as absent: a file may hold `null` in its place.
    pub fn of_runs(runs: &[ByTask<'_>]) -> Self {
        let finite = |run: &ByTask<'_>| -> Vec<f64> {
            let values = run.values().copied();
            values.filter(|value| value.is_finite()).collect()
        };
        let finite: Vec<Vec<f64>> = runs.iter().map(finite).collect();
        let means: Vec<f64> = finite.iter().map(|run| mean(run)).collect();
        let few = match finite.as_slice() {
            [] => true,
            [only] => only.len() < 2,
            runs => runs.iter().any(Vec::is_empty),
        };
        Self {
            mean: mean(&means),
            interval: if few { None } else { interval(runs) },
        }
    }
}

/// The arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The same values give the same interval. Values that are not finite are left out; `None` if no others are there, or
/// their sums are too large to be counted.
fn interval(runs: &[ByTask<'_>]) -> Option<[f64; 2]> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut drawn =
        |of: usize| -> Vec<usize> { (0..of).map(|_| random.random_range(0..of)).collect() };
    let finite = |value: &f64| Some(*value).filter(|value| value.is_finite());
    let known = runs.iter().flatten();
    let known = known.filter_map(|(task, value)| Some((*task, finite(value)?)));
    let tasks: IndexSet<&str> = known.clone().map(|(task, _)| task).collect();
    // A task may have been too long for one run and not for another.
    let of_run = |run: &ByTask<'_>| {
        let value = |task: &&str| run.get(task).and_then(finite);
        tasks.iter().map(value).collect()
    };
    let values: Vec<Vec<Option<f64>>> = runs.iter().map(of_run).collect();
    let [least, greatest] = known.fold(
        [f64::INFINITY, f64::NEG_INFINITY],
        |[low, high], (_, value)| [low.min(value), high.max(value)],
    );
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let chosen = drawn(tasks.len());
            let mean_over_tasks = |run: &Vec<Option<f64>>| {
                let own: Vec<f64> = chosen.iter().filter_map(|task| run[*task]).collect();
                (!own.is_empty()).then(|| mean(&own))
            };
            let means: Vec<f64> = values.iter().filter_map(mean_over_tasks).collect();
            let last = means.len().checked_sub(1)?;
            let stretch = match last {
                0 => 1.0,
                last => (means.len() as f64 / last as f64).sqrt(),
            };
            let chosen: Vec<f64> = drawn(means.len())
                .into_iter()
                .map(|run| means[run])
                .collect();
            let all = mean(&means);
            // A share stays one.
            Some((all + stretch * (mean(&chosen) - all)).clamp(least, greatest))
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let last = resampled.len().checked_sub(1)?;
    let outside = (1.0 - CONFIDENCE) / 2.0;
    let ends =
        [outside, 1.0 - outside].map(|share| resampled[(share * last as f64).round() as usize]);
    Some(ends).filter(|ends| ends.iter().all(|end| end.is_finite()))
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

    /// Names for up to 26 × 26 tasks.
    fn names() -> Vec<String> {
        let letters = || ('a'..='z').map(String::from);
        letters()
            .flat_map(|first| letters().map(move |second| format!("{first}{second}")))
            .collect()
    }

    /// The values of tasks `aa`, `ab`, … .
    fn estimate(runs: &[&[f64]]) -> Estimate {
        let names = names();
        let run = |values: &&[f64]| {
            names
                .iter()
                .map(String::as_str)
                .zip(values.iter().copied())
                .collect()
        };
        Estimate::of_runs(&runs.iter().map(run).collect::<Vec<_>>())
    }

    fn width(estimate: Estimate) -> f64 {
        let [low, high] = estimate.interval.unwrap();
        high - low
    }

    #[test]
    fn intervals_hold_the_mean_and_shrink_with_the_number_of_tasks() {
        let width = |n: usize| {
            let values: Vec<f64> = (0..n).map(|i| (i % 4) as f64).collect();
            let Estimate { mean, interval } = estimate(&[&values]);
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
        assert_eq!(estimate(&[&[2.0, 2.0]]).interval, Some([2.0, 2.0]));
    }

    #[test]
    fn of_few_values_there_is_no_interval() {
        assert_eq!(estimate(&[&[1.0]]).interval, None);
        assert_eq!(estimate(&[&[1.0], &[]]).interval, None);
        assert!(estimate(&[]).mean.is_nan());
        assert!(estimate(&[&[1.0], &[3.0]]).interval.is_some());
        let text = serde_json::to_string(&estimate(&[])).unwrap();
        assert_eq!(text, r#"{"mean":null,"interval":null}"#);
        assert!(
            serde_json::from_str::<Estimate>(&text)
                .unwrap()
                .mean
                .is_nan()
        );
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        const NONE: f64 = f64::NAN;
        let known = [1.0, 2.0, 5.0];
        let expected = estimate(&[&known]);
        for absent in [NONE, f64::INFINITY, f64::NEG_INFINITY] {
            let with = [1.0, 2.0, 5.0, absent];
            assert_eq!(estimate(&[&with]), expected, "{absent}");
        }
        let rows: [(&[&[f64]], Option<f64>); 4] = [
            (&[&[NONE, NONE]], None),
            (&[&[1.0, NONE]], Some(1.0)),
            (&[&[f64::INFINITY; 3]], None),
            (&[&[1.0, 1.0], &[NONE, NONE]], None),
        ];
        for (runs, expected) in rows {
            let found = estimate(runs);
            assert_eq!(found.interval, None, "{runs:?}");
            let mean = Some(found.mean).filter(|mean| !mean.is_nan());
            assert_eq!(mean, expected, "{runs:?}");
        }
        // What one run lacks another may have.
        let [low, high] = estimate(&[&[1.0, 2.0], &[NONE, 3.0]]).interval.unwrap();
        assert!(1.0 <= low && low <= high && high <= 3.0, "{low} {high}");
        // Their sum is infinite, which JSON has no number for.
        let [low, high] = [-f64::MAX, f64::MAX];
        for values in [[high; 3], [low, high, high]] {
            assert_eq!(estimate(&[&values]).interval, None, "{values:?}");
            assert_eq!(estimate(&[&values, &values]).interval, None, "{values:?}");
        }
    }

    #[test]
    fn a_run_twice_says_no_more_than_once() {
        let run: Vec<f64> = (0..20).map(f64::from).collect();
        let once = width(estimate(&[&run]));
        let twice = width(estimate(&[&run, &run]));
        assert!((twice / once - 1.0).abs() < 0.1, "{once} {twice}");
        // Nor does one without the last task, though its values are fewer.
        let without = width(estimate(&[&run, &run[..19]]));
        assert!((without / once - 1.0).abs() < 0.1, "{once} {without}");
    }

    #[test]
    fn tasks_are_kept_together_by_their_names() {
        let (even, odd) = (
            [0.0, 4.0, 0.0, 4.0, 0.0, 4.0],
            [4.0, 0.0, 4.0, 0.0, 4.0, 0.0],
        );
        let names = names();
        let tasks = || names.iter().map(String::as_str);
        let one: ByTask<'_> = tasks().zip(even).collect();
        let shifted: ByTask<'_> = tasks().skip(1).zip(odd).collect();
        // They agree in the tasks that both have: taken by their places they would cancel out.
        let pair = [one.clone(), shifted];
        let together = Estimate::of_runs(&[pair.clone(), pair.clone(), pair].concat());
        assert_eq!(together.mean, 2.0);
        assert!(width(together) > 0.8 * width(Estimate::of_run(one)));
    }

    #[test]
    fn runs_that_differ_widen_the_interval() {
        let alike = estimate(&[&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]]);
        let apart = estimate(&[&[0.0, 1.0, 2.0], &[2.0, 3.0, 4.0]]);
        assert_eq!((alike.mean, apart.mean), (2.0, 2.0));
        assert!(width(apart) > 1.3 * width(alike));
        // Of two runs each is drawn twice in a quarter of all cases, and deviates by 1 · √2 then. The
        // means of so many tasks have a standard error of 0.056.
        let run = |start: f64| (0..400).map(|task| start + f64::from(task % 4)).collect();
        let [one, other]: [Vec<f64>; 2] = [0.0, 2.0].map(run);
        let [low, high] = estimate(&[&one, &other]).interval.unwrap();
        for (end, expected) in [(2.5 - low, 2f64.sqrt()), (high - 2.5, 2f64.sqrt())] {
            assert!((expected..expected + 0.15).contains(&end), "{low} {high}");
        }
    }

    #[test]
    fn an_interval_leaves_no_value_that_there_is() {
        let interval = estimate(&[&[0.0; 3], &[1.0; 3]]).interval;
        assert_eq!(interval, Some([0.0, 1.0]));
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
