//! One member of the team: a policy with its own weights, tokenizer and chat template.

use std::sync::Arc;

use polyphony_episode::{FinishReason, Observation, Response, Role};
use polyphony_model::{
    ChatTemplate, LanguageModel, Message, MessageRole, Tokenizer, encode_continuation,
    encode_conversation,
};

use crate::{MarlError, ranks::RankGroup, tree::History};

/// How an agent's text is turned into token ids and back.
#[derive(Debug)]
pub struct TextCodec {
    /// Turns text into ids and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is laid out; without a template, a base model gets plain text.
    pub template: Option<ChatTemplate>,
    /// The ids that end a response.
    pub stop_tokens: Vec<u32>,
}

/// One agent: it plays one role, or all roles if it is the only agent of its team. Its optimizer and
/// everything else that it learns with belong to the algorithm.
#[derive(Debug)]
pub struct Agent {
    /// Its name in messages and files. An agent of a single role has the name of that role.
    pub name: String,
    /// The policy.
    pub model: LanguageModel,
    /// How text is turned into token ids and back; agents that start from the same model share it.
    pub codec: Arc<TextCodec>,
    /// The ranks that hold copies of this agent, and train it together.
    pub(crate) replicas: RankGroup,
}

impl Agent {
    /// An agent from its parts.
    pub fn new(name: impl Into<String>, model: LanguageModel, codec: Arc<TextCodec>) -> Self {
        Self {
            name: name.into(),
            model,
            codec,
            replicas: RankGroup::default(),
        }
    }

    /// The ranks that hold copies of this agent, and train it together; only this one unless the team is on
    /// [several ranks](crate::Team::on_ranks).
    pub fn replicas(&self) -> &RankGroup {
        &self.replicas
    }

    /// Refuses a history that leaves no room in the context for a response of `new` tokens.
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

/// The index of the agent that plays a role. A team has one agent per role, or one agent for all roles.
pub fn agent_of_role(agents: usize, role: usize) -> usize {
    if agents == 1 { 0 } else { role }
}

/// The roles that the agent at `index` plays: the inverse of [`agent_of_role`].
pub fn roles_of(index: usize, agents: usize, roles: usize) -> impl Iterator<Item = usize> {
    (0..roles).filter(move |&role| agent_of_role(agents, role) == index)
}

impl TextCodec {
    /// The history of an agent that has just received its first observation.
    ///
    /// # Errors
    /// If the chat template rejects the conversation or the tokenizer fails.
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
        Ok(History {
            tokens: tokens.into(),
        })
    }

    /// The history of an agent that has answered and now reads the next observation. The answer keeps the
    /// token ids that were sampled: it is not tokenized again.
    ///
    /// # Errors
    /// If the chat template rejects the conversation or has no place for an answer, or the tokenizer fails.
    pub fn next_history(
        &self,
        role: &Role,
        history: &History,
        answer: &Response,
        observation: &Observation,
    ) -> Result<History, MarlError> {
        let continuation = match &self.template {
            Some(template) => {
                let system = role.system.as_deref();
                let mut ids =
                    encode_continuation(&self.tokenizer, template, system, &observation.text)?;
                // The template ends an answer with a token that the model may already have sampled.
                if answer.finish == FinishReason::Stop && answer.tokens.last() == ids.first() {
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
            tokens: [&history.tokens[..], &answer.tokens, &continuation]
                .concat()
                .into(),
        })
    }
}

#[cfg(test)]
mod tests;
