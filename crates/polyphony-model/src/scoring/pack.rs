//! A prompt and its responses, packed as one row.

use crate::{LanguageModel, ModelError};

/// A prompt and the responses sampled from it.
///
/// The last token of a response predicts nothing. It is a target, but the network is not run on it.
#[derive(Clone, Debug)]
pub struct PackedGroup<'a> {
    prompt: &'a [u32],
    responses: Vec<&'a [u32]>,
}

impl<'a> PackedGroup<'a> {
    /// A group from its prompt and its responses.
    ///
    /// # Errors
    /// If there is no response, or if the prompt or a response is empty.
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

    /// The index in the packed row of the prompt's last token, whose hidden state depends on the whole
    /// prompt.
    pub fn last_prompt_index(&self) -> usize {
        self.prompt.len() - 1
    }

    /// The index of a response's token in the packed row; `None` if there is no such token, or if it is
    /// the response's last one, on which the network is not run.
    pub fn response_index(&self, response: usize, token: usize) -> Option<usize> {
        let lengths = self.input_lengths();
        let before: usize = lengths.get(..response)?.iter().sum();
        (token < *lengths.get(response)?).then(|| self.prompt.len() + before + token)
    }

    /// Checks that all indices lie within the packed row.
    pub(super) fn check_indices(&self, indices: &[usize]) -> Result<Vec<u32>, ModelError> {
        let tokens = self.prompt.len() + self.input_lengths().iter().sum::<usize>();
        match indices.iter().find(|&&index| index >= tokens) {
            Some(&index) => Err(ModelError::NoHiddenState { index, tokens }),
            None => Ok(indices.iter().map(|&index| index as u32).collect()),
        }
    }

    /// The tokens of the packed row: the prompt, then each response without its last token.
    pub(crate) fn input_tokens(&self) -> Vec<u32> {
        let response_inputs = self
            .responses
            .iter()
            .flat_map(|response| &response[..response.len() - 1]);
        self.prompt.iter().chain(response_inputs).copied().collect()
    }

    pub(crate) fn input_lengths(&self) -> Vec<usize> {
        self.lengths().map(|length| length - 1).collect()
    }

    pub(crate) fn positions(&self) -> Vec<usize> {
        let prompt = self.prompt.len();
        let responses = self
            .input_lengths()
            .into_iter()
            .flat_map(|n| prompt..prompt + n);
        (0..prompt).chain(responses).collect()
    }

    /// For every response token the index in the packed row of the token that predicts it.
    pub(crate) fn predictors(&self) -> Vec<u32> {
        let mut start = self.prompt.len();
        let mut predictors = Vec::new();
        for length in self.input_lengths() {
            predictors.push(self.last_prompt_index() as u32);
            predictors.extend((start..start + length).map(|index| index as u32));
            start += length;
        }
        predictors
    }

    pub(crate) fn targets(&self) -> Vec<u32> {
        self.responses.concat()
    }

    /// Checks that the model can run the group.
    pub(crate) fn check(&self, model: &LanguageModel) -> Result<(), ModelError> {
        let longest = self.lengths().max().unwrap_or_default();
        check_tokens(self.prompt, self.prompt.len() + longest, model)?;
        self.responses
            .iter()
            .try_for_each(|response| model.check_ids(response))
    }
}

/// Checks that there are ids, that all of them are in the vocabulary, and that a sequence of
/// `sequence_length` tokens fits into the context.
pub(super) fn check_tokens(
    ids: &[u32],
    sequence_length: usize,
    model: &LanguageModel,
) -> Result<(), ModelError> {
    if ids.is_empty() {
        return Err(ModelError::EmptyPrompt);
    }
    let max_positions = model.config().max_positions;
    if sequence_length > max_positions {
        return Err(ModelError::ContextTooLong {
            tokens: sequence_length,
            max_positions,
        });
    }
    model.check_ids(ids)
}
