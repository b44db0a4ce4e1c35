//! The records that every file format is read into, and how they become tasks.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    path::Path,
};

use polyphony_episode::Task;

use super::{
    bounds::{Bound, BoundExceeded, DataBounds, estimate_memory},
    error::{DataSetError, RecordLocation},
};

/// One record of a file: named values, in the file's order.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    /// Its position in the file.
    pub(super) location: RecordLocation,
    /// Its values by field name.
    pub(super) values: Vec<(String, Value)>,
}

impl Record {
    /// The value of a field; if the field occurs several times, the last one.
    fn value(&self, field: &str) -> Option<&Value> {
        let mut values = self.values.iter().rev();
        values.find_map(|(name, value)| (name == field).then_some(value))
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A text, or a number or boolean as text.
    Text(String),
    /// Something that cannot be turned into text, described in words such as `a list`.
    NotText(&'static str),
}

/// How the records of a file become tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping<'a> {
    /// The file, for errors and for the identifiers of tasks.
    pub(super) path: &'a Path,
    /// Maps a field name of the tasks to a field name of the records. If it is empty, tasks have all
    /// fields that can be turned into text.
    pub(super) fields: &'a BTreeMap<String, String>,
    /// The record's field that contains the task's identifier. If it is `None`, the first of [`ID_FIELDS`]
    /// that contains a text is used. A task whose record has neither is named after the file and the
    /// record's number, such as `posts/12`.
    pub(super) id: Option<&'a str>,
    /// How many records to skip, starting with the first.
    pub(super) skip: usize,
    /// How many of the remaining records to use; `None` for all.
    pub(super) limit: Option<NonZeroUsize>,
    /// How large the file and the tasks may be.
    pub(super) bounds: DataBounds,
}

/// Fields that usually contain an identifier.
const ID_FIELDS: [&str; 2] = ["task_id", "id"];

impl Mapping<'_> {
    /// The fields that every record must have.
    pub(super) fn required_fields(&self) -> impl Iterator<Item = &str> {
        self.fields.values().map(String::as_str).chain(self.id)
    }

    /// Whether a field is used if a record has it.
    pub(super) fn is_used(&self, field: &str) -> bool {
        self.fields.is_empty()
            || self.required_fields().any(|required| required == field)
            || (self.id.is_none() && ID_FIELDS.contains(&field))
    }

    /// Turns records into tasks.
    pub(super) fn tasks(
        &self,
        records: impl Iterator<Item = Result<Record, DataSetError>>,
    ) -> Result<Vec<Task>, DataSetError> {
        let limit = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let mut tasks = Vec::new();
        let mut locations = HashMap::new();
        let mut records = records;
        let mut skipped = 0;
        for record in records.by_ref().take(self.skip) {
            record?;
            skipped += 1;
        }
        let mut bytes = 0;
        for record in records.take(limit) {
            let record = record?;
            let task = self.task(&record)?;
            bytes += estimate_memory(&task);
            let checked = self.bounds.check(Bound::Set, bytes);
            checked.map_err(|exceeded| self.too_large(record.location, exceeded))?;
            if let Some(earlier) = locations.insert(task.id.clone(), record.location) {
                return Err(DataSetError::DuplicateId {
                    path: self.path.to_owned(),
                    location: record.location,
                    id: task.id,
                    earlier,
                });
            }
            tasks.push(task);
        }
        if tasks.is_empty() {
            let path = self.path.to_owned();
            return Err(match skipped {
                0 => DataSetError::Empty { path },
                records => DataSetError::AllSkipped { path, records },
            });
        }
        Ok(tasks)
    }

    pub(super) fn too_large(
        &self,
        location: RecordLocation,
        exceeded: BoundExceeded,
    ) -> DataSetError {
        DataSetError::TooLarge {
            path: self.path.to_owned(),
            location,
            exceeded,
        }
    }

    fn task(&self, record: &Record) -> Result<Task, DataSetError> {
        let id = match self.id {
            Some(field) => self.text(record, field)?,
            None => self.default_id(record),
        };
        if self.fields.is_empty() {
            let texts = record
                .values
                .iter()
                .filter_map(|(name, value)| match value {
                    Value::Text(text) => Some((name.clone(), text.clone())),
                    Value::NotText(_) => None,
                });
            return Ok(Task {
                id,
                fields: texts.collect(),
            });
        }
        let fields = self
            .fields
            .iter()
            .map(|(name, field)| Ok((name.clone(), self.text(record, field)?)))
            .collect::<Result<_, DataSetError>>()?;
        Ok(Task { id, fields })
    }

    fn default_id(&self, record: &Record) -> String {
        let text_of = |field: &str| match record.value(field) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        ID_FIELDS
            .into_iter()
            .find_map(text_of)
            .unwrap_or_else(|| format!("{}/{}", self.stem(), record.location.number()))
    }

    fn text(&self, record: &Record, field: &str) -> Result<String, DataSetError> {
        let path = || self.path.to_owned();
        let location = record.location;
        match record.value(field) {
            Some(Value::Text(text)) => Ok(text.clone()),
            Some(Value::NotText(found)) => Err(DataSetError::NotText {
                path: path(),
                location,
                field: field.to_owned(),
                found,
            }),
            None => {
                let present: Vec<&str> = record
                    .values
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .collect();
                Err(DataSetError::MissingField {
                    path: path(),
                    location,
                    field: field.to_owned(),
                    present: present.join(", "),
                })
            }
        }
    }

