//! The values of one metric over the steps of a run.

use serde_json::{Map, Value};

use crate::{
    metrics::{STEP, flat_value},
    run::Run,
    statistics::mean,
};

/// The values of a metric by step. Steps without a value are left out.
pub(crate) type Series = Vec<(usize, f64)>;

/// The series of a metric.
pub(crate) fn of_run(run: &Run, name: &str) -> Series {
    let value = |line| Some((step(line)?, flat_value(line, name)?.as_f64()?));
    run.metrics.iter().filter_map(value).collect()
}

/// The step number of a line of metrics.
pub(crate) fn step(line: &Map<String, Value>) -> Option<usize> {
    Some(line.get(STEP)?.as_u64()? as usize)
}

/// The number of values that are averaged for a smooth curve: a tenth of the shortest series.
pub(crate) fn window(series: &[Series]) -> usize {
    let shortest = series.iter().map(Vec::len).min().unwrap_or(0);
    (shortest / 10).max(1)
}

/// The moving average: the mean over the last `window` values up to each one.
///
/// The time does not depend on the window: every window is the end of one block and the start of the next,
/// and the sums of both are computed once. A running sum would be simpler, but it subtracts values, so one
/// huge value would spoil all later means.
pub(crate) fn smoothed(series: &Series, window: usize) -> Series {
    let mut until_end = vec![0.0; series.len()];
    let mut from_start = Vec::with_capacity(series.len());
    for (block, values) in series.chunks(window).enumerate() {
        let mut sum = 0.0;
        for (_, value) in values {
            sum += value;
            from_start.push(sum);
        }
        sum = 0.0;
        for (index, (_, value)) in values.iter().enumerate().rev() {
            sum += value;
            until_end[block * window + index] = sum;
        }
    }
    let mean_until = |end: usize| {
        let start = (end + 1).saturating_sub(window);
        let sum = match start % window {
            0 => from_start[end],
            _ => until_end[start] + from_start[end],
        };
        sum / (end + 1 - start) as f64
    };
    (0..series.len())
        .map(|end| (series[end].0, mean_until(end)))
        .collect()
}

/// The mean, the minimum and the maximum over several series, at the steps that all of them have.
pub(crate) fn mean_and_range(series: &[Series]) -> Vec<(usize, [f64; 3])> {
    let Some((first, others)) = series.split_first() else {
        return Vec::new();
    };
    let at = |series: &Series, step: usize| {
        let index = series.binary_search_by_key(&step, |(step, _)| *step).ok()?;
        Some(series[index].1)
    };
    let summary = |&(step, value): &(usize, f64)| {
        let others: Option<Vec<f64>> = others.iter().map(|series| at(series, step)).collect();
        let values = [vec![value], others?].concat();
        let minimum = values.iter().copied().fold(f64::INFINITY, f64::min);
        let maximum = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some((step, [mean(&values), minimum, maximum]))
    };
    first.iter().filter_map(summary).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_have_the_means_of_their_values(
            values in proptest::collection::vec(-1e3..1e3f64, 0..60),
            window in 1usize..70,
        ) {
            let series: Series = (5..).zip(values.iter().copied()).collect();
            for (end, (step, found)) in smoothed(&series, window).into_iter().enumerate() {
                let expected = mean(&values[(end + 1).saturating_sub(window)..=end]);
                prop_assert_eq!(step, end + 5);
                prop_assert!((found - expected).abs() < 1e-9, "{} {}", found, expected);
            }
        }
    }

    #[test]
    fn a_huge_value_affects_only_its_window() {
        let values = [f64::MAX, f64::MAX, 1.0, 1.0, 1.0];
        let series: Series = values.into_iter().enumerate().collect();
        assert_eq!(smoothed(&series, 2)[3..], [(3, 1.0), (4, 1.0)]);
    }

    #[test]
    fn smoothing_averages_over_a_tenth_of_the_series_and_ignores_later_values() {
        let values: Series = (0..20).map(|step| (step, (step % 2) as f64)).collect();
        let short: Series = vec![(4, 2.0), (5, 3.0)];
        assert_eq!(window(std::slice::from_ref(&values)), 2);
        assert_eq!(window(&[values.clone(), short.clone()]), 1);
        assert_eq!(window(&[]), 1);
        let smooth = smoothed(&values, 2);
        assert_eq!(smooth[..3], [(0, 0.0), (1, 0.5), (2, 0.5)]);
        assert_eq!(smoothed(&short, 1), short);
    }

    #[test]
    fn seeds_are_combined_at_the_steps_that_all_have() {
        let runs = [vec![(1, 1.0), (2, 5.0), (3, 2.0)], vec![(1, 3.0), (3, 8.0)]];
        assert_eq!(
            mean_and_range(&runs),
            [(1, [2.0, 1.0, 3.0]), (3, [5.0, 2.0, 8.0])]
        );
        assert_eq!(mean_and_range(&[]), []);
    }
}
