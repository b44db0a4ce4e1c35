//! Super-blocks of 256 consecutive values of one row. A super-block has a scale `d` (16-bit float),
//! and in some formats a scale `m` for minima. It is divided into parts of 16 or 32 values, each with
//! a small integer scale `s` and, in the formats with `m`, a minimum `t`.
//!
//! A value is `(d·s)·q − (m·t)`, or `(d·s)·(q − offset)` in formats without minima. In IQ4_XS, it is `d·s`
//! times entry `q` of a fixed table. In Q8_K, which has no parts and a 32-bit `d`, it is `d·q`. The products
//! are rounded in this order.

use super::blocks::uneven;
use super::floats::half_at;

/// Values in a super-block.
pub(super) const SUPER_BLOCK: usize = 256;

/// Layout: scales (low halves) and minima (high halves) of 16 parts, `q` of 2 bits, `d`, `m`.
pub(super) fn q2_k(block: &[u8; 84]) -> [f32; SUPER_BLOCK] {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    std::array::from_fn(|value| {
        let part = block[value / 16];
        let minimum = minimum * f32::from(part >> 4);
        scale * f32::from(part & 0x0F) * f32::from(two_bits(block, 16, value)) - minimum
    })
}

/// Layout: the third bits of `q`, the other two bits, 16 scales of 6 bits, `d`. A third bit that is
/// *not* set subtracts 4.
pub(super) fn q3_k(block: &[u8; 110]) -> [f32; SUPER_BLOCK] {
    let scale = half_at(block, 108);
    let part_scale = |part: usize| {
        let low = (block[96 + part % 8] >> (4 * (part / 8))) & 0x0F;
        let high = (block[104 + part % 4] >> (2 * (part / 4))) & 0x03;
        f32::from(low | high << 4) - 32.0
    };
    std::array::from_fn(|value| {
        let q = two_bits(block, 32, value) | one_bit(block, 0, value) << 2;
        scale * part_scale(value / 16) * (f32::from(q) - 4.0)
    })
}

/// Layout: `d`, `m`, scales and minima of 8 parts, `q` of 4 bits.
pub(super) fn q4_k(block: &[u8; 144]) -> [f32; SUPER_BLOCK] {
    scaled_and_shifted(block, |value| nibble(block, 16, 32, value))
}

/// Layout: `d`, `m`, scales and minima of 8 parts, the fifth bits of `q`, the other four bits.
pub(super) fn q5_k(block: &[u8; 176]) -> [f32; SUPER_BLOCK] {
    scaled_and_shifted(block, |value| {
        nibble(block, 48, 32, value) | one_bit(block, 16, value) << 4
    })
}

/// Layout: the low 4 bits of `q`, the high 2 bits, signed scales of 16 parts, `d`.
pub(super) fn q6_k(block: &[u8; 210]) -> [f32; SUPER_BLOCK] {
    let scale = half_at(block, 208);
    std::array::from_fn(|value| {
        let part_scale = f32::from(block[192 + value / 16].cast_signed());
        let q = nibble(block, 0, 64, value) | two_bits(block, 128, value) << 4;
        scale * part_scale * (f32::from(q) - 32.0)
    })
}

/// Layout: `d` (32-bit float), `q` of 8 bits, and sums of 16 values each, which only products need.
pub(super) fn q8_k(block: &[u8; 292]) -> [f32; SUPER_BLOCK] {
    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    std::array::from_fn(|value| scale * f32::from(block[4 + value].cast_signed()))
}

/// Layout: `d`, the high 2 bits of the scales of 8 parts, their low 4 bits, `q` of 4 bits, which are
/// indices into the uneven table.
pub(super) fn iq4_xs(block: &[u8; 136]) -> [f32; SUPER_BLOCK] {
    let scale = half_at(block, 0);
    let part_scale = |part: usize| {
        let low = (block[4 + part / 2] >> (4 * (part % 2))) & 0x0F;
        let high = (block[2 + part / 4] >> (2 * (part % 4))) & 0x03;
        f32::from(low | high << 4) - 32.0
    };
    std::array::from_fn(|value| {
        scale * part_scale(value / 32) * uneven(nibble(block, 8, 16, value))
    })
}

/// The values of Q4_K and Q5_K, given their integers. The scales and minima of the first four parts
/// are the low 6 bits of bytes 4 to 11. Those of the last four parts have their low 4 bits in bytes 12
/// to 15, and their high 2 bits are the high bits of bytes 4 to 11.
fn scaled_and_shifted(block: &[u8], q: impl Fn(usize) -> u8) -> [f32; SUPER_BLOCK] {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let six_bits = |part: usize, first: usize, shift: u32| match part.checked_sub(4) {
        None => block[first + part] & 0x3F,
        Some(part) => (block[12 + part] >> shift) & 0x0F | block[first + part] >> 6 << 4,
    };
    std::array::from_fn(|value| {
        let part = value / 32;
        let minimum = minimum * f32::from(six_bits(part, 8, 4));
        scale * f32::from(six_bits(part, 4, 0)) * f32::from(q(value)) - minimum
    })
}

/// Bit `value / 32` of byte `value % 32`.
fn one_bit(block: &[u8], offset: usize, value: usize) -> u8 {
    (block[offset + value % 32] >> (value / 32)) & 0x01
}

/// Two bits of a value. 32 bytes hold 128 values: their lowest two bits belong to the first 32 values,
/// the next two bits to the next 32, and so on.
fn two_bits(block: &[u8], offset: usize, value: usize) -> u8 {
    let byte = block[offset + value / 128 * 32 + value % 32];
    (byte >> (2 * (value % 128 / 32))) & 0x03
}

/// Four bits of a value. `width` bytes hold `2 * width` values: their low halves belong to the first
/// `width` values, their high halves to the others.
fn nibble(block: &[u8], offset: usize, width: usize, value: usize) -> u8 {
    let byte = block[offset + value / (2 * width) * width + value % width];
    (byte >> (4 * (value % (2 * width) / width))) & 0x0F
}
