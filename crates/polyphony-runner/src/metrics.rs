//! A step's figures as one JSON object. `docs/metrics.md` has each one's formula.

use polyphony_marl::{AgentReport, Drift, RoleFigures, StepReport, TurnReport};
use polyphony_sandbox::Counters;
use serde_json::{Map, Value, json};

/// A figure of a step.
#[derive(Debug)]
pub struct Metric {
    /// Its name, with `<part>` and `<role>` for what the environment names, and `<turn>` for the number
    /// of a turn, counted from 1. Those with a turn are there only where the environment has several.
    pub name: &'static str,
    /// What it says, in a few words.
    pub meaning: &'static str,
    /// Its unit; empty for a plain number.
    pub unit: &'static str,
}

impl Metric {
    const fn new(name: &'static str, meaning: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            meaning,
            unit,
        }
    }

    /// The metric that a name in a run's files belongs to.
    pub fn of(name: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.is_named(name))
    }

    fn is_named(&self, name: &str) -> bool {
        let fits = |(pattern, own): (&str, &str)| match pattern.split_once('<') {
            Some((start, _)) => own.starts_with(start),
            None => own == pattern,
        };
        let count = |name: &str| name.split('/').count();
        count(self.name) == count(name) && self.name.split('/').zip(name.split('/')).all(fits)
    }
}

/// All figures of a step, in the order in which they are written.
pub const METRICS: &[Metric] = &[
    Metric::new("step", "The step's number", ""),
    Metric::new("return", "Mean return of the joint actions", "reward"),
    Metric::new(
        "reward/<part>",
        "Mean of this part of their rewards at the first turn",
        "reward",
    ),
    Metric::new(
        "turn_<turn>/nodes",
        "Nodes that were played at this turn",
        "nodes",
    ),
    Metric::new(
        "turn_<turn>/return",
        "Mean return of the joint actions of this turn",
        "reward",
    ),
    Metric::new(
        "turn_<turn>/reward/<part>",
        "Mean of this part of the rewards at this turn",
        "reward",
    ),
    Metric::new(
        "sampled_tokens",
        "Tokens in the responses of all agents",
        "tokens",
    ),
    Metric::new(
        "skipped_tasks",
        "Tasks left out because a prompt did not fit",
        "tasks",
    ),
    Metric::new(
        "cut_episodes",
        "Joint actions that would have gone on, had the next prompt fitted",
        "joint actions",
    ),
    Metric::new("sandbox/runs", "Programs judged", "programs"),
    Metric::new(
        "sandbox/timeouts",
        "Programs with a test that was stopped for its time",
        "programs",
    ),
    Metric::new(
        "sandbox/out_of_memory",
        "Programs with a test that asked for too much memory",
        "programs",
    ),
    Metric::new(
        "sandbox/violations",
        "Programs with a test in which something forbidden was tried",
        "programs",
    ),
    Metric::new(
        "sandbox/infrastructure_retries",
        "Times that a program was run again because the machine could not run it",
        "tries",
    ),
    Metric::new(
        "expert/retries",
        "Requests to the outside model that were sent again",
        "requests",
    ),
    Metric::new(
        "<role>/advantage_spread",
        "Mean standard deviation of a group's advantages: what there is to learn from",
        "reward",
    ),
    Metric::new(
        "<role>/zero_advantage_share",
        "Groups without anything to learn from, since all their advantages are 0",
        "share",
    ),
    Metric::new(
        "<role>/entropy",
        "How undecided the agent is, estimated from the tokens that it sampled",
        "nats a token",
    ),
    Metric::new(
        "<role>/response_tokens",
        "Mean length of a response",
        "tokens",
    ),
    Metric::new(
        "<role>/truncated_share",
        "Responses that the length limit cut",
        "share",
    ),
    Metric::new(
        "<role>/turn_<turn>/advantage_spread",
        "Mean standard deviation of a group's advantages at this turn",
        "reward",
    ),
    Metric::new(
        "<role>/turn_<turn>/zero_advantage_share",
        "Groups of this turn whose advantages are all 0",
        "share",
    ),
    Metric::new(
        "<role>/turn_<turn>/entropy",
        "How undecided the agent is at this turn",
        "nats a token",
    ),
    Metric::new(
        "<role>/turn_<turn>/response_tokens",
        "Mean length of a response at this turn",
        "tokens",
    ),
    Metric::new(
        "<role>/turn_<turn>/truncated_share",
        "Responses of this turn that the length limit cut",
        "share",
    ),
    Metric::new("<role>/gradient_steps", "Gradient steps taken", "steps"),
    Metric::new(
        "<role>/gradient_norm",
        "Largest norm of a gradient before clipping",
        "",
    ),
    Metric::new("<role>/learning_rate", "Learning rate of the step", ""),
    Metric::new(
        "<role>/skipped_groups",
        "Groups that the update left out",
        "groups",
    ),
    Metric::new(
        "<role>/refused_updates",
        "Gradient steps refused because something was not finite",
        "steps",
    ),
    Metric::new(
        "<role>/logprob_gap",
        "Largest difference of a token's log-probability between rollout and training, which should be rounding alone",
        "nats",
    ),
    Metric::new(
        "<role>/ratio",
        "Mean ratio of a token's probability in training to that at rollout",
        "",
    ),
    Metric::new(
        "<role>/clipped_share",
        "Tokens that the clipped objective held back",
        "share",
    ),
    Metric::new(
        "<role>/kl",
        "Divergence from the reference, estimated from the tokens that were sampled",
        "nats a token",
    ),
    Metric::new("timing.step_secs", "The whole step", "s"),
    Metric::new("timing.rollout_secs", "Sampling and scoring", "s"),
    Metric::new("timing.reward_secs", "Scoring by the environment", "s"),
    Metric::new("timing.update_secs", "Updates of all agents", "s"),
    Metric::new(
        "timing.tokens_per_sec",
        "Sampled tokens by the seconds of sampling",
        "tokens/s",
    ),
    Metric::new(
        "timing.peak_memory_mib",
        "The most memory that the process has held so far",
        "MiB",
    ),
    Metric::new(
        "timing.sandbox_secs",
        "Judging programs, summed over the sandbox's workers",
        "s",
    ),
];

