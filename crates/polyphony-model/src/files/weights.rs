//! A model's tensors, memory-mapped and read by Hugging Face name, whatever the file's format.
//!
//! Opening a model parses the tables of tensors and checks every length against the file's size. Values
//! are converted to `f32` on demand, one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::dequantize::Encoding;
use crate::error::ModelError;

/// The tensors of a model, in one file or several.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<MappedFile>,
    /// The tensors, each with the index of its file.
    tensors: BTreeMap<String, (usize, StoredTensor)>,
}

/// A memory-mapped file.
#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    bytes: Mmap,
}

/// A tensor's name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The Hugging Face name.
    pub name: String,
    /// The length of every dimension, the slowest-varying first.
    pub shape: Vec<usize>,
}

/// Where and how a tensor is stored in its file.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    /// The length of every dimension, the slowest-varying first.
    pub(crate) shape: Vec<usize>,
    /// What is stored.
    pub(crate) stored: StoredType,
    /// The range of its bytes in the file.
    pub(crate) bytes: Range<usize>,
    /// How its values differ from those in Hugging Face files.
    pub(crate) conversion: Conversion,
}

/// What a tensor's bytes in a file are.
#[derive(Clone, Debug)]
pub(crate) enum StoredType {
    /// Numbers that become `f32`.
    Numbers(Encoding),
    /// Bytes that only their writer can interpret.
    Bytes,
    /// A type that cannot be read, by its name.
    Unreadable(String),
}

impl StoredType {
    /// The name of [`StoredType::Bytes`] in safetensors files.
    pub(super) const BYTES: &'static str = "U8";

    fn name(&self) -> String {
        match self {
            Self::Numbers(encoding) => encoding.ggml().0.to_owned(),
            Self::Bytes => Self::BYTES.to_owned(),
            Self::Unreadable(name) => name.clone(),
        }
    }
}

/// What llama.cpp's converter did to a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Conversion {
    /// Nothing.
    Unchanged,
    /// It added this number to every value.
    Added(f32),
    /// It reordered the rows. Within each head, rows `i` and `i + head_size / 2`, which the rotary embedding
    /// rotates together, are adjacent.
    RotaryPairs {
        /// The number of heads in the matrix.
        heads: usize,
    },
}

impl Weights {
    pub(crate) fn new(path: &Path, file: Mmap, tensors: BTreeMap<String, StoredTensor>) -> Self {
        let mapped = MappedFile {
            path: path.to_owned(),
            bytes: file,
        };
        let tensors = tensors.into_iter();
        Self {
            path: path.to_owned(),
            files: vec![mapped],
            tensors: tensors.map(|(name, tensor)| (name, (0, tensor))).collect(),
        }
    }

    /// The tensors of several files, which the file at `index` lists.
    ///
    /// # Errors
    /// If two files contain a tensor of the same name.
    pub(crate) fn join(index: &Path, shards: Vec<Self>) -> Result<Self, ModelError> {
        let mut joined = Self {
            path: index.to_owned(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for shard in shards {
            let offset = joined.files.len();
            joined.files.extend(shard.files);
            for (name, (file, tensor)) in shard.tensors {
                if joined.tensors.contains_key(&name) {
                    return Err(ModelError::Damaged {
                        path: index.to_owned(),
                        reason: format!("two of its files hold the tensor `{name}`"),
                    });
                }
                joined.tensors.insert(name, (offset + file, tensor));
            }
        }
        Ok(joined)
    }

    /// The file that contains the tensors, or the index of several files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' Hugging Face names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Every tensor's name and shape, sorted by name.
    pub fn specs(&self) -> Vec<TensorSpec> {
        let spec = |(name, (_, tensor)): (&String, &(usize, StoredTensor))| TensorSpec {
            name: name.clone(),
            shape: tensor.shape.clone(),
        };
        self.tensors.iter().map(spec).collect()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The values of a tensor, row after row (the last dimension varies fastest).
    ///
    /// # Errors
    /// If the tensor is missing, has another shape, or is stored in a type that cannot be read.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (file, tensor) = self.find(name, shape)?;
        let StoredType::Numbers(encoding) = &tensor.stored else {
            return Err(file.type_error(name, tensor, Encoding::supported()));
        };
        let values = file
            .decode(*encoding, tensor.bytes.clone())
            .ok_or_else(|| file.too_short(name))?;
        Ok(match tensor.conversion {
            Conversion::Unchanged => values,
            Conversion::Added(number) => values.into_iter().map(|value| value - number).collect(),
            Conversion::RotaryPairs { heads } => separate_rotary_halves(&values, heads, shape),
        })
    }

    /// The bytes of a tensor of type `U8`, as [`save_tensors`](super::save_tensors) wrote them.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape, or is stored in another type.
    pub fn read_bytes(&self, name: &str, shape: &[usize]) -> Result<Vec<u8>, ModelError> {
        let (file, tensor) = self.find(name, shape)?;
        let StoredType::Bytes = &tensor.stored else {
            let expected = StoredType::BYTES.to_owned();
            return Err(file.type_error(name, tensor, expected));
        };
        let bytes = file.bytes.get(tensor.bytes.clone());
        let bytes = bytes.ok_or_else(|| file.too_short(name))?.to_vec();
        file.release(&tensor.bytes);
        Ok(bytes)
    }

    /// A tensor of this shape, and the file that holds it.
    fn find(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<(&MappedFile, &StoredTensor), ModelError> {
        let (file, tensor) = self
            .tensors
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
            })?;
        let file = &self.files[*file];
        if tensor.shape != shape {
            return Err(ModelError::TensorShape {
                path: file.path.clone(),
                tensor: name.to_owned(),
                found: tensor.shape.clone(),
                expected: shape.to_owned(),
            });
        }
        Ok((file, tensor))
    }

    /// Compares the names in the file with those that an architecture needs.
    ///
    /// # Errors
    /// If names differ; the error lists every missing and every unexpected name.
    pub fn check_names<'a>(
        &self,
        expected: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ModelError> {
        let expected: BTreeSet<&str> = expected.into_iter().collect();
        let found: BTreeSet<&str> = self.names().collect();
        let owned = |name: &&str| (*name).to_owned();
        let missing: Vec<String> = expected.difference(&found).map(owned).collect();
        let unexpected: Vec<String> = found.difference(&expected).map(owned).collect();
        if missing.is_empty() && unexpected.is_empty() {
            return Ok(());
        }
        Err(ModelError::TensorNames {
            path: self.path.clone(),
            missing,
            unexpected,
        })
    }

    /// Drops the tensors whose names do not satisfy `keep`.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| keep(name));
    }
}

