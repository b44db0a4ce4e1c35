//! Log-probabilities of given tokens: the quantities that training differentiates and that checks
//! compare with sampling.

mod differentiate;
mod pack;

use burn::tensor::Tensor;

pub use differentiate::{Activations, ScoredGroup};
pub use pack::PackedGroup;

use self::pack::check_tokens;

use crate::{
    LanguageModel, ModelError,
    kernels::{self, ProjectionOutput, Weight},
    network::attention::PackedAttention,
    transfer::{to_host, token_tensor},
};

/// The natural log-probability of every response token of a group, under the distribution
/// `softmax(logits / temperature)`.
///
/// The group is run as one packed row: the prompt once, then every response. Each response attends to the
/// prompt and to itself, and its positions follow those of the prompt. The result is differentiable if the
/// model is [trainable](LanguageModel::trainable).
///
/// # Shapes
/// - output `[N]`: the tokens of all responses, one response after the other
///
/// # Errors
/// If a token is outside the vocabulary, or prompt and response together are longer than the
/// model's context.
pub fn score_group(
    model: &LanguageModel,
    group: &PackedGroup<'_>,
    temperature: f32,
) -> Result<Tensor<1>, ModelError> {
    group.check(model)?;
    let mut attention = PackedAttention::new(group.prompt().len(), &group.input_lengths());
    let hidden = model.hidden(&group.input_tokens(), &group.positions(), &mut attention);
    Ok(group_logprobs(group, hidden, &model.head(), temperature))
}

/// The log-probabilities of a group's response tokens, from the hidden states of its input tokens.
///
/// # Shapes
/// - hidden `[T, D]`, head `[V, D]`, output `[N]`
fn group_logprobs(
    group: &PackedGroup<'_>,
    hidden: Tensor<2>,
    head: &Weight,
    temperature: f32,
) -> Tensor<1> {
    let device = hidden.device();
    let predictors = token_tensor(&group.predictors(), &device);
    let targets = token_tensor(&group.targets(), &device);
    let hidden = hidden.select(0, predictors);
    kernels::token_logprobs(hidden, head, targets, temperature, kernels::CHUNK_LOGITS)
}

/// The hidden state of the last token of a sequence, after the last normalization. It is the input for
/// a custom head, such as a critic's. The result is not differentiable; for gradients see
/// [`ScoredGroup::with_hidden_states`].
///
/// # Shapes
/// - output `[D]`: `D` hidden size
///
/// # Errors
/// If there are no ids, an id is outside the vocabulary, or there are more ids than the context holds.
pub fn last_hidden_state(model: &LanguageModel, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
    check_tokens(ids, ids.len(), model)?;
    let positions: Vec<usize> = (0..ids.len()).collect();
    let mut attention = PackedAttention::new(ids.len(), &[]);
    let hidden = model.hidden(ids, &positions, &mut attention);
    Ok(to_host(hidden.slice(ids.len() - 1..ids.len())))
}

/// The logits after every token of a sequence.
///
/// # Shapes
/// - output `[T, V]`: `T` ids, `V` vocabulary
///
/// # Errors
/// If there are no ids, an id is outside the vocabulary, or there are more ids than the context holds.
pub fn sequence_logits(model: &LanguageModel, ids: &[u32]) -> Result<Tensor<2>, ModelError> {
    check_tokens(ids, ids.len(), model)?;
    let positions: Vec<usize> = (0..ids.len()).collect();
    let mut attention = PackedAttention::new(ids.len(), &[]);
    let hidden = model.hidden(ids, &positions, &mut attention);
    Ok(kernels::project(
        hidden,
        &model.head(),
        None,
        ProjectionOutput::Floats,
    ))
}

/// The natural log-probability of each token after the first, given those before it, at
/// temperature 1.
///
/// # Errors
/// If a token is outside the vocabulary or there are more tokens than the model's context holds.
pub fn sequence_logprobs(model: &LanguageModel, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
    let Some((_, rest)) = ids.split_first() else {
        return Ok(Vec::new());
    };
    if rest.is_empty() {
        return model.check_ids(ids).map(|()| Vec::new());
    }
    let group = PackedGroup::new(&ids[..1], vec![rest])?;
    let logprobs = score_group(model, &group, 1.0)?;
    Ok(to_host(logprobs))
}

#[cfg(test)]
mod tests;
