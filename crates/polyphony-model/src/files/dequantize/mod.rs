//! From stored numbers to `f32`: plain floats and the block formats of GGUF.
//!
//! A block holds consecutive values of one row: 32 ([`blocks`]) or 256 ([`super_blocks`]). Bytes
//! are little-endian.
//!
//! Source: `ggml-quants.c` of llama.cpp and `gguf/quants.py` of the `gguf` Python package. The results
//! equal those of the package bit for bit.

mod blocks;
mod floats;
mod super_blocks;

use self::blocks::BLOCK;
use self::super_blocks::SUPER_BLOCK;

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Iq4Nl,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq4Xs,
}

/// The names and numbers of GGML's types that cannot be read.
const UNREADABLE: [(&str, u32); 18] = [
    ("Q8_1", 9),
    ("IQ2_XXS", 16),
    ("IQ2_XS", 17),
    ("IQ3_XXS", 18),
    ("IQ1_S", 19),
    ("IQ3_S", 21),
    ("IQ2_S", 22),
    ("I8", 24),
    ("I16", 25),
    ("I32", 26),
    ("I64", 27),
    ("F64", 28),
    ("IQ1_M", 29),
    ("TQ1_0", 34),
    ("TQ2_0", 35),
    ("MXFP4", 39),
    ("NVFP4", 40),
    ("Q1_0", 41),
];

impl Encoding {
    /// All of them.
    pub(crate) const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Iq4Nl,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
        Self::Iq4Xs,
    ];

    /// GGML's name and number of the type.
    pub(crate) const fn ggml(self) -> (&'static str, u32) {
        match self {
            Self::F32 => ("F32", 0),
            Self::F16 => ("F16", 1),
            Self::Bf16 => ("BF16", 30),
            Self::Q4_0 => ("Q4_0", 2),
            Self::Q4_1 => ("Q4_1", 3),
            Self::Q5_0 => ("Q5_0", 6),
            Self::Q5_1 => ("Q5_1", 7),
            Self::Q8_0 => ("Q8_0", 8),
            Self::Iq4Nl => ("IQ4_NL", 20),
            Self::Q2K => ("Q2_K", 10),
            Self::Q3K => ("Q3_K", 11),
            Self::Q4K => ("Q4_K", 12),
            Self::Q5K => ("Q5_K", 13),
            Self::Q6K => ("Q6_K", 14),
            Self::Q8K => ("Q8_K", 15),
            Self::Iq4Xs => ("IQ4_XS", 23),
        }
    }

    /// The type with this GGML number, or the type's name if it cannot be read.
    pub(crate) fn from_ggml(number: u32) -> Result<Self, String> {
        let mut known = Self::ALL.into_iter();
        let known = known.find(|encoding| encoding.ggml().1 == number);
        known.ok_or_else(|| match UNREADABLE.iter().find(|(_, id)| *id == number) {
            Some((name, _)) => (*name).to_owned(),
            None => format!("GGML type {number}"),
        })
    }

    /// The types that can be read, for messages.
    pub(crate) fn supported() -> String {
        let names = |plain: bool| {
            let fits = move |encoding: &Self| (encoding.block_values() == 1) == plain;
            let names = Self::ALL.into_iter().filter(fits);
            let names: Vec<_> = names.map(|encoding| encoding.ggml().0).collect();
            names.join(", ")
        };
        format!("{}, and in GGUF also {}", names(true), names(false))
    }

    /// The number of values in one block.
    pub(crate) const fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Iq4Nl => BLOCK,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K | Self::Iq4Xs => {
                SUPER_BLOCK
            }
        }
    }

    /// The size of one block in bytes. Each sum below lists the bits of the integers last.
    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 | Self::Iq4Nl => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q5_0 => 2 + 4 + BLOCK / 2,
            Self::Q5_1 => 4 + 4 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
            Self::Q2K => 4 + 16 + SUPER_BLOCK / 4,
            Self::Q3K => 2 + 12 + SUPER_BLOCK / 4 + SUPER_BLOCK / 8,
            Self::Q4K => 4 + 12 + SUPER_BLOCK / 2,
            Self::Q5K => 4 + 12 + SUPER_BLOCK / 2 + SUPER_BLOCK / 8,
            Self::Q6K => 2 + 16 + SUPER_BLOCK / 2 + SUPER_BLOCK / 4,
            Self::Q8K => 4 + 32 + SUPER_BLOCK,
            Self::Iq4Xs => 2 + 6 + SUPER_BLOCK / 2,
        }
    }

    /// The size in bytes of a tensor of this shape; `None` if the last dimension is not a multiple of
    /// the block size, or the size overflows.
    pub(crate) fn byte_len(self, shape: &[usize]) -> Option<usize> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_values()) {
            return None;
        }
        let values = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))?;
        (values / self.block_values()).checked_mul(self.block_bytes())
    }

    /// The values stored in `bytes`, which must be whole blocks.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => decode_blocks(bytes, floats::f32),
            Self::F16 => decode_blocks(bytes, floats::f16),
            Self::Bf16 => decode_blocks(bytes, floats::bf16),
            Self::Q4_0 => decode_blocks(bytes, blocks::q4_0),
            Self::Q4_1 => decode_blocks(bytes, blocks::q4_1),
            Self::Q5_0 => decode_blocks(bytes, blocks::q5_0),
            Self::Q5_1 => decode_blocks(bytes, blocks::q5_1),
            Self::Q8_0 => decode_blocks(bytes, blocks::q8_0),
            Self::Iq4Nl => decode_blocks(bytes, blocks::iq4_nl),
            Self::Q2K => decode_blocks(bytes, super_blocks::q2_k),
            Self::Q3K => decode_blocks(bytes, super_blocks::q3_k),
            Self::Q4K => decode_blocks(bytes, super_blocks::q4_k),
            Self::Q5K => decode_blocks(bytes, super_blocks::q5_k),
            Self::Q6K => decode_blocks(bytes, super_blocks::q6_k),
            Self::Q8K => decode_blocks(bytes, super_blocks::q8_k),
            Self::Iq4Xs => decode_blocks(bytes, super_blocks::iq4_xs),
        }
    }
}

