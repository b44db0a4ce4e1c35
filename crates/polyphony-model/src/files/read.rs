//! Reading single files, with errors that name the file and what should have been in it.
//!
//! A model may come from anyone. Only regular files are opened, since others may have no end or wait
//! for somebody to write into them, and no file is read beyond a bound.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use memmap2::Mmap;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ModelError;

/// The largest JSON file but for `tokenizer.json`, and the largest header of a `safetensors` file, in
/// bytes.
const MAX_BYTES: u64 = 16 << 20;
/// The most values in such a JSON text, and the most objects among them.
const MAX_VALUES: usize = 1_000_000;
const MAX_OBJECTS: usize = 1 << 17;

/// The text of a file of at most so many bytes; `None` if there is no such file.
///
/// # Errors
/// If it is unreadable, not a regular file, not text, or longer: no more is read then.
pub(super) fn optional_text(path: &Path, max_bytes: u64) -> Result<Option<String>, ModelError> {
    let unreadable = |source| ModelError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match open_regular(path)? {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    let mut start = file.take(max_bytes + 1);
    start.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(path, format!("{max_bytes} bytes")));
    }
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|error| unreadable(Error::new(ErrorKind::InvalidData, error)))
}

/// A JSON file that has to be there; `expected` says what it should be.
pub(super) fn read_json(path: &Path, expected: &str) -> Result<Value, ModelError> {
    optional_json(path)?.ok_or_else(|| ModelError::Missing {
        path: path.to_owned(),
        expected: expected.to_owned(),
    })
}

