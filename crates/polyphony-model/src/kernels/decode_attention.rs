//! Attention of one new token a row over its prompt and its own tokens, without intermediate
//! tensors.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Keys and values of one stretch of tokens for one key head: `[tokens, size]` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// What one row sees through one key head: the stretches of its prompt, then its own tokens.
pub(crate) type Seen<'a> = Vec<Stretch<'a>>;

/// Attention of every row and head.
///
/// # Shapes
/// `R` rows, `K` key heads, `H` query heads, `S` head size:
/// - queries `[R, H, S]`, output `[R, H, S]`; `seen` gives what row `r` sees through key head `k`
pub(crate) fn decode_attention<'a>(
    queries: &[f32],
    heads: usize,
    kv_heads: usize,
    size: usize,
    seen: impl Fn(usize, usize) -> Seen<'a> + Sync,
) -> Vec<f32> {
    let arch = Arch::new();
    let block = heads / kv_heads * size;
    let mut output = vec![0.0; queries.len()];
    output
        .par_chunks_mut(block)
        .zip(queries.par_chunks(block))
        .enumerate()
        .for_each(|(index, (output, queries))| {
            let seen = seen(index / kv_heads, index % kv_heads);
            arch.dispatch(Heads {
                queries,
                size,
                seen,
                output,
            });
        });
    output
}

/// The heads of one row that share one key head.
struct Heads<'a> {
    /// `[heads, size]`.
    queries: &'a [f32],
    size: usize,
    seen: Seen<'a>,
    /// `[heads, size]`.
    output: &'a mut [f32],
}

impl WithSimd for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            queries,
            size,
            seen,
            output,
        } = self;
        let scale = (size as f32).sqrt().recip();
        let tokens: usize = seen.iter().map(|stretch| stretch.keys.len() / size).sum();
        let mut weights = vec![0.0; tokens];
        for (query, output) in queries
            .chunks_exact(size)
            .zip(output.chunks_exact_mut(size))
        {
            let mut max = f32::NEG_INFINITY;
            let mut token = 0;
            for stretch in &seen {
                for key in stretch.keys.chunks_exact(size) {
                    let score = dot(simd, query, key) * scale;
                    weights[token] = score;
                    max = max.max(score);
                    token += 1;
                }
            }
            let mut total = 0.0;
            for weight in &mut weights {
                *weight = (*weight - max).exp();
                total += *weight;
            }
            output.fill(0.0);
            let mut token = 0;
            for stretch in &seen {
                for value in stretch.values.chunks_exact(size) {
                    add_scaled(simd, output, weights[token] / total, value);
                    token += 1;
                }
            }
        }
    }
}

/// The scalar product of two vectors of one length.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.mul_f32s(
        simd.partial_load_f32s(a_rest),
        simd.partial_load_f32s(b_rest),
    );
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_f32s(*a, *b, sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// `sum ← sum + factor · vector`.
#[inline(always)]
fn add_scaled<S: Simd>(simd: S, sum: &mut [f32], factor: f32, vector: &[f32]) {
    let (sum, sum_rest) = S::as_mut_simd_f32s(sum);
    let (vector, vector_rest) = S::as_simd_f32s(vector);
    let factors = simd.splat_f32s(factor);
    for (sum, value) in sum.iter_mut().zip(vector) {
        *sum = simd.mul_add_f32s(factors, *value, *sum);
    }
    for (sum, value) in sum_rest.iter_mut().zip(vector_rest) {
        *sum += factor * value;
    }
}
