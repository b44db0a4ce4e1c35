//! What passes between agents and environment in one turn.

use serde::{Deserialize, Serialize};

/// An agent's part in the team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// A short name for metrics and reports, such as `summarizer`.
    pub name: String,
    /// Standing instructions, given as the conversation's system message.
    pub system: Option<String>,
}

impl Role {
    /// A role without standing instructions.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            system: None,
        }
    }

    /// The same role with standing instructions.
    #[must_use]
    pub fn with_system(self, system: impl Into<String>) -> Self {
        Self {
            system: Some(system.into()),
            ..self
        }
    }
}

/// What an agent is told at one turn: the user message of its conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The message's text.
    pub text: String,
}

impl Observation {
    /// An observation from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model said that it was done.
    Stop,
    /// The length limit cut it off.
    Length,
}

/// One agent's answer at one turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The answer as text, without end markers.
    pub text: String,
    /// The sampled token ids, the end-of-sequence token included; empty where the text did not
    /// come from a model.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Response {
    /// A finished response that did not come from a model, such as a reference answer.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tokens: Vec::new(),
            finish: FinishReason::Stop,
        }
    }
}

/// The responses of all agents at one turn, in the order of the environment's roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JointAction {
    /// One response an agent.
    pub responses: Vec<Response>,
}

impl JointAction {
    /// A joint action from one response an agent.
    pub fn new(responses: Vec<Response>) -> Self {
        Self { responses }
    }

    /// The texts of a team of `N`.
    ///
    /// # Panics
    /// If the team has another size. The caller of [`crate::Environment::step`] guarantees one
    /// response a role.
    pub fn texts<const N: usize>(&self) -> [&str; N] {
        assert_eq!(
            self.responses.len(),
            N,
            "a joint action holds one response a role"
        );
        std::array::from_fn(|agent| self.responses[agent].text.as_str())
    }
}

/// One turn that has been played: what each agent saw and what each said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// One observation an agent.
    pub observations: Vec<Observation>,
    /// What the agents answered.
    pub action: JointAction,
}
