//! The moments of a weight: their format, their first values, and their tensors in a saved state.

use burn::{
    backend::Flex,
    tensor::{Device, Tensor, TensorData},
};
use polyphony_model::TensorSpec;

use super::int8::{self, Int8Moments};
use crate::{
    MarlError,
    config::MomentFormat,
    saved_state::{StateTensor, StateTensors, check_count},
};

/// The two moments of a weight.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per weight tensor, and what it points to is far larger"
)]
pub(super) enum MomentValues {
    F32 { first: Tensor<1>, second: Tensor<1> },
    Int8(Int8Moments),
}

/// Weights with fewer values have moments in 32-bit floats. These are norms and biases, which need little
/// memory.
const LEAST_INT8_VALUES: u64 = 4096;

impl MomentFormat {
    /// The format of the moments of a weight with this many values, for the setting `self`.
    pub(super) fn of_weight(self, values: u64, is_on_cpu: bool) -> Self {
        match is_on_cpu && values >= LEAST_INT8_VALUES {
            true => self,
            false => Self::F32,
        }
    }

    /// Bytes of both moments of a weight with this many values, for the setting `self`.
    pub(crate) fn bytes(self, values: u64, is_on_cpu: bool) -> u64 {
        match self.of_weight(values, is_on_cpu) {
            Self::F32 => values.saturating_mul(2 * size_of::<f32>() as u64),
            Self::Int8 => int8::bytes(values),
        }
    }
}

impl MomentValues {
    /// Zeros for a weight with this gradient.
    pub(super) fn zeros(setting: MomentFormat, gradient: &Tensor<1>) -> Self {
        let values = gradient.dims()[0];
        match setting.of_weight(values as u64, is_on_cpu(gradient)) {
            MomentFormat::F32 => Self::F32 {
                first: zeros(gradient),
                second: zeros(gradient),
            },
            MomentFormat::Int8 => Self::Int8(Int8Moments::zeros(values)),
        }
    }

    /// Their format.
    pub(super) fn format(&self) -> MomentFormat {
        match self {
            Self::F32 { .. } => MomentFormat::F32,
            Self::Int8(_) => MomentFormat::Int8,
        }
    }

    /// Their tensors in a saved state, each flat, under names that begin with `prefix`.
    pub(super) fn tensors(
        &self,
        prefix: &str,
        weight: &TensorSpec,
    ) -> Vec<(TensorSpec, StateTensor)> {
        let names = moment_names(prefix, weight);
        match self {
            Self::F32 { first, second } => {
                let tensors = [first, second].map(|moment| StateTensor::from(moment.clone()));
                let specs = names.map(|name| TensorSpec {
                    name,
                    shape: weight.shape.clone(),
                });
                specs.into_iter().zip(tensors).collect()
            }
            Self::Int8(moments) => moments.tensors(names, weight),
        }
    }

    /// The moments of a weight in a saved state.
    ///
    /// # Errors
    /// If a tensor cannot be read or has the wrong number of values.
    pub(super) fn read(
        format: MomentFormat,
        prefix: &str,
        weight: &TensorSpec,
        device: &Device,
        tensors: &dyn StateTensors,
    ) -> Result<Self, MarlError> {
        let names = moment_names(prefix, weight);
        if format == MomentFormat::Int8 {
            return Ok(Self::Int8(Int8Moments::read(names, weight, tensors)?));
        }
        let [first, second] = names.map(|name| {
            let shape = weight.shape.clone();
            read_tensor(&TensorSpec { name, shape }, device, tensors)
        });
        Ok(Self::F32 {
            first: first?,
            second: second?,
        })
    }
}

/// A flat tensor of a saved state.
pub(crate) fn read_tensor(
    spec: &TensorSpec,
    device: &Device,
    tensors: &dyn StateTensors,
) -> Result<Tensor<1>, MarlError> {
    let values = tensors.numbers(spec)?;
    check_count(spec, values.len())?;
    let count = values.len();
    Ok(Tensor::from_data(TensorData::new(values, [count]), device))
}

/// The names of the two moments of a weight in a saved state.
fn moment_names(prefix: &str, weight: &TensorSpec) -> [String; 2] {
    ["first", "second"].map(|moment| format!("{prefix}{moment}_moment.{}", weight.name))
}

/// A tensor of zeros with the size and device of a gradient. On the CPU it does not use burn's `zeros_like`,
/// whose result would be copied once more. Such a copy of an embedding table takes much memory.
fn zeros(gradient: &Tensor<1>) -> Tensor<1> {
    if !is_on_cpu(gradient) {
        return gradient.zeros_like();
    }
    let count = gradient.dims()[0];
    let zeros = TensorData::new(vec![0.0f32; count], [count]);
    Tensor::from_data(zeros, &gradient.device())
}

pub(super) fn is_on_cpu(tensor: &Tensor<1>) -> bool {
    tensor.clone().try_into_primitive::<Flex>().is_ok()
}
