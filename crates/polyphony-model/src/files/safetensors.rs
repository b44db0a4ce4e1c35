//! Opens `safetensors` files and checks their tables of tensors.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::dequantize::Encoding;
use super::read::{check_header, map_file};
use super::weights::{Conversion, StoredTensor, StoredType, Weights};
use crate::error::ModelError;

/// The size of the header's length field at the start of the file, in bytes.
const LENGTH_BYTES: usize = 8;

impl Weights {
    /// Maps a `safetensors` file and checks its table against its size.
    ///
    /// # Errors
    /// If the file is missing, unreadable or damaged, or its header exceeds a bound.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = map_file(path, "the model's weights as safetensors")?;
        let damaged = |reason: String| ModelError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let (header, data) = split_header(&file).map_err(damaged)?;
        check_header(header).map_err(|bound| ModelError::TooLarge {
            path: path.to_owned(),
            bound: format!("{bound} in its header"),
        })?;
        let table = parse_header(header, data.len()).map_err(damaged)?;
        let data_start = file.len() - data.len();

        let stored = table.tensors().into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let tensor = StoredTensor {
                shape: info.shape.clone(),
                stored: stored_type(info.dtype),
                bytes: data_start + start..data_start + end,
                conversion: Conversion::Unchanged,
            };
            (name, tensor)
        });
        let tensors = stored.collect();
        Ok(Self::new(path, file, tensors))
    }
}

/// The header and the data. The error describes what is wrong with the file.
fn split_header(file: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let (length, rest) = file.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| {
        format!(
            "it has {} bytes, too few for a safetensors header",
            file.len()
        )
    })?;
    let length = u64::from_le_bytes(*length);
    let parts = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    parts.ok_or_else(|| {
        format!(
            "its header should take {length} bytes, but {} follow",
            rest.len()
        )
    })
}

/// The table in a header, before `data_len` bytes of data. The error describes what is wrong with the file.
fn parse_header(header: &[u8], data_len: usize) -> Result<Metadata, String> {
    // Parsing checks each tensor's shape against its length and that the tensors lie back to back.
    let table: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("its header is wrong: {error}"))?;
    if table.data_len() != data_len {
        return Err(format!(
            "its header describes {} bytes of tensors, but {data_len} follow",
            table.data_len()
        ));
    }
    Ok(table)
}

