//! Values, gradients and launches of the kernels for training, compared with burn's operations on the same device.

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData, activation::log_softmax};
use proptest::prelude::*;

use super::{cases, device, device_alone, launches};
use crate::kernels::{
    Activation, Packing, Segment, Weight, WeightFormat,
    gated::{gated, gated_in_burn},
    packed_attention,
    packed_attention::packed_attention_in_burn,
    rms_norm::{rms_norm, rms_norm_in_burn},
    rotate::{rotate, rotate_in_burn},
    token_logprobs,
};

/// A shader's root, exponential and division may each be off by some units in the last place.
const TOLERANCE: f32 = 1e-4;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    plain(shape, device).require_grad()
}

/// As [`random`], on a device without differentiation.
fn plain<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// The middle of the rows of a wider matrix, with gaps between them.
fn with_gaps(wide: &Tensor<2>) -> Tensor<2> {
    let width = wide.dims()[1] - 3;
    wide.clone().narrow(1, 2, width)
}

#[track_caller]
fn assert_close<const D: usize>(actual: Tensor<D>, expected: Tensor<D>) {
    let gap = (actual.inner() - expected.inner()).abs().max();
    let gap = gap.into_scalar::<f32>();
    assert!(gap < TOLERANCE, "differs by {gap}");
}

/// Compares values and the gradients of every input, for one random upstream gradient.
macro_rules! check {
    ($actual:expr, $expected:expr, [$($input:ident),*]) => {{
        let (actual, expected) = ($actual, $expected);
        let upstream = random(actual.dims(), &actual.device()).inner();
        assert_close(actual.clone(), expected.clone());
        let gradients = (actual * Tensor::from_inner(upstream.clone())).sum().backward();
        let expected_gradients = (expected * Tensor::from_inner(upstream)).sum().backward();
        $(assert_close(
            $input.grad(&gradients).unwrap(),
            $input.grad(&expected_gradients).unwrap(),
        );)*
    }};
}

#[test]
fn normalization() {
    let (_guard, device) = device();
    // One row; a width that is no multiple of the units; more rows than cubes of the backward pass.
    for [rows, width] in [[1, 64], [7, 200], [300, 33]] {
        let (wide, weight) = (random([rows, width + 3], &device), random([width], &device));
        for offset in [0.0, 1.0] {
            check!(
                rms_norm(with_gaps(&wide), weight.clone(), 1e-5, offset, DType::F32),
                rms_norm_in_burn(with_gaps(&wide), weight.clone(), 1e-5, offset),
                [wide, weight]
            );
        }
    }
}

#[test]
fn more_rows_than_cubes_are_taken_in_turns() {
    let (_guard, device) = device();
    let rows = crate::kernels::cube::MOST_CUBES + 5;
    let (x, w) = (random([rows, 2], &device), random([2], &device));
    let expected = rms_norm_in_burn(x.clone(), w.clone(), 1e-5, 0.0);
    assert_close(rms_norm(x, w, 1e-5, 0.0, DType::F32), expected);
}

#[test]
fn gate() {
    let (_guard, device) = device();
    for [rows, width] in [[1, 5], [9, 300]] {
        let (a, b) = (
            random([rows, width + 3], &device),
            random([rows, width + 3], &device),
        );
        for activation in [Activation::Silu, Activation::GeluTanh] {
            check!(
                gated(with_gaps(&a), with_gaps(&b), activation),
                gated_in_burn(with_gaps(&a), with_gaps(&b), activation),
                [a, b]
            );
        }
    }
    // Far from zero, where exponentials overflow.
    let far = Tensor::<2>::from_data([[-300.0, 300.0]], &device);
    let values = gated(far.clone(), far.ones_like(), Activation::Silu).into_data();
    let values = values.try_into_vec::<f32>().unwrap();
    assert!(values[0].abs() < 1e-6, "{values:?}");
    assert_eq!(values[1], 300.0);
}

