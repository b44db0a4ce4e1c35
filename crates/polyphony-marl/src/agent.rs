//! One member of the team: a policy with its own weights, optimizer and way with text.

use std::sync::Arc;

use polyphony_episode::{FinishReason, Observation, Response, Role};
use polyphony_model::{
    ChatTemplate, LanguageModel, Message, MessageRole, Tokenizer, encode_continuation,
    encode_conversation,
};

use crate::{MarlError, adamw::AdamW, tree::History, update::JudgedGroup};

/// How an agent's text becomes token ids and back.
#[derive(Debug)]
pub struct Language {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is laid out; a base model without one gets plain text.
    pub template: Option<ChatTemplate>,
    /// The ids that end a response.
    pub stop_tokens: Vec<u32>,
}

/// One agent: it plays one role, or, where it is a team's only agent, all of them.
#[derive(Debug)]
pub struct Agent {
    /// A name for messages: its role's, if it plays one.
    pub name: String,
    /// The policy.
    pub model: LanguageModel,
    /// How text becomes token ids and back; agents that start from one model share it.
    pub language: Arc<Language>,
    /// The policy that it started from, where a divergence from it counts.
    pub(crate) reference: Option<LanguageModel>,
    /// What it will learn from, once there is enough of it.
    pub(crate) buffer: Vec<JudgedGroup>,
    pub(crate) optimizer: AdamW,
    /// Updates refused in a row because a loss or gradient was not finite.
    pub(crate) refused_in_a_row: usize,
}

impl Agent {
    /// An agent that has not learned anything yet.
    pub fn new(name: impl Into<String>, model: LanguageModel, language: Arc<Language>) -> Self {
        let name = name.into();
        Self {
            name,
            model,
            language,
            reference: None,
            buffer: Vec::new(),
            optimizer: AdamW::default(),
            refused_in_a_row: 0,
        }
    }

    /// The same agent, which keeps its present policy as the reference that a divergence is measured
    /// from. The two share their weights until an update changes them.
    #[must_use]
    pub fn with_reference(self) -> Self {
        Self {
            reference: Some(self.model.clone()),
            ..self
        }
    }

    /// Refuses a history after which a response of `new` tokens would not fit into the context.
    pub(crate) fn check_room(
        &self,
        task: &str,
        role: &Role,
        history: &History,
        new: usize,
    ) -> Result<(), MarlError> {
        let prompt = history.tokens.len();
        let max_positions = self.model.config().max_positions;
        if prompt.saturating_add(new) <= max_positions {
            return Ok(());
        }
        Err(MarlError::PromptTooLong {
            task: task.to_owned(),
            agent: role.name.clone(),
            prompt,
            new,
            max_positions,
        })
    }
}

/// The index of the agent that plays a role: a team has one agent a role, or one for all roles.
pub(crate) fn player(agents: usize, role: usize) -> usize {
    if agents == 1 { 0 } else { role }
}

/// The roles that the agent at `index` plays: the other way round of [`player`].
pub(crate) fn roles_of(index: usize, agents: usize, roles: usize) -> impl Iterator<Item = usize> {
    (0..roles).filter(move |&role| player(agents, role) == index)
}

impl Language {
    /// The history of an agent that has just received its first observation.
    ///
    /// # Errors
    /// If the chat template refuses the conversation or the tokenizer fails.
    pub fn first_history(
        &self,
        role: &Role,
        observation: &Observation,
    ) -> Result<History, MarlError> {
        let system = role
            .system
            .iter()
            .map(|text| (MessageRole::System, text.as_str()));
        let user = std::iter::once((MessageRole::User, &*observation.text));
        let messages: Vec<Message> = system
            .chain(user)
            .map(|(role, content)| Message {
                role,
                content: content.to_owned(),
            })
            .collect();
        let tokens = match &self.template {
            Some(template) => encode_conversation(&self.tokenizer, template, &messages)?,
            None => {
                let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
                self.tokenizer
                    .encode_plain(&format!("{}\n\n", texts.join("\n\n")))?
            }
        };
        Ok(History { tokens })
    }

    /// The history of an agent that has said something and is told what came of it. What it said
    /// stays as the token ids that were sampled.
    ///
    /// # Errors
    /// If the chat template refuses the conversation or has no place for an answer.
    pub fn next_history(
        &self,
        role: &Role,
        history: &History,
        said: &Response,
        observation: &Observation,
    ) -> Result<History, MarlError> {
        let continuation = match &self.template {
            Some(template) => {
                let system = role.system.as_deref();
                let mut ids =
                    encode_continuation(&self.tokenizer, template, system, &observation.text)?;
                // The template ends an answer with the token that the model may have ended it with.
                if said.finish == FinishReason::Stop && said.tokens.last() == ids.first() {
                    ids.remove(0);
                }
                ids
            }
            None => {
                let text = format!("\n\n{}\n\n", observation.text);
                self.tokenizer.encode_more(&text)?
            }
        };
        Ok(History {
            tokens: [history.tokens.as_slice(), &said.tokens, &continuation].concat(),
        })
    }
}

#[cfg(test)]
mod tests;
