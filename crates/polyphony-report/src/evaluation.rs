//! How good a team is on held-out tasks, as it is written down.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::statistics::{ByTask, Estimate, mean, or_nan, pass_at};

/// A team's figures on held-out tasks: a line of `evaluations.jsonl`.
///
/// Keys that a line lacks have the values of [`EvaluationRecord::default`]; others are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluationRecord {
    /// Training steps that the team had had; `None` where that is not known.
    pub step: Option<usize>,
    /// Who read whose answers, such as `parallel`: nobody did.
    pub protocol: String,
    /// The return; with a reward per role, the mean over the roles.
    #[serde(rename = "return")]
    pub returns: Estimate,
    /// Every part of the return: as the return itself, with the discounted rewards of later turns.
    pub parts: IndexMap<String, Estimate>,
    /// The chance that at least one of this many episodes of a task is solved, by their number: 1 and
    /// all that were played. Empty where the environment does not say what is solved.
    pub pass_at: IndexMap<usize, Estimate>,
    /// What each role said, and what it earned where each has a reward of its own.
    pub roles: IndexMap<String, RoleSummary>,
    /// Tasks played.
    pub tasks: usize,
    /// Episodes of each task.
    pub samples: usize,
    /// Episodes left out since a prompt did not fit.
    pub skipped_episodes: usize,
    /// Episodes that would have continued, had the next prompt fitted.
    pub cut_episodes: usize,
    /// Tokens that the agents sampled, drafts included.
    #[serde(alias = "sampled_tokens")]
    pub completion_tokens: usize,
    /// Tokens that they read: all histories that they answered.
    #[serde(alias = "read_tokens")]
    pub prompt_tokens: usize,
    /// All that depends on clocks.
    pub timing: EvaluationTiming,
    /// What was played.
    pub episodes: Vec<EpisodeRecord>,
}

/// A role's part in an evaluation: means over all its responses, and its own return if it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleSummary {
    /// Tokens of a response.
    #[serde(alias = "response_tokens", deserialize_with = "or_nan")]
    pub completion_length: f64,
    /// The fraction of responses that the length limit cut off.
    #[serde(alias = "truncated_share", deserialize_with = "or_nan")]
    pub truncated_fraction: f64,
    /// Its return, where each role has a reward of its own.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    pub returns: Option<Estimate>,
    /// Every part of that.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub parts: IndexMap<String, Estimate>,
}

/// How long an evaluation took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluationTiming {
    /// Seconds in all.
    #[serde(deserialize_with = "or_nan")]
    pub secs: f64,
    /// Sampled tokens by all of these seconds, those of scoring included.
    #[serde(deserialize_with = "or_nan")]
    pub tokens_per_sec: f64,
    /// Seconds per task, with all its episodes.
    #[serde(deserialize_with = "or_nan")]
    pub secs_per_task: f64,
}

/// One episode of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpisodeRecord {
    /// The task's identifier.
    pub task: String,
    /// Its return; with a reward per role, the mean over the roles.
    #[serde(rename = "return", deserialize_with = "or_nan")]
    pub value: f64,
    /// Every part of its return.
    pub parts: IndexMap<String, f64>,
    /// The return of each role, where each has a reward of its own.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub roles: IndexMap<String, RoleReturn>,
    /// Whether it ended with the task solved, where the environment says so.
    pub solved: Option<bool>,
    /// One text per role, at every turn.
    pub turns: Vec<Vec<String>>,
}

/// What a role earned in an episode, where each has a reward of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleReturn {
    /// Its return.
    #[serde(rename = "return", deserialize_with = "or_nan")]
    pub value: f64,
    /// Every part of that.
    pub parts: IndexMap<String, f64>,
}

/// The protocol in which nobody reads anything, as in training.
pub(crate) const PARALLEL: &str = "parallel";

impl Default for EvaluationRecord {
    fn default() -> Self {
        Self {
            step: None,
            protocol: PARALLEL.to_owned(),
            returns: Estimate::default(),
            parts: IndexMap::new(),
            pass_at: IndexMap::new(),
            roles: IndexMap::new(),
            tasks: 0,
            samples: 1,
            skipped_episodes: 0,
            cut_episodes: 0,
            completion_tokens: 0,
            prompt_tokens: 0,
            timing: EvaluationTiming::default(),
            episodes: Vec::new(),
        }
    }
}

