//! Advantages: an agent's credits minus a baseline, optionally scaled.
//!
//! `A_g = (c_g − b_g) / s`. The group mean is the baseline of MAGRPO (arXiv 2508.04652) and, with one
//! agent, of GRPO (arXiv 2402.03300); leaving `s` out follows Dr. GRPO (arXiv 2503.20783). The mean of
//! the others is RLOO's baseline (arXiv 2402.14740). The maximum is ReMax's idea (arXiv 2310.10505),
//! applied to a sampled group. No baseline is plain REINFORCE.

use serde::{Deserialize, Serialize};

use crate::returns::mean;

/// What is subtracted from an agent's credits within a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Baseline {
    /// The group's mean: MAGRPO.
    #[default]
    GroupMean,
    /// The mean of the other credits: MARLOO.
    LeaveOneOut,
    /// The group's maximum: MAReMax.
    GroupMax,
    /// Nothing: MAREINFORCE.
    Zero,
}

/// What advantages are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum AdvantageScale {
    /// Nothing, as Dr. GRPO proposes: dividing favours tasks that are nearly solved or nearly hopeless.
    #[default]
    Unscaled,
    /// The credits' population standard deviation, but at least `floor`.
    StandardDeviation {
        /// The smallest divisor.
        floor: f64,
    },
}

/// The advantage of each credit of one group. If all credits are equal up to rounding, every advantage is
/// exactly 0, so that dividing by a small scale does not turn rounding errors into a signal.
pub fn advantages(credits: &[f64], baseline: Baseline, scale: AdvantageScale) -> Vec<f64> {
    if baseline != Baseline::Zero && are_equal(credits) {
        return vec![0.0; credits.len()];
    }
    let divisor = match scale {
        AdvantageScale::Unscaled => 1.0,
        AdvantageScale::StandardDeviation { floor } => standard_deviation(credits).max(floor),
    };
    credits
        .iter()
        .map(|credit| (credit - baseline_value(credits, *credit, baseline)) / divisor)
        .collect()
}

fn baseline_value(credits: &[f64], credit: f64, baseline: Baseline) -> f64 {
    match baseline {
        Baseline::GroupMean => mean(credits),
        Baseline::LeaveOneOut => {
            (credits.iter().sum::<f64>() - credit) / (credits.len() as f64 - 1.0)
        }
        Baseline::GroupMax => credits.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Baseline::Zero => 0.0,
    }
}

/// The population standard deviation.
pub(crate) fn standard_deviation(values: &[f64]) -> f64 {
    let center = mean(values);
    mean(
        &values
            .iter()
            .map(|value| (value - center).powi(2))
            .collect::<Vec<_>>(),
    )
    .sqrt()
}

/// How far apart equal credits may be because of rounding, relative to their size.
const ROUNDING: f64 = 1e-12;

fn are_equal(credits: &[f64]) -> bool {
    let fold = |f: fn(f64, f64) -> f64, start| credits.iter().copied().fold(start, f);
    let (low, high) = (
        fold(f64::min, f64::INFINITY),
        fold(f64::max, f64::NEG_INFINITY),
    );
    high - low <= ROUNDING * low.abs().max(high.abs())
}

/// Whether a group's advantages are all 0, so that it gives no policy gradient.
pub fn advantages_are_zero(advantages: &[f64]) -> bool {
    advantages.iter().all(|advantage| *advantage == 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CREDITS: [f64; 3] = [1.0, 2.0, 6.0];

    #[track_caller]
    fn check(baseline: Baseline, scale: AdvantageScale, expected: [f64; 3]) {
        for (actual, expected) in advantages(&CREDITS, baseline, scale).iter().zip(expected) {
            assert!(
                (actual - expected).abs() < 1e-12,
                "{actual} is not {expected}"
            );
        }
    }

    #[test]
    fn each_baseline_follows_its_formula() {
        let plain = AdvantageScale::Unscaled;
        check(Baseline::GroupMean, plain, [-2.0, -1.0, 3.0]);
        check(Baseline::LeaveOneOut, plain, [-3.0, -1.5, 4.5]);
        check(Baseline::GroupMax, plain, [-5.0, -4.0, 0.0]);
        check(Baseline::Zero, plain, CREDITS);
    }

    #[test]
    fn scaling_divides_by_the_population_deviation_or_the_floor() {
        let deviation = (14.0f64 / 3.0).sqrt();
        let scaled = [-2.0, -1.0, 3.0].map(|a| a / deviation);
        check(
            Baseline::GroupMean,
            AdvantageScale::StandardDeviation { floor: 1e-4 },
            scaled,
        );
        let floored = AdvantageScale::StandardDeviation { floor: 10.0 };
        check(Baseline::GroupMean, floored, [-0.2, -0.1, 0.3]);
    }

    #[test]
    fn equal_credits_have_zero_advantages_unless_there_is_no_baseline() {
        let unscaled = |baseline| advantages(&[0.3; 4], baseline, AdvantageScale::Unscaled);
        for baseline in [
            Baseline::GroupMean,
            Baseline::LeaveOneOut,
            Baseline::GroupMax,
        ] {
            assert!(advantages_are_zero(&unscaled(baseline)));
        }
        assert!(!advantages_are_zero(&unscaled(Baseline::Zero)));
    }

    #[test]
    fn rounding_errors_count_as_zero_at_any_scale() {
        let tiny_floor = AdvantageScale::StandardDeviation { floor: 1e-20 };
        for credits in [[0.1; 3], [1e9 + 0.1; 3], [0.3, 0.1 + 0.2, 0.3], [0.0; 3]] {
            for scale in [AdvantageScale::Unscaled, tiny_floor] {
                let advantages = advantages(&credits, Baseline::GroupMean, scale);
                assert!(
                    advantages_are_zero(&advantages),
                    "{credits:?}: {advantages:?}"
                );
            }
        }
        let small = advantages(&[1.0, 1.0 + 1e-9], Baseline::GroupMean, tiny_floor);
        assert!(!advantages_are_zero(&small), "{small:?}");
    }

    proptest! {
        #[test]
        fn group_mean_advantages_sum_to_zero(credits in prop::collection::vec(-5.0..5.0f64, 2..9)) {
            let sum: f64 = advantages(&credits, Baseline::GroupMean, AdvantageScale::Unscaled)
                .iter().sum();
            prop_assert!(sum.abs() < 1e-9);
        }

        #[test]
        fn leave_one_out_is_the_group_mean_times_g_over_g_minus_one(
            credits in prop::collection::vec(-5.0..5.0f64, 2..9),
        ) {
            let g = credits.len() as f64;
            let unscaled = |baseline| advantages(&credits, baseline, AdvantageScale::Unscaled);
            for (a, b) in unscaled(Baseline::LeaveOneOut).iter().zip(unscaled(Baseline::GroupMean)) {
                prop_assert!((a - b * g / (g - 1.0)).abs() < 1e-9);
            }
        }
    }
}
