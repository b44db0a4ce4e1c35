//! The metrics of a run as series by name.

use indexmap::IndexSet;

use crate::{
    metrics::{STEP, figure, figures},
    run::Run,
    statistics::mean,
};

/// The values of a metric by step; steps without one are left out.
pub(crate) type Series = Vec<(usize, f64)>;

/// The names of all metrics of a run but `step`; those of inner objects as `name.inner`.
pub(crate) fn names(run: &Run) -> IndexSet<String> {
    let names = run.metrics.iter().flat_map(figures);
    let mut names: IndexSet<String> = names.map(|(name, _)| name).collect();
    names.shift_remove(STEP);
    names
}

/// The series of a metric.
pub(crate) fn of_run(run: &Run, name: &str) -> Series {
    let value = |line| {
        let step = figure(line, STEP)?.as_u64()? as usize;
        Some((step, figure(line, name)?.as_f64()?))
    };
    run.metrics.iter().filter_map(value).collect()
}

/// Values that are taken together for a smooth curve: a tenth of the shortest series.
pub(crate) fn window(series: &[Series]) -> usize {
    let shortest = series.iter().map(Vec::len).min().unwrap_or(0);
    (shortest / 10).max(1)
}

/// The mean of a value and those before it, `window` in all.
pub(crate) fn smoothed(series: &Series, window: usize) -> Series {
    let mean_until = |end: usize| {
        let start = (end + 1).saturating_sub(window);
        let values = &series[start..=end];
        mean(&values.iter().map(|(_, value)| *value).collect::<Vec<_>>())
    };
    (0..series.len())
        .map(|end| (series[end].0, mean_until(end)))
        .collect()
}

/// The mean of several series and their least and greatest value, at the steps that all of them have.
pub(crate) fn spread(series: &[Series]) -> Vec<(usize, [f64; 3])> {
    let Some((first, others)) = series.split_first() else {
        return Vec::new();
    };
    let at = |series: &Series, step: usize| {
        let index = series.binary_search_by_key(&step, |(step, _)| *step).ok()?;
        Some(series[index].1)
    };
    let together = |&(step, value): &(usize, f64)| {
        let others: Option<Vec<f64>> = others.iter().map(|series| at(series, step)).collect();
        let values = [vec![value], others?].concat();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some((step, [mean(&values), least, greatest]))
    };
    first.iter().filter_map(together).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_smoothed_by_a_tenth_of_its_length_and_none_of_what_comes_later() {
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
    fn seeds_are_taken_together_where_all_have_a_value() {
        let runs = [vec![(1, 1.0), (2, 5.0), (3, 2.0)], vec![(1, 3.0), (3, 8.0)]];
        assert_eq!(spread(&runs), [(1, [2.0, 1.0, 3.0]), (3, [5.0, 2.0, 8.0])]);
        assert_eq!(spread(&[]), []);
    }
}