/// What a step asked of others, where its environment does so.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// What the sandbox did.
    pub sandbox: Option<Counters>,
    /// How often a request to the outside model was tried again.
    pub expert_retries: Option<u64>,
}

impl Outside {
    /// What was asked since then.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let sandbox = self.sandbox.as_ref().zip(before.sandbox.as_ref());
        let retries = self.expert_retries.zip(before.expert_retries);
        Self {
            sandbox: sandbox.map(|(now, before)| now.since(before)),
            expert_retries: retries.map(|(now, before)| now - before),
        }
    }
}

/// The object of one step, counted from 1. All that depends on clocks or memory sits in `timing`.
pub fn step_object(
    step: usize,
    report: &StepReport,
    outside: &Outside,
    step_secs: f64,
) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("step".to_owned(), json!(step));
    object.extend(turn_entries("", report.first_turn()));
    if report.turns.len() > 1 {
        for (turn, figures) in (1..).zip(&report.turns) {
            let prefix = format!("turn_{turn}/");
            object.insert(format!("{prefix}nodes"), json!(figures.nodes));
            object.extend(turn_entries(&prefix, figures));
        }
    }
    object.insert("sampled_tokens".to_owned(), json!(report.sampled_tokens));
    object.insert("skipped_tasks".to_owned(), json!(report.skipped_tasks));
    object.insert("cut_episodes".to_owned(), json!(report.cut_episodes));
    if let Some(counters) = &outside.sandbox {
        object.extend(sandbox_entries(counters));
    }
    if let Some(retries) = outside.expert_retries {
        object.insert("expert/retries".to_owned(), json!(retries));
    }
    for agent in &report.agents {
        object.extend(agent_entries(agent));
    }
    let timing = &report.timing;
    let mut timing = json!({
        "step_secs": step_secs,
        "rollout_secs": timing.rollout_secs,
        "reward_secs": timing.reward_secs,
        "update_secs": timing.update_secs,
        "tokens_per_sec": timing.tokens_per_sec,
        "peak_memory_mib": peak_memory_mib(),
    });
    if let Some(counters) = &outside.sandbox {
        timing["sandbox_secs"] = json!(counters.seconds);
    }
    object.insert("timing".to_owned(), timing);
    object
}

