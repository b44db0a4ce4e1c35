//! The update of one agent by a [`PolicyLoss`] alone, from a buffer whose samples have advantages.

use polyphony_model::StreamKey;

use crate::{
    MarlError,
    agent::Agent,
    algorithm::StepContext,
    config::Updates,
    policy_loss::{PolicyLoss, PolicyStats},
    stream::shuffle_key,
    tree::RoleGroup,
    update::{
        GradientStepConfig, HiddenStates, Learner, UpdateReport, compare_logprobs_once,
        gradient_step, minibatches,
    },
};

/// The configuration of one agent's update, which goes through the agent's buffer.
#[derive(Clone, Debug)]
pub struct PolicyUpdate<'a> {
    /// How weights are updated.
    pub updates: &'a Updates,
    /// The learning rate.
    pub learning_rate: f64,
    /// Groups that an agent collects before it updates.
    pub buffer: usize,
    /// Groups of one gradient step; more, but fewer than twice this many, if the buffer cannot be divided
    /// evenly.
    pub minibatch: usize,
    /// The temperature that responses were sampled at.
    pub temperature: f32,
    /// The maximum number of tokens of a response.
    pub max_new_tokens: usize,
    /// The random stream that orders the groups if there are several epochs.
    pub shuffle: StreamKey,
}

impl<'a> PolicyUpdate<'a> {
    /// The update of the agent at `index` in a step. `roles` is the number of roles that the agent plays. A
    /// node has one group per role, so the agent gets this many groups from each node.
    pub fn new(index: usize, agent: &Agent, roles: usize, step: &StepContext<'a>) -> Self {
        let config = step.config;
        Self {
            updates: &config.updates,
            learning_rate: config.learning_rate(&agent.name, step.step),
            buffer: config.updates.buffer * roles,
            minibatch: config.updates.minibatch * roles,
            temperature: config.temperature(),
            max_new_tokens: config.max_new_tokens,
            // The rollout has already refused steps and roles that do not fit into keys.
            shuffle: shuffle_key(
                config.seed,
                step.step as u32,
                (step.spec.first_agent + index) as u16,
            ),
        }
    }

    /// Takes all groups out of a learner's buffer if it is full; `None` if it is not.
    pub fn take_if_full(&self, learner: &mut Learner) -> Option<Vec<RoleGroup>> {
        let is_full = learner.buffer.len() >= self.buffer;
        is_full.then(|| std::mem::take(&mut learner.buffer))
    }

    /// A report that has only the learning rate, for an agent that is still collecting groups.
    pub fn empty_report(&self) -> UpdateReport {
        UpdateReport {
            learning_rate: self.learning_rate,
            ..UpdateReport::default()
        }
    }

    /// The indices of the buffer's groups, minibatch by minibatch.
    ///
    /// # Errors
    /// If `minibatch` is 0.
    pub fn minibatches(&self, buffer: usize) -> Result<Vec<Vec<usize>>, MarlError> {
        let epochs = self.updates.epochs;
        Ok(minibatches(buffer, self.minibatch, epochs, self.shuffle)?)
    }

    /// The configuration of each gradient step.
    pub fn gradient_step_config(&self, hidden_states: HiddenStates) -> GradientStepConfig<'a> {
        GradientStepConfig {
            updates: self.updates,
            learning_rate: self.learning_rate,
            temperature: self.temperature,
            hidden_states,
        }
    }
}

/// Updates an agent from groups whose samples all have advantages.
///
/// # Errors
/// As [`gradient_step`], and if a sample lacks an advantage, `minibatch` is 0, or `kl` needs a reference that
/// has not scored the samples.
pub fn update_policy(
    agent: &mut Agent,
    learner: &mut Learner,
    buffer: &[RoleGroup],
    loss: &PolicyLoss,
    update: &PolicyUpdate<'_>,
) -> Result<(UpdateReport, Option<PolicyStats>), MarlError> {
    let mut report = update.empty_report();
    let mut terms = Vec::new();
    let step_config = update.gradient_step_config(HiddenStates::None);
    for minibatch in update.minibatches(buffer.len())? {
        let groups: Vec<&RoleGroup> = minibatch.iter().map(|&index| &buffer[index]).collect();
        let weights = loss.weights(&groups, update.max_new_tokens);
        // The groups that the loss depends on, and the weights of their responses.
        let mut active = Vec::new();
        for (group, weights) in groups.into_iter().zip(&weights) {
            match loss.is_skipped(group, weights)? {
                true => report.skipped_groups += 1,
                false => active.push((group, weights)),
            }
        }
        let groups: Vec<&RoleGroup> = active.iter().map(|(group, _)| *group).collect();
        gradient_step(
            agent,
            learner,
            &groups,
            &step_config,
            &mut report,
            &mut |index, scores| {
                let (group, weights) = active[index];
                loss.of_group(group, weights, scores, &mut terms)
            },
        )?;
    }
    compare_logprobs_once(agent, learner, buffer.first(), &step_config, &mut report)?;
    Ok((report, PolicyStats::of(&terms)))
}
