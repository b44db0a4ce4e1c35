//! Decoding attention: one new token per row attends to the row's prompt and response, without
//! intermediate tensors.

use pulp::{Arch, Simd, WithSimd};

use super::for_each_chunk;

/// Keys and values of consecutive tokens for one key head: `[tokens, size]` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvSpan<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// What one row attends to with one key head: the spans of its prompt, then that of its response.
pub(crate) type Context<'a> = Vec<KvSpan<'a>>;

/// Attention of every row and head.
///
/// # Shapes
/// `R` rows, `K` key heads, `H` query heads, `S` head size:
/// - queries `[R, H, S]`, output `[R, H, S]`; `context(r, k)` is the context of row `r` for key head
///   `k`
pub(crate) fn decode_attention<'a>(
    queries: &[f32],
    heads: usize,
    kv_heads: usize,
    size: usize,
    context: impl Fn(usize, usize) -> Context<'a> + Sync,
) -> Vec<f32> {
    let arch = Arch::new();
    let block = heads / kv_heads * size;
    let mut output = vec![0.0; queries.len()];
    for_each_chunk(&mut output, block, |index, output| {
        let context = context(index / kv_heads, index % kv_heads);
        arch.dispatch(Heads {
            queries: &queries[index * block..(index + 1) * block],
            size,
            context,
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
    context: Context<'a>,
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
            context,
            output,
        } = self;
        let scale = (size as f32).sqrt().recip();
        let tokens: usize = context.iter().map(|span| span.keys.len() / size).sum();
        let mut weights = vec![0.0; tokens];
        for (query, output) in queries
            .chunks_exact(size)
            .zip(output.chunks_exact_mut(size))
        {
            let mut max = f32::NEG_INFINITY;
            let mut token = 0;
            for span in &context {
                for key in span.keys.chunks_exact(size) {
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
            for span in &context {
                for value in span.values.chunks_exact(size) {
                    add_scaled(simd, output, weights[token] / total, value);
                    token += 1;
                }
            }
        }
    }
}

/// The scalar product of two vectors of equal length.
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