fn decode_blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    decode: impl Fn(&[u8; BYTES]) -> [f32; VALUES],
) -> Vec<f32> {
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    debug_assert!(rest.is_empty(), "tensor bytes are whole blocks");
    let mut values = Vec::with_capacity(blocks.len() * VALUES);
    for block in blocks {
        values.extend_from_slice(&decode(block));
    }
    values
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Random blocks of every type, and the values that the `gguf` Python package reads from them
    /// (`fixtures/dequantize/README.md`).
    #[test]
    fn equals_the_gguf_package_bit_for_bit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dequantize");
        for encoding in Encoding::ALL {
            let (name, _) = encoding.ggml();
            let stored = std::fs::read(folder.join(format!("{name}.blocks"))).unwrap();
            let expected = std::fs::read(folder.join(format!("{name}.f32"))).unwrap();
            let expected: Vec<u32> = expected
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| u32::from_le_bytes(*bytes))
                .collect();
            let decoded: Vec<u32> = encoding
                .decode(&stored)
                .into_iter()
                .map(f32::to_bits)
                .collect();
            assert!(!decoded.is_empty());
            assert_eq!(decoded, expected, "{name}");
            assert_eq!(
                encoding.byte_len(&[decoded.len()]),
                Some(stored.len()),
                "{name}"
            );
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!(Encoding::Q4_0.byte_len(&[2, 32]), Some(36));
        assert_eq!(
            Encoding::Q4_0.byte_len(&[32, 2]),
            None,
            "rows are not whole blocks"
        );
        assert_eq!(Encoding::F32.byte_len(&[usize::MAX, 2]), None, "overflow");
        assert_eq!(
            Encoding::F32.byte_len(&[usize::MAX / 2]),
            None,
            "overflow in bytes"
        );
        assert_eq!(Encoding::F32.byte_len(&[]), Some(4), "a scalar");
    }
}
