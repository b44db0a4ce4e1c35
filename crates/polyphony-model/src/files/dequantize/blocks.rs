//! Blocks of 32 consecutive values of one row. A block consists of a scale `d` (16-bit float), in the
//! `_1` formats a minimum `m` (16-bit float), and small integers `q`.
//!
//! A value is `d·q + m`, or `d·(q − offset)` in formats without a minimum; in IQ4_NL it is `d` times
//! entry `q` of a fixed table. The low half of byte `j` belongs to value `j`, the high half to value
//! `j + 16`.

use super::floats::half_at;

/// Values in a block.
pub(super) const BLOCK: usize = 32;

/// The multiples of the scale that the 4-bit integers of IQ4_NL and IQ4_XS stand for. They are dense
/// around 0, where most weights are.
const UNEVEN: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

pub(super) fn q4_0(block: &[u8; 18]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    nibbles(block, 2).map(|q| scale * (f32::from(q) - 8.0))
}

pub(super) fn q4_1(block: &[u8; 20]) -> [f32; BLOCK] {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    nibbles(block, 4).map(|q| scale * f32::from(q) + minimum)
}

pub(super) fn q5_0(block: &[u8; 22]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    five_bits(block, 2).map(|q| scale * (f32::from(q) - 16.0))
}

pub(super) fn q5_1(block: &[u8; 24]) -> [f32; BLOCK] {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    five_bits(block, 4).map(|q| scale * f32::from(q) + minimum)
}

pub(super) fn q8_0(block: &[u8; 34]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    std::array::from_fn(|value| scale * f32::from(block[2 + value].cast_signed()))
}

pub(super) fn iq4_nl(block: &[u8; 18]) -> [f32; BLOCK] {
    let scale = half_at(block, 0);
    nibbles(block, 2).map(|q| scale * uneven(q))
}

/// The multiple of the scale that a 4-bit integer of IQ4_NL or IQ4_XS stands for.
pub(super) fn uneven(q: u8) -> f32 {
    f32::from(UNEVEN[usize::from(q & 0x0F)])
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
