//! A group's log-probabilities, and the gradients of an objective that depends on them.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{PackedGroup, group_logprobs};
use crate::{
    LanguageModel, ModelError, WeightGradients,
    kernels::Weight,
    network::{LayerInputs, attention::PackedAttention},
    transfer::{to_host, token_tensor},
};

/// Which activations a forward pass stores for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activations {
    /// All of them, which is fastest.
    #[default]
    Keep,
    /// Only the inputs of the layers; the backward pass runs each layer again (gradient
    /// checkpointing). This is a third slower, but memory hardly grows with the number of layers.
    Recompute,
}

/// The log-probabilities of a group after a forward pass whose backward pass is still to come.
///
/// If it was created by [`ScoredGroup::with_hidden_states`], it also has the hidden states of some tokens. A
/// custom head, such as a critic's, can thus share the forward pass.
#[derive(Debug)]
pub struct ScoredGroup<'a> {
    group: &'a PackedGroup<'a>,
    temperature: f32,
    logprobs: Vec<f32>,
    /// The indices in the packed row of the requested hidden states.
    state_indices: Vec<u32>,
    states: Vec<f32>,
    forward_pass: ForwardPass<'a>,
}

/// The part of the forward pass that is stored for the backward pass.
#[derive(Debug)]
enum ForwardPass<'a> {
    Recorded(Box<Recorded>),
    LayerInputs {
        model: &'a LanguageModel,
        inputs: Box<LayerInputs>,
    },
}

/// A whole forward pass, recorded.
#[derive(Debug)]
struct Recorded {
    model: LanguageModel,
    /// The embeddings of the input tokens, at which burn's backward pass stops. Their gradients are then
    /// scatter-added to the gradient of the table, because burn would first build a second tensor as large
    /// as the table.
    embedded: Tensor<2>,
    logprobs: Tensor<1>,
    /// `[P, D]`; `None` if no hidden states were requested.
    states: Option<Tensor<2>>,
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
        Self::with_hidden_states(model, group, temperature, activations, &[])
    }

    /// As [`ScoredGroup::new`], but also computes the hidden states after the last normalization at some
    /// indices of the packed row: see [`PackedGroup::last_prompt_index`] and
    /// [`PackedGroup::response_index`].
    ///
    /// # Errors
    /// As [`ScoredGroup::new`], and if an index is outside the packed row.
    pub fn with_hidden_states(
        model: &'a LanguageModel,
        group: &'a PackedGroup<'a>,
        temperature: f32,
        activations: Activations,
        state_indices: &[usize],
    ) -> Result<Self, ModelError> {
        group.check(model)?;
        let state_indices = group.check_indices(state_indices)?;
        let (logprobs, states, forward_pass) = match activations {
            Activations::Keep => {
                let embedded =
                    Tensor::from_inner(model.embed(&group.input_tokens())).require_grad();
                let model = model.trainable();
                let hidden =
                    model.hidden_from(embedded.clone(), &group.positions(), &mut attention(group));
                let states = rows(&hidden, &state_indices);
                let logprobs = group_logprobs(group, hidden, &model.head(), temperature);
                let recorded = Recorded {
                    model,
                    embedded,
                    logprobs: logprobs.clone(),
                    states: states.clone(),
                };
                (logprobs, states, ForwardPass::Recorded(Box::new(recorded)))
            }
            Activations::Recompute => {
                let (ids, positions) = (group.input_tokens(), group.positions());
                let inputs = model.layer_inputs(&ids, &positions, &mut attention(group));
                let hidden = model.normalize(inputs.last());
                let states = rows(&hidden, &state_indices);
                let logprobs = group_logprobs(group, hidden, &model.head(), temperature);
                let inputs = Box::new(inputs);
                (logprobs, states, ForwardPass::LayerInputs { model, inputs })
            }
        };
        Ok(Self {
            group,
            temperature,
            logprobs: to_host(logprobs),
            state_indices,
            states: states.map(to_host).unwrap_or_default(),
            forward_pass,
        })
    }

    /// The natural log-probability of every response token, one response after the other.
    pub fn logprobs(&self) -> &[f32] {
        &self.logprobs
    }

    /// The requested hidden states, one row after the other.
    ///
    /// # Shapes
    /// - `[P · D]`: `P` requested states, `D` hidden size
    pub fn hidden_states(&self) -> &[f32] {
        &self.states
    }

    /// The gradients of an objective with respect to every trainable weight, given its derivative with
    /// respect to each log-probability.
    ///
    /// # Panics
    /// Unless there is exactly one derivative per log-probability.
    pub fn backward(self, derivatives: Vec<f32>) -> WeightGradients {
        let states = vec![0.0; self.states.len()];
        self.backward_with_hidden_states(derivatives, states)
    }

    /// As [`ScoredGroup::backward`], for an objective that also depends on the hidden states, given its
    /// derivative with respect to each element of [`ScoredGroup::hidden_states`].
    ///
    /// # Panics
    /// Unless there is exactly one derivative per log-probability, and one per element of the hidden states.
    pub fn backward_with_hidden_states(
        self,
        logprob_derivatives: Vec<f32>,
        hidden_state_derivatives: Vec<f32>,
    ) -> WeightGradients {
        let derivatives = Derivatives::new(&self, logprob_derivatives, hidden_state_derivatives);
        match self.forward_pass {
            ForwardPass::Recorded(recorded) => {
                let Recorded {
                    model,
                    embedded,
                    logprobs,
                    states,
                } = *recorded;
                let mut grads = derivatives.surrogate(logprobs, states).backward();
                model.take_gradients(&mut grads, &self.group.input_tokens(), &embedded)
            }
            ForwardPass::LayerInputs { model, inputs } => {
                let (group, temperature) = (self.group, self.temperature);
                let state_indices = self.state_indices;
                let (ids, positions) = (group.input_tokens(), group.positions());
                let objective = |hidden: Tensor<2>, head: &Weight| {
                    let states = rows(&hidden, &state_indices);
                    let logprobs = group_logprobs(group, hidden, head, temperature);
                    derivatives.surrogate(logprobs, states)
                };
                model.gradients(&ids, &positions, *inputs, &mut attention(group), objective)
            }
        }
    }
}

