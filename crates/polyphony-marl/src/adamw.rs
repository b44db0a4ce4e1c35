//! AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101) with gradients that are clipped by their norm
//! over all weights.
//!
//! `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
//! `w ← (1 − η λ) w − η · m̂ / (√v̂ + ε)` with `m̂ = m / (1 − β₁ᵗ)` and `v̂ = v / (1 − β₂ᵗ)`.
//!
//! A weight is a whole tensor here, and `t` counts the steps of each weight separately: a step changes
//! neither a weight without a gradient nor its moments. Weights with a single dimension, which are norms
//! and biases, do not decay (λ = 0): pulling them to 0 would break a network instead of making it simpler.

use burn::{
    backend::Flex,
    module::{ModuleMapper, Param},
    tensor::{Device, Tensor, TensorData},
};
use polyphony_model::{LanguageModel, ModelError, TensorSpec, WeightGradients};
use pulp::Arch;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{MarlError, config::Updates};

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
    first: Tensor<1>,
    second: Tensor<1>,
}

/// The name and the step count of a weight, in a saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightStepCount {
    /// The weight's name.
    pub weight: String,
    /// The steps that it has taken.
    pub steps: u64,
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

/// The coefficients of one weight's step.
struct Coefficients {
    /// The clipping factor, which gradients are multiplied by.
    gradient_scale: f64,
    beta_1: f64,
    beta_2: f64,
    /// `η / (1 − β₁ᵗ)`.
    corrected_rate: f64,
    /// `1 / √(1 − β₂ᵗ)`.
    second_scale: f64,
    epsilon: f64,
    /// `1 − η λ`.
    decay: f64,
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
        model.map_weights(&mut stepper);
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
            Some(WeightStepCount {
                weight: spec.name.clone(),
                steps: moments.as_ref()?.steps,
            })
        });
        stepped.collect()
    }

    /// The tensors of its saved state, each flat: the two moments of every weight that a step has changed,
    /// under names that begin with `prefix`.
    pub fn tensors(&self, prefix: &str, weights: &[TensorSpec]) -> Vec<(TensorSpec, Tensor<1>)> {
        let pairs = weights.iter().zip(&self.moments);
        let tensors = pairs.filter_map(|(spec, moments)| {
            let Moments { first, second, .. } = moments.clone()?;
            let [first_spec, second_spec] = moment_specs(prefix, spec);
            Some([(first_spec, first), (second_spec, second)])
        });
        tensors.flatten().collect()
    }

    /// The optimizer of a saved state. `read` returns the values of a tensor.
    ///
    /// # Errors
    /// If a tensor cannot be read or has the wrong number of values, or the state has a weight that is
    /// not one of `weights`.
    pub fn from_state(
        prefix: &str,
        weights: &[TensorSpec],
        stepped: &[WeightStepCount],
        device: &Device,
        read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, MarlError> {
        let is_unknown =
            |saved: &&WeightStepCount| weights.iter().all(|spec| spec.name != saved.weight);
        if let Some(unknown) = stepped.iter().find(is_unknown) {
            return Err(MarlError::state(format!(
                "it has moments of the weight `{}`, which the model does not have",
                unknown.weight
            )));
        }
        let mut moments = Vec::new();
        for spec in weights {
            let Some(saved) = stepped.iter().find(|saved| saved.weight == spec.name) else {
                moments.push(None);
                continue;
            };
            let [first, second] =
                moment_specs(prefix, spec).map(|spec| read_tensor(&spec, device, read));
            moments.push(Some(Moments {
                steps: saved.steps,
                first: first?,
                second: second?,
            }));
        }
        Ok(Self { moments })
    }
}

/// A flat tensor of a saved state.
pub(crate) fn read_tensor(
    spec: &TensorSpec,
    device: &Device,
    read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
) -> Result<Tensor<1>, MarlError> {
    let values = read(spec)?;
    let count = values.len();
    if count != spec.shape.iter().product::<usize>() {
        return Err(MarlError::state(format!(
            "its tensor `{}` has {count} values, but should have the shape {:?}",
            spec.name, spec.shape
        )));
    }
    Ok(Tensor::from_data(TensorData::new(values, [count]), device))
}

