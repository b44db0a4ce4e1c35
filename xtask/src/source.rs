//! Splits Rust sources into words, and finds the modules of a crate.
//!
//! This is a scanner, not a compiler. It knows comments, literals, modules and paths. It does not see code
//! that macros generate, or methods that are called on a value.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// A word of a source: an identifier, or one character of anything else. Literals are left out.
pub(crate) type Word = String;

/// A module: its words without its tests, and its file.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) file: PathBuf,
    pub(crate) words: Vec<Word>,
}

/// The modules of a crate by their paths. The path of the root is empty.
pub(crate) type Modules = BTreeMap<Vec<String>, Module>;

/// Reads all modules of the crate whose root is this file, without test modules.
///
/// # Errors
///
/// If the file of a module is missing or cannot be read.
pub(crate) fn modules(root: &Path) -> Result<Modules> {
    let mut found = Modules::new();
    let folder = root.parent().unwrap_or(Path::new("")).to_owned();
    add_file(&mut found, Vec::new(), root, &folder)?;
    Ok(found)
}

/// Adds the module of a file and its submodules, whose files are in `folder`.
fn add_file(found: &mut Modules, path: Vec<String>, file: &Path, folder: &Path) -> Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let words = without_tests(words(&text));
    add_words(found, path, &words, file, folder)
}

/// Adds a module with these words, and its inline modules separately.
fn add_words(
    found: &mut Modules,
    path: Vec<String>,
    words: &[Word],
    file: &Path,
    folder: &Path,
) -> Result<()> {
    let mut module_words = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let Some((name, rest)) = module_at(words, at) else {
            module_words.push(words[at].clone());
            at += 1;
            continue;
        };
        let below = [path.as_slice(), &[name.to_owned()]].concat();
        match words[rest].as_str() {
            "{" => {
                let end = closing(words, rest);
                let inside = &words[rest + 1..end];
                add_words(found, below, inside, file, &folder.join(name))?;
                at = end + 1;
            }
            _ => {
                let flat = folder.join(format!("{name}.rs"));
                let nested = folder.join(name).join("mod.rs");
                let child = match flat.exists() {
                    true => flat,
                    false => nested,
                };
                if !child.exists() {
                    bail!("{}: there is no file of `mod {name};`", file.display());
                }
                add_file(found, below, &child, &folder.join(name))?;
                at = rest + 1;
            }
        }
    }
    let module = Module {
        file: file.to_owned(),
        words: module_words,
    };
    found.insert(path, module);
    Ok(())
}

/// The name of the module that is declared or starts here, and the index of its `;` or `{`.
fn module_at(words: &[Word], at: usize) -> Option<(&str, usize)> {
    let [word, name, next] = words.get(at..at + 3)? else {
        return None;
    };
    let is_module = word == "mod" && is_identifier(name) && matches!(next.as_str(), ";" | "{");
    is_module.then_some((name, at + 2))
}

/// The index of the bracket that closes the one at `open`.
fn closing(words: &[Word], open: usize) -> usize {
    let mut depth = 0;
    for (at, word) in words.iter().enumerate().skip(open) {
        match word.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    words.len()
}

/// Leaves out every item that is compiled only for tests.
fn without_tests(words: Vec<Word>) -> Vec<Word> {
    let mut remaining = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let is_attribute = words[at] == "#" && words.get(at + 1).is_some_and(|word| word == "[");
        if !is_attribute {
            remaining.push(words[at].clone());
            at += 1;
            continue;
        }
        let end = closing(&words, at + 1);
        let attribute = &words[at + 2..end.min(words.len())];
        let has = |sought: &str| attribute.iter().any(|word| word == sought);
        let is_first = |sought: &str| attribute.first().is_some_and(|word| word == sought);
        at = end + 1;
        if is_first("test") || (is_first("cfg") && has("test") && !has("not")) {
            at = end_of_item(&words, at);
        }
    }
    remaining
}

