//! The counters of the coding environment, which are recorded as metrics.

use polyphony_episode::{Counter, MetricKey};
use polyphony_sandbox::Counters;

/// The counters of a pool, and of the outside model if there is one.
pub(super) fn of(sandbox: &Counters, expert_retries: Option<u64>) -> Vec<Counter> {
    let programs = |name, total, meaning| counter(name, total as f64, "programs", meaning);
    let mut counters = vec![
        programs("sandbox/runs", sandbox.runs, "Programs run"),
        programs(
            "sandbox/timeouts",
            sandbox.timeouts,
            "Programs with an assert whose verdict is `timeout`",
        ),
        programs(
            "sandbox/out_of_memory",
            sandbox.out_of_memory,
            "Programs with an assert whose verdict is `out_of_memory`",
        ),
        programs(
            "sandbox/violations",
            sandbox.violations,
            "Programs with an assert whose verdict is `violation`",
        ),
        counter(
            "sandbox/infrastructure_retries",
            sandbox.infrastructure_retries as f64,
            "tries",
            "Programs run again because the machine could not run them",
        ),
    ];
    counters.extend(expert_retries.map(|retries| {
        counter(
            "expert/retries",
            retries as f64,
            "requests",
            "Requests to the outside model that were repeated",
        )
    }));
    counters.push(counter(
        "timing.sandbox_secs",
        sandbox.seconds,
        "s",
        "Time for running programs, summed over the sandbox's workers",
    ));
    counters
}

fn counter(name: &'static str, total: f64, unit: &'static str, meaning: &'static str) -> Counter {
    Counter::new(MetricKey::new(name), total, unit, meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_total_has_its_own_key() {
        let sandbox = Counters {
            runs: 1,
            timeouts: 2,
            out_of_memory: 3,
            violations: 4,
            infrastructure_retries: 5,
            seconds: 0.5,
        };
        let totals = |retries| -> Vec<(String, f64)> {
            let counters = of(&sandbox, retries).into_iter();
            counters
                .map(|one| (one.key.to_string(), one.total))
                .collect()
        };
        let expected = [
            ("sandbox/runs", 1.0),
            ("sandbox/timeouts", 2.0),
            ("sandbox/out_of_memory", 3.0),
            ("sandbox/violations", 4.0),
            ("sandbox/infrastructure_retries", 5.0),
            ("expert/retries", 6.0),
            ("timing.sandbox_secs", 0.5),
        ]
        .map(|(name, total)| (name.to_owned(), total));
        assert_eq!(totals(Some(6)), expected);
        assert!(
            totals(None)
                .iter()
                .all(|(name, _)| name != "expert/retries")
        );
    }
}
