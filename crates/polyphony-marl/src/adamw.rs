//! AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101) with gradients that are clipped by their norm
//! over all weights.
//!
//! `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
//! `w ← (1 − η λ) w − η · m̂ / (√v̂ + ε)` with `m̂ = m / (1 − β₁ᵗ)` and `v̂ = v / (1 − β₂ᵗ)`.
//!
//! A weight is a whole tensor here, and `t` counts the steps of each weight separately: a step changes
//! neither a weight without a gradient nor its moments. Weights with a single dimension, which are norms
//! and biases, do not decay (λ = 0): pulling them to 0 would break a network instead of making it simpler.
//!
//! `m` and `v` are 32-bit floats, or 8-bit codes (`int8.rs`).

use burn::{
    backend::{Flex, tensor::FloatTensor},
    module::{ModuleMapper, Param},
    tensor::{Device, Tensor},
};
use polyphony_model::{LanguageModel, TensorSpec, WeightGradients, vectorized};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    config::{MomentFormat, Updates},
    saved_state::{SavedState, StateTensor},
};

mod coefficients;
mod int8;
mod int8_codes;
mod moments;

pub(crate) use self::moments::read_tensor;
use self::{
    coefficients::{Coefficients, SingleCoefficients},
    moments::{MomentValues, is_on_cpu},
};

/// The optimizer of one model, or of weights outside a model, such as a head.
#[derive(Clone, Debug, Default)]
pub struct AdamW {
    /// The moments of each weight, in visiting order; `None` if no step has changed the weight.
    moments: Vec<Option<Moments>>,
}

#[derive(Clone, Debug)]
struct Moments {
    /// Steps that the weight has taken.
    steps: u64,
    values: MomentValues,
}

/// The name and the step count of a weight, in a saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightStepCount {
    /// The weight's name.
    pub weight: String,
    /// The steps that it has taken.
    pub steps: u64,
    /// The format of its moments. States from before there was a choice do not have it.
    #[serde(default)]
    pub moments: MomentFormat,
}

/// What determines a gradient step besides the gradient: clipping, the learning rate and AdamW's settings.
/// It is the same for all weights.
#[derive(Clone, Copy, Debug)]
pub struct StepSize<'a> {
    /// The clipping factor, which gradients are multiplied by.
    gradient_scale: f64,
    learning_rate: f64,
    updates: &'a Updates,
}

impl<'a> StepSize<'a> {
    /// The size of a step along gradients of this norm, which must be finite. A norm above
    /// `max_grad_norm` is clipped.
    pub fn new(norm: f64, learning_rate: f64, updates: &'a Updates) -> Self {
        Self {
            gradient_scale: (updates.max_grad_norm / norm).min(1.0),
            learning_rate,
            updates,
        }
    }

    /// The coefficients of the `t`-th step of a weight with this many dimensions.
    fn coefficients(&self, t: u64, dimensions: usize) -> Coefficients {
        let updates = self.updates;
        let correction = |beta: f64| 1.0 - beta.powf(t as f64);
        let weight_decay = match dimensions {
            1 => 0.0,
            _ => updates.weight_decay,
        };
        Coefficients {
            gradient_scale: self.gradient_scale,
            beta_1: updates.beta_1,
            beta_2: updates.beta_2,
            corrected_rate: self.learning_rate / correction(updates.beta_1),
            second_scale: correction(updates.beta_2).sqrt().recip(),
            epsilon: updates.epsilon,
            decay: 1.0 - self.learning_rate * weight_decay,
        }
    }
}

impl AdamW {
    /// One gradient step of a model.
    pub fn step(
        &mut self,
        model: &mut LanguageModel,
        gradients: WeightGradients,
        size: StepSize<'_>,
    ) {
        let gradients = gradients.into_vec();
        self.moments.resize_with(gradients.len(), || None);
        let mut stepper = Stepper {
            gradients: gradients.into_iter(),
            moments: self.moments.iter_mut(),
            size,
        };
        model.map_trainable(&mut stepper);
    }

