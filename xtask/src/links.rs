//! Checks that the links between the documents of this repository are valid.

use std::collections::HashSet;

use anyhow::Result;
use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};

use crate::files::read;

/// The broken links of the documents, each with the name of its document. A link is broken if its file or
/// heading does not exist, or if it has the form `[text][name]` and the document does not define the name.
///
/// # Errors
/// If a document cannot be read.
pub(crate) fn broken(documents: &[Utf8PathBuf]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for document in documents {
        let text = read(document)?;
        let folder = document.parent().unwrap_or(Utf8Path::new(""));
        for line in lines(&text).filter_map(Line::prose) {
            for target in targets(line) {
                if let Some(reason) = problem(document, folder, target)? {
                    broken.push(format!("{document} links to {target}, {reason}"));
                }
            }
            let undefined = undefined(line, &text);
            broken.extend(undefined.map(|name| format!("{document} does not define [{name}]")));
        }
    }
    Ok(broken)
}

/// Replaces the target of every link in a text with the result of `change`.
pub(crate) fn with_targets(text: &str, change: impl Fn(&str) -> String) -> String {
    lines(text)
        .map(|line| match line {
            Line::Code(code) => code.to_owned(),
            Line::Prose(prose) => replace_targets(prose, &change),
        })
        .collect()
}

fn replace_targets(line: &str, change: &impl Fn(&str) -> String) -> String {
    let mut changed = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("](") {
        let end = after.find(')').unwrap_or(after.len());
        let (target, after) = after.split_at(end);
        changed += before;
        changed += "](";
        changed += &change(target);
        rest = after;
    }
    changed + rest
}

/// A line of Markdown, with its line end.
enum Line<'t> {
    Prose(&'t str),
    /// A line of a block of code, which has no links.
    Code(&'t str),
}

impl<'t> Line<'t> {
    fn prose(self) -> Option<&'t str> {
        match self {
            Self::Prose(line) => Some(line),
            Self::Code(_) => None,
        }
    }
}

/// The lines of a text. Code is fenced, or indented by four spaces.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut is_fenced = false;
    text.split_inclusive('\n').map(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        match is_fenced || is_fence || line.starts_with("    ") {
            true => Line::Code(line),
            false => Line::Prose(line),
        }
    })
}

/// The targets of Markdown links.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

/// Why a link leads nowhere; `None` if it leads to the web, or to a file and heading that exist.
fn problem(document: &Utf8Path, folder: &Utf8Path, target: &str) -> Result<Option<&'static str>> {
    if target.contains("://") {
        return Ok(None);
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => document.to_owned(),
        file => Utf8PathBuf::from(folder).join(file),
    };
    if !path.exists() {
        return Ok(Some("which does not exist"));
    }
    let is_document = path.extension() == Some("md");
    if heading.is_empty() || !is_document || headings(&read(&path)?).contains(heading) {
        return Ok(None);
    }
    Ok(Some("which has no such heading"))
}

/// The anchors of the headings of a document, as GitHub makes them.
fn headings(text: &str) -> HashSet<String> {
    let mut names = HashSet::new();
    for line in lines(text).filter_map(Line::prose) {
        let title = line.trim_start_matches('#');
        if line.starts_with('#') && title.starts_with(' ') {
            names.insert(slug(title.trim()));
        }
    }
    names
}

fn slug(title: &str) -> String {
    let characters = title.chars().filter_map(|character| match character {
        ' ' => Some('-'),
        '-' | '_' => Some(character),
        character if character.is_alphanumeric() => Some(character),
        _ => None,
    });
    characters.flat_map(char::to_lowercase).collect()
}

/// The names in links of the form `[text][name]` that the document does not define.
fn undefined<'t>(line: &'t str, text: &'t str) -> impl Iterator<Item = &'t str> {
    let names = line.split("][").skip(1);
    let names = names.filter_map(|rest| rest.split(']').next());
    names.filter(move |name| {
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-');
        is_name && !text.contains(&format!("\n[{name}]: "))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn broken_links_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        fs::create_dir_all(root.join("docs/deep")).unwrap();
        let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
        write(
            "README.md",
            "[a](docs/a.md#one-step-more), ![b](b.png), [c](https://example.org), [d](#here) [x][y] [x][z]\n\n\
             # Here\n[z]: https://example.org",
        );
        write(
            "docs/a.md",
            "## One *step*, more\n[back](../README.md#gone) [e](b.md)\n```\n{}[x](y)\n```\n\n    a[x](z)\n",
        );
        write("docs/deep/c.md", "[up](../a.md#one-step-more) [f](a.md)");
        let documents = ["README.md", "docs/a.md", "docs/deep/c.md"].map(|name| root.join(name));
        let found = broken(&documents).unwrap();
        let expected = [
            "README.md links to b.png, which does not exist",
            "README.md does not define [y]",
            "docs/a.md links to ../README.md#gone, which has no such heading",
            "docs/a.md links to b.md, which does not exist",
            "docs/deep/c.md links to a.md, which does not exist",
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.ends_with(expected), "{found}");
        }
    }

    #[test]
    fn targets_are_replaced() {
        let text = "[a](b) and ![c](d#e)\n```\nf[0](x)\n```\n    g[1](y)\n[h](i)";
        let changed = with_targets(text, |target| format!("<{target}>"));
        let expected = "[a](<b>) and ![c](<d#e>)\n```\nf[0](x)\n```\n    g[1](y)\n[h](<i>)";
        assert_eq!(changed, expected);
        assert_eq!(with_targets("none", |_| unreachable!()), "none");
    }
}
