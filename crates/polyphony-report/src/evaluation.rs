//! The record of an evaluation: how a team performs on held-out tasks.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::statistics::{ByTask, Estimate, mean, or_nan, pass_at};

/// A team's results on held-out tasks: a line of `evaluations.jsonl`.
///
/// Keys that a line lacks have the values of [`EvaluationRecord::default`]; unknown keys are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluationRecord {
    /// Training steps before the evaluation; `None` if they are not known.
    pub step: Option<usize>,
    /// Which agents read which answers. In `parallel`, for example, no agent reads another's answer.
    pub protocol: String,
    /// The return; with a reward per role, the mean over the roles.
    #[serde(rename = "return")]
    pub mean_return: Estimate,
    /// Every part of the return. Like the return, each includes the discounted rewards of later turns.
    pub parts: IndexMap<String, Estimate>,
    /// pass@k by k: the chance that at least one of k episodes of a task is solved. k is 1 and the number
    /// of samples. Empty if the environment does not report whether tasks are solved.
    pub pass_at: IndexMap<usize, Estimate>,
    /// A summary of each role's responses, with its return if there is a reward per role.
    pub roles: IndexMap<String, RoleSummary>,
    /// Tasks with at least one episode.
    pub tasks: usize,
    /// Episodes of each task.
    pub samples: usize,
    /// Episodes that were skipped because a prompt did not fit.
    pub skipped_episodes: usize,
    /// Episodes that ended early because the next prompt did not fit.
    pub cut_episodes: usize,
    /// Tokens that the agents sampled, including the drafts of a discussion.
    #[serde(alias = "sampled_tokens")]
    pub completion_tokens: usize,
    /// Tokens of all histories that the agents answered.
    #[serde(alias = "read_tokens")]
    pub prompt_tokens: usize,
    /// Everything that depends on clocks.
    pub timing: EvaluationTiming,
    /// The episodes.
    pub episodes: Vec<EpisodeRecord>,
}

/// A role's results in an evaluation: means over all its responses and, if there is a reward per role, its
/// return.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleSummary {
    /// Mean tokens of a response.
    #[serde(alias = "response_tokens", deserialize_with = "or_nan")]
    pub completion_length: f64,
    /// The fraction of responses that the length limit cut off.
    #[serde(alias = "truncated_share", deserialize_with = "or_nan")]
    pub truncated_fraction: f64,
    /// Its return, if there is a reward per role.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    pub mean_return: Option<Estimate>,
    /// Every part of its return.
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
    /// Completion tokens divided by `secs`, which includes the time for scoring.
    #[serde(deserialize_with = "or_nan")]
    pub tokens_per_sec: f64,
    /// Seconds per task, for all its episodes.
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
    pub episode_return: f64,
    /// Every part of its return.
    pub parts: IndexMap<String, f64>,
    /// The return of each role, if there is a reward per role.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub roles: IndexMap<String, RoleReturn>,
    /// Whether the task was solved; `None` if the environment does not report it.
    pub solved: Option<bool>,
    /// The responses of every turn, one per role.
    pub turns: Vec<Vec<String>>,
}

/// A role's return in an episode, if there is a reward per role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleReturn {
    /// Its return.
    #[serde(rename = "return", deserialize_with = "or_nan")]
    pub episode_return: f64,
    /// Every part of its return.
    pub parts: IndexMap<String, f64>,
}

/// The protocol in which no agent reads another's answer, as in training.
pub(crate) const PARALLEL: &str = "parallel";

