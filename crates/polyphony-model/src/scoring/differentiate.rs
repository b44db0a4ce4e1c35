//! A group's log-probabilities, and then the gradients of whatever depends on them.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{PackedGroup, group_logprobs};
use crate::{
    LanguageModel, ModelError, WeightGradients,
    network::{LayerInputs, attention::PackedAttention},
    transfer::{to_host, token_tensor},
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
///
/// Where [`ScoredGroup::with_states`] made it, the hidden states of some tokens are known too, so
/// that a head of one's own, such as a critic's, can read them in the same forward pass.
#[derive(Debug)]
pub struct ScoredGroup<'a> {
    group: &'a PackedGroup<'a>,
    temperature: f32,
    logprobs: Vec<f32>,
    /// Where hidden states were asked for, in the packed row.
    places: Vec<u32>,
    states: Vec<f32>,
    kept: Kept<'a>,
}

#[derive(Debug)]
enum Kept<'a> {
    All(Box<Recorded>),
    LayerInputs {
        model: &'a LanguageModel,
        inputs: Box<LayerInputs>,
    },
}

/// A whole forward pass, recorded.
#[derive(Debug)]
struct Recorded {
    model: LanguageModel,
    /// Where differentiation ends: the embeddings' gradients are added to the table's row by row, since
    /// burn would make a table of them.
    embedded: Tensor<2>,
    logprobs: Tensor<1>,
    /// `[P, D]`; `None` where no hidden states were asked for.
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
        Self::with_states(model, group, temperature, activations, &[])
    }

    /// The same, with the hidden states after the last normalization at some places of the packed row:
    /// see [`PackedGroup::last_of_prompt`] and [`PackedGroup::place_in_response`].
    ///
    /// # Errors
    /// Also if the network does not run a token at one of the places.
    pub fn with_states(
        model: &'a LanguageModel,
        group: &'a PackedGroup<'a>,
        temperature: f32,
        activations: Activations,
        places: &[usize],
    ) -> Result<Self, ModelError> {
        group.check(model)?;
        let places = group.check_places(places)?;
        let (logprobs, states, kept) = match activations {
            Activations::Keep => {
                let embedded = Tensor::from_inner(model.embed(&group.fed_tokens())).require_grad();
                let model = model.trainable();
                let hidden =
                    model.hidden_from(embedded.clone(), &group.positions(), &mut attention(group));
                let states = rows(&hidden, &places);
                let logprobs = group_logprobs(group, hidden, model.head(), temperature);
                let recorded = Recorded {
                    model,
                    embedded,
                    logprobs: logprobs.clone(),
                    states: states.clone(),
                };
                (logprobs, states, Kept::All(Box::new(recorded)))
            }
            Activations::Recompute => {
                let (ids, positions) = (group.fed_tokens(), group.positions());
                let inputs = model.layer_inputs(&ids, &positions, &mut attention(group));
                let hidden = model.normalize(inputs.last());
                let states = rows(&hidden, &places);
                let logprobs = group_logprobs(group, hidden, model.head(), temperature);
                let inputs = Box::new(inputs);
                (logprobs, states, Kept::LayerInputs { model, inputs })
            }
        };
        Ok(Self {
            group,
            temperature,
            logprobs: to_host(logprobs),
            places,
            states: states.map(to_host).unwrap_or_default(),
            kept,
        })
    }

    /// The natural log-probability of every response token, one response after the other.
    pub fn logprobs(&self) -> &[f32] {
        &self.logprobs
    }

    /// The hidden states that were asked for, one row after the other.
    ///
    /// # Shapes
    /// - `[P · D]`: `P` places, `D` hidden size
    pub fn states(&self) -> &[f32] {
        &self.states
    }

    /// The gradient of an objective in every weight that learns, given its derivative in each
    /// log-probability.
    ///
    /// # Panics
    /// If there is not one derivative per log-probability.
    pub fn backward(self, derivatives: Vec<f32>) -> WeightGradients {
        let states = vec![0.0; self.states.len()];
        self.backward_with_states(derivatives, states)
    }

    /// The same for an objective that depends on the hidden states too, given its derivative in each
    /// number of [`ScoredGroup::states`].
    ///
    /// # Panics
    /// If there is not one derivative per log-probability and one per number of the hidden states.
    pub fn backward_with_states(self, logprobs: Vec<f32>, states: Vec<f32>) -> WeightGradients {
        let derivatives = Derivatives::new(&self, logprobs, states);
        match self.kept {
            Kept::All(recorded) => {
                let Recorded {
                    model,
                    embedded,
                    logprobs,
                    states,
                } = *recorded;
                let mut tape = derivatives.weigh(logprobs, states).backward();
                model.take_gradients(&mut tape, &self.group.fed_tokens(), &embedded)
            }
            Kept::LayerInputs { model, inputs } => {
                let (group, temperature, places) = (self.group, self.temperature, self.places);
                let (ids, positions) = (group.fed_tokens(), group.positions());
                let objective = |hidden: Tensor<2>, head| {
                    let states = rows(&hidden, &places);
                    let logprobs = group_logprobs(group, hidden, head, temperature);
                    derivatives.weigh(logprobs, states)
                };
                model.gradients(&ids, &positions, *inputs, &mut attention(group), objective)
            }
        }
    }
}

/// The derivatives of an objective in what a forward pass gave.
struct Derivatives {
    logprobs: Vec<f32>,
    /// Nothing where no hidden states were asked for.
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
            "one derivative per number of the hidden states"
        );
        Self { logprobs, states }
    }

    /// A number with these derivatives.
    ///
    /// # Shapes
    /// - logprobs `[N]`, states `[P, D]`, output `[1]`
    fn weigh(self, logprobs: Tensor<1>, states: Option<Tensor<2>>) -> Tensor<1> {
        let of_logprobs = weighted(logprobs, self.logprobs);
        match states {
            Some(states) => of_logprobs + weighted(states.flatten(0, 1), self.states),
            None => of_logprobs,
        }
    }
}

/// # Shapes
/// - values `[N]`, output `[1]`
fn weighted(values: Tensor<1>, weights: Vec<f32>) -> Tensor<1> {
    let count = weights.len();
    let weights = Tensor::from_data(TensorData::new(weights, [count]), &values.device());
    (values * weights).sum()
}

/// The rows at some places, `[T, D]` to `[P, D]`; `None` of no places.
fn rows(hidden: &Tensor<2>, places: &[u32]) -> Option<Tensor<2>> {
    let ids = (!places.is_empty()).then(|| token_tensor(places, &hidden.device()));
    ids.map(|ids| hidden.clone().select(0, ids))
}

fn attention(group: &PackedGroup<'_>) -> PackedAttention {
    PackedAttention::new(group.prompt().len(), &group.fed_lengths())
}
