//! The calls to a program, in protocol version 1. `docs/environments.md` describes every message.

use std::fmt;

use polyphony_episode::{FinishReason, JointAction, Task, Turn};
use serde::Serialize;
use serde_json::{Map, Value};

/// The version of the protocol.
pub const PROTOCOL: u32 = 1;

/// A call's name, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallName {
    /// The handshake.
    Hello,
    /// The first observations of a task.
    Start,
    /// Scoring a joint action.
    Step,
}

impl fmt::Display for CallName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hello => "hello",
            Self::Start => "start",
            Self::Step => "step",
        })
    }
}

/// A call to the program.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub(super) enum Call<'a> {
    Hello {
        protocol: u32,
        settings: &'a Map<String, Value>,
    },
    Start {
        task: &'a Task,
    },
    Step {
        task: &'a Task,
        past: Vec<PastTurn<'a>>,
        responses: Vec<SentResponse<'a>>,
    },
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct PastTurn<'a> {
    observations: Vec<&'a str>,
    responses: Vec<SentResponse<'a>>,
}

/// A response as the program sees it, without token ids.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SentResponse<'a> {
    text: &'a str,
    finish: FinishReason,
}

impl<'a> Call<'a> {
    pub(super) fn step(task: &'a Task, past: &'a [Turn], action: &'a JointAction) -> Self {
        let turn = |turn: &'a Turn| PastTurn {
            observations: turn.observations.iter().map(|one| &*one.text).collect(),
            responses: responses(&turn.action),
        };
        Self::Step {
            task,
            past: past.iter().map(turn).collect(),
            responses: responses(action),
        }
    }

    pub(super) fn name(&self) -> CallName {
        match self {
            Self::Hello { .. } => CallName::Hello,
            Self::Start { .. } => CallName::Start,
            Self::Step { .. } => CallName::Step,
        }
    }

    /// The call as a line of JSON.
    pub(super) fn line(&self, id: u64) -> Vec<u8> {
        #[derive(Serialize)]
        struct Request<'a> {
            id: u64,
            #[serde(flatten)]
            call: &'a Call<'a>,
        }
        let request = Request { id, call: self };
        // Writing to memory cannot fail, and every key of these types is a string.
        let mut line = serde_json::to_vec(&request).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

fn responses(action: &JointAction) -> Vec<SentResponse<'_>> {
    let responses = action.responses.iter();
    responses
        .map(|response| SentResponse {
            text: &response.text,
            finish: response.finish,
        })
        .collect()
}
