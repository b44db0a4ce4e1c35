//! From stored numbers to `f32`: plain floats and the block formats of GGUF.
//!
//! A block of the formats below holds 32 consecutive values of one row: a scale `d` (16-bit float),
//! in the `_1` formats a minimum `m` (16-bit float), and small integers `q`. A value is `d·q + m`,
//! or `d·(q − offset)` where there is no minimum. Bytes are little-endian; the low half of byte `j`
//! belongs to value `j`, the high half to value `j + 16`.
//!
//! Source: `ggml-quants.c` of llama.cpp and `gguf/quants.py` of the `gguf` Python package, whose
//! results these functions equal bit for bit.

use half::{bf16, f16};

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
}

/// Values in a block of a quantized format.
const BLOCK: usize = 32;

impl Encoding {
    /// Values that are stored together.
    pub(crate) const fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
        }
    }

    /// Bytes that one block takes.
    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q5_0 => 2 + 4 + BLOCK / 2,
            Self::Q5_1 => 4 + 4 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
        }
    }

    /// Bytes that a tensor of this shape takes; `None` where the last dimension is not whole
    /// blocks or the size overflows.
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

    /// The values stored in `bytes`, which are whole blocks.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => decode_blocks(bytes, |block: &[u8; 4]| [f32::from_le_bytes(*block)]),
            Self::F16 => decode_blocks(bytes, |block: &[u8; 2]| [half_at(block, 0)]),
            Self::Bf16 => decode_blocks(bytes, |block: &[u8; 2]| {
                [bf16::from_le_bytes(*block).to_f32()]
            }),
            Self::Q4_0 => decode_blocks(bytes, q4_0),
            Self::Q4_1 => decode_blocks(bytes, q4_1),
            Self::Q5_0 => decode_blocks(bytes, q5_0),
            Self::Q5_1 => decode_blocks(bytes, q5_1),
            Self::Q8_0 => decode_blocks(bytes, q8_0),
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

/// The 16-bit float at a byte offset.
fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// The 4-bit integers of a block whose 16 packed bytes start at `offset`.
fn nibbles(block: &[u8], offset: usize) -> [u8; BLOCK] {
    std::array::from_fn(|value| match value.checked_sub(BLOCK / 2) {
        None => block[offset + value] & 0x0F,
        Some(byte) => block[offset + byte] >> 4,
    })
}

/// The 5-bit integers of a block: 32 high bits at `offset`, then the packed low halves.
fn five_bits(block: &[u8], offset: usize) -> [u8; BLOCK] {
    let mut values = nibbles(block, offset + 4);
    for (index, value) in values.iter_mut().enumerate() {
        let high = (block[offset + index / 8] >> (index % 8)) & 1;
        *value |= high << 4;
    }
    values
}

fn q4_0(block: &[u8; 18]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    nibbles(block, 2).map(|q| scale * (f32::from(q) - 8.0))
}

fn q4_1(block: &[u8; 20]) -> [f32; BLOCK] {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    nibbles(block, 4).map(|q| scale * f32::from(q) + minimum)
}

fn q5_0(block: &[u8; 22]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    five_bits(block, 2).map(|q| scale * (f32::from(q) - 16.0))
}

fn q5_1(block: &[u8; 24]) -> [f32; BLOCK] {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    five_bits(block, 4).map(|q| scale * f32::from(q) + minimum)
}

fn q8_0(block: &[u8; 34]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    std::array::from_fn(|value| scale * f32::from(block[2 + value].cast_signed()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Random blocks of every type and what the `gguf` Python package makes of them
    /// (`fixtures/dequantize/README.md`).
    #[test]
    fn equals_the_gguf_package_bit_for_bit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dequantize");
        for (name, encoding) in [
            ("F32", Encoding::F32),
            ("F16", Encoding::F16),
            ("BF16", Encoding::Bf16),
            ("Q4_0", Encoding::Q4_0),
            ("Q4_1", Encoding::Q4_1),
            ("Q5_0", Encoding::Q5_0),
            ("Q5_1", Encoding::Q5_1),
            ("Q8_0", Encoding::Q8_0),
        ] {
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
    fn sizes_that_cannot_be_are_refused() {
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
