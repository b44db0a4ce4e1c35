//! A prompt and its responses as one row.

use crate::{LanguageModel, ModelError};

/// A prompt and the responses sampled from it.
///
/// The last token of a response predicts nothing, so it is a target but never fed to the network.
#[derive(Clone, Debug)]
pub struct PackedGroup<'a> {
    prompt: &'a [u32],
    responses: Vec<&'a [u32]>,
}

impl<'a> PackedGroup<'a> {
    /// A group from its prompt and its responses.
    ///
    /// # Errors
    /// If there is no response, or one of them or the prompt is empty.
    pub fn new(prompt: &'a [u32], responses: Vec<&'a [u32]>) -> Result<Self, ModelError> {
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if responses.is_empty() || responses.iter().any(|response| response.is_empty()) {
            return Err(ModelError::EmptyResponse);
        }
        Ok(Self { prompt, responses })
    }

    /// The prompt's tokens.
    pub fn prompt(&self) -> &'a [u32] {
        self.prompt
    }

    /// The number of tokens of each response.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> {
        self.responses.iter().map(|response| response.len())
    }

    /// The place of the prompt's last token in the packed row, where all of the prompt has been read.
    pub fn last_of_prompt(&self) -> usize {
        self.prompt.len() - 1
    }

    /// The place of a response's token in the packed row; `None` for its last token, which the network
    /// never runs, and for what does not exist.
    pub fn place_in_response(&self, response: usize, token: usize) -> Option<usize> {
        let fed = self.fed_lengths();
        let before: usize = fed.get(..response)?.iter().sum();
        (token < *fed.get(response)?).then(|| self.prompt.len() + before + token)
    }

    /// Refuses places outside the packed row.
    pub(super) fn check_places(&self, places: &[usize]) -> Result<Vec<u32>, ModelError> {
        let tokens = self.prompt.len() + self.fed_lengths().iter().sum::<usize>();
        match places.iter().find(|&&place| place >= tokens) {
            Some(&position) => Err(ModelError::NoHiddenState { position, tokens }),
            None => Ok(places.iter().map(|&place| place as u32).collect()),
        }
    }

    /// The tokens that the network runs: the prompt, then each response but its last token.
    pub(crate) fn fed_tokens(&self) -> Vec<u32> {
        let fed = self
            .responses
            .iter()
            .flat_map(|response| &response[..response.len() - 1]);
        self.prompt.iter().chain(fed).copied().collect()
    }

    pub(crate) fn fed_lengths(&self) -> Vec<usize> {
        self.lengths().map(|length| length - 1).collect()
    }

    pub(crate) fn positions(&self) -> Vec<usize> {
        let prompt = self.prompt.len();
        let responses = self
            .fed_lengths()
            .into_iter()
            .flat_map(|n| prompt..prompt + n);
        (0..prompt).chain(responses).collect()
    }

    /// For every response token the packed index of the token that predicts it.
    pub(crate) fn predictors(&self) -> Vec<u32> {
        let last_of_prompt = self.prompt.len() - 1;
        let mut start = self.prompt.len();
        let mut predictors = Vec::new();
        for fed in self.fed_lengths() {
            predictors.push(last_of_prompt as u32);
            predictors.extend((start..start + fed).map(|index| index as u32));
            start += fed;
        }
        predictors
    }

    pub(crate) fn targets(&self) -> Vec<u32> {
        self.responses.concat()
    }

    /// Refuses what the model cannot run.
    pub(crate) fn check(&self, model: &LanguageModel) -> Result<(), ModelError> {
        let longest = self.lengths().max().unwrap_or_default();
        check_tokens(self.prompt, self.prompt.len() + longest, model)?;
        self.responses
            .iter()
            .try_for_each(|response| model.check_ids(response))
    }
}

/// Refuses ids outside the vocabulary, none at all, and a sequence of more than the context holds.
pub(super) fn check_tokens(
    ids: &[u32],
    sequence: usize,
    model: &LanguageModel,
) -> Result<(), ModelError> {
    if ids.is_empty() {
        return Err(ModelError::EmptyPrompt);
    }
    let max_positions = model.config().max_positions;
    if sequence > max_positions {
        return Err(ModelError::ContextTooLong {
            tokens: sequence,
            max_positions,
        });
    }
    model.check_ids(ids)
}