/// The number of bytes that are decoded before their pages are released.
const PIECE_BYTES: usize = 4 << 20;

impl MappedFile {
    /// The numbers stored in a range of whole blocks; `None` if it reaches past the end.
    ///
    /// The pages of decoded bytes are released, so that a model being loaded is not in memory twice.
    fn decode(&self, encoding: Encoding, range: Range<usize>) -> Option<Vec<f32>> {
        let bytes = self.bytes.get(range.clone())?;
        let block = encoding.block_bytes();
        let piece = (PIECE_BYTES / block).max(1) * block;
        let mut values = Vec::with_capacity(bytes.len() / block * encoding.block_values());
        for (index, bytes) in bytes.chunks(piece).enumerate() {
            values.extend(encoding.decode(bytes));
            let start = range.start + index * piece;
            self.release(&(start..start + bytes.len()));
        }
        Some(values)
    }

    fn type_error(&self, name: &str, tensor: &StoredTensor, supported: String) -> ModelError {
        ModelError::TensorType {
            path: self.path.clone(),
            tensor: name.to_owned(),
            given: tensor.stored.name(),
            supported,
        }
    }

    fn too_short(&self, name: &str) -> ModelError {
        ModelError::Damaged {
            path: self.path.clone(),
            reason: format!("tensor `{name}` reaches past the end of the file"),
        }
    }

    /// Allows the system to free the memory of a range that has been read.
    fn release(&self, range: &Range<usize>) {
        // A failure is ignored, since it only costs memory.
        // SAFETY: the mapping is backed by a file and only read, so dropped pages are read again
        // unchanged.
        #[cfg(unix)]
        let _ = unsafe {
            self.bytes.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                range.start,
                range.len(),
            )
        };
    }
}

/// Undoes the row order of llama.cpp's converter.
///
/// The converter views the rows of a head, in Hugging Face's order, as `[2, head_size / 2]`, and swaps
/// the two axes. This function swaps them back.
fn separate_rotary_halves(values: &[f32], heads: usize, shape: &[usize]) -> Vec<f32> {
    let width: usize = shape[1..].iter().product();
    let half = shape[0] / heads / 2;
    let mut ordered = Vec::with_capacity(values.len());
    for head in 0..heads {
        for part in 0..2 {
            for pair in 0..half {
                let row = (head * half + pair) * 2 + part;
                ordered.extend_from_slice(&values[row * width..(row + 1) * width]);
            }
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_halves_are_separated_head_by_head() {
        // Two heads of size 4, rows of width 2; a stored row's value is its index in Hugging Face's order.
        let stored = [0, 2, 1, 3, 4, 6, 5, 7].map(|row| row as f32);
        let values: Vec<f32> = stored.iter().flat_map(|row| [*row, *row + 0.5]).collect();
        let ordered = separate_rotary_halves(&values, 2, &[8, 2]);
        let expected: Vec<f32> = (0..16).map(|value| value as f32 / 2.0).collect();
        assert_eq!(ordered, expected);
    }
}
