//! A group's log-probabilities, and then the gradients of whatever depends on them.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{PackedGroup, group_logprobs, to_host};
use crate::{
    LanguageModel, ModelError, WeightGradients,
    network::{LayerInputs, attention::PackedAttention},
};

/// What a forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activations {
    /// Everything: the fastest.
    #[default]
    Keep,
    /// The inputs of the layers alone; each layer is run again in the backward pass (gradient
    /// checkpointing). A third slower, and memory hardly grows with the number of layers.
    Recompute,
}

/// A group whose log-probabilities are known and whose weights' gradients can still be had.
#[derive(Debug)]
pub struct ScoredGroup<'a> {
    group: &'a PackedGroup<'a>,
    temperature: f32,
    logprobs: Vec<f32>,
    kept: Kept<'a>,
}

#[derive(Debug)]
enum Kept<'a> {
    All {
        model: Box<LanguageModel>,
        /// Where differentiation ends: the embeddings' gradients are added to the table's row by
        /// row, since burn would make a table of them.
        embedded: Tensor<2>,
        logprobs: Tensor<1>,
    },
    LayerInputs {
        model: &'a LanguageModel,
        inputs: LayerInputs,
    },
}

impl<'a> ScoredGroup<'a> {
    /// Scores a group as [`score_group`](super::score_group) does.
    ///
    /// # Errors
    /// If a token is outside the vocabulary, or prompt and response together are longer than the
    /// model's context.
    pub fn new(
        model: &'a LanguageModel,
        group: &'a PackedGroup<'a>,
        temperature: f32,
        activations: Activations,
    ) -> Result<Self, ModelError> {
        let (logprobs, kept) = match activations {
            Activations::Keep => {
                group.check(model)?;
                let embedded = Tensor::from_inner(model.embed(&group.fed_tokens())).require_grad();
                let model = Box::new(model.trainable());
                let hidden =
                    model.hidden_from(embedded.clone(), &group.positions(), &mut attention(group));
                let logprobs = group_logprobs(group, hidden, model.head(), temperature);
                let kept = Kept::All {
                    model,
                    embedded,
                    logprobs: logprobs.clone(),
                };
                (to_host(logprobs), kept)
            }
            Activations::Recompute => {
                group.check(model)?;
                let (ids, positions) = (group.fed_tokens(), group.positions());
                let inputs = model.layer_inputs(&ids, &positions, &mut attention(group));
                let hidden = model.normalize(inputs.last());
                let logprobs = group_logprobs(group, hidden, model.head(), temperature);
                (to_host(logprobs), Kept::LayerInputs { model, inputs })
            }
        };
        Ok(Self {
            group,
            temperature,
            logprobs,
            kept,
        })
    }

    /// The natural log-probability of every response token, one response after the other.
    pub fn logprobs(&self) -> &[f32] {
        &self.logprobs
    }

    /// The gradient of an objective in every weight that learns, given its derivative in each
    /// log-probability.
    ///
    /// # Panics
    /// If there is not one derivative a log-probability.
    pub fn backward(self, derivatives: Vec<f32>) -> WeightGradients {
        let tokens = self.logprobs.len();
        assert_eq!(
            derivatives.len(),
            tokens,
            "one derivative a log-probability"
        );
        let weighted = |logprobs: Tensor<1>| {
            let derivatives = TensorData::new(derivatives, [tokens]);
            (logprobs.clone() * Tensor::from_data(derivatives, &logprobs.device())).sum()
        };
        match self.kept {
            Kept::All {
                model,
                embedded,
                logprobs,
            } => {
                let mut tape = weighted(logprobs).backward();
                model.take_gradients(&mut tape, &self.group.fed_tokens(), &embedded)
            }
            Kept::LayerInputs { model, inputs } => {
                let (group, temperature) = (self.group, self.temperature);
                let (ids, positions) = (group.fed_tokens(), group.positions());
                let objective =
                    |hidden, head| weighted(group_logprobs(group, hidden, head, temperature));
                model.gradients(&ids, &positions, inputs, &mut attention(group), objective)
            }
        }
    }
}

fn attention(group: &PackedGroup<'_>) -> PackedAttention {
    PackedAttention::new(group.prompt().len(), &group.fed_lengths())
}
