//! What the coding environment counts, as metrics.

use polyphony_episode::{Counter, MetricKey};
use polyphony_sandbox::Counters;

/// Totals of a pool, and of the outside model where there is one.
pub(super) fn of(sandbox: &Counters, expert_retries: Option<u64>) -> Vec<Counter> {
    let programs = |name, total, meaning| counter(name, total as f64, "programs", meaning);
    let mut counters = vec![
        programs("sandbox/runs", sandbox.runs, "Programs judged"),
        programs(
            "sandbox/timeouts",
            sandbox.timeouts,
            "Programs with a test that was stopped for its time",
        ),
        programs(
            "sandbox/out_of_memory",
            sandbox.out_of_memory,
            "Programs with a test that asked for too much memory",
        ),
        programs(
            "sandbox/violations",
            sandbox.violations,
            "Programs with a test in which something forbidden was tried",
        ),
        counter(
            "sandbox/infrastructure_retries",
            sandbox.infrastructure_retries as f64,
            "tries",
            "Times that a program was run again because the machine could not run it",
        ),
    ];
    counters.extend(expert_retries.map(|retries| {
        counter(
            "expert/retries",
            retries as f64,
            "requests",
            "Requests to the outside model that were sent again",
        )
    }));
    counters.push(counter(
        "timing.sandbox_secs",
        sandbox.seconds,
        "s",
        "Judging programs, summed over the sandbox's workers",
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
    fn every_total_has_a_key_of_its_own() {
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
