//! Gradients of all weights of a model.

use burn::{
    module::{ModuleVisitor, Param},
    tensor::{Gradients as Tape, Tensor},
};
use polyphony_model::LanguageModel;

/// One flat gradient a weight, in the order in which the model's weights are visited; `None` for a
/// weight that the loss does not depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gradients {
    pub(crate) by_weight: Vec<Option<Tensor<1>>>,
}

impl Gradients {
    /// Takes a trainable model's gradients out of a finished backward pass.
    pub(crate) fn of(model: &LanguageModel, tape: Tape) -> Self {
        struct Collector {
            tape: Tape,
            by_weight: Vec<Option<Tensor<1>>>,
        }
        impl ModuleVisitor for Collector {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let gradient = param.base().grad_remove(&mut self.tape);
                self.by_weight
                    .push(gradient.map(|g| g.flatten::<1>(0, D as isize - 1)));
            }
        }
        let mut collector = Collector {
            tape,
            by_weight: Vec::new(),
        };
        model.visit_weights(&mut collector);
        Self {
            by_weight: collector.by_weight,
        }
    }

    /// Adds another backward pass's gradients.
    pub(crate) fn add(self, other: Self) -> Self {
        if self.by_weight.is_empty() {
            return other;
        }
        let pairs = self.by_weight.into_iter().zip(other.by_weight);
        let by_weight = pairs
            .map(|pair| match pair {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            })
            .collect();
        Self { by_weight }
    }

    /// The Euclidean norm over all weights together.
    pub(crate) fn norm(&self) -> f64 {
        let squares = self
            .by_weight
            .iter()
            .flatten()
            .map(|gradient| f64::from(gradient.clone().square().sum().into_scalar::<f32>()));
        squares.sum::<f64>().sqrt()
    }
}
