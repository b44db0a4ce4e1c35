//! Snapshots: text that must equal a file.

use std::{env, fs, path::Path};

/// The environment variable that makes tests write the files instead of comparing with them.
const UPDATE: &str = "UPDATE_SNAPSHOTS";

/// Compares text with the file at `path`. If `UPDATE_SNAPSHOTS` is set to `1`, it writes the file instead.
///
/// # Panics
///
/// If the text differs from the file, or if there is no such file. The message shows the first line that
/// differs.
#[track_caller]
pub fn assert_snapshot(path: &Path, text: &str) {
    if env::var_os(UPDATE).is_some_and(|value| value == "1") {
        write(path, text);
    } else {
        compare(path, text);
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[track_caller]
fn compare(path: &Path, text: &str) {
    let update =
        format!("`{UPDATE}=1` writes it again; look at the difference before you commit it");
    let Ok(expected) = fs::read_to_string(path) else {
        panic!("there is no snapshot {}; {update}", path.display());
    };
    if expected == text {
        return;
    }
    let (mut before, mut now) = (expected.lines(), text.lines());
    let mut number = 0;
    let (before, now) = loop {
        number += 1;
        match (before.next(), now.next()) {
            (None, None) => break ("the same", "except for line ends"),
            (before, now) if before != now => {
                break (before.unwrap_or("(its end)"), now.unwrap_or("(its end)"));
            }
            _ => {}
        }
    };
    panic!(
        "{}, line {number}, differs:\n  in the file: {before}\n  now:         {now}\n{update}\n\nthe \
         whole text is now:\n{text}",
        path.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn the_first_line_that_differs_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.txt");
        let message = |text: &'static str| {
            let outcome = catch_unwind(|| compare(&path, text));
            outcome
                .err()
                .map(|error| *error.downcast::<String>().unwrap())
        };
        assert!(message("a\nb\n").unwrap().contains("there is no snapshot"));
        write(&path, "a\nb\n");
        assert_eq!(message("a\nb\n"), None);
        let rows = [
            (
                "a\nc\n",
                "line 2, differs:\n  in the file: b\n  now:         c\n",
            ),
            (
                "a\n",
                "line 2, differs:\n  in the file: b\n  now:         (its end)\n",
            ),
            (
                "a\nb\nc\n",
                "line 3, differs:\n  in the file: (its end)\n  now:         c\n",
            ),
            ("a\nb", "line 3, differs:\n  in the file: the same\n"),
        ];
        for (text, expected) in rows {
            let message = message(text).unwrap();
            assert!(message.contains(expected), "{message}");
        }
    }
}
