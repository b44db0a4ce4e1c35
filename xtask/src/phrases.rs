//! Phrases that were replaced throughout the project, and must not come back.
//!
//! The list is `xtask/phrases.txt`. It contains phrases that make readers stumble: unidiomatic English, and
//! our own names for things that the field has a word for.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::camino::Utf8Path;

use crate::files;

/// The list, relative to the workspace.
const LIST: &str = "xtask/phrases.txt";

/// Folders whose files came from elsewhere or must stay as they are.
const DATA: &[&str] = &["fixtures", "corpus", "plotly"];

/// A phrase, in lower case, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Phrase<'t> {
    text: &'t str,
    instead: &'t str,
}

/// Each occurrence of a phrase in the prose, sources and recipes of the repository.
///
/// # Errors
/// If a file cannot be read, or a line of the list is malformed.
pub(crate) fn find(root: &Utf8Path) -> Result<Vec<String>> {
    let list = fs::read_to_string(root.join(LIST)).with_context(|| format!("reading {LIST}"))?;
    let phrases = read(&list)?;
    let mut found = Vec::new();
    for path in files::tracked(root, &["md", "rs", "ron", "toml", "py", "html", "js"])? {
        let name = path.strip_prefix(root).unwrap_or(&path);
        // The history of changes is not rewritten, and data stays as it is.
        let is_data = name.components().any(|part| DATA.contains(&part.as_str()));
        if name == "CHANGELOG.md" || is_data {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        found.extend(in_text(&text, &phrases).map(|(line, phrase)| {
            let Phrase { text, instead } = phrase;
            format!("{name}:{line}: \"{text}\"; write {instead}")
        }));
    }
    Ok(found)
}

/// The phrases of the list: lines of `phrase = what to write instead`, where `#` starts a comment.
fn read(list: &str) -> Result<Vec<Phrase<'_>>> {
    let lines = list.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (text, instead) = line
                .split_once(" = ")
                .with_context(|| format!("{LIST}: expected `phrase = instead`, found `{line}`"))?;
            ensure!(
                text.chars()
                    .all(|c| c == ' ' || c == '_' || c.is_lowercase()),
                "{LIST}: `{text}` must have small letters, underscores and spaces only"
            );
            Ok(Phrase { text, instead })
        })
        .collect()
}

/// The phrases in a text, with the numbers of the lines that they begin in.
fn in_text<'t>(
    text: &str,
    phrases: &'t [Phrase<'t>],
) -> impl Iterator<Item = (usize, &'t Phrase<'t>)> {
    let (words, lines) = words(text);
    phrases.iter().flat_map(move |phrase| {
        let length = phrase.text.split(' ').count();
        let starts: Vec<usize> = words
            .windows(length)
            .zip(&lines)
            .filter(|(window, _)| window.join(" ") == phrase.text)
            .map(|(_, line)| *line)
            .collect();
        starts.into_iter().map(move |line| (line, phrase))
    })
}

/// The words of a text in lower case, and the line number of each word. A phrase may be broken across lines,
/// so comment markers are not words.
fn words(text: &str) -> (Vec<String>, Vec<usize>) {
    let mut words = Vec::new();
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let parts = line.split(|character: char| !character.is_alphanumeric() && character != '_');
        for word in parts.filter(|word| !word.is_empty()) {
            words.push(word.to_lowercase());
            lines.push(number);
        }
    }
    (words, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_found_across_lines_of_a_comment() {
        let list = "# birds\n\nearly bird of = morning bird of\nwren = bird\n";
        let phrases = read(list).unwrap();
        for (text, expected) in [
            ("/// An early\n/// bird of a kind.", vec![1]),
            ("Early bird of x", vec![1]),
            ("a\nWren, or wren-house", vec![2, 2]),
            ("wrens, early birds of", vec![]),
            ("`max_wren_count`", vec![]),
        ] {
            let lines: Vec<usize> = in_text(text, &phrases).map(|(line, _)| line).collect();
            assert_eq!(lines, expected, "{text}");
        }
        assert!(read("early bird of").is_err() && read("Wren = bird").is_err());
    }
}