/// A JSON file; `None` if there is no such file.
pub(super) fn optional_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ModelError> {
    let Some(text) = optional_text(path, MAX_BYTES)? else {
        return Ok(None);
    };
    check_json(text.as_bytes(), MAX_VALUES, MAX_OBJECTS).map_err(|bound| too_large(path, bound))?;
    match serde_json::from_str(&text) {
        Ok(json) => Ok(Some(json)),
        Err(source) => Err(ModelError::Json {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Refuses a JSON text that could take much more memory than its own length, with the bound that it
/// exceeds. What looks like a value inside of a text is counted as well.
pub(super) fn check_json(json: &[u8], max_values: usize, max_objects: usize) -> Result<(), String> {
    let (mut values, mut objects) = (0, 0);
    for byte in json {
        values += usize::from(matches!(byte, b',' | b'[' | b'{'));
        objects += usize::from(*byte == b'{');
    }
    if values > max_values {
        return Err(format!("{max_values} values"));
    }
    if objects > max_objects {
        return Err(format!("{max_objects} objects"));
    }
    Ok(())
}

/// Refuses the header of a `safetensors` file that exceeds a bound, which is returned.
pub(super) fn check_header(header: &[u8]) -> Result<(), String> {
    if header.len() as u64 > MAX_BYTES {
        return Err(format!("{MAX_BYTES} bytes"));
    }
    check_json(header, MAX_VALUES, MAX_OBJECTS)
}

/// Maps a file into memory.
///
/// # Errors
/// If it does not exist (`expected` says what should be there), is not a regular file, or cannot be
/// mapped.
pub(super) fn map_file(path: &Path, expected: &str) -> Result<Mmap, ModelError> {
    let file = open_regular(path)?.map_err(|source| read_error(path, source, expected))?;
    // SAFETY: a mapping must not change while it is borrowed. Weights files are written once and
    // never edited in place (this crate writes to a new name and renames); as with every mapped
    // reader, whoever truncates a model that is being loaded ends the process.
    unsafe { Mmap::map(&file) }.map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Opens a regular file. The outer error is that it is another kind of file, the inner one the system's.
///
/// What was opened is looked at, since something else could have been put in its place before.
fn open_regular(path: &Path) -> Result<Result<File, Error>, ModelError> {
    let mut options = File::options();
    // To open a pipe would wait for somebody who writes, and a terminal could become that of the process.
    #[cfg(unix)]
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let opened = options.read(true).open(path);
    let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((found, _)) if !found.is_file() => Err(ModelError::NotAFile {
            path: path.to_owned(),
            found: if found.is_dir() {
                "a directory"
            } else {
                "a device, a pipe or a socket"
            },
        }),
        Ok((_, file)) => Ok(Ok(file)),
        Err(source) => Ok(Err(source)),
    }
}

fn too_large(path: &Path, bound: String) -> ModelError {
    ModelError::TooLarge {
        path: path.to_owned(),
        bound,
    }
}

/// The error for a file that could not be opened.
fn read_error(path: &Path, source: Error, expected: &str) -> ModelError {
    if source.kind() == ErrorKind::NotFound {
        ModelError::Missing {
            path: path.to_owned(),
            expected: expected.to_owned(),
        }
    } else {
        ModelError::Read {
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::files::ModelFiles;

    /// A copy of a model with one file of each kind that is read, without the weights' own file.
    fn model() -> TempDir {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let folder = tempfile::tempdir().unwrap();
        for (from, name) in [
            ("tiny-llama", "config.json"),
            ("tiny-llama", "model.safetensors"),
            ("tiny-chat", "tokenizer.json"),
            ("tiny-chat", "tokenizer_config.json"),
        ] {
            fs::copy(fixtures.join(from).join(name), folder.path().join(name)).unwrap();
        }
        folder
    }

    /// Every file that is read whole, with the files that would be read instead of it.
    const FILES: [(&str, &[&str]); 7] = [
        ("config.json", &[]),
        ("generation_config.json", &[]),
        ("tokenizer_config.json", &[]),
        ("chat_template.jinja", &[]),
        ("tokenizer.json", &[]),
        ("adapter_config.json", &["config.json"]),
        ("model.safetensors.index.json", &["model.safetensors"]),
    ];

    /// What opening a model says after a stranger put something in the place of a file.
    fn message(name: &str, instead_of: &[&str], put: impl Fn(&Path)) -> String {
        let folder = model();
        for other in instead_of {
            fs::remove_file(folder.path().join(other)).unwrap();
        }
        let path = folder.path().join(name);
        let _ = fs::remove_file(&path);
        put(&path);
        let error = ModelFiles::open(folder.path()).map(drop).unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_file_is_not_read_beyond_its_bound() {
        for (name, instead_of) in FILES {
            // Four gigabytes that take no room on the disk.
            let huge = |path: &Path| fs::File::create(path).unwrap().set_len(4 << 30).unwrap();
            let text = message(name, instead_of, huge);
            let bound = match name {
                "tokenizer.json" => "67108864 bytes",
                "chat_template.jinja" => "262144 bytes",
                _ => "16777216 bytes",
            };
            assert!(text.contains(name) && text.contains(bound), "{text}");
        }
    }

    #[test]
    fn what_would_grow_in_memory_is_refused() {
        let rows = [
            (format!("[{}0]", "0,".repeat(MAX_VALUES)), "1000000 values"),
            (
                format!("[{}0]", "{},".repeat(MAX_OBJECTS + 1)),
                "131072 objects",
            ),
            ("[".repeat(100_000), "is not valid JSON"),
            ("{\"a\":".repeat(100_000), "is not valid JSON"),
        ];
        for (name, instead_of) in FILES {
            if matches!(name, "chat_template.jinja" | "tokenizer.json") {
                continue;
            }
            for (json, expected) in &rows {
                let text = message(name, instead_of, |path| fs::write(path, json).unwrap());
                assert!(
                    text.contains(name) && text.contains(expected),
                    "{text:.300}"
                );
                assert!(text.len() < 500, "{text:.300}");
            }
        }
    }

    #[test]
    #[cfg(unix)]
    fn only_regular_files_are_opened() {
        let weights = [("model.safetensors", &[][..])];
        for (name, instead_of) in FILES.into_iter().chain(weights) {
            let link = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
            let pipe = |path: &Path| {
                let made = std::process::Command::new("mkfifo").arg(path).status();
                assert!(made.unwrap().success());
            };
            for text in [
                message(name, instead_of, link),
                message(name, instead_of, pipe),
            ] {
                let expected = "is a device, a pipe or a socket";
                assert!(text.contains(name) && text.contains(expected), "{text}");
            }
            let text = message(name, instead_of, |path| fs::create_dir(path).unwrap());
            assert!(
                text.contains(name) && text.contains("is a directory"),
                "{text}"
            );
        }
    }
}