impl Default for RoleSummary {
    fn default() -> Self {
        Self {
            completion_length: f64::NAN,
            truncated_fraction: f64::NAN,
            returns: None,
            parts: IndexMap::new(),
        }
    }
}

impl Default for EvaluationTiming {
    fn default() -> Self {
        Self {
            secs: f64::NAN,
            tokens_per_sec: f64::NAN,
            secs_per_task: f64::NAN,
        }
    }
}

impl EvaluationRecord {
    /// The same with everything that follows from its episodes: the number of tasks, and the estimates of
    /// the return, of these parts of it, of pass@1 and pass@k of all k episodes, and of each role's own
    /// return. `timing.secs` is spread over the tasks.
    #[must_use]
    pub fn summarized<P: AsRef<str>>(mut self, parts: impl IntoIterator<Item = P>) -> Self {
        let part = |part: P| {
            let values = self.of_tasks(|played| value_of(&played.parts, part.as_ref()));
            (part.as_ref().to_owned(), Estimate::of_run(values))
        };
        let parts: IndexMap<String, Estimate> = parts.into_iter().map(part).collect();
        let own: Vec<(String, Estimate, IndexMap<String, Estimate>)> = self.role_estimates(&parts);
        for (role, returns, parts) in own {
            let said = self.roles.entry(role).or_default();
            (said.returns, said.parts) = (Some(returns), parts);
        }
        let rates: IndexMap<usize, Estimate> = [1, self.samples]
            .into_iter()
            .map(|k| (k, self.pass_by_task(k)))
            .filter(|(_, rates)| !rates.is_empty())
            .map(|(k, rates)| (k, Estimate::of_run(rates)))
            .collect();
        let by_task = self.by_task();
        let (tasks, returns) = (by_task.len(), Estimate::of_run(by_task));
        let timing = EvaluationTiming {
            secs_per_task: self.timing.secs / tasks as f64,
            ..self.timing
        };
        Self {
            returns,
            parts,
            pass_at: rates,
            tasks,
            timing,
            ..self
        }
    }

    /// The estimates of each role that has a return of its own in every episode.
    fn role_estimates(
        &self,
        parts: &IndexMap<String, Estimate>,
    ) -> Vec<(String, Estimate, IndexMap<String, Estimate>)> {
        let Some(first) = self.episodes.first() else {
            return Vec::new();
        };
        let names = first.roles.keys().filter(|name| {
            let mut episodes = self.episodes.iter();
            episodes.all(|played| played.roles.contains_key(*name))
        });
        let of_role = |name: &String| {
            let figure = |of: &dyn Fn(&RoleReturn) -> f64| {
                let values = self.of_tasks(|played| played.roles.get(name).map_or(f64::NAN, of));
                Estimate::of_run(values)
            };
            let part = |part: &String| {
                let estimate = figure(&|earned: &RoleReturn| value_of(&earned.parts, part));
                (part.clone(), estimate)
            };
            let returns = figure(&|earned: &RoleReturn| earned.value);
            (name.clone(), returns, parts.keys().map(part).collect())
        };
        names.map(of_role).collect()
    }