    /// One gradient step of a flattened weight outside a model. `index` is its index among the optimizer's
    /// weights; `dimensions` is the number of its dimensions before it was flattened.
    ///
    /// # Shapes
    /// - weight and gradient `[N]`, output `[N]`
    #[must_use]
    pub fn step_weight(
        &mut self,
        index: usize,
        weight: Tensor<1>,
        dimensions: usize,
        gradient: Tensor<1>,
        size: StepSize<'_>,
    ) -> Tensor<1> {
        if self.moments.len() <= index {
            self.moments.resize_with(index + 1, || None);
        }
        let slot = &mut self.moments[index];
        let (weight, moments) = size.step(slot.take(), weight, dimensions, gradient);
        *slot = Some(moments);
        weight
    }

    /// The part of a saved state that is not tensors: the step count of every weight that a step has
    /// changed. `weights` are all weights, in visiting order.
    pub fn stepped(&self, weights: &[TensorSpec]) -> Vec<WeightStepCount> {
        let pairs = weights.iter().zip(&self.moments);
        let stepped = pairs.filter_map(|(spec, moments)| {
            let Moments { steps, values } = moments.as_ref()?;
            Some(WeightStepCount {
                weight: spec.name.clone(),
                steps: *steps,
                moments: values.format(),
            })
        });
        stepped.collect()
    }

    /// The tensors of its saved state, each flat: the two moments of every weight that a step has changed,
    /// under names that begin with `prefix`.
    pub fn tensors(&self, prefix: &str, weights: &[TensorSpec]) -> Vec<(TensorSpec, StateTensor)> {
        let pairs = weights.iter().zip(&self.moments);
        let stepped = pairs.filter_map(|(spec, moments)| Some((spec, moments.as_ref()?)));
        stepped
            .flat_map(|(spec, moments)| moments.values.tensors(prefix, spec))
            .collect()
    }

    /// The optimizer of a saved state.
    ///
    /// # Errors
    /// If a tensor cannot be read or has the wrong number of values, the state has a weight that is not one
    /// of `weights`, or the moments of a weight have another format than `saved.updates` asks for.
    pub fn from_state(
        prefix: &str,
        weights: &[TensorSpec],
        stepped: &[WeightStepCount],
        device: &Device,
        saved: &SavedState<'_>,
    ) -> Result<Self, MarlError> {
        let is_unknown =
            |saved: &&WeightStepCount| weights.iter().all(|spec| spec.name != saved.weight);
        if let Some(unknown) = stepped.iter().find(is_unknown) {
            return Err(MarlError::state(format!(
                "it has moments of the weight `{}`, which the model does not have",
                unknown.weight
            )));
        }
        let setting = saved.updates.moments;
        let moments = weights.iter().map(|spec| {
            let Some(count) = stepped.iter().find(|count| count.weight == spec.name) else {
                return Ok(None);
            };
            let values = spec.shape.iter().product::<usize>();
            let format = setting.of_weight(values as u64, *device == Device::flex());
            if count.moments != format {
                return Err(MarlError::state(format!(
                    "the moments of the weight `{}` were saved as {:?}, but `moments` is {setting:?}: set it \
                     to {:?}, as in the run that saved them",
                    spec.name, count.moments, count.moments
                )));
            }
            Ok(Some(Moments {
                steps: count.steps,
                values: MomentValues::read(format, prefix, spec, device, saved.tensors)?,
            }))
        });
        Ok(Self {
            moments: moments.collect::<Result<_, _>>()?,
        })
    }
}