fn stored_type(dtype: Dtype) -> StoredType {
    match dtype {
        Dtype::F32 => StoredType::Numbers(Encoding::F32),
        Dtype::F16 => StoredType::Numbers(Encoding::F16),
        Dtype::BF16 => StoredType::Numbers(Encoding::Bf16),
        Dtype::U8 => StoredType::Bytes,
        other => StoredType::Unreadable(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::tensor::{TensorView, serialize};

    use super::*;

    /// A file with one tensor of each supported type of numbers, one of bytes, and one of an unsupported type.
    fn valid_file() -> Vec<u8> {
        let f32s: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let f16s: Vec<u8> = [0.5f32, 3.0]
            .iter()
            .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
            .collect();
        let bf16s: Vec<u8> = [0.25f32, 7.0]
            .iter()
            .flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())
            .collect();
        let tensors = [
            ("full", TensorView::new(Dtype::F32, vec![2], &f32s).unwrap()),
            (
                "half",
                TensorView::new(Dtype::F16, vec![1, 2], &f16s).unwrap(),
            ),
            (
                "brain",
                TensorView::new(Dtype::BF16, vec![2, 1], &bf16s).unwrap(),
            ),
            (
                "whole",
                TensorView::new(Dtype::I32, vec![2], &f32s).unwrap(),
            ),
            (
                "code",
                TensorView::new(Dtype::U8, vec![2, 2], &f16s).unwrap(),
            ),
        ];
        serialize(tensors, None).unwrap()
    }

    fn open_bytes(bytes: &[u8]) -> Result<Weights, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        Weights::open(&path)
    }

    #[test]
    fn every_float_type_becomes_f32() {
        let weights = open_bytes(&valid_file()).unwrap();
        assert_eq!(
            weights.names().collect::<Vec<_>>(),
            ["brain", "code", "full", "half", "whole"]
        );
        assert!(weights.contains("half") && !weights.contains("quarter"));
        assert_eq!(weights.read("full", &[2]).unwrap(), [1.5, -2.0]);
        assert_eq!(weights.read("half", &[1, 2]).unwrap(), [0.5, 3.0]);
        assert_eq!(weights.read("brain", &[2, 1]).unwrap(), [0.25, 7.0]);
    }

    #[test]
    fn tensors_that_cannot_be_read_are_named() {
        let weights = open_bytes(&valid_file()).unwrap();
        let rows: [(&str, &[usize], &str); 4] = [
            ("quarter", &[2], "holds no tensor `quarter`"),
            (
                "half",
                &[2],
                "tensor `half` has shape [1, 2], but the configuration implies [2]",
            ),
            (
                "whole",
                &[2],
                "tensor `whole` is stored as I32; supported: F32, F16, BF16",
            ),
            (
                "code",
                &[2, 2],
                "tensor `code` is stored as U8; supported: F32, F16, BF16",
            ),
        ];
        for (name, shape, expected) in rows {
            let message = weights.read(name, shape).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
            assert!(
                message.contains("model.safetensors"),
                "{message:?} names no file"
            );
        }
    }

    #[test]
    fn bytes_are_read_as_they_are() {
        let weights = open_bytes(&valid_file()).unwrap();
        let [low, high] = half::f16::from_f32(0.5).to_le_bytes();
        let bytes = weights.read_bytes("code", &[2, 2]).unwrap();
        assert_eq!(bytes[..2], [low, high]);
        let rows: [(&str, &[usize], &str); 3] = [
            ("quarter", &[2], "holds no tensor `quarter`"),
            ("code", &[4], "tensor `code` has shape [2, 2]"),
            (
                "full",
                &[2],
                "tensor `full` is stored as F32; supported: U8",
            ),
        ];
        for (name, shape, expected) in rows {
            let message = weights.read_bytes(name, shape).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn names_are_compared_all_at_once() {
        let weights = open_bytes(&valid_file()).unwrap();
        weights
            .check_names(["brain", "code", "full", "half", "whole"])
            .unwrap();
        let error = weights
            .check_names(["brain", "code", "lost", "full", "gone"])
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("missing: gone, lost; unexpected: half, whole"),
            "{message}"
        );
    }

    #[test]
    fn damage_is_described() {
        let valid = valid_file();
        let too_long = [&valid[..], b"?"].concat();
        let rows: [(&[u8], &str); 5] = [
            (b"", "it has 0 bytes, too few"),
            (&valid[..40], "its header should take"),
            (&valid[..valid.len() - 1], "but 27 follow"),
            (&too_long, "but 29 follow"),
            (b"\x02\0\0\0\0\0\0\0{]", "its header is wrong"),
        ];
        for (bytes, expected) in rows {
            let message = open_bytes(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_header_beyond_its_bounds_is_not_parsed() {
        let file = |header: &str| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes
        };
        let rows = [
            (
                " ".repeat((16 << 20) + 1),
                "has more than 16777216 bytes in its header",
            ),
            (
                "[0,".repeat(600_000),
                "has more than 1000000 values in its header",
            ),
            (
                "{\"\":".repeat(200_000),
                "has more than 131072 objects in its header",
            ),
            ("[".repeat(100_000), "its header is wrong"),
            ("{\"a\":".repeat(100_000), "its header is wrong"),
        ];
        for (header, expected) in rows {
            let message = open_bytes(&file(&header)).unwrap_err().to_string();
            assert!(
                message.contains(expected),
                "{message:.300} lacks {expected}"
            );
            assert!(message.len() < 500, "{message:.300}");
        }
        // A header that claims nearly all of a sparse file of four gigabytes.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let length: u64 = (4 << 30) - 8;
        std::fs::write(&path, length.to_le_bytes()).unwrap();
        let sparse = std::fs::File::options().write(true).open(&path).unwrap();
        sparse.set_len(4 << 30).unwrap();
        let message = Weights::open(&path).unwrap_err().to_string();
        assert!(
            message.contains("has more than 16777216 bytes in its header"),
            "{message}"
        );
    }

    #[test]
    fn a_table_whose_sizes_overflow_is_refused() {
        // Eight tensors of 2^61 bytes end at 2^64.
        let half = 1u64 << 61;
        let entry = |index: u64| {
            let (start, end) = (index * half, (index + 1).wrapping_mul(half));
            format!(
                r#""t{index}":{{"dtype":"U8","shape":[{half}],"data_offsets":[{start},{end}]}}"#
            )
        };
        for count in [7, 8] {
            let header = format!(
                "{{{}}}",
                (0..count).map(entry).collect::<Vec<_>>().join(",")
            );
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            open_bytes(&bytes).unwrap_err();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn hostile_bytes_never_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = valid_file();
            for (position, value) in flips {
                let position = position.index(bytes.len());
                bytes[position] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(weights) = open_bytes(&bytes) {
                for spec in weights.specs() {
                    let _ = weights.read(&spec.name, &spec.shape);
                    let _ = weights.read_bytes(&spec.name, &spec.shape);
                }
            }
        }
    }
}
