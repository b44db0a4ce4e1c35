//! Kernels for GPUs, in CubeCL: each does in one or two launches what takes burn's operations many. They compute with
//! 32-bit floats; those for training also read and write smaller floats.
//!
//! A kernel reads and writes its buffers in row-major order without gaps. burn's own tensors on CUDA pad their rows,
//! so inputs pass through `into_contiguous`, and outputs are made by [`empty`].

#![allow(
    clippy::manual_is_multiple_of,
    clippy::needless_range_loop,
    reason = "kernels have neither this method nor iterators"
)]

mod attend;
mod experts;
mod few_rows;
mod gated;
mod packed_attention;
mod rms_norm;
mod rotate;
mod sample;
#[cfg(test)]
#[cfg(feature = "wgpu")]
pub(crate) mod tests;
mod token_logprobs;

use burn::{
    backend::{Cube, tensor::FloatTensor},
    tensor::{DType, Shape, Tensor},
};
use burn_cubecl::{kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype};
use cubecl::{
    ir::{ElemType, FloatKind},
    prelude::*,
};
use cubecl_environment::stream::{StreamPolicy, set_policy};

use super::differentiable::{Kernels, Operand};

pub(crate) use attend::{Attend, RowState};
pub(crate) use experts::{add_experts, choose_experts};
pub(crate) use few_rows::{ChosenExperts, FewRows, RowsOutput};
pub(super) use gated::gated;
pub(super) use packed_attention::packed_attention;
pub(super) use rms_norm::rms_norm;
pub(crate) use rms_norm::{Norm, add_normalized};
pub(super) use rotate::rotate;
pub(crate) use sample::{Sample, embed};

pub(crate) type CubeTensor = FloatTensor<Cube>;

/// Units of a cube. A power of two, since sums halve their number.
const UNITS: usize = 128;

/// The most cubes of a launch. WebGPU allows 65,535 per dimension; kernels take further rows in turns.
const MOST_CUBES: usize = 1 << 15;

impl Kernels for Cube {
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        into_contiguous(tensor)
    }
}

/// The operand for a tensor; `None` unless the tensor is on a GPU and consists of floats of at most 32 bits.
fn operand<const D: usize>(tensor: &Tensor<D>) -> Option<Operand<Cube>> {
    Operand::of(tensor).filter(|operand| {
        let dtype = operand.dtype();
        matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
    })
}

/// Lets all threads give their work for a device to one stream. By default, each thread has a stream of its own. A model
/// that is loaded by one thread and used by others would then make its streams wait for each other, which cannot be
/// recorded.
pub(crate) fn use_one_stream() {
    set_policy(StreamPolicy::Single);
}

/// The same tensor without gaps between its rows, if it is on a GPU.
pub(crate) fn without_gaps<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.clone().try_into_primitive::<Cube>() {
        Ok(tensor) => Tensor::from_primitive::<Cube>(into_contiguous(tensor)),
        Err(_) => tensor,
    }
}

/// The type of a tensor's numbers.
fn float_type(tensor: &CubeTensor) -> ElemType {
    ElemType::Float(match tensor.dtype {
        DType::BF16 => FloatKind::BF16,
        DType::F16 => FloatKind::F16,
        _ => FloatKind::F32,
    })
}

/// A tensor of 32-bit floats without values, on the device of another one.
fn empty(like: &CubeTensor, shape: Shape) -> CubeTensor {
    buffer(like, shape, DType::F32)
}

/// A tensor without values, on the device of another one.
pub(crate) fn buffer(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), dtype)
}

/// Cubes for this many pieces of work, one for each unless there are too many.
fn cubes(pieces: usize) -> CubeCount {
    CubeCount::new_1d(pieces.clamp(1, MOST_CUBES) as u32)
}

/// Cubes whose units take one number each, unless there are too many.
fn cubes_of_units(numbers: usize) -> CubeCount {
    cubes(numbers.div_ceil(UNITS))
}

fn units() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}

/// The sum of the values of all units of a cube, in a fixed order. `parts` is shared memory, one number per unit.
#[cube]
fn cube_sum(value: f32, parts: &mut [f32], #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = parts[unit + half];
            parts[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    let sum = parts[0];
    // The next sum must not begin before all units have read this one.
    sync_cube();
    sum
}

/// The largest of the values of all units of a cube; see [`cube_sum`].
#[cube]
fn cube_max(value: f32, parts: &mut [f32], #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            parts[unit] = f32::max(parts[unit], parts[unit + half]);
        }
        sync_cube();
        half /= 2;
    }
    let max = parts[0];
    sync_cube();
    max
}

/// The smallest of the values of all units of a cube; see [`cube_sum`].
#[cube]
fn cube_min(value: u32, parts: &mut [u32], #[comptime] units: usize) -> u32 {
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            parts[unit] = u32::min(parts[unit], parts[unit + half]);
        }
        sync_cube();
        half /= 2;
    }
    let min = parts[0];
    sync_cube();
    min
}