#[test]
fn rotation() {
    let (_guard, device) = device();
    for [tokens, heads, half] in [[1, 1, 1], [5, 3, 4], [70, 2, 32]] {
        let x = random([tokens, heads, 2 * half], &device);
        let angles = random([tokens, 1, half], &device).inner();
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let [cos, sin] = [cos, sin].map(Tensor::from_inner);
        let expected = rotate_in_burn(x.clone(), cos.clone(), sin.clone());
        check!(rotate(x.clone(), &cos, &sin), expected, [x]);
    }
}

/// Queries, keys and values whose memory is not in the order of their axes.
fn attention_inputs(
    tokens: usize,
    [kv_heads, per_group, size]: [usize; 3],
    device: &Device,
) -> [Tensor<3>; 3] {
    [kv_heads * per_group, kv_heads, kv_heads].map(|heads| random([heads, tokens, size], device))
}

fn check_attention(packing: &Packing, tokens: usize, sizes: [usize; 3], window: Option<usize>) {
    let (_guard, device) = device();
    let [q, k, v] = attention_inputs(tokens, sizes, &device);
    let swapped = || [&q, &k, &v].map(|heads| heads.clone().swap_dims(0, 1));
    let [qs, ks, vs] = swapped();
    let expected = packed_attention_in_burn(qs, ks, vs, packing, window);
    let [qs, ks, vs] = swapped();
    check!(
        packed_attention(qs, ks, vs, packing, window),
        expected,
        [q, k, v]
    );
}

/// Several tiles per segment; heads of one chunk, of several, and not divisible by one.
#[test]
fn attention_of_a_group() {
    for (prompt, responses, sizes, window) in [
        (70, vec![33, 1, 64], [2, 3, 64], None),
        (5, vec![40, 40], [1, 1, 80], None),
        (100, vec![70, 3], [1, 2, 16], Some(37)),
        (33, vec![31], [1, 2, 256], Some(1)),
    ] {
        let tokens = prompt + responses.iter().sum::<usize>();
        check_attention(
            &Packing::of_group(prompt, &responses),
            tokens,
            sizes,
            window,
        );
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn attention_over_a_tree(
        first in 1usize..50,
        // For each further segment its length, and how many segments back its parent is.
        lengths_and_parents in prop::collection::vec((0usize..40, 1usize..5), 0..7),
        kv_heads in 1usize..4,
        per_group in 1usize..4,
        // Each size is another kernel that must be compiled.
        size in prop_oneof![Just(2usize), Just(42)],
        window in prop::option::of(1usize..90),
    ) {
        let mut segments = vec![Segment { tokens: first, parent: None }];
        for (tokens, back) in lengths_and_parents {
            let parent = segments.len().checked_sub(back);
            segments.push(Segment { tokens, parent });
        }
        let tokens = segments.iter().map(|segment| segment.tokens).sum::<usize>();
        let sizes = [kv_heads, per_group, size];
        check_attention(&Packing::new(&segments), tokens, sizes, window);
    }
}

#[test]
fn log_probabilities() {
    let (_guard, device) = device();
    for (positions, width, vocabulary, temperature) in [(1, 4, 3, 1.0), (9, 20, 700, 0.7)] {
        let (hidden, head) = (
            random([positions, width], &device),
            random([vocabulary, width], &device),
        );
        let ids: Vec<i64> = (0..positions)
            .map(|i| ((i * 31 + 5) % vocabulary) as i64)
            .collect();
        let targets =
            || Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [positions]), &device);
        let logits = hidden.clone().matmul(head.clone().transpose()) / temperature;
        let expected = log_softmax(logits, 1)
            .gather(1, targets().unsqueeze_dim(1))
            .squeeze_dim::<1>(1);
        let weight = Weight {
            tensor: head.clone(),
            format: WeightFormat::F32,
        };
        // Two positions are computed at once.
        let chunk = 2 * vocabulary;
        let actual = token_logprobs(hidden.clone(), &weight, targets(), temperature, chunk);
        check!(actual, expected, [hidden, head]);
    }
}

/// How far a result in half precision may be off, relative to the length of the whole.
const HALF_TOLERANCE: f32 = 3e-3;

