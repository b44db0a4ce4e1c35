//! What agents and environment exchange in one turn.
//!
//! One response can be part of many joint actions. Texts and token ids are reference-counted, so cloning
//! any of these types copies no text.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A role in the team, which one agent plays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// A short name for metrics and reports, such as `summarizer`.
    pub name: String,
    /// Instructions for all tasks, which become the system message of the conversation.
    pub system: Option<String>,
}

impl Role {
    /// A role without a system message.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            system: None,
        }
    }

    /// The same role with a system message.
    #[must_use]
    pub fn with_system(self, system: impl Into<String>) -> Self {
        Self {
            system: Some(system.into()),
            ..self
        }
    }
}

impl From<&str> for Role {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Role {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// What an agent reads at one turn: the user message of its conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The message's text.
    pub text: Arc<str>,
}

impl Observation {
    /// An observation from its text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into() }
    }
}

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it with a stop token.
    Stop,
    /// The length limit cut it off.
    Length,
}

/// One agent's answer at one turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The answer as text, without end markers.
    pub text: Arc<str>,
    /// The sampled token ids, including the end-of-sequence token; empty if the text did not come from a
    /// model.
    pub tokens: Arc<[u32]>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Response {
    /// A complete response that did not come from a model, such as a reference answer.
    pub fn from_text(text: impl Into<Arc<str>>) -> Self {
        Self {
            text: text.into(),
            tokens: Arc::default(),
            finish: FinishReason::Stop,
        }
    }
}

/// The responses of all agents at one turn, in the order of the environment's roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JointAction {
    /// One response per role.
    pub responses: Vec<Response>,
}

impl JointAction {
    /// A joint action from one response per role.
    pub fn new(responses: Vec<Response>) -> Self {
        Self { responses }
    }

    /// The texts of the responses of a team of `N` agents.
    ///
    /// # Panics
    /// If the team has another size. The caller of [`crate::Environment::step`] guarantees one
    /// response per role.
    pub fn texts<const N: usize>(&self) -> [&str; N] {
        assert_eq!(
            self.responses.len(),
            N,
            "a joint action holds one response per role"
        );
        std::array::from_fn(|agent| &*self.responses[agent].text)
    }
}

/// One turn that has been played: what each agent read and what each answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// One observation per role.
    pub observations: Vec<Observation>,
    /// What the agents answered.
    pub action: JointAction,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloning_a_joint_action_copies_no_text() {
        let response = Response {
            text: "a plate".into(),
            tokens: [1, 2].into(),
            finish: FinishReason::Stop,
        };
        let action = JointAction::new(vec![response; 2]);
        let copy = action.clone();
        for (one, other) in action.responses.iter().zip(&copy.responses) {
            assert!(Arc::ptr_eq(&one.text, &other.text));
            assert!(Arc::ptr_eq(&one.tokens, &other.tokens));
        }
    }

    #[test]
    fn a_turn_is_serialized_as_plain_texts_and_numbers() {
        let turn = Turn {
            observations: vec![Observation::new("Go.")],
            action: JointAction::new(vec![Response {
                text: "é\n".into(),
                tokens: [7, 0].into(),
                finish: FinishReason::Length,
            }]),
        };
        let text = r#"{"observations":[{"text":"Go."}],"action":{"responses":[{"text":"é\n","tokens":[7,0],"finish":"length"}]}}"#;
        assert_eq!(serde_json::to_string(&turn).unwrap(), text);
        assert_eq!(serde_json::from_str::<Turn>(text).unwrap(), turn);
    }
}
