//! The learners of a team, one per agent: the update that all algorithms with a policy loss share, and the
//! learners' part of a checkpoint.

use polyphony_episode::Metric;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    MarlError,
    agent::{Agent, agent_of_role, roles_of},
    algorithm::{EnvironmentSpec, Progress, StepContext},
    metrics::update_metrics,
    policy_loss::PolicyLoss,
    policy_update::{PolicyUpdate, update_policy},
    rollout::Rollout,
    saved_state::{AlgorithmState, SavedState},
    state::LearnerState,
    update::Learner,
    update_each::update_each,
};

/// One learner per agent.
#[derive(Clone, Debug)]
pub struct Learners(pub Vec<Learner>);

impl Learners {
    /// The learners of a team that has not learned anything yet.
    pub fn new(agents: &[Agent]) -> Self {
        Self(agents.iter().map(|_| Learner::default()).collect())
    }

    /// Adds the groups of a rollout to the buffers of the agents that sampled them.
    pub fn add_to_buffers(&mut self, rollout: &Rollout, spec: &EnvironmentSpec) {
        let (team_size, roles) = (self.0.len(), spec.roles.len());
        for (index, learner) in self.0.iter_mut().enumerate() {
            let agent_roles: Vec<usize> = roles_of(index, team_size, roles).collect();
            let groups = rollout.groups_of(&agent_roles).into_iter();
            learner.buffer.extend(groups.cloned());
        }
    }

    /// Collects a rollout whose samples have advantages, and updates each agent whose buffer is full.
    /// Returns the [metrics of the updates](update_metrics) for every role.
    ///
    /// # Errors
    /// As [`update_policy`].
    pub fn update(
        &mut self,
        agents: &mut [Agent],
        rollout: &Rollout,
        loss: &PolicyLoss,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        self.add_to_buffers(rollout, step.spec);
        let (team_size, roles) = (agents.len(), &step.spec.roles);
        let updates = update_each(agents, &mut self.0, on_progress, |index, agent, learner| {
            let agent_roles = roles_of(index, team_size, roles.len()).count();
            let update = PolicyUpdate::new(index, agent, agent_roles, step);
            match update.take_if_full(learner) {
                Some(groups) => update_policy(agent, learner, &groups, loss, &update),
                None => Ok((update.empty_report(), None)),
            }
        })?;
        let metrics = roles.iter().enumerate().flat_map(|(role, name)| {
            let (report, policy_stats) = &updates[agent_of_role(team_size, role)];
            update_metrics(name, report, policy_stats.as_ref())
        });
        Ok(metrics.collect())
    }

    /// The state of the learners, together with `extra`: whatever else the algorithm keeps besides tensors.
    ///
    /// # Errors
    /// If it cannot be written as RON.
    pub fn state(
        &self,
        agents: &[Agent],
        extra: &impl Serialize,
    ) -> Result<AlgorithmState, MarlError> {
        let learners = agents.iter().zip(&self.0);
        let states = learners
            .clone()
            .map(|(agent, learner)| learner.state(agent));
        let states: Vec<LearnerState> = states.collect();
        let tensors = learners.flat_map(|(agent, learner)| learner.tensors(agent));
        AlgorithmState::new(&(states, extra), tensors.collect())
    }

    /// The learners of a saved [state](Learners::state), and the `extra` that was saved with them.
    ///
    /// # Errors
    /// If the state belongs to another team or model, a tensor cannot be read, or the moments have another
    /// format than the run's settings ask for.
    pub fn from_state<T: DeserializeOwned>(
        agents: &[Agent],
        saved: &SavedState<'_>,
    ) -> Result<(Self, T), MarlError> {
        let (states, extra): (Vec<LearnerState>, T) = saved.read_values()?;
        if states.len() != agents.len() {
            return Err(MarlError::state(format!(
                "it is the state of {} agents, but the team has {}",
                states.len(),
                agents.len()
            )));
        }
        let learners = agents.iter().zip(states);
        let learners = learners.map(|(agent, state)| Learner::from_state(agent, state, saved));
        Ok((Self(learners.collect::<Result<_, _>>()?), extra))
    }

    /// The number of gradient steps of all agents together.
    pub fn gradient_steps(&self) -> usize {
        self.0.iter().map(|learner| learner.gradient_steps).sum()
    }
}
