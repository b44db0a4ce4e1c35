//! AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101) with gradients clipped by their norm over
//! all weights.
//!
//! `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
//! `w ← (1 − η λ) w − η · m̂ / (√v̂ + ε)` with `m̂ = m / (1 − β₁ᵗ)` and `v̂ = v / (1 − β₂ᵗ)`.

use burn::{
    backend::Flex,
    module::{ModuleMapper, Param},
    tensor::{Tensor, TensorData},
};
use polyphony_model::{LanguageModel, WeightGradients};
use pulp::Arch;
use rayon::prelude::*;

use crate::config::Updates;

/// The optimizer of one model.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdamW {
    /// Gradient steps taken.
    steps: usize,
    /// The first and second moment of each weight, flat, in visiting order.
    moments: Vec<Option<Moments>>,
}

#[derive(Clone, Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

/// The numbers of one step.
struct Coefficients {
    /// Gradients are multiplied by it: the clipping factor.
    gradient_scale: f64,
    beta_1: f64,
    beta_2: f64,
    /// `η / (1 − β₁ᵗ)`.
    step_size: f64,
    /// `1 / √(1 − β₂ᵗ)`.
    second_scale: f64,
    epsilon: f64,
    /// `1 − η λ`.
    decay: f64,
}

impl AdamW {
    /// One gradient step. `norm` is the gradients' norm.
    pub(crate) fn step(
        &mut self,
        model: &mut LanguageModel,
        gradients: WeightGradients,
        norm: f64,
        learning_rate: f64,
        updates: &Updates,
    ) {
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let coefficients = Coefficients {
            gradient_scale: (updates.max_gradient_norm / norm).min(1.0),
            beta_1: updates.beta_1,
            beta_2: updates.beta_2,
            step_size: learning_rate / correction(updates.beta_1),
            second_scale: correction(updates.beta_2).sqrt().recip(),
            epsilon: updates.epsilon,
            decay: 1.0 - learning_rate * updates.weight_decay,
        };
        let gradients = gradients.into_vec();
        self.moments.resize_with(gradients.len(), || None);
        let mut stepper = Stepper {
            gradients: gradients.into_iter(),
            moments: self.moments.iter_mut(),
            coefficients,
        };
        model.map_weights(&mut stepper);
    }
}

impl AdamW {
    /// Gradient steps taken.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// The first and second moment of every weight that a step has changed, each flat, by the
    /// weight's place in visiting order.
    pub(crate) fn moments(&self) -> impl Iterator<Item = (usize, [Tensor<1>; 2])> {
        let slots = self.moments.iter().enumerate();
        slots.filter_map(|(place, slot)| {
            let Moments { first, second } = slot.clone()?;
            Some((place, [first, second]))
        })
    }

    /// An optimizer that goes on after so many steps with the moments of each weight.
    pub(crate) fn resumed(steps: usize, moments: Vec<Option<[Tensor<1>; 2]>>) -> Self {
        let slot =
            |pair: Option<[Tensor<1>; 2]>| pair.map(|[first, second]| Moments { first, second });
        Self {
            steps,
            moments: moments.into_iter().map(slot).collect(),
        }
    }
}

struct Stepper<'a> {
    gradients: std::vec::IntoIter<Option<Tensor<1>>>,
    moments: std::slice::IterMut<'a, Option<Moments>>,
    coefficients: Coefficients,
}

impl ModuleMapper for Stepper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (Some(gradient), Some(slot)) = (self.gradients.next().flatten(), self.moments.next())
        else {
            return param;
        };
        let moments = slot.take().unwrap_or_else(|| Moments {
            first: zeros(&gradient),
            second: zeros(&gradient),
        });
        param.map(|weight| {
            let shape = weight.shape();
            let flat = weight.flatten::<1>(0, D as isize - 1);
            let (weight, moments) = step(flat, gradient, moments, &self.coefficients);
            *slot = Some(moments);
            weight.reshape(shape)
        })
    }
}

