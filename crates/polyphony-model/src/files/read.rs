//! Reads single files, with errors that name the file and the expected contents.
//!
//! A model may come from an untrusted source. Only regular files are opened, since reading a device or
//! a pipe may never end, and no file is read beyond a bound.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use memmap2::Mmap;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ModelError;

/// The largest JSON file except `tokenizer.json`, and the largest header of a `safetensors` file, in
/// bytes.
const MAX_BYTES: u64 = 16 << 20;
/// The most values in such a JSON text, and the most objects among them.
const MAX_VALUES: usize = 1_000_000;
const MAX_OBJECTS: usize = 1 << 17;

/// The text of a file of at most `max_bytes` bytes; `None` if there is no such file.
///
/// # Errors
/// If it is unreadable, not a regular file, not text, or longer than the bound, where reading stops.
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
    let mut limited = file.take(max_bytes + 1);
    limited.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(path, format!("{max_bytes} bytes")));
    }
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|error| unreadable(Error::new(ErrorKind::InvalidData, error)))
}

/// Reads a required JSON file; `expected` describes it in errors.
pub(super) fn read_json(path: &Path, expected: &str) -> Result<Value, ModelError> {
    optional_json(path)?.ok_or_else(|| ModelError::Missing {
        path: path.to_owned(),
        expected: expected.to_owned(),
    })
}

/// Reads a JSON file; `None` if there is no such file.
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

/// Refuses a JSON text that could take much more memory than its length; the error is the bound that it
/// exceeds. Commas and brackets inside strings are counted, too.
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

/// Refuses the header of a `safetensors` file that exceeds a bound; the error is that bound.
pub(super) fn check_header(header: &[u8]) -> Result<(), String> {
    if header.len() as u64 > MAX_BYTES {
        return Err(format!("{MAX_BYTES} bytes"));
    }
    check_json(header, MAX_VALUES, MAX_OBJECTS)
}

/// Maps a file into memory.
///
/// # Errors
/// If it does not exist (`expected` describes it in the error), is not a regular file, or cannot be
/// mapped.
pub(super) fn map_file(path: &Path, expected: &str) -> Result<Mmap, ModelError> {
    let file = open_regular(path)?.map_err(|source| read_error(path, source, expected))?;
    // SAFETY: a mapping must not change while it is borrowed. Weights files are written once and
    // never edited in place (this crate writes to a new name and renames). As with every mapped
    // reader, truncating a model while it is being loaded ends the process.
    unsafe { Mmap::map(&file) }.map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Opens a regular file. The outer error reports another kind of file, the inner one is the system's.
///
/// The kind is checked on the opened file, because the path could be replaced between check and open.
fn open_regular(path: &Path) -> Result<Result<File, Error>, ModelError> {
    let mut options = File::options();
    // Without these flags, opening a pipe would wait for a writer, and a terminal could become the
    // controlling terminal of the process.
    #[cfg(unix)]
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let opened = options.read(true).open(path);
    let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((metadata, _)) if !metadata.is_file() => Err(ModelError::NotAFile {
            path: path.to_owned(),
            found: if metadata.is_dir() {
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

    /// A copy of a small model in a new folder.
    fn model() -> TempDir {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let folder = tempfile::tempdir().unwrap();
        for (source, name) in [
            ("tiny-llama", "config.json"),
            ("tiny-llama", "model.safetensors"),
            ("tiny-chat", "tokenizer.json"),
            ("tiny-chat", "tokenizer_config.json"),
        ] {
            fs::copy(fixtures.join(source).join(name), folder.path().join(name)).unwrap();
        }
        folder
    }

    /// Every file that is read whole, with the files that would otherwise be read instead of it.
    const FILES: [(&str, &[&str]); 7] = [
        ("config.json", &[]),
        ("generation_config.json", &[]),
        ("tokenizer_config.json", &[]),
        ("chat_template.jinja", &[]),
        ("tokenizer.json", &[]),
        ("adapter_config.json", &["config.json"]),
        ("model.safetensors.index.json", &["model.safetensors"]),
    ];

    /// The error of opening a model in which `replace` has replaced a file.
    fn message(name: &str, alternatives: &[&str], replace: impl Fn(&Path)) -> String {
        let folder = model();
        for alternative in alternatives {
            fs::remove_file(folder.path().join(alternative)).unwrap();
        }
        let path = folder.path().join(name);
        let _ = fs::remove_file(&path);
        replace(&path);
        let error = ModelFiles::open(folder.path()).map(drop).unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_file_is_not_read_beyond_its_bound() {
        for (name, alternatives) in FILES {
            // A sparse file of four gigabytes.
            let huge = |path: &Path| fs::File::create(path).unwrap().set_len(4 << 30).unwrap();
            let text = message(name, alternatives, huge);
            let bound = match name {
                "tokenizer.json" => "67108864 bytes",
                "chat_template.jinja" => "262144 bytes",
                _ => "16777216 bytes",
            };
            assert!(text.contains(name) && text.contains(bound), "{text}");
        }
    }

    #[test]
    fn json_that_would_grow_in_memory_is_refused() {
        let rows = [
            (format!("[{}0]", "0,".repeat(MAX_VALUES)), "1000000 values"),
            (
                format!("[{}0]", "{},".repeat(MAX_OBJECTS + 1)),
                "131072 objects",
            ),
            ("[".repeat(100_000), "is not valid JSON"),
            ("{\"a\":".repeat(100_000), "is not valid JSON"),
        ];
        for (name, alternatives) in FILES {
            if matches!(name, "chat_template.jinja" | "tokenizer.json") {
                continue;
            }
            for (json, expected) in &rows {
                let text = message(name, alternatives, |path| fs::write(path, json).unwrap());
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
        for (name, alternatives) in FILES.into_iter().chain(weights) {
            let link = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
            let pipe = |path: &Path| {
                let made = std::process::Command::new("mkfifo").arg(path).status();
                assert!(made.unwrap().success());
            };
            for text in [
                message(name, alternatives, link),
                message(name, alternatives, pipe),
            ] {
                let expected = "is a device, a pipe or a socket";
                assert!(text.contains(name) && text.contains(expected), "{text}");
            }
            let text = message(name, alternatives, |path| fs::create_dir(path).unwrap());
            assert!(
                text.contains(name) && text.contains("is a directory"),
                "{text}"
            );
        }
    }
}
