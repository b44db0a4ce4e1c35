//! Small data sets that were written for this project and are part of the program.

use std::{collections::BTreeMap, path::Path};

use polyphony_episode::Task;
use serde::{Deserialize, Serialize};

use super::{error::DataSetError, json_lines, record::Mapping};

/// A data set that needs no file. Its tasks have the field `title` besides the one named below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EmbeddedSet {
    /// Posts to train on, in the field `post`.
    TldrTrain,
    /// Posts to evaluate on, in the field `post`.
    TldrHeldOut,
    /// Abstracts to train on, in the field `abstract`.
    ArxivTrain,
    /// Abstracts to evaluate on, in the field `abstract`.
    ArxivHeldOut,
}

impl EmbeddedSet {
    /// Its file, from the crate's folder.
    fn path(self) -> &'static str {
        match self {
            Self::TldrTrain => "data/tldr-train.jsonl",
            Self::TldrHeldOut => "data/tldr-held-out.jsonl",
            Self::ArxivTrain => "data/arxiv-train.jsonl",
            Self::ArxivHeldOut => "data/arxiv-held-out.jsonl",
        }
    }

    fn lines(self) -> &'static str {
        match self {
            Self::TldrTrain => include_str!("../../data/tldr-train.jsonl"),
            Self::TldrHeldOut => include_str!("../../data/tldr-held-out.jsonl"),
            Self::ArxivTrain => include_str!("../../data/arxiv-train.jsonl"),
            Self::ArxivHeldOut => include_str!("../../data/arxiv-held-out.jsonl"),
        }
    }

    /// The field with the text to write about.
    fn text_field(self) -> &'static str {
        match self {
            Self::TldrTrain | Self::TldrHeldOut => "post",
            Self::ArxivTrain | Self::ArxivHeldOut => "abstract",
        }
    }

    /// Its tasks.
    pub(super) fn load(self) -> Result<Vec<Task>, DataSetError> {
        let path = Path::new(self.path());
        let fields: BTreeMap<String, String> = ["title", self.text_field()]
            .map(|name| (name.to_owned(), name.to_owned()))
            .into();
        Mapping {
            path,
            fields: &fields,
            id: Some("id"),
            skip: 0,
            limit: None,
        }
        .tasks(json_lines::records(self.lines().as_bytes(), path))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, ops::RangeInclusive};

    use super::*;

    fn check(
        [train, held_out]: [EmbeddedSet; 2],
        [least_train, least_held_out]: [usize; 2],
        words: RangeInclusive<usize>,
    ) {
        let field = train.text_field();
        let [train, held_out] = [train, held_out].map(|set| set.load().unwrap());
        assert!(train.len() >= least_train, "{} to train on", train.len());
        assert!(
            held_out.len() >= least_held_out,
            "{} held out",
            held_out.len()
        );

        let tasks: Vec<&Task> = train.iter().chain(&held_out).collect();
        for task in &tasks {
            let count = task.fields[field].split_whitespace().count();
            assert!(
                words.contains(&count),
                "task `{}` has {count} words",
                task.id
            );
            assert!(
                !task.fields["title"].trim().is_empty(),
                "task `{}` has no title",
                task.id
            );
        }
        let distinct = |key: fn(&Task) -> String| {
            tasks
                .iter()
                .map(|task| key(task))
                .collect::<HashSet<_>>()
                .len()
        };
        assert_eq!(distinct(|task| task.id.clone()), tasks.len());
        assert_eq!(
            distinct(|task| task.fields["title"].to_lowercase()),
            tasks.len()
        );

        for (index, task) in tasks.iter().enumerate() {
            for other in &tasks[..index] {
                let [one, two] = [task, other].map(|task| shingles(&task.fields[field]));
                let shared = one.intersection(&two).count();
                assert!(
                    shared * 10 < one.len().min(two.len()),
                    "`{}` resembles `{}`",
                    task.id,
                    other.id
                );
            }
        }
    }

    /// All runs of three words: texts about the same thing share a few, copies most of them.
    fn shingles(text: &str) -> HashSet<String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        words
            .windows(3)
            .map(|run| run.join(" ").to_lowercase())
            .collect()
    }

    #[test]
    fn posts_are_enough_distinct_and_of_the_right_length() {
        check(
            [EmbeddedSet::TldrTrain, EmbeddedSet::TldrHeldOut],
            [96, 32],
            60..=250,
        );
    }

    #[test]
    fn abstracts_are_enough_distinct_and_of_the_right_length() {
        check(
            [EmbeddedSet::ArxivTrain, EmbeddedSet::ArxivHeldOut],
            [48, 16],
            80..=250,
        );
    }
}
