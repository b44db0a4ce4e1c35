//! Reads the files of a run, which may come from an untrusted source.
//!
//! Only regular files of the run itself are read: a pipe waits for a writer, a device has no end, and a link
//! could put a private file of this machine into a report. Every read has a bound.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, ErrorKind, Read as _},
    path::Path,
};

use serde::de::DeserializeOwned;

use crate::error::{ReportError, Result};

/// The largest sizes that are read, in bytes. Honest records of long runs have hundreds of megabytes.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// A file that is read as a whole, such as a recipe or `run.json`.
    text: u64,
    /// A file of records.
    records: u64,
    /// A line of such a file.
    line: u64,
}

const BOUNDS: Bounds = Bounds {
    text: 16 << 20,
    records: 4 << 30,
    line: 64 << 20,
};

/// The text of a regular file of a run; `None` if there is no such file.
///
/// # Errors
/// If it is a link, a directory, a device or a pipe, has more than `max_bytes` bytes, or is not text.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<Option<String>> {
    let Some(file) = open(path, max_bytes)? else {
        return Ok(None);
    };
    let mut text = String::new();
    file.take(max_bytes)
        .read_to_string(&mut text)
        .map_err(ReportError::io("reading", path))?;
    Ok(Some(text))
}

/// Checks that a path is a regular file or does not exist.
///
/// # Errors
/// If it is a link, a directory, a device or a pipe.
pub(crate) fn check_regular(path: &Path) -> Result<()> {
    open(path, u64::MAX).map(drop)
}

/// The text of a file; `None` if the file does not exist.
pub(crate) fn optional_text(path: &Path) -> Result<Option<String>> {
    read_text(path, BOUNDS.text)
}

/// The value in a JSON file; `None` if the file does not exist.
pub(crate) fn optional_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = optional_text(path)? else {
        return Ok(None);
    };
    let value = serde_json::from_str(&text).map_err(|source| ReportError::Json {
        path: path.to_owned(),
        source,
    });
    value.map(Some)
}

/// The complete lines of a file; empty if the file does not exist. A line that is still being written is left
/// out.
pub(crate) fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    lines_within(path, BOUNDS)
}

fn lines_within<T: DeserializeOwned>(path: &Path, bounds: Bounds) -> Result<Vec<T>> {
    let Some(file) = open(path, bounds.records)? else {
        return Ok(Vec::new());
    };
    let mut file = BufReader::new(file.take(bounds.records));
    let mut objects = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        // Read as bytes: a line that is being written may end within a character.
        file.by_ref()
            .take(bounds.line)
            .read_until(b'\n', &mut bytes)
            .map_err(ReportError::io("reading", path))?;
        if bytes.last() != Some(&b'\n') {
            if bytes.len() as u64 == bounds.line {
                return Err(ReportError::LongLine {
                    path: path.to_owned(),
                    line,
                    bound: bounds.line,
                });
            }
            break;
        }
        bytes.pop();
        let object = serde_json::from_slice(&bytes).map_err(|source| ReportError::Line {
            path: path.to_owned(),
            line,
            source,
        })?;
        objects.push(object);
    }
    Ok(objects)
}

/// Opens a file of a run; `None` if the file does not exist.
///
/// # Errors
/// If it is a link or anything else that is not a regular file, or longer than `bound`.
fn open(path: &Path, bound: u64) -> Result<Option<File>> {
    let refused = |found| ReportError::NotAFile {
        path: path.to_owned(),
        found,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReportError::io("reading", path)(error)),
        Ok(found) if found.is_symlink() => {
            return Err(refused(
                "a link: replace it with a copy of the file that it leads to",
            ));
        }
        Ok(_) => {}
    }
    let file = options()
        .open(path)
        .map_err(ReportError::io("reading", path))?;
    // Checks the opened file: the path may lead elsewhere by now.
    let found = file.metadata().map_err(ReportError::io("reading", path))?;
    if found.is_dir() {
        return Err(refused(
            "a directory: put the run's own file back, or leave this run out",
        ));
    }
    if !found.is_file() {
        return Err(refused(
            "a device, a pipe or a socket: put the run's own file back, or leave this run out",
        ));
    }
    if found.len() > bound {
        return Err(ReportError::TooLarge {
            path: path.to_owned(),
            bound,
        });
    }
    Ok(Some(file))
}

