//! What was said before and after training.

use indexmap::IndexMap;
use serde::Serialize;

use crate::{
    evaluation::{EvaluationRecord, EpisodeRecord},
    run::Run,
};

/// Tasks of a run that are shown at once; the others are behind a click.
const OPEN: usize = 2;

/// The responses of a run to its held-out tasks, before and after.
#[derive(Serialize)]
pub(super) struct Texts {
    run: String,
    /// How many of the tasks are shown at once.
    shown: usize,
    tasks: Vec<Pair>,
}

/// What was said to a task.
#[derive(Serialize)]
struct Pair {
    task: String,
    is_open: bool,
    sides: Vec<Side>,
}

/// One side of the comparison.
#[derive(Serialize)]
struct Side {
    when: String,
    value: f64,
    parts: IndexMap<String, f64>,
    /// The return of each role, where each has a reward of its own.
    roles: IndexMap<String, f64>,
    /// A role, its turn where there are several, and what it said.
    said: Vec<(String, String)>,
}

/// The first episode of every task, of every run that was evaluated twice or alone; those whose change is
/// in the middle first: neither the best nor the worst that could be shown.
pub(super) fn choose(runs: &[Run]) -> Vec<Texts> {
    let texts = |run: &Run| {
        let [first, last] = run.ends();
        let first = first?;
        let later = last.map(first_episodes).unwrap_or_default();
        let mut pairs: Vec<(f64, Pair)> = first_episodes(first)
            .into_values()
            .map(|before| {
                let after = later.get(before.task.as_str()).copied();
                let change = after.map_or(0.0, |after| after.value - before.value);
                let sides = [Some((first, before)), last.zip(after)];
                let sides = sides.into_iter().flatten();
                let pair = Pair {
                    task: before.task.clone(),
                    is_open: false,
                    sides: sides
                        .map(|(evaluation, played)| side(run, evaluation, played))
                        .collect(),
                };
                (change, pair)
            })
            .collect();
        pairs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let middle = pairs
            .get(pairs.len() / 2)
            .map_or(0.0, |(change, _)| *change);
        pairs.sort_by(|(a, _), (b, _)| (a - middle).abs().total_cmp(&(b - middle).abs()));
        let mut tasks: Vec<Pair> = pairs.into_iter().map(|(_, pair)| pair).collect();
        tasks
            .iter_mut()
            .take(OPEN)
            .for_each(|pair| pair.is_open = true);
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
    for played in &evaluation.episodes {
        first.entry(played.task.as_str()).or_insert(played);
    }
    first
}

fn side(run: &Run, evaluation: &EvaluationRecord, played: &EpisodeRecord) -> Side {
    let roles = &run.info.environment.roles;
    let said = |(turn, texts): (usize, &Vec<String>)| {
        let turn = match played.turns.len() {
            1 => String::new(),
            _ => format!(", turn {turn}"),
        };
        let said = roles.iter().zip(texts);
        said.map(|(role, text)| (format!("{role}{turn}"), text.clone()))
            .collect::<Vec<_>>()
    };
    Side {
        when: match evaluation.step {
            Some(0) if run.metrics.is_empty() => run.method(),
            Some(0) => "before training".to_owned(),
            Some(step) => format!("after {step} steps"),
            None => "as given".to_owned(),
        },
        value: played.value,
        parts: played.parts.clone(),
        roles: played
            .roles
            .iter()
            .map(|(role, earned)| (role.clone(), earned.value))
            .collect(),
        said: (1..).zip(&played.turns).flat_map(said).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn the_change_in_the_middle_is_shown_first() {
        let text = |value: f64| match value {
            1.5 => "worth 1.5",
            _ => "other",
        };
        let judged = |step: usize, values: [f64; 5]| EvaluationRecord {
            step: Some(step),
            ..fixture::evaluation(&values.map(|value| (value, text(value))))
        };
        let run = Run {
            metrics: vec![serde_json::Map::new()],
            evaluations: vec![judged(0, [1.0; 5]), judged(40, [1.0, 4.0, 1.5, 0.0, 1.6])],
            ..fixture::run("a", fixture::TLDR, &[])
        };
        let chosen = choose(&[run]);
        let tasks: Vec<(&str, bool)> = chosen[0]
            .tasks
            .iter()
            .map(|pair| (pair.task.as_str(), pair.is_open))
            .collect();
        // They change by 0, 3, 0.5, -1 and 0.6: the one in the middle is 0.5.
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
            sides[1].said[1],
            ("elaborator".to_owned(), "worth 1.5".to_owned())
        );
    }
}
