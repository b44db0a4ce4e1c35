//! The state of an algorithm in a checkpoint: values that serde writes, and named tensors.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use polyphony_model::TensorSpec;
use serde::{Serialize, de::DeserializeOwned};

use crate::{MarlError, config::Updates};

/// What a checkpoint keeps of an algorithm, so that a resumed run learns as if it had never stopped.
#[derive(Clone, Debug, Default)]
pub struct AlgorithmState {
    /// Everything but tensors, as RON.
    pub values: String,
    /// Named tensors.
    pub tensors: Vec<(TensorSpec, StateTensor)>,
}

/// A tensor of a saved state, flattened.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are a few per weight tensor, and what they point to is far larger"
)]
pub enum StateTensor {
    /// 32-bit floats.
    Numbers(Tensor<1>),
    /// Bytes that the algorithm interprets itself, such as codes of numbers.
    Bytes(Arc<[u8]>),
}

impl From<Tensor<1>> for StateTensor {
    fn from(numbers: Tensor<1>) -> Self {
        Self::Numbers(numbers)
    }
}

impl From<&[f32]> for StateTensor {
    fn from(numbers: &[f32]) -> Self {
        let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
        Self::Numbers(Tensor::from_data(data, &Device::flex()))
    }
}

/// Reads the tensors of a saved state.
pub trait StateTensors {
    /// The numbers of a tensor, row after row.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape, or holds no numbers.
    fn numbers(&self, spec: &TensorSpec) -> Result<Vec<f32>, MarlError>;

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape, or holds no bytes.
    fn bytes(&self, spec: &TensorSpec) -> Result<Vec<u8>, MarlError>;
}

/// A saved state, and what the resumed run wants of it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct SavedState<'a> {
    /// The text [`AlgorithmState::values`].
    pub values: &'a str,
    /// The tensors.
    pub tensors: &'a dyn StateTensors,
    /// How the resumed run updates weights.
    pub updates: &'a Updates,
}

impl<'a> SavedState<'a> {
    /// A saved state, for a run that updates weights in this way.
    pub fn new(values: &'a str, tensors: &'a dyn StateTensors, updates: &'a Updates) -> Self {
        Self {
            values,
            tensors,
            updates,
        }
    }

    /// The values.
    ///
    /// # Errors
    /// If they do not have the expected type.
    pub fn read_values<T: DeserializeOwned>(&self) -> Result<T, MarlError> {
        ron::from_str(self.values).map_err(|error| MarlError::state(error.to_string()))
    }
}

impl AlgorithmState {
    /// A state of values and tensors.
    ///
    /// # Errors
    /// If the values cannot be written as RON.
    pub fn new(
        values: &impl Serialize,
        tensors: Vec<(TensorSpec, StateTensor)>,
    ) -> Result<Self, MarlError> {
        // RON keeps every digit of a number.
        let values = ron::to_string(values).map_err(|error| MarlError::state(error.to_string()))?;
        Ok(Self { values, tensors })
    }

    fn tensor(&self, spec: &TensorSpec) -> Result<&StateTensor, MarlError> {
        let tensor = self.tensors.iter().find(|(saved, _)| saved == spec);
        let (_, tensor) = tensor.ok_or_else(|| {
            MarlError::state(format!(
                "it has no tensor `{}` of the shape {:?}",
                spec.name, spec.shape
            ))
        })?;
        Ok(tensor)
    }
}

/// A state in memory can be restored without a file.
impl StateTensors for AlgorithmState {
    fn numbers(&self, spec: &TensorSpec) -> Result<Vec<f32>, MarlError> {
        match self.tensor(spec)? {
            StateTensor::Numbers(tensor) => Ok(tensor.clone().into_data().iter::<f32>().collect()),
            StateTensor::Bytes(_) => Err(wrong_type(spec, "bytes", "numbers")),
        }
    }

    fn bytes(&self, spec: &TensorSpec) -> Result<Vec<u8>, MarlError> {
        match self.tensor(spec)? {
            StateTensor::Bytes(bytes) => Ok(bytes.to_vec()),
            StateTensor::Numbers(_) => Err(wrong_type(spec, "numbers", "bytes")),
        }
    }
}

fn wrong_type(spec: &TensorSpec, found: &str, expected: &str) -> MarlError {
    MarlError::state(format!(
        "its tensor `{}` holds {found}, but should hold {expected}",
        spec.name
    ))
}

/// Refuses a tensor with the wrong number of values.
pub(crate) fn check_count(spec: &TensorSpec, values: usize) -> Result<(), MarlError> {
    if values == spec.shape.iter().product::<usize>() {
        return Ok(());
    }
    Err(MarlError::state(format!(
        "its tensor `{}` has {values} values, but should have the shape {:?}",
        spec.name, spec.shape
    )))
}
