//! Opens weights in several `safetensors` files, which `model.safetensors.index.json` lists.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::read::optional_json;
use super::weights::Weights;
use crate::error::ModelError;

/// The most weights files, which is also the limit for a download from the hub.
const MAX_FILES: usize = 10_000;

/// The index without its `metadata`, which is only informative.
#[derive(Deserialize)]
struct Index {
    /// For every tensor the file that holds it.
    weight_map: BTreeMap<String, String>,
}

/// Maps all files that an index names. They must be in its directory.
///
/// # Errors
/// If the index or a file is missing, unreadable or damaged, or they contradict each other.
pub(crate) fn open(index: &Path) -> Result<Weights, ModelError> {
    let damaged = |reason: String| ModelError::Damaged {
        path: index.to_owned(),
        reason,
    };
    let table: Option<Index> = optional_json(index)?;
    let Index { weight_map } = table.ok_or_else(|| ModelError::Missing {
        path: index.to_owned(),
        expected: "the list of the files that hold the weights".to_owned(),
    })?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in weight_map {
        files.entry(file).or_default().push(tensor);
    }
    if files.is_empty() {
        return Err(damaged("it names no files".to_owned()));
    }
    if files.len() > MAX_FILES {
        return Err(ModelError::TooLarge {
            path: index.to_owned(),
            bound: format!("{MAX_FILES} files of weights"),
        });
    }
    if let Some(name) = files.keys().find(|name| !is_plain(name)) {
        return Err(damaged(format!(
            "`{name}` is not the plain name of a file beside it"
        )));
    }
    let shard = |(name, tensors): (&String, &Vec<String>)| {
        let weights = Weights::open(&index.with_file_name(name))?;
        match tensors.iter().find(|tensor| !weights.contains(tensor)) {
            None => Ok(weights),
            Some(tensor) => Err(damaged(format!(
                "it looks for the tensor `{tensor}` in {name}, which does not hold it"
            ))),
        }
    };
    let shards = files.iter().map(shard).collect::<Result<_, _>>()?;
    Weights::join(index, shards)
}

/// Whether a name is a plain file name, which cannot lead to another directory.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    )
}

#[cfg(test)]
mod tests {
    use ::safetensors::{Dtype, serialize_to_file, tensor::TensorView};
    use serde_json::{Value, json};

    use super::*;

    /// A folder with this index and two files of one tensor each.
    fn folder(index: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, name, value) in [
            ("1.safetensors", "one", 1.0f32),
            ("2.safetensors", "two", 2.0),
        ] {
            let bytes = value.to_le_bytes();
            let tensor = TensorView::new(Dtype::F32, vec![1], &bytes).unwrap();
            serialize_to_file([(name, tensor)], None, &folder.path().join(file)).unwrap();
        }
        let path = folder.path().join("index.json");
        std::fs::write(path, index.to_string()).unwrap();
        folder
    }

    fn open_index(index: &Value) -> Result<Weights, ModelError> {
        open(&folder(index).path().join("index.json"))
    }

    #[test]
    fn tensors_are_read_from_the_file_that_holds_them() {
        let index = json!({"weight_map": {"one": "1.safetensors", "two": "2.safetensors"}});
        let weights = open_index(&index).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["one", "two"]);
        for (name, value) in [("one", 1.0), ("two", 2.0)] {
            assert_eq!(weights.read(name, &[1]).unwrap(), [value]);
            let again = weights.read(name, &[1]).unwrap();
            assert_eq!(again, [value], "released pages are read again");
        }
        let message = weights.read("two", &[2]).unwrap_err().to_string();
        assert!(message.contains("2.safetensors"), "{message}");
    }

    #[test]
    fn an_index_of_more_files_than_any_model_has_is_refused() {
        let index = |files: usize| {
            let names = (0..files).map(|file| (file.to_string(), json!(format!("{file}.x"))));
            json!({"weight_map": Value::Object(names.collect())})
        };
        let message = open_index(&index(MAX_FILES + 1)).unwrap_err().to_string();
        let expected = "index.json has more than 10000 files of weights";
        assert!(message.contains(expected), "{message}");
        let message = open_index(&index(MAX_FILES)).unwrap_err().to_string();
        assert!(message.contains("0.x does not exist"), "{message}");
    }

    #[test]
    fn an_index_that_cannot_be_right_is_explained() {
        let rows = [
            (json!({}), "index.json is not valid JSON"),
            (json!({"weight_map": {}}), "it names no files"),
            (
                json!({"weight_map": {"one": "3.safetensors"}}),
                "3.safetensors does not exist",
            ),
            (
                json!({"weight_map": {"two": "1.safetensors"}}),
                "it looks for the tensor `two` in 1.safetensors, which does not hold it",
            ),
            (
                json!({"weight_map": {"one": "../1.safetensors"}}),
                "`../1.safetensors` is not the plain name of a file",
            ),
            (
                json!({"weight_map": {"one": "/etc/passwd"}}),
                "`/etc/passwd` is not the plain name of a file",
            ),
        ];
        for (index, expected) in rows {
            let message = open_index(&index).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn one_name_in_two_files_is_refused() {
        let folder =
            folder(&json!({"weight_map": {"one": "1.safetensors", "two": "2.safetensors"}}));
        let bytes = [0; 4];
        let tensor = || TensorView::new(Dtype::F32, vec![1], &bytes).unwrap();
        let both = [("one", tensor()), ("two", tensor())];
        serialize_to_file(both, None, &folder.path().join("2.safetensors")).unwrap();
        let message = open(&folder.path().join("index.json"))
            .unwrap_err()
            .to_string();
        let expected = "two of its files hold the tensor `one`";
        assert!(message.contains(expected), "{message}");
    }
}