/// The derivatives of an objective with respect to the outputs of a forward pass.
struct Derivatives {
    logprobs: Vec<f32>,
    /// Empty if no hidden states were requested.
    states: Vec<f32>,
}

impl Derivatives {
    fn new(scored: &ScoredGroup<'_>, logprobs: Vec<f32>, states: Vec<f32>) -> Self {
        assert_eq!(
            logprobs.len(),
            scored.logprobs.len(),
            "one derivative per log-probability"
        );
        assert_eq!(
            states.len(),
            scored.states.len(),
            "one derivative per element of the hidden states"
        );
        Self { logprobs, states }
    }

    /// A surrogate objective with these derivatives: the sum of the outputs, weighted by the derivatives.
    ///
    /// # Shapes
    /// - logprobs `[N]`, states `[P, D]`, output `[1]`
    fn surrogate(self, logprobs: Tensor<1>, states: Option<Tensor<2>>) -> Tensor<1> {
        let logprob_sum = weighted_sum(logprobs, self.logprobs);
        match states {
            Some(states) => logprob_sum + weighted_sum(states.flatten(0, 1), self.states),
            None => logprob_sum,
        }
    }
}

/// # Shapes
/// - values `[N]`, output `[1]`
fn weighted_sum(values: Tensor<1>, weights: Vec<f32>) -> Tensor<1> {
    let count = weights.len();
    let weights = Tensor::from_data(TensorData::new(weights, [count]), &values.device());
    (values * weights).sum()
}

/// The rows at these indices, `[T, D]` to `[P, D]`; `None` if there are no indices.
fn rows(hidden: &Tensor<2>, indices: &[u32]) -> Option<Tensor<2>> {
    let indices = (!indices.is_empty()).then(|| token_tensor(indices, &hidden.device()));
    indices.map(|indices| hidden.clone().select(0, indices))
}

fn attention(group: &PackedGroup<'_>) -> PackedAttention {
    PackedAttention::new(group.prompt().len(), &group.input_lengths())
}