/// The index after the item that starts here.
fn end_of_item(words: &[Word], start: usize) -> usize {
    let mut at = start;
    let mut is_use = false;
    while at < words.len() {
        match words[at].as_str() {
            "use" => is_use = true,
            ";" => return at + 1,
            "{" if !is_use => return closing(words, at) + 1,
            "{" | "(" | "[" => at = closing(words, at),
            // The item is a field, a variant or an argument.
            "," => return at + 1,
            "}" | ")" | "]" => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

pub(crate) fn is_identifier(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The words of a source, without comments and literals.
pub(crate) fn words(text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => length_of_comment(rest),
            '"' => length_of_string(rest),
            '\'' => length_of_quote(rest),
            _ if first.is_alphanumeric() || first == '_' => {
                let is_inside = |next: char| next.is_alphanumeric() || next == '_';
                let length = rest.find(|next| !is_inside(next)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(length);
                match word {
                    "r" | "br" | "cr" if length_of_raw(after).is_some() => {
                        length + length_of_raw(after).unwrap_or_default()
                    }
                    // This is the prefix of a string, which is read next.
                    "b" | "c" if after.starts_with(['"', '\'']) => length,
                    _ => {
                        if is_identifier(word) {
                            found.push(word.to_owned());
                        }
                        length
                    }
                }
            }
            _ => {
                if !first.is_whitespace() {
                    found.push(first.to_string());
                }
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    found
}

/// The length of a block comment, which may contain others.
fn length_of_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let length = rest.chars().next().map_or(1, char::len_utf8);
        match rest.as_bytes() {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += length,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn length_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string after its prefix: `#"…"#`.
fn length_of_raw(text: &str) -> Option<usize> {
    let marks = text.len() - text.trim_start_matches('#').len();
    let inside = text[marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(marks + 1 + length)
}

/// The length of a character literal or of a lifetime, whose name is left out too.
fn length_of_quote(text: &str) -> usize {
    let mut inside = text[1..].char_indices();
    match inside.next() {
        Some((_, '\\')) => {
            // The escaped character may be a quote.
            inside.next();
            inside
                .find(|(_, next)| *next == '\'')
                .map_or(text.len(), |(at, _)| at + 2)
        }
        Some((_, first)) if text[1 + first.len_utf8()..].starts_with('\'') => 2 + first.len_utf8(),
        _ => {
            let name = &text[1..];
            let end = name.find(|next: char| !next.is_alphanumeric() && next != '_');
            1 + end.unwrap_or(name.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_split_into_words() {
        let rows: &[(&str, &str)] = &[
            ("use a::b;", "use a : : b ;"),
            ("// use a\nb /* c /* d */ e */ f", "b f"),
            (r#"f("crate::x \" y", b"z", c"z", 1.5e3)"#, "f ( , , , . )"),
            (r##"r#"a "b" c"# d r"e" f"##, "d f"),
            (r"'a' b '\'' c '\u{41}' d 'é'", "b c d"),
            (
                "&'static str; impl<'a> X<'a> {}",
                "& str ; impl < > X < > { }",
            ),
            ("r#type", "r # type"),
        ];
        for (text, expected) in rows {
            assert_eq!(words(text).join(" "), *expected, "{text}");
        }
    }

    #[test]
    fn items_for_tests_are_left_out() {
        let rows: &[(&str, &str)] = &[
            ("#[cfg(test)] mod tests { use a; } b", "b"),
            ("#[cfg(test)] mod tests; b", "b"),
            ("#[cfg(test)] use a::{b, c}; d", "d"),
            ("#[cfg(test)] #[path = \"x\"] mod a; b", "b"),
            ("#[test] fn a(x: [u8; 3]) { b } c", "c"),
            ("#[cfg(not(test))] a; #[derive(Debug)] b", "a ; b"),
            ("#[cfg(all(test, unix))] fn a() -> B { c } d", "d"),
            ("f { #[cfg(test)] a: B, c }", "f { c }"),
        ];
        for (text, expected) in rows {
            assert_eq!(without_tests(words(text)).join(" "), *expected, "{text}");
        }
    }
}
