//! Log-probabilities of target tokens from logits, and the gradient of the logits, each in one launch that reads the
//! logits once or twice.

use burn::{
    backend::{
        Cube,
        ops::IntTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{IntDType, Shape},
};
use burn_cubecl::kernel::into_contiguous;
use cubecl::prelude::*;

use super::{super::token_logprobs::TokenLogprobs, CubeTensor, cube_max, cube_sum, cubes, empty};

/// Units that share a row of logits. A vocabulary is long and rows are few, so they are more than in other kernels.
const ROW_UNITS: usize = 512;

impl TokenLogprobs for Cube {
    fn target_logprobs(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        let (logits, targets) = (into_contiguous(logits), ids(targets));
        let [rows, vocabulary] = logits.meta.shape().dims();
        let logprobs = empty(&logits, Shape::new([rows]));
        target_logprobs::launch(
            &logits.client.clone(),
            cubes(rows),
            CubeDim::new_1d(ROW_UNITS as u32),
            logits.into_buffer_arg(),
            targets.into_buffer_arg(),
            logprobs.clone().into_buffer_arg(),
            vocabulary as u32,
        );
        logprobs
    }

    fn logits_gradient(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (logits, targets) = (into_contiguous(logits), ids(targets));
        let upstream = into_contiguous(upstream);
        let [rows, vocabulary] = logits.meta.shape().dims();
        let gradient = match logits.can_mut() {
            true => logits,
            false => logits.copy(),
        };
        logits_gradient::launch(
            &gradient.client.clone(),
            cubes(rows),
            CubeDim::new_1d(ROW_UNITS as u32),
            targets.into_buffer_arg(),
            upstream.into_buffer_arg(),
            gradient.clone().into_buffer_arg(),
            vocabulary as u32,
        );
        gradient
    }
}

/// Token ids as the kernels read them.
fn ids(targets: IntTensor<Cube>) -> CubeTensor {
    into_contiguous(Cube::int_cast(targets, IntDType::U32))
}

/// The logarithm of the sum of the exponentials of a row.
#[cube]
fn log_sum_exp(logits: &[f32], start: usize, width: usize, parts: &mut [f32]) -> f32 {
    // The largest number so far, and the sum of the exponentials relative to it (Milakov and Gimelshein, 2018,
    // arXiv 1805.02867).
    let mut largest = f32::new(-3.0e38);
    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let logit = logits[start + i];
        if logit > largest {
            sum = sum * (largest - logit).exp() + 1.0f32;
            largest = logit;
        } else {
            sum += (logit - largest).exp();
        }
        i += ROW_UNITS;
    }
    let max = cube_max(largest, parts, ROW_UNITS);
    max + cube_sum(sum * (largest - max).exp(), parts, ROW_UNITS).ln()
}

#[cube(launch)]
fn target_logprobs(logits: &[f32], targets: &[u32], logprobs: &mut [f32], vocabulary: u32) {
    let width = vocabulary as usize;
    let mut parts = Shared::<[f32]>::new_slice(ROW_UNITS);
    let mut row = CUBE_POS;
    while row < logprobs.len() {
        let log_sum = log_sum_exp(logits, row * width, width, &mut parts);
        if UNIT_POS == 0 {
            logprobs[row] = logits[row * width + targets[row] as usize] - log_sum;
        }
        row += CUBE_COUNT;
    }
}

/// Replaces each row `z`, with target `y` and upstream `g`, by `g (onehot(y) − softmax(z))`.
#[cube(launch)]
fn logits_gradient(targets: &[u32], upstream: &[f32], logits: &mut [f32], vocabulary: u32) {
    let width = vocabulary as usize;
    let mut parts = Shared::<[f32]>::new_slice(ROW_UNITS);
    let mut row = CUBE_POS;
    while row < upstream.len() {
        let start = row * width;
        let log_sum = log_sum_exp(&*logits, start, width, &mut parts);
        let (target, g) = (targets[row] as usize, upstream[row]);
        let mut i = UNIT_POS as usize;
        while i < width {
            let mut value = -g * (logits[start + i] - log_sum).exp();
            if i == target {
                value += g;
            }
            logits[start + i] = value;
            i += ROW_UNITS;
        }
        row += CUBE_COUNT;
    }
}