/// The names and shapes of the two moments of a weight in a saved state.
fn moment_specs(prefix: &str, weight: &TensorSpec) -> [TensorSpec; 2] {
    ["first", "second"].map(|moment| TensorSpec {
        name: format!("{prefix}{moment}_moment.{}", weight.name),
        shape: weight.shape.clone(),
    })
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
        let mut moments = moments.unwrap_or_else(|| Moments {
            steps: 0,
            first: zeros(&gradient),
            second: zeros(&gradient),
        });
        moments.steps += 1;
        let coefficients = self.coefficients(moments.steps, dimensions);
        step(weight, gradient, moments, &coefficients)
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

fn is_on_cpu(tensor: &Tensor<1>) -> bool {
    tensor.clone().try_into_primitive::<Flex>().is_ok()
}

/// One weight's step. On the CPU it is a single pass over memory, in place. Other devices use burn's
/// operations.
fn step(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    moments: Moments,
    c: &Coefficients,
) -> (Tensor<1>, Moments) {
    if is_on_cpu(&gradient) {
        return step_on_cpu(weight, gradient, moments, c);
    }
    let gradient = gradient * c.gradient_scale;
    let moments = Moments {
        steps: moments.steps,
        first: moments.first * c.beta_1 + gradient.clone() * (1.0 - c.beta_1),
        second: moments.second * c.beta_2 + gradient.square() * (1.0 - c.beta_2),
    };
    let divisor = moments.second.clone().sqrt() * c.second_scale + c.epsilon;
    let weight = weight * c.decay - moments.first.clone() / divisor * c.corrected_rate;
    (weight, moments)
}

/// Values that a thread processes at a time.
const CHUNK: usize = 1 << 16;

fn step_on_cpu(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    moments: Moments,
    c: &Coefficients,
) -> (Tensor<1>, Moments) {
    let on_cpu = |tensor: Tensor<1>| match tensor.try_into_primitive::<Flex>() {
        Ok(tensor) => tensor,
        Err(_) => unreachable!("weights and moments live where their gradient does"),
    };
    let steps = moments.steps;
    let [mut weight, gradient, mut first, mut second] =
        [weight, gradient, moments.first, moments.second].map(on_cpu);
    let gradient = gradient.to_contiguous();
    let gradients = gradient.storage::<f32>()[gradient.layout().start_offset()..].par_chunks(CHUNK);
    let weights = weight.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let firsts = first.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let seconds = second.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let coefficients = SingleCoefficients::from(c);
    weights
        .zip(gradients)
        .zip(firsts.zip(seconds))
        .for_each(|((w, g), (m, v))| {
            Arch::new().dispatch(
                #[inline(always)]
                || coefficients.step(w, g, m, v),
            );
        });
    let [weight, first, second] = [weight, first, second].map(Tensor::from_primitive::<Flex>);
    let moments = Moments {
        steps,
        first,
        second,
    };
    (weight, moments)
}

/// [`Coefficients`] in the weights' own precision.
#[derive(Clone, Copy)]
struct SingleCoefficients {
    gradient_scale: f32,
    beta_1: f32,
    beta_2: f32,
    corrected_rate: f32,
    second_scale: f32,
    epsilon: f32,
    decay: f32,
}

impl From<&Coefficients> for SingleCoefficients {
    fn from(c: &Coefficients) -> Self {
        Self {
            gradient_scale: c.gradient_scale as f32,
            beta_1: c.beta_1 as f32,
            beta_2: c.beta_2 as f32,
            corrected_rate: c.corrected_rate as f32,
            second_scale: c.second_scale as f32,
            epsilon: c.epsilon as f32,
            decay: c.decay as f32,
        }
    }
}

impl SingleCoefficients {
    #[inline(always)]
    fn step(self, weight: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        for ((w, g), (m, v)) in weight
            .iter_mut()
            .zip(gradient)
            .zip(first.iter_mut().zip(second.iter_mut()))
        {
            let g = g * self.gradient_scale;
            *m = *m * self.beta_1 + g * (1.0 - self.beta_1);
            *v = *v * self.beta_2 + g * g * (1.0 - self.beta_2);
            let divisor = v.sqrt() * self.second_scale + self.epsilon;
            *w = *w * self.decay - *m / divisor * self.corrected_rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const LEARNING_RATE: f64 = 0.1;

    /// Textbook AdamW in 64-bit floats: the weight after a step for each gradient.
    fn reference(mut w: f64, gradients: &[f64], decay: f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (index, g) in gradients.iter().enumerate() {
            let t = index as i32 + 1;
            m = 0.9 * m + 0.1 * g;
            v = 0.99 * v + 0.01 * g * g;
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.99f64.powi(t)));
            w = w - LEARNING_RATE * decay * w - LEARNING_RATE * m_hat / (v_hat.sqrt() + 1e-8);
        }
        w
    }

    #[test]
    fn a_weight_follows_the_textbook() {
        let device = Device::flex();
        let tensor = |value: f64| Tensor::<1>::from_data([value as f32; 3], &device);
        let gradients = [0.5, -0.2, 0.0, 1.5];
        let updates = Updates {
            beta_1: 0.9,
            beta_2: 0.99,
            weight_decay: 0.01,
            // Half of the norm that the steps get.
            max_grad_norm: 3.0,
            ..Updates::default()
        };
        let mut weight = tensor(0.7);
        let mut optimizer = AdamW::default();
        for gradient in gradients {
            let size = StepSize::new(6.0, LEARNING_RATE, &updates);
            // Twice the gradient, halved by the clipping factor.
            weight = optimizer.step_weight(0, weight, 2, tensor(2.0 * gradient), size);
        }
        let expected = reference(0.7, &gradients, 0.01);
        for value in weight.into_data().iter::<f32>() {
            assert!(
                (f64::from(value) - expected).abs() < 1e-6,
                "{value} is not {expected}"
            );
        }
    }

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn each_weight_counts_its_own_steps() {
        let device = Device::flex();
        let tensor = |value: f32| Tensor::<1>::from_data([value], &device);
        let updates = Updates::default();
        let size = StepSize::new(1.0, LEARNING_RATE, &updates);
        let mut optimizer = AdamW::default();
        let _ = optimizer.step_weight(0, tensor(1.0), 2, tensor(0.5), size);
        let _ = optimizer.step_weight(0, tensor(1.0), 2, tensor(0.5), size);
        // A weight's first step is as long as the learning rate, whenever it happens.
        let late = values(optimizer.step_weight(1, tensor(1.0), 2, tensor(0.01), size))[0];
        assert!(
            (f64::from(late) - (1.0 - LEARNING_RATE)).abs() < 1e-5,
            "{late}"
        );
        let specs = ["a", "b", "c"].map(|name| TensorSpec {
            name: name.to_owned(),
            shape: vec![1],
        });
        let stepped = optimizer.stepped(&specs);
        let steps: Vec<_> = stepped
            .iter()
            .map(|stepped| (&*stepped.weight, stepped.steps))
            .collect();
        assert_eq!(steps, [("a", 2), ("b", 1)]);
    }

    #[test]
    fn norms_and_biases_do_not_decay() {
        let device = Device::flex();
        let tensor = |value: f32| Tensor::<1>::from_data([value], &device);
        let updates = Updates {
            weight_decay: 0.5,
            ..Updates::default()
        };
        let size = StepSize::new(1.0, LEARNING_RATE, &updates);
        let [norm, matrix] = [1, 2].map(|dimensions| {
            let mut optimizer = AdamW::default();
            values(optimizer.step_weight(0, tensor(1.0), dimensions, tensor(0.0), size))[0]
        });
        assert_eq!(norm, 1.0);
        assert!(
            (f64::from(matrix) - (1.0 - 0.5 * LEARNING_RATE)).abs() < 1e-6,
            "{matrix}"
        );
    }

    #[test]
    fn a_state_that_does_not_fit_is_named() {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            shape: vec![2, 3],
        };
        let stepped = |weight: &str| WeightStepCount {
            weight: weight.to_owned(),
            steps: 1,
        };
        for (weight, values, expected) in [
            ("other", 6, "moments of the weight `other`"),
            (
                "known",
                5,
                "`poet.first_moment.known` has 5 values, but should have the shape [2, 3]",
            ),
        ] {
            let restored = AdamW::from_state(
                "poet.",
                &[spec("known")],
                &[stepped(weight)],
                &Device::flex(),
                &mut |_| Ok(vec![0.0; values]),
            );
            let message = restored.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