    /// Its figures under the names that they have in TensorBoard.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = Vec::new();
        let mut add = |name: String, value: f64| figures.push((format!("held_out/{name}"), value));
        add("return".to_owned(), self.returns.mean);
        for (part, estimate) in &self.parts {
            add(format!("reward/{part}"), estimate.mean);
        }
        for (k, estimate) in &self.pass_at {
            add(format!("pass@{k}"), estimate.mean);
        }
        for (role, said) in &self.roles {
            if let Some(returns) = &said.returns {
                add(format!("{role}/return"), returns.mean);
            }
            for (part, estimate) in &said.parts {
                add(format!("{role}/reward/{part}"), estimate.mean);
            }
            add(format!("{role}/completion_length"), said.completion_length);
            add(format!("{role}/truncated_fraction"), said.truncated_fraction);
        }
        figures
    }

    /// All but the episodes, as one JSON object.
    pub fn without_episodes(&self) -> Map<String, Value> {
        let object = serde_json::to_value(self).map(|value| match value {
            Value::Object(object) => object,
            _ => Map::new(),
        });
        let mut object = object.unwrap_or_default();
        object.shift_remove("episodes");
        object
    }

    /// The mean return of each task.
    pub fn by_task(&self) -> ByTask<'_> {
        self.of_tasks(|played| played.value)
    }

    /// The means of some figure over the episodes of each task.
    pub fn of_tasks(&self, figure: impl Fn(&EpisodeRecord) -> f64) -> ByTask<'_> {
        let tasks = self.episodes_by_task().into_iter();
        let mean_of = |own: Vec<&EpisodeRecord>| mean(&own.into_iter().map(&figure).collect::<Vec<_>>());
        tasks.map(|(task, own)| (task, mean_of(own))).collect()
    }

    /// The chance of each task that one of `k` episodes solves it, where as many were played; nothing
    /// where the environment does not say what is solved.
    pub fn pass_by_task(&self, k: usize) -> ByTask<'_> {
        let rate = |(task, own): (_, Vec<&EpisodeRecord>)| {
            let solved: Vec<bool> = own.iter().filter_map(|played| played.solved).collect();
            let right = solved.iter().filter(|solved| **solved).count();
            (solved.len() >= k).then(|| (task, pass_at(k, solved.len(), right)))
        };
        let tasks = self.episodes_by_task().into_iter();
        tasks.filter_map(rate).collect()
    }

    /// The episodes of each task, none of them empty.
    pub(crate) fn episodes_by_task(&self) -> IndexMap<&str, Vec<&EpisodeRecord>> {
        let mut tasks: IndexMap<&str, Vec<&EpisodeRecord>> = IndexMap::new();
        for played in &self.episodes {
            tasks.entry(&played.task).or_default().push(played);
        }
        tasks
    }

    /// The return, its parts and pass@k by the names that tables have for them.
    pub fn estimates(&self) -> IndexMap<String, Estimate> {
        let parts = self.parts.iter();
        let rates = self.pass_at.iter();
        std::iter::once(("return".to_owned(), self.returns))
            .chain(parts.map(|(part, estimate)| (format!("  {part}"), *estimate)))
            .chain(rates.map(|(k, estimate)| (format!("pass@{k}"), *estimate)))
            .collect()
    }
}

