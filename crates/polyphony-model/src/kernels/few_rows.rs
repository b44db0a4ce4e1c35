//! The product of a few rows with a large weight, which every decoding pass needs.
//!
//! Decoding is bound by reading weights, so each weight is read from memory once for all rows.
//! Every output is summed in one fixed order, whatever the number of rows. A row's result is
//! therefore the same in any batch, to the last bit.

use pulp::{Arch, Simd, WithSimd};

use super::for_each_chunk;

/// With more rows than this a general matrix product is faster.
pub(crate) const MAX_ROWS: usize = 48;

/// An input of at most this many numbers, 20 KiB, stays in the first-level cache. Weight rows are then
/// processed one by one in memory order, which is the fastest way to read them.
const SMALL_INPUT: usize = 5 << 10;

/// Weight rows processed together if the input is larger, so that each loaded part of the input serves
/// all of them.
const TILE: usize = 4;

/// Numbers of the weight that a thread takes at once: enough to hide the cost of handing over work,
/// few enough to balance the load.
const CHUNK_WEIGHTS: usize = 1 << 16;

/// The product of `input`, `[rows, inner]`, with `weight`, `[outputs, inner]`: `[rows, outputs]`.
pub(crate) fn project_few_rows(input: &[f32], weight: &[f32], inner: usize) -> Vec<f32> {
    let (rows, outputs) = (input.len() / inner, weight.len() / inner);
    let arch = Arch::new();
    // Computed as `[outputs, rows]`, in which threads own contiguous ranges, and transposed at the end.
    let mut transposed = vec![0.0; outputs * rows];
    let per_chunk = (CHUNK_WEIGHTS / inner).next_multiple_of(TILE).max(TILE);
    for_each_chunk(&mut transposed, per_chunk * rows, |index, output| {
        let start = index * per_chunk * inner;
        let chunk = Chunk {
            input,
            weight: &weight[start..start + output.len() / rows * inner],
            inner,
            output,
        };
        match input.len() <= SMALL_INPUT {
            true => arch.dispatch(Tiled::<1>(chunk)),
            false => arch.dispatch(Tiled::<TILE>(chunk)),
        }
    });
    let mut output = vec![0.0; rows * outputs];
    for (index, column) in transposed.chunks_exact(rows).enumerate() {
        for (row, value) in column.iter().enumerate() {
            output[row * outputs + index] = *value;
        }
    }
    output
}

/// The part of a product that one thread computes.
struct Chunk<'a> {
    input: &'a [f32],
    weight: &'a [f32],
    inner: usize,
    /// `[outputs, rows]`.
    output: &'a mut [f32],
}

/// A part that is computed with `N` weight rows at once.
struct Tiled<'a, const N: usize>(Chunk<'a>);

impl<const N: usize> WithSimd for Tiled<'_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Chunk {
            input,
            weight,
            inner,
            output,
        } = self.0;
        let rows = input.len() / inner;
        let tiles = weight.chunks(N * inner).zip(output.chunks_mut(N * rows));
        for (weight, output) in tiles {
            let mut weights = [weight; N];
            for (index, weight) in weights.iter_mut().enumerate() {
                // A last, partial tile computes its last weight row again and drops the result.
                let start = (index * inner).min(weight.len() - inner);
                *weight = &weight[start..start + inner];
            }
            let mut row = 0;
            while row < rows {
                let input = &input[row * inner..];
                let output = &mut output[row..];
                row += match (N, rows - row) {
                    (_, 1) => block::<S, 1, N>(simd, input, weights, rows, output),
                    (_, 2) => block::<S, 2, N>(simd, input, weights, rows, output),
                    (_, 3) => block::<S, 3, N>(simd, input, weights, rows, output),
                    (1, 5) => block::<S, 5, N>(simd, input, weights, rows, output),
                    (1, 6) => block::<S, 6, N>(simd, input, weights, rows, output),
                    (1, 7) => block::<S, 7, N>(simd, input, weights, rows, output),
                    (1, 8..) => block::<S, 8, N>(simd, input, weights, rows, output),
                    _ => block::<S, 4, N>(simd, input, weights, rows, output),
                };
            }
        }
    }
}

/// `N` weight rows times the first `ROWS` rows of `input`; returns `ROWS`. The outputs of two weight
/// rows are `stride` apart.
#[inline(always)]
fn block<S: Simd, const ROWS: usize, const N: usize>(
    simd: S,
    input: &[f32],
    weights: [&[f32]; N],
    stride: usize,
    output: &mut [f32],
) -> usize {
    let inner = weights[0].len();
    let mut x: [(&[S::f32s], &[f32]); ROWS] = [(&[], &[]); ROWS];
    for (row, x) in x.iter_mut().enumerate() {
        *x = S::as_simd_f32s(&input[row * inner..(row + 1) * inner]);
    }
    let mut w: [(&[S::f32s], &[f32]); N] = [(&[], &[]); N];
    for (weight, w) in weights.iter().zip(&mut w) {
        *w = S::as_simd_f32s(weight);
    }
    let mut sums = [[simd.splat_f32s(0.0); ROWS]; N];
    for lane in 0..w[0].0.len() {
        for tile in 0..N {
            for row in 0..ROWS {
                sums[tile][row] =
                    simd.mul_add_f32s(w[tile].0[lane], x[row].0[lane], sums[tile][row]);
            }
        }
    }
    for tile in 0..N {
        let w_rest = simd.partial_load_f32s(w[tile].1);
        for row in 0..ROWS {
            let x_rest = simd.partial_load_f32s(x[row].1);
            let sum = simd.mul_add_f32s(w_rest, x_rest, sums[tile][row]);
            if let Some(slot) = output.get_mut(tile * stride + row) {
                *slot = simd.reduce_sum_f32s(sum);
            }
        }
    }
    ROWS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(input: &[f32], weight: &[f32], inner: usize) -> Vec<f64> {
        let mut output = Vec::new();
        for row in input.chunks_exact(inner) {
            for weight in weight.chunks_exact(inner) {
                output.push(
                    row.iter()
                        .zip(weight)
                        .map(|(a, b)| f64::from(*a) * f64::from(*b))
                        .sum(),
                );
            }
        }
        output
    }

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 + salt * 104_729) % 1013) as f32 / 506.5 - 1.0)
            .collect()
    }

    proptest! {
        #[test]
        fn equals_the_plain_product(rows in 1usize..20, outputs in 1usize..40, inner in 1usize..600) {
            let (input, weight) = (numbers(rows * inner, 1), numbers(outputs * inner, 2));
            let product = project_few_rows(&input, &weight, inner);
            for (actual, expected) in product.iter().zip(reference(&input, &weight, inner)) {
                prop_assert!(
                    (f64::from(*actual) - expected).abs() < 1e-4,
                    "{actual} is not {expected}"
                );
            }
        }

        #[test]
        fn a_row_is_the_same_to_the_last_bit_in_any_batch(
            rows in 2usize..20, outputs in 1usize..40, inner in 1usize..600,
        ) {
            let (input, weight) = (numbers(rows * inner, 3), numbers(outputs * inner, 4));
            let together = project_few_rows(&input, &weight, inner);
            for row in 0..rows {
                let alone = project_few_rows(&input[row * inner..][..inner], &weight, inner);
                prop_assert_eq!(&together[row * outputs..][..outputs], &alone[..]);
            }
        }
    }
}
