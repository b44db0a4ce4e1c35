//! The critic's head: from the hidden state at the last token of a history to one number.
//!
//! Legend for shapes: `D` hidden size.

use burn::tensor::{Device, Tensor, TensorData};
use polyphony_model::{StreamKey, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    adamw::{AdamW, StepSize, WeightStepCount, read_tensor},
    config::{MomentFormat, Updates},
    saved_state::{SavedState, StateTensor},
};

/// The layers of a value head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeadShape {
    /// `V = w · h + b`. All weights start at 0, so every value is 0 at first.
    #[default]
    Linear,
    /// `V = w · tanh(W h + c) + b`, with as many hidden units as the state has elements. `W` starts with
    /// uniform random numbers within ±1/√D. All other weights start at 0, so every value is 0 at first.
    Tanh,
}

impl HeadShape {
    /// The weights' names and shapes.
    fn specs(self, width: usize) -> Vec<TensorSpec> {
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        let output = [
            spec("output.weight", &[1, width]),
            spec("output.bias", &[1]),
        ];
        let hidden = [
            spec("hidden.weight", &[width, width]),
            spec("hidden.bias", &[width]),
        ];
        match self {
            Self::Linear => output.into(),
            Self::Tanh => output.into_iter().chain(hidden).collect(),
        }
    }

    /// The number of its parameters, for a hidden size.
    pub fn parameters(self, width: usize) -> usize {
        self.sizes(width).sum()
    }

    /// The bytes of the moments of its parameters, for a hidden size.
    pub(super) fn moment_bytes(self, width: usize, format: MomentFormat) -> u64 {
        let sizes = self.sizes(width);
        // Heads are always on the CPU.
        sizes.map(|values| format.bytes(values as u64, true)).sum()
    }

    /// The number of values of each weight.
    fn sizes(self, width: usize) -> impl Iterator<Item = usize> {
        let specs = self.specs(width).into_iter();
        specs.map(|spec| spec.shape.iter().product())
    }
}

/// A value head with its optimizer.
#[derive(Clone, Debug)]
pub(super) struct ValueHead {
    shape: HeadShape,
    width: usize,
    /// Each flat, in the order of [`HeadShape::specs`].
    weights: Vec<Vec<f32>>,
    optimizer: AdamW,
}

/// Everything about a head except its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HeadState {
    shape: HeadShape,
    stepped: Vec<WeightStepCount>,
}

/// A head's estimate of the value of a state.
#[derive(Clone, Debug)]
pub(super) struct ValueEstimate {
    pub(super) value: f64,
    /// The input of the output layer: the state itself, or the hidden units.
    units: Vec<f32>,
}

/// The gradients of a head's weights, each flat, summed over groups.
#[derive(Clone, Debug)]
pub(super) struct HeadGradients(Vec<Vec<f32>>);

impl HeadGradients {
    /// Zeros.
    pub(super) fn new(head: &ValueHead) -> Self {
        let weights = head.weights.iter();
        Self(weights.map(|weight| vec![0.0; weight.len()]).collect())
    }

    fn norm(&self) -> f64 {
        let squares = self
            .0
            .iter()
            .flatten()
            .map(|&value| f64::from(value).powi(2));
        squares.sum::<f64>().sqrt()
    }
}

impl ValueHead {
    pub(super) fn new(shape: HeadShape, width: usize, key: StreamKey) -> Self {
        let bound = (width as f64).sqrt().recip();
        let weights = shape.specs(width).into_iter().map(|spec| {
            let count = spec.shape.iter().product();
            match spec.name.as_str() {
                "hidden.weight" => (0..count)
                    .map(|index| ((2.0 * key.uniform(index) - 1.0) * bound) as f32)
                    .collect(),
                _ => vec![0.0; count],
            }
        });
        Self {
            shape,
            width,
            weights: weights.collect(),
            optimizer: AdamW::default(),
        }
    }

    /// Its weights, each flat.
    #[cfg(test)]
    pub(super) fn weights(&self) -> &[Vec<f32>] {
        &self.weights
    }

