//! Tables in the terminal.

use std::fmt::Write as _;

use crate::visible::{excerpt, visible_line};

/// Rows below a header. The first column holds names, aligned left; the others hold numbers, aligned right.
/// Names may come from an untrusted source: control characters are escaped, and long names are shortened.
pub fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let lines = std::iter::once(header).chain(rows.iter().map(Vec::as_slice));
    let shown = |cell: &String| visible_line(&excerpt(cell)).into_owned();
    let lines: Vec<Vec<String>> = lines.map(|line| line.iter().map(shown).collect()).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(row, "{cell:<width$}"),
                _ => write!(row, "  {cell:>width$}"),
            };
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_aligned_left_and_numbers_right() {
        let row = |cells: &[&str]| {
            cells
                .iter()
                .map(|cell| (*cell).to_owned())
                .collect::<Vec<_>>()
        };
        let rows = [row(&["return", "2.50", "1"]), row(&["ä", "10.25", ""])];
        let expected = "         mean  n\nreturn   2.50  1\nä       10.25\n";
        assert_eq!(table(&row(&["", "mean", "n"]), &rows), expected);
    }

    #[test]
    fn names_neither_control_the_terminal_nor_break_the_table() {
        let rows = [vec!["a\u{1b}[2J\nb".to_owned(), "1".to_owned()]];
        let header = ["\u{202e}".to_owned(), "x".repeat(10_000)];
        let text = table(&header, &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("\\u{202e}") && lines[0].len() < 2100);
        assert!(lines[1].starts_with("a\\u{1b}[2J\\u{a}b ") && lines.len() == 2);
    }
}
