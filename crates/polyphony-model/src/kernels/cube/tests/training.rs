//! Values, gradients and launches of the kernels for training, compared with burn's operations on the same device.

use burn::tensor::{DType, Device, Distribution, Tensor};

use super::{device, launches};
use crate::kernels::{
    Activation,
    gated::{gated, gated_in_burn},
    rms_norm::{rms_norm, rms_norm_in_burn},
    rotate::{rotate, rotate_in_burn},
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

#[test]
fn each_kernel_is_one_launch() {
    let (_guard, device) = device();
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
}