    /// Its weights, mutably.
    #[cfg(test)]
    pub(super) fn weights_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.weights
    }

    /// The value of a state `[D]`.
    pub(super) fn forward(&self, state: &[f32]) -> ValueEstimate {
        let units = match self.shape {
            HeadShape::Linear => state.to_vec(),
            HeadShape::Tanh => {
                let rows = self.weights[2]
                    .chunks_exact(self.width)
                    .zip(&self.weights[3]);
                rows.map(|(row, &bias)| (dot(row, state) + f64::from(bias)).tanh() as f32)
                    .collect()
            }
        };
        ValueEstimate {
            value: dot(&self.weights[0], &units) + f64::from(self.weights[1][0]),
            units,
        }
    }

    /// Adds the gradients of the weights to `gradients`, given the derivative of the loss with respect to
    /// the value. Returns the derivative with respect to the state, `[D]`.
    pub(super) fn backward(
        &self,
        state: &[f32],
        estimate: &ValueEstimate,
        derivative: f64,
        gradients: &mut HeadGradients,
    ) -> Vec<f32> {
        let gradients = &mut gradients.0;
        add_scaled(&mut gradients[0], &estimate.units, derivative);
        gradients[1][0] += derivative as f32;
        let output_weights = self.weights[0].iter();
        let unit_gradient = output_weights.map(|&weight| derivative * f64::from(weight));
        if self.shape == HeadShape::Linear {
            return unit_gradient.map(|value| value as f32).collect();
        }
        let mut state_gradient = vec![0.0; self.width];
        for (index, (unit_derivative, &unit)) in unit_gradient.zip(&estimate.units).enumerate() {
            let inner = unit_derivative * (1.0 - f64::from(unit).powi(2));
            let row = index * self.width..(index + 1) * self.width;
            add_scaled(&mut gradients[2][row.clone()], state, inner);
            gradients[3][index] += inner as f32;
            add_scaled(&mut state_gradient, &self.weights[2][row], inner);
        }
        state_gradient
    }

    /// One gradient step. If a gradient is not finite, the head does not change.
    pub(super) fn step(&mut self, gradients: HeadGradients, rate: f64, updates: &Updates) {
        let norm = gradients.norm();
        if !norm.is_finite() {
            return;
        }
        let size = StepSize::new(norm, rate, updates);
        let specs = self.shape.specs(self.width);
        for (index, (spec, gradient)) in specs.iter().zip(gradients.0).enumerate() {
            let weight = flat(std::mem::take(&mut self.weights[index]));
            let dimensions = spec.shape.len();
            let stepped =
                self.optimizer
                    .step_weight(index, weight, dimensions, flat(gradient), size);
            self.weights[index] = values(stepped);
        }
    }

    pub(super) fn state(&self) -> HeadState {
        let stepped = self.optimizer.stepped(&self.shape.specs(self.width));
        HeadState {
            shape: self.shape,
            stepped,
        }
    }

    /// Its weights and their moments, under names that begin with `prefix`.
    pub(super) fn tensors(&self, prefix: &str) -> Vec<(TensorSpec, StateTensor)> {
        let (specs, prefix) = (self.shape.specs(self.width), head_prefix(prefix));
        let moments = self.optimizer.tensors(&prefix, &specs);
        let weights = with_prefix(&prefix, &specs).into_iter().zip(&self.weights);
        let weights = weights.map(|(spec, weight)| (spec, StateTensor::from(&weight[..])));
        weights.chain(moments).collect()
    }

    pub(super) fn from_state(
        shape: HeadShape,
        width: usize,
        prefix: &str,
        state: &HeadState,
        saved: &SavedState<'_>,
    ) -> Result<Self, MarlError> {
        if state.shape != shape {
            return Err(MarlError::state(format!(
                "its `value_head` is {:?}, but the settings have {shape:?}",
                state.shape
            )));
        }
        let (specs, prefix, device) = (shape.specs(width), head_prefix(prefix), Device::flex());
        let weights = with_prefix(&prefix, &specs).into_iter();
        let weights = weights.map(|spec| Ok(values(read_tensor(&spec, &device, saved.tensors)?)));
        Ok(Self {
            shape,
            width,
            weights: weights.collect::<Result<_, MarlError>>()?,
            optimizer: AdamW::from_state(&prefix, &specs, &state.stepped, &device, saved)?,
        })
    }
}

fn head_prefix(prefix: &str) -> String {
    format!("{prefix}value_head.")
}

fn with_prefix(prefix: &str, specs: &[TensorSpec]) -> Vec<TensorSpec> {
    let prefixed = |spec: &TensorSpec| TensorSpec {
        name: format!("{prefix}{}", spec.name),
        shape: spec.shape.clone(),
    };
    specs.iter().map(prefixed).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn add_scaled(sum: &mut [f32], values: &[f32], scale: f64) {
    for (sum, &value) in sum.iter_mut().zip(values) {
        *sum += (scale * f64::from(value)) as f32;
    }
}

fn flat(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &Device::flex())
}

fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
