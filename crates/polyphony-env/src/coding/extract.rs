//! Extracts the definition of one function from a response, whatever text surrounds it.
//!
//! 1. If the text is Python, with or without its Markdown fences, the definition is a node of its
//!    syntax tree.
//! 2. If there is prose around the code, every line that begins the definition is tried, together
//!    with the fewest lines below it that make a complete function.
//! 3. Otherwise, mostly if the response was cut off, the indentation of the lines decides.
//!
//! If there are several definitions, the last complete one is taken: Python would call that one.

use ruff_python_ast::{
    Stmt, StmtFunctionDef, Suite,
    statement_visitor::{StatementVisitor, walk_stmt},
};
use ruff_text_size::Ranged;

use super::python::{MAX_BYTES, parse};

/// In a text that is not Python, at most this many lines that begin the definition are tried, the last one
/// first.
const MAX_HEADERS: usize = 8;

/// The number of bytes that all these tries together may parse.
const MAX_PARSED_BYTES: usize = 4 * MAX_BYTES;

/// The source of the function called `name`, with its decorators. `async def` does not count, because
/// tests could not call it. `None` if there is no such function or the response is too long.
pub(super) fn definition(response: &str, name: &str) -> Option<String> {
    if response.len() > MAX_BYTES {
        return None;
    }
    let text = unix_lines(response);
    let unfenced = without_fences(&text);
    for text in [&text, &unfenced] {
        if let Some(suite) = parse(text) {
            return in_suite(&suite, text, name);
        }
    }
    in_lines(&unfenced, name)
}

/// The text with `\n` for every line end.
pub(super) fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The text without Markdown's fences. Code on the line of a fence stays.
fn without_fences(text: &str) -> String {
    text.split('\n')
        .filter_map(unfenced_line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A line without the fence at its start or end; `None` if the line is only a fence.
fn unfenced_line(line: &str) -> Option<&str> {
    let trimmed = line.trim();
    for fence in ["```", "~~~"] {
        if let Some(rest) = trimmed.strip_prefix(fence) {
            let rest = rest.trim_matches(['`', '~']).trim();
            // A single word after a fence is the language's name.
            return rest.contains(char::is_whitespace).then_some(rest);
        }
        if let Some(rest) = line.trim_end().strip_suffix(fence) {
            return Some(rest);
        }
    }
    Some(line)
}

/// The last definition at the top level; if there is none, the last nested one.
fn in_suite(suite: &Suite, text: &str, name: &str) -> Option<String> {
    struct Search<'a> {
        name: &'a str,
        found: Option<&'a StmtFunctionDef>,
    }
    impl<'a> StatementVisitor<'a> for Search<'a> {
        fn visit_stmt(&mut self, statement: &'a Stmt) {
            if let Some(function) = definition_of(statement, self.name) {
                self.found = Some(function);
            }
            walk_stmt(self, statement);
        }
    }
    let top_level = suite
        .iter()
        .filter_map(|statement| definition_of(statement, name));
    let function = top_level.last().or_else(|| {
        let mut search = Search { name, found: None };
        search.visit_body(suite);
        search.found
    })?;
    let range = function.range();
    let (start, end) = (range.start().to_usize(), range.end().to_usize());
    let line = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    Some(dedent(&text[line..end], &text[line..start]))
}

/// The statement, if it defines the function called `name`.
fn definition_of<'a>(statement: &'a Stmt, name: &str) -> Option<&'a StmtFunctionDef> {
    let function = statement.as_function_def_stmt()?;
    (!function.is_async && &function.name == name).then_some(function)
}

/// The definition in a text that is not entirely Python.
fn in_lines(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut headers: Vec<usize> = (0..lines.len())
        .filter(|&index| begins(lines[index], name))
        .collect();
    headers.reverse();
    let mut budget = MAX_PARSED_BYTES;
    let mut candidates = headers.iter().take(MAX_HEADERS);
    let complete =
        candidates.find_map(|&header| complete_function(&lines, header, name, &mut budget));
    complete.or_else(|| Some(indented_block(&lines, *headers.first()?)))
}

/// Whether a line begins the definition of the function called `name`.
pub(super) fn begins(line: &str, name: &str) -> bool {
    let after_name = || {
        let rest = line.trim_start().strip_prefix("def")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        Some(rest.strip_prefix(name)?.trim_start())
    };
    after_name().is_some_and(|rest| rest.starts_with(['(', '[']))
}

/// The first of the decorators directly above a definition; `header` itself if there are none.
fn first_decorator(lines: &[&str], header: usize) -> usize {
    let margin = indentation(lines[header]);
    let is_decorator = |line: &&&str| {
        line.strip_prefix(margin)
            .is_some_and(|rest| rest.starts_with('@'))
    };
    header
        - lines[..header]
            .iter()
            .rev()
            .take_while(is_decorator)
            .count()
}

/// The function that begins at `header`, if its end can be found. It ends before a line that is not
/// indented further than the header. A string or a pair of brackets may contain such lines too. So they are
/// tried as the end in order, until the lines before one are Python. At most `budget` bytes are parsed.
fn complete_function(
    lines: &[&str],
    header: usize,
    name: &str,
    budget: &mut usize,
) -> Option<String> {
    let start = first_decorator(lines, header);
    let margin = indentation(lines[header]);
    for end in block_ends(lines, header) {
        let source = dedent(&lines[start..end].join("\n"), margin);
        *budget = budget.checked_sub(source.len())?;
        let is_complete =
            |suite: Suite| suite.len() == 1 && definition_of(&suite[0], name).is_some();
        if parse(&source).is_some_and(is_complete) {
            return Some(source);
        }
    }
    None
}

/// The lines before which the block below `header` may end, nearest first. Neither blank lines nor
/// comments end a block.
fn block_ends(lines: &[&str], header: usize) -> Vec<usize> {
    let margin = indentation(lines[header]).len();
    let mut ends = Vec::new();
    let mut end = header + 1;
    for (index, line) in lines.iter().enumerate().skip(header + 1) {
        let is_deeper = indentation(line).len() > margin;
        let text = line.trim_start();
        if text.is_empty() || (text.starts_with('#') && !is_deeper) {
            continue;
        }
        if !is_deeper {
            ends.push(end);
        }
        end = index + 1;
    }
    ends.push(end);
    ends
}

/// The line at `header` and the lines below it that are indented further, with blank lines between.
fn indented_block(lines: &[&str], header: usize) -> String {
    let margin = indentation(lines[header]);
    let start = first_decorator(lines, header);
    let mut end = header + 1;
    for (index, line) in lines.iter().enumerate().skip(header + 1) {
        let is_deeper = indentation(line).len() > margin.len();
        // A signature over several lines ends with a bracket at the margin.
        let closes_signature =
            end == index && line[indentation(line).len()..].starts_with([')', ']']);
        if is_deeper || closes_signature {
            end = index + 1;
        } else if !line.trim().is_empty() {
            break;
        }
    }
    dedent(&lines[start..end].join("\n"), margin)
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// The text without the margin of its lines. Lines that lack the margin, as in a string, stay unchanged.
fn dedent(text: &str, margin: &str) -> String {
    let lines = text.split('\n');
    lines
        .map(|line| line.strip_prefix(margin).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests;