/// As many zeros as a gradient has values, where it lives. burn's own are copied once on the CPU,
/// where a table of embeddings may take a large part of the memory.
fn zeros(gradient: &Tensor<1>) -> Tensor<1> {
    if !is_on_host(gradient) {
        return gradient.zeros_like();
    }
    let count = gradient.dims()[0];
    let zeros = TensorData::new(vec![0.0f32; count], [count]);
    Tensor::from_data(zeros, &gradient.device())
}

fn is_on_host(tensor: &Tensor<1>) -> bool {
    tensor.clone().try_into_primitive::<Flex>().is_ok()
}

/// One weight's step. On the CPU all of it happens in one pass over memory, in place; elsewhere it is
/// made of burn's operations.
fn step(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    moments: Moments,
    c: &Coefficients,
) -> (Tensor<1>, Moments) {
    if is_on_host(&gradient) {
        return step_on_host(weight, gradient, moments, c);
    }
    let gradient = gradient * c.gradient_scale;
    let first = moments.first * c.beta_1 + gradient.clone() * (1.0 - c.beta_1);
    let second = moments.second * c.beta_2 + gradient.square() * (1.0 - c.beta_2);
    let divisor = second.clone().sqrt() * c.second_scale + c.epsilon;
    let weight = weight * c.decay - first.clone() / divisor * c.step_size;
    (weight, Moments { first, second })
}

/// Values that a thread takes at once.
const CHUNK: usize = 1 << 16;

fn step_on_host(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    moments: Moments,
    c: &Coefficients,
) -> (Tensor<1>, Moments) {
    let on_host = |tensor: Tensor<1>| match tensor.try_into_primitive::<Flex>() {
        Ok(host) => host,
        Err(_) => unreachable!("weights and moments live where their gradient does"),
    };
    let [mut weight, gradient, mut first, mut second] =
        [weight, gradient, moments.first, moments.second].map(on_host);
    let gradient = gradient.to_contiguous();
    let gradients = gradient.storage::<f32>()[gradient.layout().start_offset()..].par_chunks(CHUNK);
    let weights = weight.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let firsts = first.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let seconds = second.storage_mut::<f32>().par_chunks_mut(CHUNK);
    let numbers = SingleCoefficients::from(c);
    weights
        .zip(gradients)
        .zip(firsts.zip(seconds))
        .for_each(|((w, g), (m, v))| {
            Arch::new().dispatch(
                #[inline(always)]
                || numbers.step(w, g, m, v),
            );
        });
    let [weight, first, second] = [weight, first, second].map(Tensor::from_primitive::<Flex>);
    (weight, Moments { first, second })
}

/// [`Coefficients`] in the weights' own precision.
#[derive(Clone, Copy)]
struct SingleCoefficients {
    gradient_scale: f32,
    beta_1: f32,
    beta_2: f32,
    step_size: f32,
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
            step_size: c.step_size as f32,
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
            *w = *w * self.decay - *m / divisor * self.step_size;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const LEARNING_RATE: f64 = 0.1;

    /// The textbook's AdamW in 64-bit floats: the weight after each of the gradients.
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
        let mut weight = tensor(0.7);
        let mut moments = Moments {
            first: tensor(0.0),
            second: tensor(0.0),
        };
        for (index, gradient) in gradients.iter().enumerate() {
            let t = index as f64 + 1.0;
            let coefficients = Coefficients {
                gradient_scale: 0.5,
                beta_1: 0.9,
                beta_2: 0.99,
                step_size: LEARNING_RATE / (1.0 - 0.9f64.powf(t)),
                second_scale: (1.0 - 0.99f64.powf(t)).sqrt().recip(),
                epsilon: 1e-8,
                decay: 1.0 - LEARNING_RATE * 0.01,
            };
            // Twice the gradient, halved by the clipping factor.
            (weight, moments) = step(weight, tensor(2.0 * gradient), moments, &coefficients);
        }
        let expected = reference(0.7, &gradients, 0.01);
        for value in weight.into_data().iter::<f32>() {
            assert!(
                (f64::from(value) - expected).abs() < 1e-6,
                "{value} is not {expected}"
            );
        }
    }
}
