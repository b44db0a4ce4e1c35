//! Checks that the runner does not name an environment or an algorithm: it runs whatever is registered.

use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::Metadata;

use crate::source;

/// The crate that must not know these names.
const CRATE: &str = "polyphony-runner";

/// The names, in lower case. An identifier must not be one of them or contain one of them as a word, as in
/// `TldrTrain` and `actor_critic_loss`.
const NAMES: &[&str] = &[
    "tldr",
    "arxiv",
    "coding",
    "writing",
    "sandbox",
    "human_eval",
    "humaneval",
    "magrpo",
    "marloo",
    "grpo",
    "actor_critic",
    "environment_kind",
];

/// The places where the runner uses one of the names outside its tests and comments.
///
/// # Errors
///
/// If a source cannot be read.
pub(crate) fn find(metadata: &Metadata) -> Result<Vec<String>> {
    let packages = metadata.workspace_packages();
    let runner = packages.iter().find(|package| package.name == CRATE);
    let runner = runner.with_context(|| format!("`{CRATE}` is not in the workspace"))?;
    let folder = runner
        .manifest_path
        .parent()
        .context("a manifest is in a folder")?;
    let mut found = Vec::new();
    for target in runner
        .targets
        .iter()
        .filter(|target| target.is_lib() || target.is_bin())
    {
        let mut modules = source::modules(target.src_path.as_std_path())?;
        for module in modules.values_mut() {
            let file = module.file.strip_prefix(folder).unwrap_or(&module.file);
            found.extend(named_in(file, &module.words));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The names among these words, one message per name.
fn named_in(file: &Path, words: &[String]) -> Vec<String> {
    let message = |word: &String| {
        let name = NAMES
            .iter()
            .find(|name| contains_word(&snake(word), name))?;
        let file = file.display();
        Some(format!(
            "`{CRATE}` names `{word}` in {file}; it must not know `{name}`"
        ))
    };
    words.iter().filter_map(message).collect()
}

/// Whether an identifier in snake case contains a name as one or more whole words.
fn contains_word(identifier: &str, name: &str) -> bool {
    format!("_{identifier}_").contains(&format!("_{name}_"))
}

/// An identifier in snake case.
fn snake(word: &str) -> String {
    let mut snake = String::new();
    let mut after_lowercase = false;
    for character in word.chars() {
        if character.is_uppercase() && after_lowercase {
            snake.push('_');
        }
        after_lowercase = !character.is_uppercase();
        snake.extend(character.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_identifiers() {
        let rows = [
            ("use polyphony_env::Tldr;", "Tldr"),
            ("TldrTrain", "TldrTrain"),
            ("fn score_tldr() {}", "score_tldr"),
            ("MAGRPO", "MAGRPO"),
            ("EnvironmentKind::Arxiv", "EnvironmentKind, Arxiv"),
            ("polyphony_sandbox::Pool", "polyphony_sandbox"),
            ("IndependentActorCritic", "IndependentActorCritic"),
            ("encoding, rewriting, solos, Writer", ""),
            ("// Tldr\n/* Magrpo */", ""),
        ];
        for (text, expected) in rows {
            let messages = named_in(Path::new("a.rs"), &source::words(text));
            let word = |message: &String| message.split('`').nth(3).unwrap().to_owned();
            let words: Vec<String> = messages.iter().map(word).collect();
            assert_eq!(words.join(", "), expected, "{text}");
        }
    }
}
