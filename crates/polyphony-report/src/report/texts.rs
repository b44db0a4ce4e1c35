//! Responses to held-out tasks before and after training.

use indexmap::IndexMap;
use serde::Serialize;

use crate::{
    evaluation::{EpisodeRecord, EvaluationRecord},
    run::Run,
};

/// The number of tasks per run that are open at first. The others are collapsed.
const OPEN: usize = 2;

/// The responses of a run to its held-out tasks, before and after training.
#[derive(Serialize)]
pub(super) struct Texts {
    run: String,
    /// The number of tasks that are open at first.
    shown: usize,
    tasks: Vec<TaskTexts>,
}

/// The responses to one task.
#[derive(Serialize)]
struct TaskTexts {
    task: String,
    is_open: bool,
    sides: Vec<Side>,
}

/// The responses to one task in one evaluation.
#[derive(Serialize)]
struct Side {
    when: String,
    value: f64,
    parts: IndexMap<String, f64>,
    /// The return of each role, if there is a reward per role.
    roles: IndexMap<String, f64>,
    /// Each response, with its role, and with its turn if there are several.
    responses: Vec<(String, String)>,
}

/// The first episode of every task of every evaluated run, before and after training. The tasks whose return
/// changed by about the median come first: these examples are neither the best nor the worst.
pub(super) fn choose(runs: &[Run]) -> Vec<Texts> {
    let texts = |run: &Run| {
        let [first, last] = run.first_and_last_evaluation();
        let first = first?;
        let later = last.map(first_episodes).unwrap_or_default();
        let mut by_change: Vec<(f64, TaskTexts)> = first_episodes(first)
            .into_values()
            .map(|before| {
                let after = later.get(before.task.as_str()).copied();
                let change =
                    after.map_or(0.0, |after| after.episode_return - before.episode_return);
                let sides = [Some((first, before)), last.zip(after)];
                let sides = sides.into_iter().flatten();
                let texts = TaskTexts {
                    task: before.task.clone(),
                    is_open: false,
                    sides: sides
                        .map(|(evaluation, episode)| side(run, evaluation, episode))
                        .collect(),
                };
                (change, texts)
            })
            .collect();
        by_change.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let median = by_change
            .get(by_change.len() / 2)
            .map_or(0.0, |(change, _)| *change);
        by_change.sort_by(|(a, _), (b, _)| (a - median).abs().total_cmp(&(b - median).abs()));
        let mut tasks: Vec<TaskTexts> = by_change.into_iter().map(|(_, texts)| texts).collect();
        tasks
            .iter_mut()
            .take(OPEN)
            .for_each(|task| task.is_open = true);
        let run = format!("{}: {}", run.name(), run.method());
        Some(Texts {
            run,
            shown: OPEN,
            tasks,
        })
    };
    runs.iter().filter_map(texts).collect()
}

/// The first episode of every task.
fn first_episodes(evaluation: &EvaluationRecord) -> IndexMap<&str, &EpisodeRecord> {
    let mut first = IndexMap::new();
    for episode in &evaluation.episodes {
        first.entry(episode.task.as_str()).or_insert(episode);
    }
    first
}

fn side(run: &Run, evaluation: &EvaluationRecord, episode: &EpisodeRecord) -> Side {
    let roles = &run.info.environment.roles;
    let responses = |(turn, texts): (usize, &Vec<String>)| {
        let turn = match episode.turns.len() {
            1 => String::new(),
            _ => format!(", turn {turn}"),
        };
        let responses = roles.iter().zip(texts);
        responses
            .map(|(role, text)| (format!("{role}{turn}"), text.clone()))
            .collect::<Vec<_>>()
    };
    Side {
        when: match evaluation.step {
            Some(0) if run.metrics.is_empty() => run.method(),
            Some(0) => "before training".to_owned(),
            Some(step) => format!("after {step} steps"),
            None => "as given".to_owned(),
        },
        value: episode.episode_return,
        parts: episode.parts.clone(),
        roles: episode
            .roles
            .iter()
            .map(|(role, role_return)| (role.clone(), role_return.episode_return))
            .collect(),
        responses: (1..).zip(&episode.turns).flat_map(responses).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn the_task_with_the_median_change_is_shown_first() {
        let text = |value: f64| match value {
            1.5 => "return 1.5",
            _ => "another return",
        };
        let evaluation = |step: usize, values: [f64; 5]| EvaluationRecord {
            step: Some(step),
            ..fixture::evaluation(&values.map(|value| (value, text(value))))
        };
        let run = Run {
            metrics: vec![serde_json::Map::new()],
            evaluations: vec![
                evaluation(0, [1.0; 5]),
                evaluation(40, [1.0, 4.0, 1.5, 0.0, 1.6]),
            ],
            ..fixture::run("a", fixture::TLDR, &[])
        };
        let chosen = choose(&[run]);
        let tasks: Vec<(&str, bool)> = chosen[0]
            .tasks
            .iter()
            .map(|task| (task.task.as_str(), task.is_open))
            .collect();
        // The returns change by 0, 3, 0.5, -1 and 0.6: the median is 0.5.
        let expected = [
            ("t2", true),
            ("t4", true),
            ("t0", false),
            ("t3", false),
            ("t1", false),
        ];
        assert_eq!(tasks, expected);
        let sides = &chosen[0].tasks[0].sides;
        let when: Vec<&str> = sides.iter().map(|side| side.when.as_str()).collect();
        assert_eq!(when, ["before training", "after 40 steps"]);
        assert_eq!(
            sides[1].responses[1],
            ("elaborator".to_owned(), "return 1.5".to_owned())
        );
    }
}
