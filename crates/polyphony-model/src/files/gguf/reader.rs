//! The container: header, metadata and tensor table of a GGUF file.
//!
//! Layout (all integers little-endian): magic `GGUF`, version, number of tensors, number of
//! metadata entries, the entries, the tensors' names, shapes, types and offsets, padding to the
//! alignment, data. Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! A file may be truncated or hostile. Every count, offset and length is checked against the file's
//! size, and no memory is allocated from a count that the file only claims. Everything but the tensors'
//! data is read whole, so its size is bounded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::path::Path;

use super::super::dequantize::Encoding;
use super::value::{Cursor, Value};
use crate::error::ModelError;

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;
/// The maximum size of metadata and tensor table together, in bytes, and the maximum number of entries
/// of each. Known models need a tenth of that.
const MAX_BYTES: usize = 64 << 20;
const MAX_ENTRIES: u64 = 1 << 16;

/// A parsed file; its texts and arrays are slices of the file.
#[derive(Debug)]
pub(crate) struct Gguf<'a> {
    path: &'a Path,
    file: &'a [u8],
    metadata: BTreeMap<&'a str, Value<'a>>,
    /// The tensors, in file order.
    pub(crate) tensors: Vec<GgufTensor<'a>>,
}

/// One row of the tensor table.
#[derive(Debug)]
pub(crate) struct GgufTensor<'a> {
    /// Its name in llama.cpp.
    pub(crate) name: &'a str,
    /// The length of every dimension, the slowest-varying first (in the file it is the last).
    pub(crate) shape: Vec<usize>,
    /// The type of the stored numbers, or the name of a type that cannot be read.
    pub(crate) encoding: Result<Encoding, String>,
    /// The range of its bytes in the file; empty if they cannot be read.
    pub(crate) bytes: Range<usize>,
}

impl<'a> Gguf<'a> {
    /// Parses everything but the tensors' data; `path` is where `file` came from, for messages.
    ///
    /// # Errors
    /// If the file is not GGUF, is damaged, or has a version other than 2 or 3.
    pub(crate) fn parse(file: &'a [u8], path: &'a Path) -> Result<Self, ModelError> {
        let damaged = |reason: String| ModelError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let mut cursor = Cursor::at_most(file, MAX_BYTES);
        let magic = cursor.array::<4>().map_err(damaged)?;
        if magic != MAGIC {
            return Err(damaged("it does not start with `GGUF`".to_owned()));
        }
        let version = cursor.u32().map_err(damaged)?;
        if !(2..=3).contains(&version) {
            let big_endian = (2..=3).contains(&version.swap_bytes());
            let given = if big_endian {
                "big-endian".to_owned()
            } else {
                version.to_string()
            };
            return Err(ModelError::Unsupported {
                path: path.to_owned(),
                what: "GGUF version".to_owned(),
                given,
                supported: "2 and 3, little-endian".to_owned(),
            });
        }
        let tensor_count = cursor.u64().map_err(damaged)?;
        let entry_count = cursor.u64().map_err(damaged)?;
        for (count, what) in [(tensor_count, "tensors"), (entry_count, "metadata entries")] {
            if count > MAX_ENTRIES {
                let reason =
                    format!("it has {count} {what}, but at most {MAX_ENTRIES} are allowed");
                return Err(damaged(reason));
            }
        }
        let metadata = parse_metadata(&mut cursor, entry_count).map_err(damaged)?;
        let mut gguf = Self {
            path,
            file,
            metadata,
            tensors: Vec::new(),
        };
        let alignment = gguf.alignment()?;
        gguf.tensors = parse_tensors(&mut cursor, tensor_count, alignment).map_err(damaged)?;
        Ok(gguf)
    }