/// All figures of a line; those of inner objects as `name.inner`.
pub(crate) fn flat(line: &Map<String, Value>) -> impl Iterator<Item = (String, &Value)> {
    line.iter().flat_map(|(name, value)| match value {
        Value::Object(inner) => {
            let named = |(key, value)| (format!("{name}.{key}"), value);
            inner.iter().map(named).collect()
        }
        value => vec![(name.clone(), value)],
    })
}

/// The figure of a line that `flat` gives this name.
pub(crate) fn figure<'a>(line: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let inner = || {
        let (outer, key) = name.split_once('.')?;
        line.get(outer)?.get(key)
    };
    line.get(name).or_else(inner)
}

fn turn_entries(prefix: &str, turn: &TurnReport) -> impl Iterator<Item = (String, Value)> {
    let mean_return = (format!("{prefix}return"), json!(turn.mean_return));
    let parts = turn.parts.iter();
    let part = move |(part, value): &(&str, f64)| (format!("{prefix}reward/{part}"), json!(value));
    std::iter::once(mean_return).chain(parts.map(part))
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

fn agent_entries(agent: &AgentReport) -> Vec<(String, Value)> {
    let name = &agent.name;
    let mut entries = role_entries(&format!("{name}/"), &agent.overall);
    if agent.turns.len() > 1 {
        for (turn, figures) in (1..).zip(&agent.turns) {
            entries.extend(role_entries(&format!("{name}/turn_{turn}/"), figures));
        }
    }
    let update = &agent.update;
    let drift = |of: fn(&Drift) -> f64| json!(update.drift.as_ref().map(of));
    let of_update = [
        ("gradient_steps", json!(update.steps)),
        ("gradient_norm", json!(update.gradient_norm)),
        ("learning_rate", json!(update.learning_rate)),
        ("skipped_groups", json!(update.skipped_groups)),
        ("refused_updates", json!(update.refused)),
        ("logprob_gap", json!(update.logprob_gap)),
        ("ratio", drift(|drift| drift.ratio)),
        ("clipped_share", drift(|drift| drift.clipped_share)),
        ("kl", json!(update.drift.and_then(|drift| drift.kl))),
    ];
    entries.extend(of_update.map(|(figure, value)| (format!("{name}/{figure}"), value)));
    entries
}

fn role_entries(prefix: &str, figures: &RoleFigures) -> Vec<(String, Value)> {
    let entries = [
        ("advantage_spread", figures.advantage_spread),
        ("zero_advantage_share", figures.zero_advantage_share),
        ("entropy", figures.entropy),
        ("response_tokens", figures.response_tokens),
        ("truncated_share", figures.truncated_share),
    ];
    let entry = |(name, value)| (format!("{prefix}{name}"), json!(value));
    entries.map(entry).into()
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

    /// The first and the last column of the document's tables about `metrics.jsonl`: names and units.
    fn documented() -> BTreeSet<(&'static str, &'static str)> {
        let (about_metrics, _) = DOCUMENT.split_once("## The other files").unwrap();
        let rows = about_metrics
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
        let ends = |row: &'static str| {
            let (name, rest) = row.split_once('`')?;
            let (_, unit) = rest.rsplit_once("| ")?;
            Some((name, unit))
        };
        rows.filter_map(ends).collect()
    }

    /// A report of so many turns.
    fn report(turns: usize) -> StepReport {
        let figures = RoleFigures {
            advantage_spread: 0.5,
            zero_advantage_share: 0.0,
            entropy: 2.0,
            response_tokens: 8.0,
            truncated_share: 0.25,
        };
        let agent = AgentReport {
            name: "writer".to_owned(),
            overall: figures.clone(),
            turns: vec![figures; turns],
            update: UpdateReport::default(),
        };
        let turn = TurnReport {
            nodes: 2,
            mean_return: 1.0,
            parts: vec![("style", 1.0)],
        };
        StepReport {
            turns: vec![turn; turns],
            skipped_tasks: 0,
            cut_episodes: 0,
            sampled_tokens: 64,
            agents: vec![agent],
            timing: Timing::default(),
        }
    }

    #[test]
    fn every_name_is_documented_with_its_unit_and_nothing_else() {
        let unit = |metric: &Metric| match metric.unit {
            "" => "–",
            unit => unit,
        };
        let all = METRICS.iter().map(|metric| (metric.name, unit(metric)));
        assert_eq!(documented(), all.collect());
    }

    #[test]
    fn a_metric_is_found_by_the_names_it_has_in_files() {
        let found = |name| Metric::of(name).map(|metric| metric.name);
        for metric in METRICS {
            assert_eq!(found(metric.name), Some(metric.name));
        }
        for (name, expected) in [
            ("reward/style", "reward/<part>"),
            ("writer/entropy", "<role>/entropy"),
            ("turn_2/reward/style", "turn_<turn>/reward/<part>"),
            ("writer/turn_10/entropy", "<role>/turn_<turn>/entropy"),
            ("turn_1/return", "turn_<turn>/return"),
        ] {
            assert_eq!(found(name), Some(expected));
        }
        assert_eq!(found("writer/mood"), None);
        assert_eq!(found("entropy"), None);
    }

    #[test]
    fn what_was_asked_of_others_is_counted_step_by_step() {
        let asked = |runs, retries| Outside {
            sandbox: Some(Counters {
                runs,
                ..Counters::default()
            }),
            expert_retries: Some(retries),
        };
        let step = asked(7, 3).since(&asked(5, 3));
        assert_eq!(
            (step.sandbox.unwrap().runs, step.expert_retries),
            (2, Some(0))
        );
        let nothing = Outside::default().since(&Outside::default());
        assert!(nothing.sandbox.is_none() && nothing.expert_retries.is_none());
    }

    #[test]
    fn what_has_no_mean_is_null() {
        let mut report = report(1);
        report.turns[0].mean_return = f64::NAN;
        assert_eq!(
            step_object(1, &report, &Outside::default(), 2.0)["return"],
            Value::Null
        );
    }

    #[test]
    fn a_step_has_exactly_these_names() {
        let counters = Counters {
            runs: 3,
            seconds: 0.5,
            ..Counters::default()
        };
        let outside = Outside {
            sandbox: Some(counters),
            expert_retries: Some(2),
        };
        let object = step_object(1, &report(2), &outside, 2.0);
        assert_eq!(
            (&object["sandbox/runs"], &object["timing"]["sandbox_secs"]),
            (&json!(3), &json!(0.5))
        );
        let names = || METRICS.iter().map(|metric| metric.name);
        assert_eq!(general_names(&object), names().collect::<Vec<_>>());

        let object = step_object(1, &report(1), &outside, 2.0);
        let of_one_turn = names().filter(|name| !name.contains("<turn>"));
        assert_eq!(general_names(&object), of_one_turn.collect::<Vec<_>>());
    }

    /// The names of an object's figures with what stands for the names in them, each once.
    fn general_names(object: &Map<String, Value>) -> Vec<String> {
        let general = |name: &str| {
            name.replace("writer/", "<role>/")
                .replace("reward/style", "reward/<part>")
                .replace("turn_1", "turn_<turn>")
                .replace("turn_2", "turn_<turn>")
        };
        let mut names: Vec<String> = Vec::new();
        for (name, value) in object {
            let found = match value.as_object() {
                Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
                None => vec![general(name)],
            };
            for name in found {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
}