/// A part of a reward; one that it lacks is worth nothing.
pub(crate) fn value_of(parts: &IndexMap<String, f64>, name: &str) -> f64 {
    parts.get(name).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture;

    fn played(task: &str, value: f64, solved: bool) -> EpisodeRecord {
        EpisodeRecord {
            task: task.to_owned(),
            value,
            parts: [("style".to_owned(), value)].into(),
            solved: Some(solved),
            ..EpisodeRecord::default()
        }
    }

    fn evaluation(episodes: Vec<EpisodeRecord>) -> EvaluationRecord {
        let said = |completion_length| RoleSummary {
            completion_length,
            truncated_fraction: 0.5,
            ..RoleSummary::default()
        };
        EvaluationRecord {
            samples: 2,
            roles: [
                ("first".to_owned(), said(3.0)),
                ("second".to_owned(), said(5.0)),
            ]
            .into(),
            timing: EvaluationTiming {
                secs: 2.0,
                ..EvaluationTiming::default()
            },
            episodes,
            ..EvaluationRecord::default()
        }
        .summarized(["style"])
    }

    #[test]
    fn episodes_become_figures_of_their_tasks() {
        let found = evaluation(vec![
            played("a", 1.0, true),
            played("a", 0.25, false),
            played("b", 1.0, true),
        ]);
        assert_eq!((found.tasks, found.returns.mean), (2, (0.625 + 1.0) / 2.0));
        assert_eq!(found.parts["style"], found.returns);
        assert_eq!(found.timing.secs_per_task, 1.0);
        // One episode of b is missing, so nothing can be said of two of it.
        let rates = found.pass_at.iter().map(|(k, rate)| (*k, rate.mean));
        assert_eq!(rates.collect::<Vec<_>>(), [(1, 0.75), (2, 1.0)]);
        let expected = [
            ("held_out/return", 0.8125),
            ("held_out/reward/style", 0.8125),
            ("held_out/pass@1", 0.75),
            ("held_out/pass@2", 1.0),
            ("held_out/first/completion_length", 3.0),
            ("held_out/first/truncated_fraction", 0.5),
            ("held_out/second/completion_length", 5.0),
            ("held_out/second/truncated_fraction", 0.5),
        ];
        assert_eq!(
            found.figures(),
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        // Nothing is written of what a shared reward does not have.
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(text.matches("\"return\"").count(), 4, "{text}");
    }

    #[test]
    fn roles_with_rewards_of_their_own_have_returns_and_parts() {
        let episode = |task: &str, values: [f64; 2]| {
            let earned = |value: f64| RoleReturn {
                value,
                parts: [("style".to_owned(), value / 2.0)].into(),
            };
            let roles = ["first", "second"].map(str::to_owned);
            EpisodeRecord {
                roles: roles.into_iter().zip(values.map(earned)).collect(),
                ..played(task, values.iter().sum::<f64>() / 2.0, false)
            }
        };
        let found = evaluation(vec![episode("a", [1.0, 3.0]), episode("b", [2.0, 6.0])]);
        assert_eq!(found.returns.mean, 3.0);
        let second = &found.roles["second"];
        assert_eq!(
            (second.returns.unwrap().mean, second.parts["style"].mean),
            (4.5, 2.25)
        );
        let figures: IndexMap<String, f64> = found.figures().into_iter().collect();
        assert_eq!(figures["held_out/first/return"], 1.5);
        assert_eq!(figures["held_out/second/reward/style"], 2.25);
        let again: EvaluationRecord =
            serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
        // A role that some episodes lack has no return.
        let mut some = found.episodes.clone();
        some[0].roles.shift_remove("second");
        let some = evaluation(some);
        assert!(some.roles["first"].returns.is_some() && some.roles["second"].returns.is_none());
        assert_eq!(again.roles, found.roles);
        assert_eq!(again.episodes, found.episodes);
    }

    #[test]
    fn nothing_played_has_no_mean() {
        let found = evaluation(Vec::new());
        assert!(found.returns.mean.is_nan() && found.parts["style"].mean.is_nan());
        assert_eq!((found.tasks, found.pass_at.len()), (0, 0));
    }

    #[test]
    fn a_line_may_lack_keys_and_have_others() {
        let whole = fixture::evaluation(&[(1.5, "text"), (0.5, "more")]);
        let line = serde_json::to_value(&whole).unwrap();
        assert_eq!(
            serde_json::from_value::<EvaluationRecord>(line.clone()).unwrap(),
            whole
        );
        let mut more = line.clone();
        more["weather"] = json!({"rain": true});
        for (place, key) in [("timing", "joules"), ("return", "median")] {
            more[place][key] = json!(2);
        }
        more["roles"]["summarizer"]["mood"] = json!("good");
        more["episodes"][0]["colour"] = json!(null);
        assert_eq!(serde_json::from_value::<EvaluationRecord>(more).unwrap(), whole);
        for key in line.as_object().unwrap().keys() {
            let mut less = line.clone();
            less.as_object_mut().unwrap().shift_remove(key);
            let less: EvaluationRecord = serde_json::from_value(less).unwrap();
            assert_eq!(less.episodes.is_empty(), key == "episodes", "{key}");
        }
        let nothing: EvaluationRecord = serde_json::from_str("{}").unwrap();
        assert_eq!(
            (nothing.protocol.as_str(), nothing.samples),
            ("parallel", 1)
        );
        let bare: EvaluationRecord =
            serde_json::from_value(json!({"episodes": [{}], "roles": {"a": {}}})).unwrap();
        assert_eq!((bare.episodes.len(), bare.roles["a"].returns), (1, None));
    }
}
