//! `--set path=value`: replaces one value of a recipe.
//!
//! The recipe is written out as RON with every key spelled out, the value at the path is replaced in that
//! text, and the result is read back. An override may therefore be anything that a file may contain, and is
//! checked in the same way.

use anyhow::{Context as _, Result, anyhow, bail};
use polyphony_report::{entries, fields, nested_choice, settings};
use ron::value::RawValue;

use crate::explain;

/// An override, and the recipe's text with the value replaced.
pub(super) struct Override<'a> {
    pub(super) path: &'a str,
    pub(super) value: &'a str,
    pub(super) text: String,
}

/// Applies one change of the form `path=value` to the text of a recipe, in which every key is spelled out.
///
/// # Errors
/// Names the part of the path that does not exist and the nearest known key, or what is wrong with the value.
pub(super) fn apply<'a>(recipe: &str, change: &'a str) -> Result<Override<'a>> {
    let (path, value) = change.split_once('=').context(
        "expected path=value, such as algorithm.samples=8 or updates.learning_rate=1e-6",
    )?;
    let (path, value) = (path.trim(), value.trim());
    let keys: Vec<&str> = path.split('.').collect();
    RawValue::from_ron(value).map_err(|error| {
        let is_word = !value.contains(['(', '[', '{', '"', ',']);
        let reason = match is_word {
            true => "texts need double quotes, and numbers of devices need brackets, as in \
                     team=Copies(\"my-model\") and devices=Same(Cuda(1))"
                .to_owned(),
            false => explain::in_file(&error, value).to_string(),
        };
        anyhow!("`{value}` is not a RON value: {reason}")
    })?;
    let text = replace(recipe, &keys, 0, value)?;
    Ok(Override { path, value, text })
}

/// Replaces the value at `keys[depth..]` in `text` by `value`.
fn replace(text: &str, keys: &[&str], depth: usize, value: &str) -> Result<String> {
    let Some(key) = keys.get(depth) else {
        return Ok(value.to_owned());
    };
    if let Some(entries) = entries(text) {
        return replace_entry(entries, keys, depth, value);
    }
    let Some(mut fields) = fields(text) else {
        // The keys of `SingleAgent(Coding(…))` are those of the inner choice.
        if let Some((outer, inner)) = nested_choice(text) {
            let inner = replace(inner, keys, depth, value)?;
            return Ok(format!("{outer}({inner})"));
        }
        let path = keys[..depth].join(".");
        bail!("`{path}` is {text}, which has no keys: set `{path}` as a whole");
    };
    match fields.iter_mut().find(|(name, _)| name == key) {
        Some((_, content)) => *content = replace(content.trim(), keys, depth + 1, value)?,
        None => {
            let known: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            if depth > 0 {
                let section = keys[..depth].join(".");
                let suggestion = explain::suggest(key, &known);
                bail!("there is no key `{key}` in `{section}`; {suggestion}");
            }
            let with_same_key: Vec<String> = settings(text)
                .into_keys()
                .filter(|path| path.rsplit('.').next() == Some(key))
                .map(|path| format!("`{path}`"))
                .collect();
            let suggestion = match with_same_key.as_slice() {
                [] => explain::suggest(key, &known),
                paths => format!("did you mean {}?", paths.join(" or ")),
            };
            bail!("there is no key `{key}`; {suggestion}");
        }
    }
    // The text before the bracket is the name of an enum's variant.
    let (name, _) = text.split_once('(').unwrap_or_default();
    let fields: Vec<String> = fields
        .into_iter()
        .map(|(key, content)| format!("{key}: {content}"))
        .collect();
    Ok(format!("{name}({})", fields.join(", ")))
}

/// Replaces the value at `keys[depth..]` in a map. A map may have any keys, so the last key of the path may be
/// new.
fn replace_entry(
    mut entries: Vec<(String, String)>,
    keys: &[&str],
    depth: usize,
    value: &str,
) -> Result<String> {
    let key = keys[depth];
    let is_last = depth + 1 == keys.len();
    match entries.iter_mut().find(|(name, _)| name == key) {
        Some((_, content)) => *content = replace(content.trim(), keys, depth + 1, value)?,
        None if is_last => entries.push((key.to_owned(), value.to_owned())),
        None => {
            let map = keys[..depth].join(".");
            bail!(
                "there is no key `{key}` in `{map}`: set `{map}.{key}` as a whole, which adds it"
            );
        }
    }
    let entries: Vec<String> = entries
        .into_iter()
        .map(|(key, content)| Ok(format!("{}: {content}", ron::to_string(&key)?)))
        .collect::<Result<_>>()?;
    Ok(format!("{{{}}}", entries.join(", ")))
}
