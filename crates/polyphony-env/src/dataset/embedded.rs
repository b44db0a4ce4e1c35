//! Small data sets, written for this project, that are compiled into the program.

use std::{collections::BTreeMap, error::Error, path::Path};

use polyphony_episode::{Task, TaskSource};
use serde::{Deserialize, Serialize};

use super::{bounds::DataBounds, error::DataSetError, json_lines, record::Mapping};

/// A data set that is compiled into the program.
///
/// ```
/// # use polyphony_env::{Embedded, EmbeddedSet};
/// # use polyphony_episode::TaskSource;
/// let posts: Embedded = ron::from_str("(TldrTrain)")?;
/// assert_eq!(posts, Embedded(EmbeddedSet::TldrTrain));
/// assert_eq!(posts.label(), "TldrTrain");
/// assert!(posts.load()?.len() > 90);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Embedded(
    /// The set.
    pub EmbeddedSet,
);

impl TaskSource for Embedded {
    fn load(&self) -> Result<Vec<Task>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.load()?)
    }

    fn label(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// A data set that needs no file. Its tasks have the fields named below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EmbeddedSet {
    /// Posts to train on: `title`, `post`.
    TldrTrain,
    /// Posts to evaluate on: `title`, `post`.
    TldrHeldOut,
    /// Abstracts to train on: `title`, `abstract`.
    ArxivTrain,
    /// Abstracts to evaluate on: `title`, `abstract`.
    ArxivHeldOut,
    /// Python problems to train on, each solved by two functions together. They have HumanEval's fields
    /// `prompt`, `test` and `entry_point`, and a solution, `reference_aux` and `reference_main`.
    CoopTrain,
    /// Problems of the same kind to evaluate on, with the same fields.
    CoopHeldOut,
}

