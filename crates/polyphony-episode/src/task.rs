//! Tasks, the items of data sets.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One data-set item: an identifier and named text fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object")]
pub struct Task {
    /// Names the item in logs, rollouts and errors; unique within its data set.
    pub id: String,
    /// The item's content by field name.
    pub fields: BTreeMap<String, String>,
}

/// Whether tasks are for training or for evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Tasks for training.
    Train,
    /// Tasks for evaluation, which training never uses.
    HeldOut,
}

impl Split {
    /// The name in files and messages: `train` or `held_out`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held_out",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A task lacks a field that its environment needs.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("task `{task}` has no field `{field}`; it has: {present}")]
pub struct TaskError {
    /// The task's identifier.
    pub task: String,
    /// The missing field.
    pub field: String,
    /// The fields that the task has, separated by commas.
    pub present: String,
}

impl Task {
    /// A task from its identifier and its fields.
    pub fn new<K: Into<String>, V: Into<String>>(
        id: impl Into<String>,
        fields: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self {
            id: id.into(),
            fields: fields
                .into_iter()
                .map(|(name, text)| (name.into(), text.into()))
                .collect(),
        }
    }

    /// The text of a field.
    ///
    /// # Errors
    /// If there is no such field. The error names the task, the missing field and the fields that exist.
    pub fn field(&self, name: &str) -> Result<&str, TaskError> {
        self.fields
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| TaskError {
                task: self.id.clone(),
                field: name.to_owned(),
                present: self
                    .fields
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_field_is_named_with_those_present() {
        let task = Task::new("t/7", [("post", "text"), ("title", "short")]);
        assert_eq!(task.field("post"), Ok("text"));
        let error = task.field("prompt").unwrap_err().to_string();
        assert_eq!(
            error,
            "task `t/7` has no field `prompt`; it has: post, title"
        );
    }
}
