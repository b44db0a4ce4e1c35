//! `--set path=value`: one value of a recipe replaced.
//!
//! The recipe is written out as RON with every key spelled out, the value at the path is replaced
//! in that text, and the result is read back. So an override may be anything that a file may say,
//! and is checked in the same way.

use std::fmt;

use anyhow::{Context as _, Result, anyhow, bail};
use indexmap::IndexMap;
use ron::value::RawValue;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::{Recipe, explain, reader};
use crate::registry::Registry;

/// The recipe with one change of the form `path=value`.
///
/// # Errors
/// Names the part of the path that does not exist with the nearest one that does, or says what is
/// wrong with the value.
pub(super) fn apply(registry: &Registry, recipe: &Recipe, change: &str) -> Result<Recipe> {
    let (path, value) = change.split_once('=').context(
        "expected path=value, such as algorithm.samples=8 or updates.learning_rate=1e-6",
    )?;
    let (path, value) = (path.trim(), value.trim());
    let keys: Vec<&str> = path.split('.').collect();
    RawValue::from_ron(value).map_err(|error| {
        let is_word = !value.contains(['(', '[', '{', '"', ',']);
        let reason = match is_word {
            true => "texts need double quotes and numbers brackets, as in team=Copies(\"my-model\") and \
                     devices=Same(Cuda(1))"
                .to_owned(),
            false => explain::in_file(&error).to_string(),
        };
        anyhow!("`{value}` is not a RON value: {reason}")
    })?;
    let text = replace(&recipe.to_ron(), &keys, 0, value)?;
    let read: Recipe = reader().from_str(&text).map_err(|error| {
        anyhow!(
            "`{path}` cannot be {value}: {}",
            explain::reason(&error.code)
        )
    })?;
    read.resolve(registry)
        .map_err(|error| anyhow!("`{path}` cannot be {value}: {error:#}"))
}

/// `text` with the value at `keys[depth..]` replaced by `value`.
fn replace(text: &str, keys: &[&str], depth: usize, value: &str) -> Result<String> {
    let Some(key) = keys.get(depth) else {
        return Ok(value.to_owned());
    };
    // A map (`{…}`) reads like a struct, but its keys are the user's own.
    let fields = if text.starts_with('{') {
        None
    } else {
        reader().from_str(text).ok()
    };
    let Some(Fields(mut fields)): Option<Fields> = fields else {
        // The keys of `Solo(Coding(…))` are those of what it holds.
        if let Some((outer, inner)) = held(text) {
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
                let place = keys[..depth].join(".");
                let suggestion = explain::suggest(key, &known);
                bail!("there is no key `{key}` in `{place}`; {suggestion}");
            }
            let meant: Vec<String> = settings(text)
                .into_keys()
                .filter(|path| path.rsplit('.').next() == Some(key))
                .map(|path| format!("`{path}`"))
                .collect();
            let suggestion = match meant.as_slice() {
                [] => explain::suggest(key, &known),
                paths => format!("did you mean {}?", paths.join(" or ")),
            };
            bail!("there is no key `{key}`; {suggestion}");
        }
    }
    // What stands before the bracket is the name of an enum's variant.
    let (name, _) = text.split_once('(').unwrap_or_default();
    let fields: Vec<String> = fields
        .into_iter()
        .map(|(key, content)| format!("{key}: {content}"))
        .collect();
    Ok(format!("{name}({})", fields.join(", ")))
}

/// Every value of a recipe's text by its path: those of sections and of the environment one by one,
/// other choices as a whole.
pub(super) fn settings(text: &str) -> IndexMap<String, String> {
    let mut settings = IndexMap::new();
    collect(text, "", &mut settings);
    settings
}

fn collect(text: &str, path: &str, settings: &mut IndexMap<String, String>) {
    // What begins with a name is a choice, and one value; but the settings of these two are many.
    let is_section = text.starts_with('(') || matches!(path, "environment" | "algorithm");
    let fields = is_section.then(|| reader().from_str(text).ok()).flatten();
    let Some(Fields(fields)) = fields else {
        match held(text).filter(|_| is_section) {
            Some((_, inner)) => collect(inner, path, settings),
            None => {
                settings.insert(path.to_owned(), text.to_owned());
            }
        }
        return;
    };
    for (key, value) in fields {
        let path = match path {
            "" => key,
            path => format!("{path}.{key}"),
        };
        collect(value.trim(), &path, settings);
    }
}

/// The name of an enum's variant and the one other variant with fields that it holds.
fn held(text: &str) -> Option<(&str, &str)> {
    let (outer, rest) = text.split_once('(')?;
    let inner = rest.strip_suffix(')')?.trim();
    let (name, _) = inner.split_once('(')?;
    let is_name = |name: &str| !name.is_empty() && name.chars().all(char::is_alphanumeric);
    (is_name(outer) && is_name(name)).then_some((outer, inner))
}

/// The keys of a RON struct, each with the text of its value.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Those of a text; `None` where it is no struct with named fields.
    pub(super) fn of(text: &str) -> Option<Self> {
        reader().from_str(text).ok()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.names().any(|name| name == key)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a struct with named fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
            fields.push((key, value.get_ron().to_owned()));
        }
        Ok(Fields(fields))
    }
}
