//! The state of learners in a checkpoint, so that a resumed run learns as if it had never stopped.
//!
//! Random numbers need no state, because their streams are keyed by seed and step. A reference needs none
//! either: it is the model that the agent started from.

use polyphony_model::TensorSpec;
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    adamw::{AdamW, WeightStepCount},
    agent::Agent,
    saved_state::{SavedState, StateTensor},
    tree::RoleGroup,
    update::Learner,
};

/// Everything about a learner except its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearnerState {
    /// The agent's name.
    pub agent: String,
    /// Gradient steps taken.
    pub gradient_steps: usize,
    /// Gradient steps skipped in a row because the loss or the gradient was not finite.
    pub skipped_in_a_row: usize,
    /// The weights that have moments.
    pub stepped: Vec<WeightStepCount>,
    /// Groups that the agent has not learned from yet.
    pub buffer: Vec<RoleGroup>,
}

impl Learner {
    /// Its state without tensors.
    pub fn state(&self, agent: &Agent) -> LearnerState {
        LearnerState {
            agent: agent.name.clone(),
            gradient_steps: self.gradient_steps,
            skipped_in_a_row: self.skipped_in_a_row,
            stepped: self.optimizer.stepped(&specs(agent)),
            buffer: self.buffer.clone(),
        }
    }

    /// The tensors of its state: the moments of the weights that it has changed, under names that begin
    /// with the agent's name.
    pub fn tensors(&self, agent: &Agent) -> Vec<(TensorSpec, StateTensor)> {
        self.optimizer.tensors(&prefix(agent), &specs(agent))
    }

    /// The learner of an agent: `state`, with the tensors of `saved`.
    ///
    /// # Errors
    /// If the state belongs to another agent or model, a tensor cannot be read, or its moments have another
    /// format than the run's settings ask for.
    pub fn from_state(
        agent: &Agent,
        state: LearnerState,
        saved: &SavedState<'_>,
    ) -> Result<Self, MarlError> {
        if state.agent != agent.name {
            return Err(MarlError::state(format!(
                "it is the state of agent `{}`, not of `{}`",
                state.agent, agent.name
            )));
        }
        let (specs, device) = (specs(agent), agent.model.device());
        let optimizer = AdamW::from_state(&prefix(agent), &specs, &state.stepped, &device, saved)?;
        Ok(Self {
            buffer: state.buffer,
            optimizer,
            gradient_steps: state.gradient_steps,
            skipped_in_a_row: state.skipped_in_a_row,
        })
    }
}

fn specs(agent: &Agent) -> Vec<TensorSpec> {
    let weights = agent.model.named_weights().into_iter();
    weights.map(|(spec, _)| spec).collect()
}

/// The prefix of the names of an agent's tensors.
pub(crate) fn prefix(agent: &Agent) -> String {
    format!("{}.", agent.name)
}