impl StepSize<'_> {
    /// One weight's step, given its moments; `None` before its first step.
    fn step(
        &self,
        moments: Option<Moments>,
        weight: Tensor<1>,
        dimensions: usize,
        gradient: Tensor<1>,
    ) -> (Tensor<1>, Moments) {
        let Moments { steps, values } = moments.unwrap_or_else(|| Moments {
            steps: 0,
            values: MomentValues::zeros(self.updates.moments, &gradient),
        });
        let steps = steps + 1;
        let coefficients = self.coefficients(steps, dimensions);
        let (weight, values) = match values {
            MomentValues::F32 { first, second } => {
                let [weight, first, second] =
                    step([weight, first, second], gradient, &coefficients);
                (weight, MomentValues::F32 { first, second })
            }
            MomentValues::Int8(mut moments) => {
                let (mut weight, gradient) = (on_cpu(weight), on_cpu(gradient).to_contiguous());
                let gradients = &gradient.storage::<f32>()[gradient.layout().start_offset()..];
                let coefficients = SingleCoefficients::from(&coefficients);
                moments.step(weight.storage_mut(), gradients, steps, coefficients);
                (
                    Tensor::from_primitive::<Flex>(weight),
                    MomentValues::Int8(moments),
                )
            }
        };
        (weight, Moments { steps, values })
    }
}

struct Stepper<'a> {
    gradients: std::vec::IntoIter<Option<Tensor<1>>>,
    moments: std::slice::IterMut<'a, Option<Moments>>,
    size: StepSize<'a>,
}

impl ModuleMapper for Stepper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Both iterators advance, even past a weight without a gradient.
        let (gradient, slot) = (self.gradients.next().flatten(), self.moments.next());
        let (Some(gradient), Some(slot)) = (gradient, slot) else {
            return param;
        };
        let moments = slot.take();
        param.map(|weight| {
            let shape = weight.shape();
            let flat = weight.flatten::<1>(0, D as isize - 1);
            let (weight, moments) = self.size.step(moments, flat, D, gradient);
            *slot = Some(moments);
            weight.reshape(shape)
        })
    }
}

/// A tensor whose memory can be used directly.
fn on_cpu(tensor: Tensor<1>) -> FloatTensor<Flex> {
    match tensor.try_into_primitive::<Flex>() {
        Ok(tensor) => tensor,
        Err(_) => unreachable!("weights and moments live where their gradient does"),
    }
}

/// One step of a weight with its first and second moment in 32-bit floats. On the CPU it is a single pass
/// over memory, in place. Other devices use burn's operations.
fn step(
    [weight, first, second]: [Tensor<1>; 3],
    gradient: Tensor<1>,
    c: &Coefficients,
) -> [Tensor<1>; 3] {
    if is_on_cpu(&gradient) {
        return step_on_cpu([weight, first, second], gradient, c);
    }
    let gradient = gradient * c.gradient_scale;
    let first = first * c.beta_1 + gradient.clone() * (1.0 - c.beta_1);
    let second = second * c.beta_2 + gradient.square() * (1.0 - c.beta_2);
    let divisor = second.clone().sqrt() * c.second_scale + c.epsilon;
    let weight = weight * c.decay - first.clone() / divisor * c.corrected_rate;
    [weight, first, second]
}

/// Values that a thread processes at a time.
const CHUNK: usize = 1 << 16;

fn step_on_cpu(tensors: [Tensor<1>; 3], gradient: Tensor<1>, c: &Coefficients) -> [Tensor<1>; 3] {
    let [mut weight, mut first, mut second] = tensors.map(on_cpu);
    let gradient = on_cpu(gradient).to_contiguous();
    let gradients = gradient.storage::<f32>()[gradient.layout().start_offset()..].par_chunks(CHUNK);
    let weights = weight.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let firsts = first.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let seconds = second.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let coefficients = SingleCoefficients::from(c);
    weights
        .zip(gradients)
        .zip(firsts.zip(seconds))
        .for_each(|((w, g), (m, v))| {
            vectorized(
                #[inline(always)]
                || coefficients.step(w, g, m, v),
            );
        });
    [weight, first, second].map(Tensor::from_primitive::<Flex>)
}

#[cfg(test)]
mod tests;