impl Default for EvaluationRecord {
    fn default() -> Self {
        Self {
            step: None,
            protocol: PARALLEL.to_owned(),
            mean_return: Estimate::default(),
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
            mean_return: None,
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
    /// Computes everything that follows from the episodes: the number of tasks, and the estimates of the
    /// return, of its parts named in `parts`, of pass@1 and pass@`samples`, and of each role's return.
    /// `timing.secs_per_task` is `timing.secs` divided by the number of tasks.
    #[must_use]
    pub fn summarized<P: AsRef<str>>(mut self, parts: impl IntoIterator<Item = P>) -> Self {
        let part = |part: P| {
            let values = self.mean_by_task(|episode| value_of(&episode.parts, part.as_ref()));
            (part.as_ref().to_owned(), Estimate::of_run(values))
        };
        let parts: IndexMap<String, Estimate> = parts.into_iter().map(part).collect();
        for (role, mean_return, parts) in self.role_estimates(&parts) {
            let summary = self.roles.entry(role).or_default();
            (summary.mean_return, summary.parts) = (Some(mean_return), parts);
        }
        let rates: IndexMap<usize, Estimate> = [1, self.samples]
            .into_iter()
            .map(|k| (k, self.pass_by_task(k)))
            .filter(|(_, rates)| !rates.is_empty())
            .map(|(k, rates)| (k, Estimate::of_run(rates)))
            .collect();
        let by_task = self.by_task();
        let (tasks, mean_return) = (by_task.len(), Estimate::of_run(by_task));
        let timing = EvaluationTiming {
            secs_per_task: self.timing.secs / tasks as f64,
            ..self.timing
        };
        Self {
            mean_return,
            parts,
            pass_at: rates,
            tasks,
            timing,
            ..self
        }
    }

    /// The estimates of each role that has its own return in every episode.
    fn role_estimates(
        &self,
        parts: &IndexMap<String, Estimate>,
    ) -> Vec<(String, Estimate, IndexMap<String, Estimate>)> {
        let Some(first) = self.episodes.first() else {
            return Vec::new();
        };
        let names = first.roles.keys().filter(|name| {
            let mut episodes = self.episodes.iter();
            episodes.all(|episode| episode.roles.contains_key(*name))
        });
        let of_role = |name: &String| {
            let role_estimate = |of: &dyn Fn(&RoleReturn) -> f64| {
                let values =
                    self.mean_by_task(|episode| episode.roles.get(name).map_or(f64::NAN, of));
                Estimate::of_run(values)
            };
            let part = |part: &String| {
                let estimate = role_estimate(&|role: &RoleReturn| value_of(&role.parts, part));
                (part.clone(), estimate)
            };
            let mean_return = role_estimate(&|role: &RoleReturn| role.episode_return);
            (name.clone(), mean_return, parts.keys().map(part).collect())
        };
        names.map(of_role).collect()
    }

    /// Its scalars, with their names in TensorBoard.
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let mut scalars = Vec::new();
        let mut add = |name: String, value: f64| scalars.push((format!("held_out/{name}"), value));
        add("return".to_owned(), self.mean_return.mean);
        for (part, estimate) in &self.parts {
            add(format!("reward/{part}"), estimate.mean);
        }
        for (k, estimate) in &self.pass_at {
            add(format!("pass@{k}"), estimate.mean);
        }
        for (role, summary) in &self.roles {
            if let Some(mean_return) = &summary.mean_return {
                add(format!("{role}/return"), mean_return.mean);
            }
            for (part, estimate) in &summary.parts {
                add(format!("{role}/reward/{part}"), estimate.mean);
            }
            add(
                format!("{role}/completion_length"),
                summary.completion_length,
            );
            add(
                format!("{role}/truncated_fraction"),
                summary.truncated_fraction,
            );
        }
        scalars
    }

    /// Everything except the episodes, as one JSON object.
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
        self.mean_by_task(|episode| episode.episode_return)
    }

    /// The mean of a value over the episodes of each task.
    pub fn mean_by_task(&self, value: impl Fn(&EpisodeRecord) -> f64) -> ByTask<'_> {
        let tasks = self.episodes_by_task().into_iter();
        let mean_of = |episodes: Vec<&EpisodeRecord>| {
            mean(&episodes.into_iter().map(&value).collect::<Vec<_>>())
        };
        tasks
            .map(|(task, episodes)| (task, mean_of(episodes)))
            .collect()
    }

    /// pass@k of each task with at least `k` episodes; empty if the environment does not report whether tasks
    /// are solved.
    pub fn pass_by_task(&self, k: usize) -> ByTask<'_> {
        let rate = |(task, episodes): (_, Vec<&EpisodeRecord>)| {
            let outcomes = episodes.iter().filter_map(|episode| episode.solved);
            let outcomes: Vec<bool> = outcomes.collect();
            let solved = outcomes.iter().filter(|solved| **solved).count();
            (outcomes.len() >= k).then(|| (task, pass_at(k, outcomes.len(), solved)))
        };
        let tasks = self.episodes_by_task().into_iter();
        tasks.filter_map(rate).collect()
    }

    /// The episodes of each task; no task is empty.
    pub(crate) fn episodes_by_task(&self) -> IndexMap<&str, Vec<&EpisodeRecord>> {
        let mut tasks: IndexMap<&str, Vec<&EpisodeRecord>> = IndexMap::new();
        for episode in &self.episodes {
            tasks.entry(&episode.task).or_default().push(episode);
        }
        tasks
    }

    /// The return, its parts and pass@k, with their names in tables.
    pub fn estimates(&self) -> IndexMap<String, Estimate> {
        let parts = self.parts.iter();
        let rates = self.pass_at.iter();
        std::iter::once(("return".to_owned(), self.mean_return))
            .chain(parts.map(|(part, estimate)| (format!("  {part}"), *estimate)))
            .chain(rates.map(|(k, estimate)| (format!("pass@{k}"), *estimate)))
            .collect()
    }
}

