//! AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101) with gradients clipped by their norm over
//! all weights.
//!
//! `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
//! `w ← (1 − η λ) w − η · m̂ / (√v̂ + ε)` with `m̂ = m / (1 − β₁ᵗ)` and `v̂ = v / (1 − β₂ᵗ)`.

use burn::{
    module::{ModuleMapper, Param},
    tensor::Tensor,
};
use polyphony_model::LanguageModel;

use crate::{config::Updates, gradients::Gradients};

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
    /// The learning rate of the next step: it rises linearly over the warm-up.
    pub(crate) fn learning_rate(&self, updates: &Updates) -> f64 {
        let next = self.steps + 1;
        let warmed = next as f64 / (updates.warmup_updates + 1) as f64;
        updates.learning_rate * warmed.min(1.0)
    }

    /// One gradient step. `norm` is the gradients' norm.
    pub(crate) fn step(
        &mut self,
        model: LanguageModel,
        gradients: Gradients,
        norm: f64,
        updates: &Updates,
    ) -> LanguageModel {
        let learning_rate = self.learning_rate(updates);
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
        self.moments.resize_with(gradients.by_weight.len(), || None);
        let mut stepper = Stepper {
            gradients: gradients.by_weight.into_iter(),
            moments: self.moments.iter_mut(),
            coefficients,
        };
        model.map_weights(&mut stepper)
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
            first: gradient.zeros_like(),
            second: gradient.zeros_like(),
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

/// One weight's step.
fn step(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    moments: Moments,
    c: &Coefficients,
) -> (Tensor<1>, Moments) {
    let gradient = gradient * c.gradient_scale;
    let first = moments.first * c.beta_1 + gradient.clone() * (1.0 - c.beta_1);
    let second = moments.second * c.beta_2 + gradient.square() * (1.0 - c.beta_2);
    let divisor = second.clone().sqrt() * c.second_scale + c.epsilon;
    let weight = weight * c.decay - first.clone() / divisor * c.step_size;
    (weight, Moments { first, second })
}
