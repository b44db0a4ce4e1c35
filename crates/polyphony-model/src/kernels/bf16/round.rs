//! Conversions between 32-bit floats and bfloat16, in a form that compilers turn into vector code.

use half::bf16;

use crate::kernels::vectorized;

/// The nearest bfloat16; of two equally near ones the even one. NaN stays NaN.
#[inline(always)]
pub(crate) fn round(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { nan } else { rounded } as u16)
}

/// Rounds as many numbers as `rounded` has room for.
pub(crate) fn round_all(values: &[f32], rounded: &mut [bf16]) {
    vectorized(
        #[inline(always)]
        || {
            for (slot, value) in rounded.iter_mut().zip(values) {
                *slot = round(*value);
            }
        },
    );
}

/// The same number as a 32-bit float.
#[inline(always)]
pub(crate) fn widen(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}
