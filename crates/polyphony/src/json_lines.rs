//! Reads and writes JSON lines, through which scripts talk to the commands.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use polyphony_report::is_control;
use serde::{Serialize, de::DeserializeOwned};

/// The longest line, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Answers every object of `input` (`-` is standard input) with one line on `output`.
///
/// `answer` gets the object and the number of objects before it. Blank lines are skipped.
///
/// # Errors
/// If a line is too long or not an object of type `Q`, or `answer` fails. The message names the file and the
/// line. The answers to earlier lines have been written.
pub(crate) fn answer<Q: DeserializeOwned, A: Serialize>(
    input: &Path,
    output: &mut dyn Write,
    mut answer: impl FnMut(usize, Q) -> Result<A>,
) -> Result<()> {
    let (label, mut reader): (String, Box<dyn BufRead>) = if input == Path::new("-") {
        ("standard input".to_owned(), Box::new(io::stdin().lock()))
    } else {
        let label = input.display().to_string();
        let file = File::open(input).with_context(|| format!("opening {label}"))?;
        (label, Box::new(BufReader::new(file)))
    };
    let mut count = 0;
    for number in 1.. {
        let context = || format!("{label}, line {number}");
        let mut bytes = Vec::new();
        let mut start = reader.by_ref().take(MAX_LINE_BYTES + 1);
        if start.read_until(b'\n', &mut bytes).with_context(context)? == 0 {
            break;
        }
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(anyhow!("it has more than {MAX_LINE_BYTES} bytes")).with_context(context);
        }
        let line = String::from_utf8(bytes).with_context(context)?;
        if line.trim().is_empty() {
            continue;
        }
        let object = serde_json::from_str(line.trim_end_matches(['\n', '\r']))
            .map_err(explain)
            .with_context(context)?;
        write(output, &answer(count, object).with_context(context)?)?;
        count += 1;
    }
    Ok(())
}

/// Writes one JSON object as a line.
///
/// # Errors
/// If `output` cannot be written to.
pub(crate) fn write(output: &mut dyn Write, object: &impl Serialize) -> Result<()> {
    let mut line = escape_control(serde_json::to_string(object)?);
    line.push('\n');
    output.write_all(line.as_bytes()).context("writing results")
}

/// Equivalent JSON without characters that could control a terminal, of which serde_json escapes only some.
/// They occur only in strings, where JSON has escapes for them.
fn escape_control(json: String) -> String {
    if !json.contains(is_control) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match is_control(character) {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            false => escaped.push(character),
        }
    }
    escaped
}

/// The error without its line number, which would always be 1 because each line is parsed alone.
fn explain(error: serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    let reason = text
        .split_once(" at line ")
        .map_or(text.as_str(), |(reason, _)| reason);
    anyhow!("column {}: {reason}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    /// Doubles every number; returns the output, and the error if there is one.
    fn double(text: &str) -> (String, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut output = Vec::new();
        let outcome = answer(&path, &mut output, |index, [number]: [usize; 1]| {
            ensure!(number < 100, "{number} is too large");
            Ok([index, 2 * number])
        });
        let error = outcome.err().map(|error| format!("{error:#}"));
        let error = error.map(|error| error.replace(path.to_str().unwrap(), "in.jsonl"));
        (String::from_utf8(output).unwrap(), error)
    }

    #[test]
    fn each_object_gets_a_line_and_errors_name_theirs() {
        let rows = [
            ("", "", None),
            ("[1]\n\n[4]", "[0,2]\n[1,8]\n", None),
            (
                "[1]\n\n[300]\n[2]",
                "[0,2]\n",
                Some("in.jsonl, line 3: 300 is too large"),
            ),
            (
                "[1]\n[2, \"b\"]\n",
                "[0,2]\n",
                Some("in.jsonl, line 2: column 5: trailing characters"),
            ),
            (
                "[-1]",
                "",
                Some("in.jsonl, line 1: column 3: invalid value: integer `-1`, expected usize"),
            ),
        ];
        for (text, output, error) in rows {
            assert_eq!(
                double(text),
                (output.to_owned(), error.map(str::to_owned)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (output, error) = double(&format!("[1]\n{}", "2".repeat(1 + (64 << 20))));
        assert_eq!(output, "[0,2]\n");
        let expected = "in.jsonl, line 2: it has more than 67108864 bytes";
        assert_eq!(error.as_deref(), Some(expected));
    }

    #[test]
    fn nothing_in_a_line_controls_a_terminal() {
        let text = "ä\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2066}\u{200f}\n\t\"\\";
        let mut output = Vec::new();
        write(&mut output, &[text]).unwrap();
        let line = String::from_utf8(output).unwrap();
        let expected = r#"["ä\u001b[2J\u007f\u009b\u202e\u2066\u200f\n\t\"\\"]"#;
        assert_eq!(line, format!("{expected}\n"));
        let [parsed]: [String; 1] = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed, text);
    }

    #[test]
    fn a_missing_file_is_named() {
        let outcome = answer(Path::new("no/such.jsonl"), &mut Vec::new(), |_, (): ()| {
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().to_string(), "opening no/such.jsonl");
    }
}
