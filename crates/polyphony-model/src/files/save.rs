//! Writes a model as a Hugging Face directory that PyTorch transformers loads unchanged.
//!
//! Everything is written to a temporary directory beside the target, synced, and then renamed. The
//! target is thus either complete or absent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::ModelFiles;
use super::adapter;
use super::assets::{ModelAssets, pretty};
use super::weights::TensorSpec;
use crate::error::ModelError;
use crate::lora::LoraConfig;

/// The alignment of the tensors' data, as in the safetensors crate.
const ALIGNMENT: usize = 8;

/// Writes a model to the new directory `target`: weights in `f32`, and the configuration,
/// tokenizer and chat template in `assets`.
///
/// `tensors` lists every tensor under its Hugging Face name, and `values` returns the values of one
/// tensor at a time, row after row. The model need not be in memory a second time.
///
/// # Errors
/// If `target` exists, a file cannot be written, or `values` fails or returns too few or too many values
/// for the tensor's shape. Nothing is then left behind.
pub fn save(
    target: &Path,
    assets: &ModelAssets,
    tensors: &[TensorSpec],
    values: impl FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
) -> Result<(), ModelError> {
    write_directory(
        target,
        &assets.files(),
        "model.safetensors",
        tensors,
        values,
    )
}

/// Writes adapters to the new directory `target` as PEFT does; see [`save`].
///
/// # Errors
/// As [`save`].
pub(crate) fn save_adapter(
    target: &Path,
    assets: &ModelAssets,
    lora: &LoraConfig,
    tensors: &[TensorSpec],
    values: impl FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
) -> Result<(), ModelError> {
    let config = adapter::config_json(lora, &assets.source);
    let mut files = assets.tokenizer_files();
    files.push((adapter::CONFIG, pretty(&config)));
    write_directory(target, &files, adapter::WEIGHTS, tensors, values)
}

/// Writes text files and tensors to a new directory, all or nothing.
fn write_directory(
    target: &Path,
    files: &[(&str, String)],
    weights: &str,
    tensors: &[TensorSpec],
    mut values: impl FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
) -> Result<(), ModelError> {
    if target.symlink_metadata().is_ok() {
        return Err(ModelError::TargetExists {
            path: target.to_owned(),
        });
    }
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(write_error(parent))?;
    let partial = partial_directory(parent, target).map_err(write_error(parent))?;

    for (name, contents) in files {
        let contents = contents.as_bytes();
        write_synced(partial.path(), target, name, |file| {
            Ok(file.write_all(contents)?)
        })?;
    }
    write_synced(partial.path(), target, weights, |file| {
        write_safetensors(file, tensors, &mut values)
    })?;

    sync_directory(partial.path()).map_err(write_error(target))?;
    std::fs::rename(partial.path(), target).map_err(write_error(target))?;
    // After the rename there is nothing left to clean up.
    let _ = partial.keep();
    sync_directory(parent).map_err(write_error(parent))
}

/// The values of a tensor to save.
pub enum TensorValues<'a> {
    /// 32-bit floats, row after row. The function is called when they are written, so not all tensors have to
    /// be in memory at once.
    F32(Box<dyn FnOnce() -> Result<Vec<f32>, ModelError> + 'a>),
    /// Bytes that only their writer can interpret; [`Weights::read_bytes`](super::Weights::read_bytes) reads
    /// them.
    U8(&'a [u8]),
}

impl TensorValues<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::U8(_) => Dtype::U8,
        }
    }
}

