//! Values and gradients of the CPU kernels that training uses, compared with the same formulas in burn's
//! operations.

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData, activation::log_softmax};
use proptest::prelude::*;

use super::packed_attention::packed_attention_in_burn;
use super::{
    Activation, Packing, ProjectionOutput, Segment, Weight, WeightFormat, gated, packed_attention,
    project, project_floats, rms_norm, rotate, token_logprobs,
};
use crate::Precision;

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
            project_floats(x.clone(), w.clone()),
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
        check!(project_floats(x.clone(), w.clone()), x.clone().matmul(w.clone().transpose()), [x, w]);
    }

    #[test]
    fn normalization(rows in 1usize..70, width in 1usize..40) {
        let (x, w) = (random([rows, width]), random([width]));
        for offset in [0.0, 1.0] {
            let expected = super::rms_norm::rms_norm_in_burn(x.clone(), w.clone(), 1e-5, offset);
            check!(rms_norm(x.clone(), w.clone(), 1e-5, offset, DType::F32), expected, [x, w]);
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
        let head_weight = Weight { tensor: w, format: WeightFormat::F32 };
        let actual = token_logprobs(h, &head_weight, targets, temperature, chunk_logits);
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

/// The distance of two tensors relative to the length of the expected one.
fn relative_distance<const D: usize>(actual: Tensor<D>, expected: Tensor<D>) -> f32 {
    let length = |tensor: Tensor<D>| tensor.square().sum().sqrt().into_scalar::<f32>();
    let (actual, expected) = (actual.inner(), expected.inner());
    length(actual - expected.clone()) / (length(expected) + 1e-6)
}

/// Rounding to 8 significant bits is off by up to 0.4 %, in the operands and in the result.
const BF16_TOLERANCE: f32 = 0.012;

/// The tensor with rounded values, as the kernels in bfloat16 read it.
fn rounded<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().cast(DType::BF16).cast(DType::F32)
}

/// As [`check!`], for a kernel in bfloat16 and the same formula in 32-bit floats with rounded inputs.
macro_rules! check_bf16 {
    ($actual:expr, $expected:expr, [$($input:ident),*]) => {{
        let (actual, expected) = ($actual.cast(DType::F32), $expected);
        let upstream = random(actual.dims()).inner().cast(DType::BF16).cast(DType::F32);
        let distance = relative_distance(actual.clone(), expected.clone());
        assert!(distance < BF16_TOLERANCE, "the values are off by {distance}");
        let gradients = (actual * Tensor::from_inner(upstream.clone())).sum().backward();
        let expected_gradients = (expected * Tensor::from_inner(upstream)).sum().backward();
        $(
            let distance = relative_distance(
                $input.grad(&gradients).unwrap(),
                $input.grad(&expected_gradients).unwrap(),
            );
            let name = stringify!($input);
            assert!(distance < BF16_TOLERANCE, "the gradient of {name} is off by {distance}");
        )*
    }};
}

fn has_bf16() -> bool {
    Precision::Bf16.check(&Device::flex()).is_ok()
}

/// A weight, packed.
fn packed(weight: &Tensor<2>) -> Weight {
    let mut format = WeightFormat::F32;
    format.prepare(weight.clone(), DType::BF16);
    Weight {
        tensor: weight.clone(),
        format,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn projection_in_bf16(
        rows in 1usize..70, inner in 1usize..70, outputs in 1usize..70, is_rounded: bool,
    ) {
        if !has_bf16() {
            return Ok(());
        }
        let (x, w) = (random([rows, inner]), random([outputs, inner]));
        let (bias, residual) = (random([outputs]), random([rows, outputs]));
        let input = || if is_rounded { x.clone().cast(DType::BF16) } else { x.clone() };
        for form in [ProjectionOutput::ForProducts, ProjectionOutput::Floats, ProjectionOutput::AddedTo(residual.clone())] {
            let plain = rounded(&x).matmul(rounded(&w).transpose()) + bias.clone().unsqueeze();
            let expected = match &form {
                ProjectionOutput::AddedTo(residual) => plain + residual.clone(),
                _ => plain,
            };
            let actual = project(input(), &packed(&w), Some(bias.clone()), form);
            check_bf16!(actual, expected, [x, w, bias]);
        }
        let sum = project(input(), &packed(&w), None, ProjectionOutput::AddedTo(residual.clone()));
        let expected = rounded(&x).matmul(rounded(&w).transpose()) + residual.clone();
        check_bf16!(sum, expected, [x, w, residual]);
    }

    #[test]
    fn elementwise_kernels_in_bf16(rows in 1usize..70, half in 1usize..40) {
        if !has_bf16() {
            return Ok(());
        }
        let width = 2 * half;
        let (a, b, w) = (random([rows, width]), random([rows, width]), random([width]));
        let to_bf16 = |tensor: &Tensor<2>| tensor.clone().cast(DType::BF16);
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let expected = gated(rounded(&a), rounded(&b), activation);
            check_bf16!(gated(to_bf16(&a), to_bf16(&b), activation), expected, [a, b]);
        }
        let norm = |input, output| rms_norm(input, w.clone(), 1e-5, 0.0, output);
        let expected = norm(rounded(&a), DType::F32);
        check_bf16!(norm(a.clone(), DType::BF16), norm(a.clone(), DType::F32), [a, w]);
        check_bf16!(norm(to_bf16(&a), DType::BF16), expected, [a, w]);
        let heads = |tensor: Tensor<2>| tensor.reshape([rows, 1, width]);
        let angles = random([rows, 1, half]).inner();
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let expected = rotate(heads(rounded(&a)), &cos, &sin);
        check_bf16!(rotate(heads(to_bf16(&a)), &cos, &sin), expected, [a]);
    }

    #[test]
    fn attention_in_bf16(
        prompt in 1usize..150,
        responses in prop::collection::vec(0usize..90, 0..4),
        kv_heads in 1usize..4,
        per_group in 1usize..4,
        half in 1usize..20,
        window in prop::option::of(1usize..200),
    ) {
        if !has_bf16() {
            return Ok(());
        }
        let packing = Packing::of_group(prompt, &responses);
        let tokens = prompt + responses.iter().sum::<usize>();
        let q = random([tokens, kv_heads * per_group, 2 * half]);
        let (k, v) = (random([tokens, kv_heads, 2 * half]), random([tokens, kv_heads, 2 * half]));
        let [qs, ks, vs] = [&q, &k, &v].map(rounded);
        let expected = packed_attention_in_burn(qs, ks, vs, &packing, window);
        let [qs, ks, vs] = [&q, &k, &v].map(|tensor| tensor.clone().cast(DType::BF16));
        check_bf16!(packed_attention(qs, ks, vs, &packing, window), expected, [q, k, v]);
    }

    #[test]
    fn log_probabilities_in_bf16(
        positions in 1usize..30,
        width in 1usize..40,
        vocabulary in 2usize..400,
        temperature in prop::sample::select(vec![0.7f32, 1.0, 1.6]),
    ) {
        if !has_bf16() {
            return Ok(());
        }
        let (hidden, head) = (random([positions, width]), random([vocabulary, width]));
        let ids: Vec<i64> = (0..positions).map(|i| ((i * 31 + 5) % vocabulary) as i64).collect();
        let targets = || {
            let data = TensorData::new(ids.clone(), [positions]);
            Tensor::<1, Int>::from_data(data, &hidden.device())
        };
        let plain = Weight { tensor: rounded(&head), format: WeightFormat::F32 };
        let expected = token_logprobs(rounded(&hidden), &plain, targets(), temperature, 1 << 20);
        let actual = token_logprobs(hidden.clone(), &packed(&head), targets(), temperature, 1);
        check_bf16!(actual, expected, [hidden, head]);
    }
}

/// Products with many rows use rayon, whose threads may be waiting in a team.
#[test]
fn products_in_a_team_are_the_same_with_any_number_of_threads() {
    let number = |index: usize| ((index * 7919) % 1013) as f32 / 506.5 - 1.0;
    let matrix = |rows: usize, columns: usize| {
        let values: Vec<f32> = (0..rows * columns).map(number).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
    };
    for rows in [3, 64] {
        let run = |threads| {
            let product = || {
                let weight = matrix(300, 200);
                let once = super::project_floats(matrix(rows, 200), weight.clone());
                let twice = super::project_floats(once.clone().narrow(1, 0, 200), weight);
                (once + twice).into_data().try_into_vec::<f32>().unwrap()
            };
            super::thread_pool(threads).install(|| super::with_team(product))
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }
}
