//! Names of environments and algorithms that the runner must not know: it runs whatever is registered.

use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::Metadata;

use crate::source;

/// The crate that must not know them.
const CRATE: &str = "polyphony-runner";

/// The names, in lower case. An identifier must not be one of them or hold it between underscores or
/// capitals: `TldrTrain`, `actor_critic_loss`.
const NAMES: &[&str] = &[
    "tldr",
    "arxiv",
    "coding",
    "writing",
    "sandbox",
    "human_eval",
    "humaneval",
    "solo",
    "magrpo",
    "marloo",
    "grpo",
    "actor_critic",
    "environment_kind",
];

/// Where the runner names one of them outside its tests and comments; empty where it does not.
///
/// # Errors
///
/// Where a source cannot be read.
pub(crate) fn found(metadata: &Metadata) -> Result<Vec<String>> {
    let packages = metadata.workspace_packages();
    let runner = packages.iter().find(|package| package.name == CRATE);
    let runner = runner.with_context(|| format!("`{CRATE}` is not in the workspace"))?;
    let folder = runner
        .manifest_path
        .parent()
        .context("a manifest lies in a folder")?;
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

/// The names among these words, each in a line.
fn named_in(file: &Path, words: &[String]) -> Vec<String> {
    let complaint = |word: &String| {
        let name = NAMES.iter().find(|name| holds(&snake(word), name))?;
        let file = file.display();
        Some(format!(
            "`{CRATE}` names `{word}` in {file}; it must not know `{name}`"
        ))
    };
    words.iter().filter_map(complaint).collect()
}

/// Whether a name stands in a word from one underscore to another.
fn holds(word: &str, name: &str) -> bool {
    format!("_{word}_").contains(&format!("_{name}_"))
}

/// A word in lower case, with an underscore before what was a capital after a small letter.
fn snake(word: &str) -> String {
    let mut snake = String::new();
    let mut was_small = false;
    for character in word.chars() {
        if character.is_uppercase() && was_small {
            snake.push('_');
        }
        was_small = !character.is_uppercase();
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
            let complaints = named_in(Path::new("a.rs"), &source::words(text));
            let word = |complaint: &String| complaint.split('`').nth(3).unwrap().to_owned();
            let words: Vec<String> = complaints.iter().map(word).collect();
            assert_eq!(words.join(", "), expected, "{text}");
        }
    }
}