/// Writes tensors to the new safetensors file `target` and makes it durable; see [`save`].
///
/// # Errors
/// If `target` exists, the file cannot be written, or a tensor's values cannot be had, or are too few or too
/// many for its shape.
pub fn save_tensors(
    target: &Path,
    mut tensors: Vec<(TensorSpec, TensorValues<'_>)>,
) -> Result<(), ModelError> {
    let folder = target.parent().unwrap_or(Path::new(""));
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Floats come before bytes, so that each float lies aligned.
    tensors.sort_by_key(|(_, values)| matches!(values, TensorValues::U8(_)));
    write_synced(folder, folder, &name, |file| {
        let table = tensors.iter();
        write_header(file, table.map(|(spec, values)| (spec, values.dtype())))?;
        tensors
            .into_iter()
            .try_for_each(|(spec, values)| match values {
                TensorValues::F32(values) => write_floats(file, &spec, values()),
                TensorValues::U8(bytes) => {
                    check_count(&spec, bytes.len())?;
                    Ok(file.write_all(bytes)?)
                }
            })
    })
}

/// Converts a GGUF file (or any model that opens) to the new Hugging Face directory `target`.
///
/// # Errors
/// If the model cannot be opened or the directory cannot be written; nothing is then left behind. Also
/// if the model has adapters, because merging them needs computation, which this function does not do:
/// use [`LanguageModel::merged`](crate::LanguageModel::merged).
pub fn convert(source: &Path, target: &Path) -> Result<(), ModelError> {
    let files = ModelFiles::open(source)?;
    if files.adapter.is_some() {
        return Err(adapter::unsupported(source, "conversion of", "adapters"));
    }
    let weights = &files.weights;
    save(target, &files.assets, &weights.specs(), |tensor| {
        weights.read(&tensor.name, &tensor.shape)
    })
}

/// Why a file could not be completed: the system failed to write it, or its contents could not be supplied.
#[derive(Debug)]
enum WriteFailure {
    Disk(io::Error),
    Contents(ModelError),
}

impl From<io::Error> for WriteFailure {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> ModelError {
    move |source| ModelError::Write {
        path: path.to_owned(),
        source,
    }
}

/// The prefix of directories that polyphony is writing. It distinguishes those that a killed process
/// left behind from a user's directories.
const UNFINISHED: &str = ".polyphony-unfinished-";

/// A directory beside the target, which is removed when dropped unless it is kept.
fn partial_directory(parent: &Path, target: &Path) -> io::Result<tempfile::TempDir> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{UNFINISHED}{name}-");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    {
        // The permissions of `mkdir`, to which the umask applies, not the private ones of temporary files.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent)
}

/// Writes a file in the directory `partial`. Errors name it by its final path in `target`.
fn write_synced(
    partial: &Path,
    target: &Path,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), WriteFailure>,
) -> Result<(), ModelError> {
    let attempt = || {
        let mut file = BufWriter::new(File::create_new(partial.join(name))?);
        write(&mut file)?;
        file.flush()?;
        Ok(file.get_ref().sync_all()?)
    };
    attempt().map_err(|failure| match failure {
        WriteFailure::Disk(source) => write_error(&target.join(name))(source),
        WriteFailure::Contents(error) => error,
    })
}

/// Makes the entries of a directory durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()
    } else {
        Ok(())
    }
}

/// Writes a header and then each tensor's values in `f32`.
fn write_safetensors(
    file: &mut impl Write,
    tensors: &[TensorSpec],
    values: &mut impl FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
) -> Result<(), WriteFailure> {
    write_header(file, tensors.iter().map(|spec| (spec, Dtype::F32)))?;
    tensors
        .iter()
        .try_for_each(|spec| write_floats(file, spec, values(spec)))
}