    /// The file's name up to its first dot: `posts` of `data/posts.jsonl.gz`.
    fn stem(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        name.split('.').next().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Values = Vec<(&'static str, Value)>;

    fn texts<const N: usize>(values: [(&'static str, &str); N]) -> Values {
        values
            .map(|(name, text)| (name, Value::Text(text.to_owned())))
            .into()
    }

    /// Maps the field `post` to `body`; the records are on lines 1, 2 and so on.
    fn load(
        records: &[Values],
        id: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Vec<Task>, String> {
        load_after(0, records, id, limit)
    }

    /// Like [`load`], but without the first `skip` records.
    fn load_after(
        skip: usize,
        records: &[Values],
        id: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Vec<Task>, String> {
        let fields = BTreeMap::from([("post".to_owned(), "body".to_owned())]);
        let path = Path::new("some/posts.v2.jsonl");
        let limit = limit.and_then(NonZeroUsize::new);
        let records = records.iter().zip(1..).map(|(values, line)| {
            let values = values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()));
            Ok(Record {
                location: RecordLocation::Line(line),
                values: values.collect(),
            })
        });
        Mapping {
            path,
            fields: &fields,
            id,
            skip,
            limit,
            bounds: DataBounds::default(),
        }
        .tasks(records)
        .map_err(|e| e.to_string())
    }

    #[test]
    fn mapped_fields_are_renamed_and_the_rest_is_dropped() {
        let tasks = load(
            &[texts([("body", "It rained."), ("votes", "3")])],
            None,
            None,
        )
        .unwrap();
        assert_eq!(tasks, [Task::new("posts/1", [("post", "It rained.")])]);
    }

    #[test]
    fn an_id_field_names_the_tasks() {
        let records = [
            texts([("body", "x"), ("key", "a")]),
            texts([("body", "x"), ("key", "b")]),
        ];
        let tasks = load(&records, Some("key"), None).unwrap();
        assert_eq!(
            tasks
                .iter()
                .map(|task| task.id.as_str())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn without_a_mapping_all_texts_are_used_and_a_default_id_is_found() {
        let values = [
            texts([("body", "x"), ("id", "7"), ("task_id", "t/7")]),
            texts([("body", "y"), ("id", "8")]),
            vec![
                ("body", Value::Text("z".to_owned())),
                ("id", Value::NotText("null")),
            ],
        ];
        let records = values.iter().zip(1..).map(|(values, line)| {
            let named = |(name, value): &(&str, Value)| ((*name).to_owned(), value.clone());
            Ok(Record {
                location: RecordLocation::Line(line),
                values: values.iter().map(named).collect(),
            })
        });
        let mapping = Mapping {
            path: Path::new("posts.jsonl"),
            fields: &BTreeMap::new(),
            id: None,
            skip: 0,
            limit: None,
            bounds: DataBounds::default(),
        };
        let expected = [
            Task::new("t/7", [("body", "x"), ("id", "7"), ("task_id", "t/7")]),
            Task::new("8", [("body", "y"), ("id", "8")]),
            Task::new("posts/3", [("body", "z")]),
        ];
        assert_eq!(mapping.tasks(records).unwrap(), expected);
    }

    #[test]
    fn a_limit_takes_the_first_records_and_reads_no_further() {
        let records = [texts([("body", "x")]), texts([("body", "y")]), texts([])];
        assert_eq!(load(&records, None, Some(2)).unwrap().len(), 2);
        assert!(load(&records, None, None).is_err());
        assert_eq!(load(&records[..1], None, Some(9)).unwrap().len(), 1);
    }

    #[test]
    fn the_first_records_are_skipped() {
        let records = [texts([]), texts([("body", "x")]), texts([("body", "y")])];
        let ids = |skip, limit| {
            let tasks = load_after(skip, &records, None, limit)?;
            Ok(tasks.into_iter().map(|task| task.id).collect::<Vec<_>>())
        };
        assert_eq!(
            ids(1, None),
            Ok(vec!["posts/2".to_owned(), "posts/3".to_owned()])
        );
        assert_eq!(ids(1, Some(1)), Ok(vec!["posts/2".to_owned()]));
        assert_eq!(ids(2, None), Ok(vec!["posts/3".to_owned()]));
        let error = "`some/posts.v2.jsonl` holds 3 records, and `skip` skips all of them: lower it";
        assert_eq!(ids(3, None), Err(error.to_owned()));
        assert_eq!(ids(9, None), Err(error.to_owned()));
    }

    #[test]
    fn errors_say_what_is_wrong_with_a_record() {
        let good = || texts([("body", "x"), ("key", "a")]);
        let rows = [
            (vec![], None, " holds no records"),
            (
                vec![good(), texts([("bodi", "x"), ("key", "b")])],
                None,
                ", line 2: no field `body`; the record has: bodi, key",
            ),
            (
                vec![good()],
                Some("uid"),
                ", line 1: no field `uid`; the record has: body, key",
            ),
            (
                vec![vec![("body", Value::NotText("a list"))]],
                None,
                ", line 1: field `body` holds a list; \
                 only text, numbers and true or false can be used",
            ),
            (
                vec![good(), good()],
                Some("key"),
                ", line 2: the id `a` is already used by line 1",
            ),
        ];
        for (records, id, expected) in rows {
            let expected = format!("`some/posts.v2.jsonl`{expected}");
            assert_eq!(load(&records, id, None).unwrap_err(), expected);
        }
    }
}
