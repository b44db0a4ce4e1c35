//! Unquantized floats, and the 16-bit scales of blocks.

use half::{bf16, f16};

pub(super) fn f32(bytes: &[u8; 4]) -> [f32; 1] {
    [f32::from_le_bytes(*bytes)]
}

pub(super) fn f16(bytes: &[u8; 2]) -> [f32; 1] {
    [half_at(bytes, 0)]
}

pub(super) fn bf16(bytes: &[u8; 2]) -> [f32; 1] {
    [bf16::from_le_bytes(*bytes).to_f32()]
}

/// The 16-bit float at a byte offset.
pub(super) fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}
