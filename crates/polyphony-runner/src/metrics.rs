//! A step's figures as one JSON object. `docs/metrics.md` has each one's formula.

use polyphony_marl::{AgentReport, StepReport};
use polyphony_sandbox::Counters;
use serde_json::{Map, Value, json};

/// The names of the figures of a step, with `<part>` and `<role>` for what the environment names.
pub const NAMES: &[&str] = &[
    "step",
    "return",
    "reward/<part>",
    "sampled_tokens",
    "skipped_tasks",
    "sandbox/runs",
    "sandbox/timeouts",
    "sandbox/out_of_memory",
    "sandbox/violations",
    "sandbox/infrastructure_retries",
    "<role>/advantage_spread",
    "<role>/zero_advantage_share",
    "<role>/entropy",
    "<role>/response_tokens",
    "<role>/truncated_share",
    "<role>/gradient_norm",
    "<role>/learning_rate",
    "<role>/refused_updates",
    "<role>/logprob_gap",
    "timing.step_secs",
    "timing.rollout_secs",
    "timing.update_secs",
    "timing.tokens_per_sec",
    "timing.peak_memory_mib",
    "timing.sandbox_secs",
];

/// The object of one step, counted from 1. All that depends on clocks or memory sits in `timing`.
pub fn step_object(
    step: usize,
    report: &StepReport,
    sandbox: Option<&Counters>,
    step_secs: f64,
) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("step".to_owned(), json!(step));
    object.insert("return".to_owned(), json!(report.mean_return));
    for (part, value) in &report.parts {
        object.insert(format!("reward/{part}"), json!(value));
    }
    object.insert("sampled_tokens".to_owned(), json!(report.sampled_tokens));
    object.insert("skipped_tasks".to_owned(), json!(report.skipped_tasks));
    if let Some(counters) = sandbox {
        object.extend(sandbox_entries(counters));
    }
    for agent in &report.agents {
        object.extend(agent_entries(agent));
    }
    let timing = &report.timing;
    let mut timing = json!({
        "step_secs": step_secs,
        "rollout_secs": timing.rollout_secs,
        "update_secs": timing.update_secs,
        "tokens_per_sec": timing.tokens_per_sec,
        "peak_memory_mib": peak_memory_mib(),
    });
    if let Some(counters) = sandbox {
        timing["sandbox_secs"] = json!(counters.seconds);
    }
    object.insert("timing".to_owned(), timing);
    object
}

fn sandbox_entries(counters: &Counters) -> impl Iterator<Item = (String, Value)> {
    let entries = [
        ("runs", counters.runs),
        ("timeouts", counters.timeouts),
        ("out_of_memory", counters.out_of_memory),
        ("violations", counters.violations),
        ("infrastructure_retries", counters.infrastructure_retries),
    ];
    entries
        .into_iter()
        .map(|(name, count)| (format!("sandbox/{name}"), json!(count)))
}

fn agent_entries(agent: &AgentReport) -> impl Iterator<Item = (String, Value)> {
    let update = &agent.update;
    let entries = [
        ("advantage_spread", json!(agent.advantage_spread)),
        ("zero_advantage_share", json!(agent.zero_advantage_share)),
        ("entropy", json!(agent.entropy)),
        ("response_tokens", json!(agent.response_tokens)),
        ("truncated_share", json!(agent.truncated_share)),
        ("gradient_norm", json!(update.gradient_norm)),
        ("learning_rate", json!(update.learning_rate)),
        ("refused_updates", json!(update.refused)),
        ("logprob_gap", json!(update.logprob_gap)),
    ];
    entries
        .into_iter()
        .map(|(name, value)| (format!("{}/{name}", agent.name), value))
}

/// The most memory that this process has held, in MiB; `None` where the system does not say.
pub fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = most.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib >> 10)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use polyphony_marl::{Timing, UpdateReport};

    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

    /// The names in the first column of the document's tables.
    fn documented() -> BTreeSet<&'static str> {
        let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split('`').next()).collect()
    }

    fn report() -> StepReport {
        let agent = AgentReport {
            name: "writer".to_owned(),
            advantage_spread: 0.5,
            zero_advantage_share: 0.0,
            entropy: 2.0,
            response_tokens: 8.0,
            truncated_share: 0.25,
            update: UpdateReport::default(),
        };
        StepReport {
            mean_return: 1.0,
            parts: vec![("style", 1.0)],
            skipped_tasks: 0,
            sampled_tokens: 64,
            agents: vec![agent],
            timing: Timing::default(),
        }
    }

    #[test]
    fn every_name_is_documented_and_nothing_else() {
        assert_eq!(documented(), NAMES.iter().copied().collect());
    }

    #[test]
    fn what_has_no_mean_is_null() {
        let report = StepReport {
            mean_return: f64::NAN,
            ..report()
        };
        assert_eq!(step_object(1, &report, None, 2.0)["return"], Value::Null);
    }

    #[test]
    fn a_step_has_exactly_these_names() {
        let counters = Counters {
            runs: 3,
            seconds: 0.5,
            ..Counters::default()
        };
        let object = step_object(1, &report(), Some(&counters), 2.0);
        assert_eq!(
            (&object["sandbox/runs"], &object["timing"]["sandbox_secs"]),
            (&json!(3), &json!(0.5))
        );
        let general = |name: &str| {
            name.replace("writer/", "<role>/")
                .replace("reward/style", "reward/<part>")
        };
        let mut names = Vec::new();
        for (name, value) in &object {
            match value.as_object() {
                Some(inner) => names.extend(inner.keys().map(|key| format!("{name}.{key}"))),
                None => names.push(general(name)),
            }
        }
        assert_eq!(names, NAMES);
    }
}