/// Options with which opening a pipe does not wait, and a link that was just put there is not followed.
fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        options.custom_flags(flags.bits() as i32);
    }
    options
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const SMALL: Bounds = Bounds {
        text: 8,
        records: 40,
        line: 8,
    };

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn texts_have_a_bound() {
        for (text, is_read) in [("", true), ("12345678", true), ("123456789", false)] {
            let file = written(text);
            let found = read_text(file.path(), SMALL.text);
            match is_read {
                true => assert_eq!(found.unwrap().as_deref(), Some(text)),
                false => {
                    let message = found.unwrap_err().to_string();
                    let expected =
                        "is larger than 8 bytes, which no run writes there: leave this run out";
                    assert!(message.ends_with(expected), "{message}");
                }
            }
        }
        assert!(optional_text(Path::new("no/such")).unwrap().is_none());
    }

    #[test]
    fn lines_and_files_of_lines_have_a_bound() {
        let count = |text: &str| {
            let file = written(text);
            let lines: Result<Vec<Value>> = lines_within(file.path(), SMALL);
            lines
                .map(|lines| lines.len())
                .map_err(|error| error.to_string())
        };
        let of = |length: usize| format!("{:<1$}\n", "1", length - 1);
        for (text, expected) in [
            (String::new(), 0),
            (of(8), 1),
            // The last line is still being written.
            (format!("{}1234567", of(8)), 1),
            (of(8).repeat(5), 5),
        ] {
            assert_eq!(count(&text), Ok(expected), "{text:?}");
        }
        for (text, expected) in [
            (of(9), "line 1 is longer than 8 bytes"),
            (
                format!("{}123456789", of(2)),
                "line 2 is longer than 8 bytes",
            ),
            (of(8).repeat(6), "is larger than 40 bytes"),
        ] {
            let message = count(&text).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_large_file_is_refused_before_it_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A hole, which takes no space.
        file.as_file().set_len(BOUNDS.records + 1).unwrap();
        let message = lines::<Value>(file.path()).unwrap_err().to_string();
        assert!(message.contains("is larger than 4096 MiB"), "{message}");
        let message = optional_text(file.path()).unwrap_err().to_string();
        assert!(message.contains("is larger than 16 MiB"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let pipe = |path: &Path| {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        };
        let link =
            |to: &'static str| move |path: &Path| std::os::unix::fs::symlink(to, path).unwrap();
        type Row<'a> = (&'a dyn Fn(&Path), &'a str);
        let rows: [Row<'_>; 4] = [
            (&pipe, "a device, a pipe or a socket"),
            (&link("/etc/hostname"), "a link"),
            (&link("/dev/zero"), "a link"),
            (&link("nowhere"), "a link"),
        ];
        for (make, expected) in rows {
            make(&path);
            let found = [
                optional_text(&path).map(drop),
                lines::<Value>(&path).map(drop),
            ];
            for found in found {
                let message = found.unwrap_err().to_string();
                let expected = format!("file is not a regular file but {expected}");
                assert!(message.contains(&expected), "{message}");
            }
            fs::remove_file(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        let message = optional_text(&path).unwrap_err().to_string();
        assert!(message.contains("a directory"), "{message}");
        // The folder of the file may be a link.
        fs::remove_dir(&path).unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        fs::write(folder.path().join("run/file"), "text").unwrap();
        std::os::unix::fs::symlink("run", &path).unwrap();
        let found = optional_text(&path.join("file")).unwrap();
        assert_eq!(found.as_deref(), Some("text"));
    }
}
