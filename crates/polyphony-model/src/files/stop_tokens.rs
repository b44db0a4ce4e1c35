//! The tokens that end a response, as configuration files name them.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;

/// The union of the `eos_token_id`s of several configuration files, sorted. Each is a number, a
/// list of numbers, or absent.
///
/// # Errors
/// If an id is not in the model's vocabulary.
pub(super) fn stop_tokens(
    configs: &[(&Value, &Path)],
    vocab_size: usize,
) -> Result<Vec<u32>, ModelError> {
    const KEY: &str = "eos_token_id";
    let mut ids = Vec::new();
    for (config, path) in configs {
        let listed = match config.get(KEY) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => list.as_slice(),
            Some(single) => std::slice::from_ref(single),
        };
        for value in listed {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.filter(|id| (*id as usize) < vocab_size);
            ids.push(id.ok_or_else(|| ModelError::InvalidValue {
                path: (*path).to_owned(),
                key: KEY.to_owned(),
                given: value.to_string(),
                allowed: format!("a token id below the vocabulary's size, {vocab_size}"),
            })?);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stop_tokens_are_the_union_of_all_files() {
        let path = Path::new("some.json");
        let rows = [
            (
                vec![
                    json!({"eos_token_id": 3}),
                    json!({"eos_token_id": [5, 3, 1]}),
                ],
                vec![1, 3, 5],
            ),
            (vec![json!({"eos_token_id": null}), json!({})], vec![]),
        ];
        for (configs, expected) in rows {
            let configs: Vec<_> = configs.iter().map(|config| (config, path)).collect();
            assert_eq!(stop_tokens(&configs, 8).unwrap(), expected);
        }
        for wrong in [json!(8), json!(-1), json!("2"), json!([1.5])] {
            let config = json!({"eos_token_id": wrong});
            let message = stop_tokens(&[(&config, path)], 8).unwrap_err().to_string();
            assert!(
                message.contains("some.json: `eos_token_id` is "),
                "{message}"
            );
        }
    }
}