/// A part of a reward; a missing part is 0.
pub(crate) fn value_of(parts: &IndexMap<String, f64>, name: &str) -> f64 {
    parts.get(name).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture;

    fn episode(task: &str, value: f64, solved: bool) -> EpisodeRecord {
        EpisodeRecord {
            task: task.to_owned(),
            episode_return: value,
            parts: [("style".to_owned(), value)].into(),
            solved: Some(solved),
            ..EpisodeRecord::default()
        }
    }

    fn evaluation(episodes: Vec<EpisodeRecord>) -> EvaluationRecord {
        let summary = |completion_length| RoleSummary {
            completion_length,
            truncated_fraction: 0.5,
            ..RoleSummary::default()
        };
        EvaluationRecord {
            samples: 2,
            roles: [
                ("first".to_owned(), summary(3.0)),
                ("second".to_owned(), summary(5.0)),
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
    fn results_follow_from_the_episodes() {
        let found = evaluation(vec![
            episode("a", 1.0, true),
            episode("a", 0.25, false),
            episode("b", 1.0, true),
        ]);
        assert_eq!(
            (found.tasks, found.mean_return.mean),
            (2, (0.625 + 1.0) / 2.0)
        );
        assert_eq!(found.parts["style"], found.mean_return);
        assert_eq!(found.timing.secs_per_task, 1.0);
        // Task b has one episode, so it has no pass@2.
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
            found.scalars(),
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        // With a shared reward, no returns per role are written.
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(text.matches("\"return\"").count(), 4, "{text}");
    }

    #[test]
    fn with_a_reward_per_role_every_role_has_a_return_and_parts() {
        let with_roles = |task: &str, values: [f64; 2]| {
            let role_return = |value: f64| RoleReturn {
                episode_return: value,
                parts: [("style".to_owned(), value / 2.0)].into(),
            };
            let roles = ["first", "second"].map(str::to_owned);
            EpisodeRecord {
                roles: roles.into_iter().zip(values.map(role_return)).collect(),
                ..episode(task, values.iter().sum::<f64>() / 2.0, false)
            }
        };
        let found = evaluation(vec![
            with_roles("a", [1.0, 3.0]),
            with_roles("b", [2.0, 6.0]),
        ]);
        assert_eq!(found.mean_return.mean, 3.0);
        let second = &found.roles["second"];
        assert_eq!(
            (second.mean_return.unwrap().mean, second.parts["style"].mean),
            (4.5, 2.25)
        );
        let scalars: IndexMap<String, f64> = found.scalars().into_iter().collect();
        assert_eq!(scalars["held_out/first/return"], 1.5);
        assert_eq!(scalars["held_out/second/reward/style"], 2.25);
        let reread: EvaluationRecord =
            serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
        // A role that some episodes lack has no return.
        let mut some = found.episodes.clone();
        some[0].roles.shift_remove("second");
        let some = evaluation(some);
        assert!(
            some.roles["first"].mean_return.is_some() && some.roles["second"].mean_return.is_none()
        );
        assert_eq!(reread.roles, found.roles);
        assert_eq!(reread.episodes, found.episodes);
    }

    #[test]
    fn no_episodes_have_no_mean() {
        let found = evaluation(Vec::new());
        assert!(found.mean_return.mean.is_nan() && found.parts["style"].mean.is_nan());
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
        for (section, key) in [("timing", "joules"), ("return", "median")] {
            more[section][key] = json!(2);
        }
        more["roles"]["summarizer"]["mood"] = json!("good");
        more["episodes"][0]["colour"] = json!(null);
        assert_eq!(
            serde_json::from_value::<EvaluationRecord>(more).unwrap(),
            whole
        );
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
        assert_eq!(
            (bare.episodes.len(), bare.roles["a"].mean_return),
            (1, None)
        );
    }
}