fn write_floats(
    file: &mut impl Write,
    spec: &TensorSpec,
    values: Result<Vec<f32>, ModelError>,
) -> Result<(), WriteFailure> {
    let values = values.map_err(WriteFailure::Contents)?;
    check_count(spec, values.len())?;
    for value in values {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

fn check_count(spec: &TensorSpec, given: usize) -> Result<(), WriteFailure> {
    let expected: usize = spec.shape.iter().product();
    if given == expected {
        return Ok(());
    }
    Err(WriteFailure::Contents(ModelError::TensorValues {
        tensor: spec.name.clone(),
        given: format!("{given} values"),
        expected: format!("{expected}, for the shape {:?}", spec.shape),
    }))
}

fn write_header<'a>(
    file: &mut impl Write,
    tensors: impl Iterator<Item = (&'a TensorSpec, Dtype)>,
) -> Result<(), WriteFailure> {
    let header = header(tensors).map_err(io::Error::other)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    Ok(file.write_all(&header)?)
}

/// The table of tensors, which are stored back to back.
fn header<'a>(
    tensors: impl Iterator<Item = (&'a TensorSpec, Dtype)>,
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut end = 0;
    let entry = |(tensor, dtype): (&TensorSpec, Dtype)| {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo {
            dtype,
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        (tensor.name.clone(), info)
    };
    let entries = tensors.map(entry).collect();
    // transformers refuses files that do not name the framework of their layout.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let table = Metadata::new(Some(format), entries)?;
    let mut header = serde_json::to_vec(&table)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::gguf::fixture::Contents;
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(name)
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Values as bits, so that equality is exact.
    fn all_bits(files: &ModelFiles) -> Vec<(TensorSpec, Vec<u32>)> {
        let bits = |spec: TensorSpec| {
            let values = files.weights.read(&spec.name, &spec.shape).unwrap();
            (spec, values.into_iter().map(f32::to_bits).collect())
        };
        files.weights.specs().into_iter().map(bits).collect()
    }

    #[test]
    fn a_saved_model_is_the_same_model() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new/agent");
        convert(&fixture("tiny-llama"), &target).unwrap();
        assert_eq!(names_in(&target), ["config.json", "model.safetensors"]);
        assert_eq!(
            names_in(&folder.path().join("new")),
            ["agent"],
            "nothing else is left"
        );

        let original = ModelFiles::open(&fixture("tiny-llama")).unwrap();
        let saved = ModelFiles::open(&target).unwrap();
        assert_eq!(saved.config, original.config);
        assert_eq!(saved.stop_tokens, original.stop_tokens);
        assert_eq!(all_bits(&saved), all_bits(&original));
    }

    #[test]
    fn a_gguf_model_becomes_a_whole_directory() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("tiny.gguf"), folder.path().join("tiny"));
        std::fs::write(&source, Contents::tiny_llama().bytes()).unwrap();
        convert(&source, &target).unwrap();
        let expected = [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names_in(&target), expected);

        let original = ModelFiles::open(&source).unwrap();
        let saved = ModelFiles::open(&target).unwrap();
        assert_eq!(saved.config, original.config);
        assert_eq!(saved.stop_tokens, original.stop_tokens);
        assert_eq!(all_bits(&saved), all_bits(&original));
        let messages = [super::super::Message::new(
            super::super::MessageRole::User,
            "the sky",
        )];
        let prompt = |files: &ModelFiles| {
            let (tokenizer, template) = (files.tokenizer.as_ref(), files.template.as_ref());
            super::super::encode_conversation(tokenizer.unwrap(), template.unwrap(), &messages)
        };
        assert_eq!(prompt(&saved).unwrap(), prompt(&original).unwrap());
    }

    #[test]
    fn the_configuration_names_the_type_of_the_saved_weights() {
        let mut assets = ModelFiles::open(&fixture("tiny-llama")).unwrap().assets;
        for (key, absent) in [("dtype", "torch_dtype"), ("torch_dtype", "dtype")] {
            assets.config.as_object_mut().unwrap().remove(absent);
            assets.config[key] = "bfloat16".into();
            let (_, config) = assets.files().swap_remove(0);
            let config: serde_json::Value = serde_json::from_str(&config).unwrap();
            assert_eq!(
                (&config[key], config.get(absent)),
                (&"float32".into(), None)
            );
        }
    }

    #[test]
    fn adapters_are_not_dropped_in_a_conversion() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("agent"), folder.path().join("new"));
        let assets = ModelFiles::open(&fixture("tiny-llama")).unwrap().assets;
        let factors = ["A", "B"].map(|factor| TensorSpec {
            name: format!("base_model.model.model.layers.0.mlp.up_proj.lora_{factor}.weight"),
            shape: vec![1],
        });
        let lora = LoraConfig::default();
        save_adapter(&source, &assets, &lora, &factors, |_| Ok(vec![0.0])).unwrap();
        let message = convert(&source, &target).unwrap_err().to_string();
        assert!(
            message.contains("merge its adapters into the weights first"),
            "{message}"
        );
        assert_eq!(names_in(folder.path()), ["agent"]);
    }

    #[test]
    fn tensors_lie_aligned() {
        for name in ["a", "ab", "abc"] {
            let spec = TensorSpec {
                name: name.to_owned(),
                shape: vec![1],
            };
            let header = header(std::iter::once((&spec, Dtype::F32))).unwrap();
            assert_eq!(header.len() % ALIGNMENT, 0, "{name}");
        }
    }

    #[test]
    fn an_existing_target_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let message = convert(&fixture("tiny-llama"), folder.path())
            .unwrap_err()
            .to_string();
        assert!(message.contains("already exists: remove it"), "{message}");
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let files = ModelFiles::open(&fixture("tiny-llama")).unwrap();
        let mut left = 3;
        let error = save(
            &folder.path().join("agent"),
            &files.assets,
            &files.weights.specs(),
            |spec| {
                left -= 1;
                if left == 0 {
                    return Err(ModelError::MissingTensor {
                        path: files.weights.path().to_owned(),
                        tensor: spec.name.clone(),
                    });
                }
                files.weights.read(&spec.name, &spec.shape)
            },
        );
        assert!(
            matches!(error, Err(ModelError::MissingTensor { .. })),
            "{error:?}"
        );
        assert!(names_in(folder.path()).is_empty());

        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let message = convert(&fixture("tiny-llama"), &file.join("agent"))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("cannot write") && message.contains("file"),
            "{message}"
        );
    }

    #[test]
    fn a_tensor_with_too_many_or_too_few_values_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spec = TensorSpec {
            name: "head.bias".to_owned(),
            shape: vec![2, 2],
        };
        for given in [0, 3, 5] {
            let expected = format!(
                "tensor `head.bias` cannot be saved: it has {given} values, but must have 4, for the \
                 shape [2, 2]"
            );
            let bytes = vec![1; given];
            let floats = || Ok(vec![1.0; given]);
            for (name, values) in [
                ("floats", TensorValues::F32(Box::new(floats))),
                ("bytes", TensorValues::U8(&bytes)),
            ] {
                let target = folder.path().join(format!("{given}-{name}"));
                let outcome = save_tensors(&target, vec![(spec.clone(), values)]);
                assert_eq!(outcome.unwrap_err().to_string(), expected, "{name}");
            }
        }
    }

    #[test]
    fn saved_floats_and_bytes_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("state.safetensors");
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        // The odd number of bytes would misalign the floats if it came before them.
        let (codes, floats) = ([0, 128, 255], [f32::MIN_POSITIVE, -0.0, f32::MAX]);
        let tensors = vec![
            (spec("codes", &[3, 1]), TensorValues::U8(&codes)),
            (
                spec("floats", &[3]),
                TensorValues::F32(Box::new(|| Ok(floats.to_vec()))),
            ),
        ];
        save_tensors(&target, tensors).unwrap();
        let weights = super::super::Weights::open(&target).unwrap();
        assert_eq!(weights.read_bytes("codes", &[3, 1]).unwrap(), codes);
        let read = weights.read("floats", &[3]).unwrap();
        let bits = |floats: &[f32]| {
            floats
                .iter()
                .map(|float| float.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&read), bits(&floats));
        let file = std::fs::read(&target).unwrap();
        assert_eq!(file[file.len() - 3..], codes);
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        /// A disk with room for this many bytes.
        struct Disk(usize);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 < bytes.len() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.0 -= bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let tensors = [TensorSpec {
            name: "t".to_owned(),
            shape: vec![64],
        }];
        for room in [4, 8, 100, 200] {
            let folder = tempfile::tempdir().unwrap();
            let error = write_synced(folder.path(), Path::new("agent"), "weights", |_| {
                let mut values = |_: &TensorSpec| Ok(vec![1.0; 64]);
                write_safetensors(&mut Disk(room), &tensors, &mut values)
            });
            let message = error.unwrap_err().to_string();
            assert!(
                message.starts_with("cannot write agent/weights: "),
                "{message}"
            );
        }
    }
}