    /// The file's path, for messages.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// A tensor by its name in llama.cpp.
    pub(crate) fn tensor(&self, name: &str) -> Option<&GgufTensor<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// If they are stored in a type that cannot be read; the error has the tensor's name in llama.cpp.
    pub(crate) fn values(&self, tensor: &GgufTensor<'_>) -> Result<Vec<f32>, ModelError> {
        match &tensor.encoding {
            Ok(encoding) => Ok(encoding.decode(&self.file[tensor.bytes.clone()])),
            Err(given) => Err(ModelError::TensorType {
                path: self.path.to_owned(),
                tensor: tensor.name.to_owned(),
                given: given.clone(),
                supported: Encoding::supported(),
            }),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// If the key has a value of another type.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(*text),
            _ => None,
        })
    }

    /// A whole number of at least 0.
    ///
    /// # Errors
    /// If the key has a value of another type.
    pub(crate) fn whole(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "a whole number of at least 0", |value| match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A floating-point number.
    ///
    /// # Errors
    /// If the key has a value of another type.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a floating-point number", |value| match value {
            Value::Float(number) => Some(*number),
            _ => None,
        })
    }

    /// A boolean.
    ///
    /// # Errors
    /// If the key has a value of another type.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A list of texts.
    ///
    /// # Errors
    /// If the key has a value of another type.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        self.typed(key, "a list of texts", |value| match value {
            Value::List(list) => list.texts(),
            _ => None,
        })
    }

    /// A list of integers.
    ///
    /// # Errors
    /// If the key has a value of another type.
    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i128>>, ModelError> {
        self.typed(key, "a list of integers", |value| match value {
            Value::List(list) => list.integers(),
            _ => None,
        })
    }

    /// A list of floats.
    ///
    /// # Errors
    /// If the key has a value of another type.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.typed(key, "a list of floats", |value| match value {
            Value::List(list) => list.floats(),
            _ => None,
        })
    }

    /// The error for a required key that is absent.
    pub(crate) fn missing(&self, key: &str, expected: &str) -> ModelError {
        ModelError::MissingKey {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// The error for a setting that is not implemented.
    pub(crate) fn unsupported(&self, what: &str, given: &str, supported: &str) -> ModelError {
        ModelError::Unsupported {
            path: self.path.to_owned(),
            what: what.to_owned(),
            given: given.to_owned(),
            supported: supported.to_owned(),
        }
    }

    /// The error for a value out of range.
    pub(crate) fn invalid(
        &self,
        key: &str,
        given: impl ToString,
        allowed: impl Into<String>,
    ) -> ModelError {
        ModelError::InvalidValue {
            path: self.path.to_owned(),
            key: key.to_owned(),
            given: given.to_string(),
            allowed: allowed.into(),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        allowed: &str,
        convert: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let converted = convert(value);
        converted
            .map(Some)
            .ok_or_else(|| self.invalid(key, value, allowed))
    }

    fn alignment(&self) -> Result<usize, ModelError> {
        const KEY: &str = "general.alignment";
        let alignment = self.whole(KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
        match u32::try_from(alignment) {
            Ok(small) if small.is_power_of_two() => Ok(small as usize),
            _ => Err(self.invalid(KEY, alignment, "a power of two below 2^32")),
        }
    }
}

fn parse_metadata<'a>(
    cursor: &mut Cursor<'a>,
    count: u64,
) -> Result<BTreeMap<&'a str, Value<'a>>, String> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = cursor
            .text()
            .map_err(|reason| format!("metadata key {index}: {reason}"))?;
        let value = cursor
            .value()
            .map_err(|reason| format!("metadata `{key}`: {reason}"))?;
        match metadata.entry(key) {
            Entry::Vacant(entry) => entry.insert(value),
            Entry::Occupied(_) => return Err(format!("metadata `{key}` occurs twice")),
        };
    }
    Ok(metadata)
}

fn parse_tensors<'a>(
    cursor: &mut Cursor<'a>,
    count: u64,
    alignment: usize,
) -> Result<Vec<GgufTensor<'a>>, String> {
    let mut rows = Vec::new();
    for index in 0..count {
        let name = cursor
            .text()
            .map_err(|reason| format!("tensor name {index}: {reason}"))?;
        let row = parse_tensor(cursor).map_err(|reason| format!("tensor `{name}`: {reason}"))?;
        rows.push((name, row));
    }
    let data_start = cursor.position().checked_next_multiple_of(alignment);
    let data_start = data_start.ok_or("its data starts past the end of memory")?;
    let locate = |(name, (shape, kind, offset)): (&'a str, (Vec<usize>, u32, u64))| {
        let encoding = Encoding::from_ggml(kind);
        let bytes = match encoding {
            Ok(encoding) => locate_data(&shape, encoding, data_start, offset, cursor.file_len())
                .map_err(|reason| format!("tensor `{name}`: {reason}"))?,
            Err(_) => 0..0,
        };
        Ok(GgufTensor {
            name,
            shape,
            encoding,
            bytes,
        })
    };
    rows.into_iter().map(locate).collect()
}

/// Shape (slowest dimension first), type and offset.
fn parse_tensor(cursor: &mut Cursor<'_>) -> Result<(Vec<usize>, u32, u64), String> {
    let dimensions = cursor.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return Err(format!(
            "{dimensions} dimensions, but {MAX_DIMENSIONS} are the most allowed"
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64()?;
        let size = usize::try_from(size).map_err(|_| format!("dimension {size} is too large"))?;
        shape.insert(0, size);
    }
    Ok((shape, cursor.u32()?, cursor.u64()?))
}

fn locate_data(
    shape: &[usize],
    encoding: Encoding,
    data_start: usize,
    offset: u64,
    file_len: usize,
) -> Result<Range<usize>, String> {
    let len = encoding
        .byte_len(shape)
        .ok_or_else(|| format!("shape {shape:?} cannot be stored as {}", encoding.ggml().0))?;
    let start = usize::try_from(offset)
        .ok()
        .and_then(|offset| data_start.checked_add(offset));
    let end = start.and_then(|start| start.checked_add(len));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => Ok(start..end),
        _ => Err(format!(
            "{len} bytes at offset {offset} of the data reach past the end of the file \
             ({file_len} bytes)"
        )),
    }
}