impl EmbeddedSet {
    /// The path of its file, relative to the crate's folder.
    fn path(self) -> &'static str {
        match self {
            Self::TldrTrain => "data/tldr-train.jsonl",
            Self::TldrHeldOut => "data/tldr-held-out.jsonl",
            Self::ArxivTrain => "data/arxiv-train.jsonl",
            Self::ArxivHeldOut => "data/arxiv-held-out.jsonl",
            Self::CoopTrain => "data/coop-train.jsonl",
            Self::CoopHeldOut => "data/coop-held-out.jsonl",
        }
    }

    fn lines(self) -> &'static str {
        match self {
            Self::TldrTrain => include_str!("../../data/tldr-train.jsonl"),
            Self::TldrHeldOut => include_str!("../../data/tldr-held-out.jsonl"),
            Self::ArxivTrain => include_str!("../../data/arxiv-train.jsonl"),
            Self::ArxivHeldOut => include_str!("../../data/arxiv-held-out.jsonl"),
            Self::CoopTrain => include_str!("../../data/coop-train.jsonl"),
            Self::CoopHeldOut => include_str!("../../data/coop-held-out.jsonl"),
        }
    }

    /// The fields of its tasks. The records have the same field names.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::TldrTrain | Self::TldrHeldOut => &["title", "post"],
            Self::ArxivTrain | Self::ArxivHeldOut => &["title", "abstract"],
            Self::CoopTrain | Self::CoopHeldOut => &[
                "prompt",
                "test",
                "entry_point",
                "reference_aux",
                "reference_main",
            ],
        }
    }

    /// The field of its records that contains the identifier. Problems use HumanEval's field name.
    fn id_field(self) -> &'static str {
        match self {
            Self::TldrTrain | Self::TldrHeldOut | Self::ArxivTrain | Self::ArxivHeldOut => "id",
            Self::CoopTrain | Self::CoopHeldOut => "task_id",
        }
    }

    /// Its tasks.
    pub(super) fn load(self) -> Result<Vec<Task>, DataSetError> {
        let path = Path::new(self.path());
        let fields: BTreeMap<String, String> = self
            .fields()
            .iter()
            .map(|&name| (name.to_owned(), name.to_owned()))
            .collect();
        let mapping = Mapping {
            path,
            fields: &fields,
            id: Some(self.id_field()),
            skip: 0,
            limit: None,
            bounds: DataBounds::default(),
        };
        mapping.tasks(json_lines::records(self.lines().as_bytes(), &mapping))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, ops::RangeInclusive};

    use super::*;

    fn check(
        [train, held_out]: [EmbeddedSet; 2],
        [min_train, min_held_out]: [usize; 2],
        words: RangeInclusive<usize>,
    ) {
        let field = train.fields()[1];
        let [train, held_out] = [train, held_out].map(|set| set.load().unwrap());
        assert!(train.len() >= min_train, "{} to train on", train.len());
        assert!(
            held_out.len() >= min_held_out,
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
            for earlier in &tasks[..index] {
                let [one, two] = [task, earlier].map(|task| shingles(&task.fields[field]));
                let shared = one.intersection(&two).count();
                assert!(
                    shared * 10 < one.len().min(two.len()),
                    "`{}` resembles `{}`",
                    task.id,
                    earlier.id
                );
            }
        }
    }

    /// All sequences of three words. Texts about the same subject share a few, copies share most.
    fn shingles(text: &str) -> HashSet<String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        words
            .windows(3)
            .map(|words| words.join(" ").to_lowercase())
            .collect()
    }

    #[test]
    fn posts_are_many_distinct_and_of_the_right_length() {
        check(
            [EmbeddedSet::TldrTrain, EmbeddedSet::TldrHeldOut],
            [96, 32],
            60..=250,
        );
    }

    #[test]
    fn abstracts_are_many_distinct_and_of_the_right_length() {
        check(
            [EmbeddedSet::ArxivTrain, EmbeddedSet::ArxivHeldOut],
            [48, 16],
            80..=250,
        );
    }

    /// The lines of a problem's `check` function after the first.
    fn asserts(task: &Task) -> Vec<&str> {
        let mut lines = task.fields["test"].lines();
        assert_eq!(lines.next(), Some("def check(candidate):"), "{}", task.id);
        lines.collect()
    }

    /// The checks that do not need Python; `data/check_coop.py` makes the others.
    #[test]
    fn problems_are_many_complete_and_distinct() {
        let sets = [EmbeddedSet::CoopTrain, EmbeddedSet::CoopHeldOut];
        let [train, held_out] = sets.map(|set| set.load().unwrap());
        assert_eq!([train.len(), held_out.len()], [36, 12]);
        let tasks: Vec<&Task> = train.iter().chain(&held_out).collect();
        let mut names = HashSet::new();
        for task in &tasks {
            let Task { id, fields } = task;
            let number = id.strip_prefix("coop/").map(str::parse::<usize>);
            let number = number.and_then(Result::ok);
            assert!(number.is_some_and(|number| number >= 1), "{id}");
            let name = &fields["entry_point"];
            for text in [id, name] {
                assert!(names.insert(text.clone()), "{id} repeats `{text}`");
            }

            let head = format!("def {name}(");
            let (prompt, main) = (&fields["prompt"], &fields["reference_main"]);
            assert_eq!(prompt.matches("def ").count(), 1, "{id}");
            assert!(prompt.starts_with(&head) && main.starts_with(&head), "{id}");
            let signatures = [prompt, main].map(|text| text.lines().next());
            assert_eq!(signatures[0], signatures[1], "{id}");
            assert!(prompt.ends_with("\n    \"\"\"\n"), "{id}");
            let examples = prompt.matches(&format!("\n    >>> {name}(")).count();
            assert!(examples >= 2, "{id} has {examples} examples");

            assert!(fields["reference_aux"].starts_with("def aux("), "{id}");
            assert!(main.contains("aux("), "{id} does not call its helper");
            let imports = fields.values().any(|text| text.contains("import "));
            assert!(!imports, "{id}: a response's imports are not used");

            let asserts = asserts(task);
            let distinct: HashSet<&str> = asserts.iter().copied().collect();
            assert!(distinct.len() >= 5, "{id} has {} asserts", distinct.len());
            assert_eq!(distinct.len(), asserts.len(), "{id} has an assert twice");
            for line in asserts {
                let is_complete =
                    line.starts_with("    assert candidate(") && line.contains(") == ");
                assert!(is_complete, "{id}: `{line}`");
            }
        }
    }
}
