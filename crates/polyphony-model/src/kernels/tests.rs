//! Values and gradients of the CPU kernels that training uses, compared with the same formulas in burn's
//! operations.

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData, activation::log_softmax};
use proptest::prelude::*;

use super::packed_attention::packed_attention_in_burn;
use super::{
    Activation, Packing, Segment, gated, packed_attention, project, rms_norm, rotate,
    token_logprobs,
};

/// The rounding error of sums of up to a few hundred products of numbers around 1.
const TOLERANCE: f64 = 2e-4;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let device = Device::flex().autodiff();
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad()
}

#[track_caller]
fn assert_close<const D: usize>(actual: Tensor<D>, expected: Tensor<D>) {
    let gap = (actual.inner() - expected.inner())
        .abs()
        .max()
        .into_scalar::<f32>();
    assert!(f64::from(gap) < TOLERANCE, "differs by {gap}");
}

/// Compares values and the gradients of every input, for one random upstream gradient.
macro_rules! check {
    ($actual:expr, $expected:expr, [$($input:ident),*]) => {{
        let (actual, expected) = ($actual, $expected);
        let upstream = random(actual.dims()).inner();
        assert_close(actual.clone(), expected.clone());
        let gradients = (actual * Tensor::from_inner(upstream.clone())).sum().backward();
        let expected_gradients = (expected * Tensor::from_inner(upstream)).sum().backward();
        $(assert_close(
            $input.grad(&gradients).unwrap(),
            $input.grad(&expected_gradients).unwrap(),
        );)*
    }};
}

/// Sizes large enough for the general matrix product, and not divisible by its blocks.
#[test]
fn projection_of_many_rows() {
    for [rows, inner, outputs] in [[64, 192, 200], [49, 333, 129], [160, 65, 257]] {
        assert!(rows * inner * outputs >= super::project::SMALL);
        let (x, w) = (random([rows, inner]), random([outputs, inner]));
        check!(
            project(x.clone(), w.clone()),
            x.clone().matmul(w.clone().transpose()),
            [x, w]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn projection(rows in 1usize..70, inner in 1usize..40, outputs in 1usize..40) {
        let (x, w) = (random([rows, inner]), random([outputs, inner]));
        check!(project(x.clone(), w.clone()), x.clone().matmul(w.clone().transpose()), [x, w]);
    }

    #[test]
    fn normalization(rows in 1usize..70, width in 1usize..40) {
        let (x, w) = (random([rows, width]), random([width]));
        for offset in [0.0, 1.0] {
            let expected = super::rms_norm::rms_norm_in_burn(x.clone(), w.clone(), 1e-5, offset);
            check!(rms_norm(x.clone(), w.clone(), 1e-5, offset), expected, [x, w]);
        }
    }

    #[test]
    fn gate(rows in 1usize..9, width in 1usize..40) {
        let (a, b) = (random([rows, width]), random([rows, width]));
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let expected = super::gated::gated_in_burn(a.clone(), b.clone(), activation);
            check!(gated(a.clone(), b.clone(), activation), expected, [a, b]);
        }
    }

    /// From one position per chunk to all positions in one chunk.
    #[test]
    fn chunked_head(
        positions in 1usize..30,
        width in 1usize..20,
        vocabulary in 2usize..50,
        chunk_logits in 0usize..400,
        temperature in prop::sample::select(vec![0.7f32, 1.0, 1.6]),
    ) {
        let (hidden, head) = (random([positions, width]), random([vocabulary, width]));
        let ids: Vec<i64> = (0..positions).map(|i| ((i * 31 + 5) % vocabulary) as i64).collect();
        let targets =
            Tensor::<1, Int>::from_data(TensorData::new(ids, [positions]), &hidden.device());
        let logits = hidden.clone().matmul(head.clone().transpose()) / temperature;
        let expected = log_softmax(logits, 1).gather(1, targets.clone().unsqueeze_dim(1));
        let (h, w) = (hidden.clone(), head.clone());
        let actual = token_logprobs(h, w, targets, temperature, chunk_logits);
        check!(actual, expected.squeeze_dim::<1>(1), [hidden, head]);
    }

    #[test]
    fn rotation(tokens in 1usize..40, heads in 1usize..4, half in 1usize..9) {
        let x = random([tokens, heads, 2 * half]);
        let angles = random([tokens, 1, half]).inner();
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let expected = super::rotate::rotate_in_burn(x.clone(), cos.clone(), sin.clone());
        check!(rotate(x.clone(), &cos, &sin), expected, [x]);
    }

    #[test]
    fn attention(
        first in 1usize..9,
        // For each further segment its length, and how many segments back its parent is.
        lengths_and_parents in prop::collection::vec((0usize..7, 1usize..5), 0..7),
        kv_heads in 1usize..4,
        per_group in 1usize..4,
        half in 1usize..5,
        window in prop::option::of(1usize..20),
    ) {
        let mut segments = vec![Segment { tokens: first, parent: None }];
        for (tokens, back) in lengths_and_parents {
            let parent = segments.len().checked_sub(back);
            segments.push(Segment { tokens, parent });
        }
        let tokens = segments.iter().map(|segment| segment.tokens).sum::<usize>();
        let q = random([tokens, kv_heads * per_group, 2 * half]);
        let (k, v) = (random([tokens, kv_heads, 2 * half]), random([tokens, kv_heads, 2 * half]));
        let packing = Packing::new(&segments);
        let (qs, ks, vs) = (q.clone(), k.clone(), v.clone());
        let expected = packed_attention_in_burn(qs.clone(), ks.clone(), vs.clone(), &packing, window);
        check!(packed_attention(qs, ks, vs, &packing, window), expected, [q, k, v]);
    }
}