#[track_caller]
fn assert_close_in_half<const D: usize>(actual: Tensor<D>, expected: Tensor<D>) {
    let length = |tensor: Tensor<D>| tensor.square().sum().sqrt().into_scalar::<f32>();
    let expected = expected.inner();
    let gap = length(actual.inner().cast(DType::F32) - expected.clone()) / length(expected);
    assert!(gap < HALF_TOLERANCE, "differs by {gap}");
}

/// As [`check!`], for a kernel that reads and writes half precision. The formula gets the same numbers in 32 bits.
macro_rules! check_half {
    ($actual:expr, $expected:expr, [$($input:ident),*]) => {{
        let (actual, expected) = ($actual, $expected);
        let upstream = random(actual.dims(), &actual.device()).inner().cast(DType::F16);
        assert_close_in_half(actual.clone(), expected.clone());
        let gradients = (actual * Tensor::from_inner(upstream.clone())).sum().backward();
        let upstream = Tensor::from_inner(upstream.cast(DType::F32));
        let expected_gradients = (expected * upstream).sum().backward();
        $(assert_close_in_half(
            $input.grad(&gradients).unwrap(),
            $input.grad(&expected_gradients).unwrap(),
        );)*
    }};
}

/// Half precision stands for bfloat16, which the software driver does not have: both go the same way through the code.
#[test]
fn half_precision() {
    let (_guard, device) = device();
    let half = |tensor: &Tensor<2>| tensor.clone().cast(DType::F16);
    let rounded = |tensor: &Tensor<2>| half(tensor).cast(DType::F32);
    let (a, b) = (random([40, 64], &device), random([40, 64], &device));
    let weight = random([64], &device);
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let expected = gated_in_burn(rounded(&a), rounded(&b), activation);
        check_half!(gated(half(&a), half(&b), activation), expected, [a, b]);
    }
    let norm = |input| rms_norm(input, weight.clone(), 1e-5, 1.0, DType::F16);
    let expected = |input| rms_norm_in_burn(input, weight.clone(), 1e-5, 1.0);
    check_half!(norm(a.clone()), expected(a.clone()), [a, weight]);
    check_half!(norm(half(&a)), expected(rounded(&a)), [a, weight]);
    let heads = |tensor: Tensor<2>| tensor.reshape([40, 2, 32]);
    let angles = random([40, 1, 16], &device).inner();
    let (cos, sin) = (angles.clone().cos(), angles.sin());
    let [cos, sin] = [cos, sin].map(Tensor::from_inner);
    let expected = rotate_in_burn(heads(rounded(&a)), cos.clone(), sin.clone());
    check_half!(rotate(heads(half(&a)), &cos, &sin), expected, [a]);
    let packing = Packing::of_group(33, &[4, 3]);
    let [q, k] = [&a, &b];
    let expected = packed_attention_in_burn(
        heads(rounded(q)),
        heads(rounded(k)),
        heads(rounded(k)),
        &packing,
        None,
    );
    let actual = packed_attention(
        heads(half(q)),
        heads(half(k)),
        heads(half(k)),
        &packing,
        None,
    );
    check_half!(actual, expected, [a, b]);
}

#[test]
fn each_kernel_is_one_launch() {
    let (_guard, device) = device_alone();
    let device = device.inner();
    let [a, b] = [(); 2].map(|()| plain([6, 64], &device));
    let (w, heads) = (plain([64], &device), plain([6, 2, 32], &device));
    let table = plain([6, 1, 16], &device);
    let count = |work: &dyn Fn()| launches(work).0;
    assert_eq!(
        count(&|| drop(rms_norm(a.clone(), w.clone(), 1e-5, 0.0, DType::F32))),
        1
    );
    assert_eq!(
        count(&|| drop(gated(a.clone(), b.clone(), Activation::Silu))),
        1
    );
    assert_eq!(count(&|| drop(rotate(heads.clone(), &table, &table))), 1);
    let packing = Packing::of_group(4, &[1, 1]);
    let attend = || packed_attention(heads.clone(), heads.clone(), heads.clone(), &packing, None);
    assert_eq!(count(&|| drop(attend())), 1);
}
