//! Independent actor-critic: each agent has its own critic, which estimates the value of the agent's
//! history. The critic is a value head that reads the last hidden state of the agent's backbone at the
//! last token of the history.
//!
//! Source: "CoLLM", ICML 2026, arXiv 2601.21972, whose code calls it IAC. In reading order, for agent `i`
//! with history `h_t` at a node, response `a_t`, and value `V`:
//!
//! 1. TD error of a joint action: `δ_t = r_t + γ V(h_{t+1}) − V(h_t)`, with `V = 0` where the episode ends.
//! 2. Advantage: `A_t = δ_t + γ λ · mean over the child node's joint actions of A_{t+1}` (GAE, arXiv
//!    1506.02438, on a tree). A response has the mean advantage of the joint actions that contain it.
//! 3. Target: `T_t = V(h_t) + A_t`. With `λ = 0`, as published, this is `r_t + γ V(h_{t+1})`.
//! 4. Loss: the policy's [`PolicyLoss`], plus `c_v` times the mean over responses of
//!    `max((V − T)², (clip(V, V_old − ε, V_old + ε) − T)²)`. One forward pass computes both, and the
//!    gradient of both reaches the backbone.
//! 5. Update: AdamW, with one optimizer for the backbone and one for the head.
//!
//! Departures from the authors' code, and why:
//!
//! - The critic reads the history alone. The authors' critic can also read the response. Its value is then an
//!   action value, and subtracting an action value from the target leaves no learning signal.
//! - A model that all roles share has one critic, which learns once per batch and not once per role.
//! - Advantages are not normalized over the batch, because tasks have different scales.
//! - The end-of-sequence token is trained, and log-probabilities are those at the sampling temperature.
//! - With `kl: Reward` each agent is penalized for its own divergence, in the critic's targets too.

use polyphony_episode::Metric;
use polyphony_model::{LanguageModel, last_hidden_state};
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    agent::{Agent, agent_of_role, roles_of},
    algorithm::{
        AgentSpec, Algorithm, AlgorithmMemory, AlgorithmSettings, EnvironmentSpec, MemoryNeed,
        Progress, StepContext,
    },
    config::{ConfigError, TrainingConfig, at_least_one, check, fraction, learning_rate, positive},
    for_each_group::for_each_group,
    learners::Learners,
    memory::FLOAT_BYTES,
    metrics::update_metrics,
    policy_loss::{Aggregation, Kl, Objective, PolicyLoss, PolicyStats},
    policy_update::PolicyUpdate,
    reference::{references, score_references},
    returns::{Credit, credits, mean},
    rollout::Rollout,
    saved_state::{AlgorithmState, SavedState},
    state::prefix,
    stream::{to_stream_key_field, weights_key},
    tree::{Branch, JointMode, MAX_SAMPLES, Node, RoleGroup, SamplingPlan},
    update::{HiddenStates, Learner, StepOutcome, UpdateReport, gradient_step},
    update_each::update_each,
};

mod loss;
mod metrics;
mod value_head;

use self::{
    loss::CriticLoss,
    metrics::critic_metrics,
    value_head::{HeadState, ValueHead},
};
pub use self::{loss::value_loss, value_head::HeadShape};

/// The settings of the independent actor-critic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndependentActorCritic {
    /// Responses that each agent samples at a node.
    pub samples: usize,
    /// How the agents' responses are combined into joint actions.
    pub joint_mode: JointMode,
    /// The discount `γ` of later turns.
    pub discount: f64,
    /// An episode ends at a node whose joint actions earn more than this on average. Critics learn that
    /// nothing is earned after such a node. If later turns could earn more, a policy can therefore gain by
    /// keeping its rewards below the threshold.
    pub termination_threshold: Option<f64>,
    /// `λ`: how far advantages look beyond the next turn's value. With 0 they do not; with 1 they look to the
    /// end of the episode.
    pub lambda: f64,
    /// The layers of the critic.
    pub value_head: HeadShape,
    /// `c_v`: the weight of the critic's loss.
    pub value_coefficient: f64,
    /// `ε`: values are clipped to within this distance of those at rollout; `None` for no clipping.
    pub value_clip: Option<f64>,
    /// The learning rate of the value head after warm-up; `None` for its agent's learning rate.
    pub value_learning_rate: Option<f64>,
    /// What is maximized.
    pub objective: Objective,
    /// What keeps policies near their start.
    pub kl: Kl,
    /// How token terms are summed up.
    pub aggregation: Aggregation,
    /// Excludes truncated responses, those that the length limit cut off, from the policy's loss.
    pub mask_truncated: bool,
}

impl Default for IndependentActorCritic {
    fn default() -> Self {
        Self {
            samples: 1,
            joint_mode: JointMode::default(),
            discount: 1.0,
            termination_threshold: None,
            lambda: 0.0,
            value_head: HeadShape::default(),
            value_coefficient: 0.6,
            value_clip: Some(0.2),
            value_learning_rate: None,
            objective: Objective::default(),
            kl: Kl::default(),
            aggregation: Aggregation::default(),
            mask_truncated: false,
        }
    }
}

impl IndependentActorCritic {
    /// The loss of an agent's responses, without the critic's loss.
    fn policy_loss(&self) -> PolicyLoss {
        PolicyLoss {
            objective: self.objective,
            kl: self.kl,
            aggregation: self.aggregation,
            mask_truncated: self.mask_truncated,
        }
    }

    /// The learning rate of a value head in a step, given the learning rate of its agent.
    fn head_learning_rate(&self, agent_rate: f64, step: &StepContext<'_>) -> f64 {
        let config = step.config;
        let scheduled = |full| config.updates.scheduled(full, step.step, config.steps);
        self.value_learning_rate.map_or(agent_rate, scheduled)
    }

    /// The advantage of each of a role's responses at a node whose groups have values.
    fn advantages(&self, node: &Node, role: usize) -> Result<Vec<f64>, MarlError> {
        let joint = self.joint_advantages(node, role)?;
        Ok(credits(node, role, &joint, Credit::Mean))
    }

    /// The advantage of each joint action for a role.
    fn joint_advantages(&self, node: &Node, role: usize) -> Result<Vec<f64>, MarlError> {
        let value = |node: &Node| node.groups[role].value.ok_or(MarlError::NoValue);
        let advantage = |branch: &Branch| {
            let mut advantage = self.reward(node, branch, role)? - value(node)?;
            if let Some(child) = &branch.child {
                let later = mean(&self.joint_advantages(child, role)?);
                advantage += self.discount * (value(child)? + self.lambda * later);
            }
            Ok(advantage)
        };
        node.branches.iter().map(advantage).collect()
    }

    /// The reward of a joint action for a role, minus the penalty for the role's divergence.
    fn reward(&self, node: &Node, branch: &Branch, role: usize) -> Result<f64, MarlError> {
        let reward = branch.reward.total_of(role);
        let Kl::Reward { coefficient } = self.kl else {
            return Ok(reward);
        };
        let sample = &node.groups[role].samples[branch.picks[role]];
        let divergence = sample.divergence();
        Ok(reward - coefficient * divergence.ok_or(MarlError::NotScoredByReference)?)
    }
}

impl AlgorithmSettings for IndependentActorCritic {
    fn validate(&self, config: &TrainingConfig) -> Result<(), ConfigError> {
        at_least_one("samples", self.samples)?;
        let allowed = "from 1 to 4096";
        check(
            self.samples <= MAX_SAMPLES,
            "samples",
            self.samples,
            allowed,
        )?;
        fraction("discount", self.discount)?;
        fraction("lambda", self.lambda)?;
        if let Some(threshold) = self.termination_threshold {
            let allowed = "a number, or left out";
            check(
                threshold.is_finite(),
                "termination_threshold",
                threshold,
                allowed,
            )?;
        }
        positive("value_coefficient", self.value_coefficient)?;
        if let Some(clip) = self.value_clip {
            positive("value_clip", clip)?;
        }
        if let Some(rate) = self.value_learning_rate {
            learning_rate("value_learning_rate", rate)?;
        }
        self.policy_loss().validate(&config.updates)
    }

    fn validate_for(&self, spec: &EnvironmentSpec) -> Result<(), ConfigError> {
        AlgorithmSettings::sampling_plan(self).validate_for(spec.roles.len(), spec.horizon)
    }

    fn method(&self, _roles: usize) -> String {
        "IAC".to_owned()
    }

    fn sampling_plan(&self) -> SamplingPlan {
        SamplingPlan {
            samples: self.samples,
            joint_mode: self.joint_mode,
            termination_threshold: self.termination_threshold,
            discount: self.discount,
        }
    }

    fn memory(&self, agent: &AgentSpec, config: &TrainingConfig) -> AlgorithmMemory {
        let mut memory = agent.update_memory(self.samples, config);
        if self.kl != Kl::Off {
            let reference = MemoryNeed::new("reference", agent.reference_bytes());
            memory.lasting.insert(0, reference);
        }
        let parameters = self.value_head.parameters(agent.model.hidden_size) as u64;
        let moments = self
            .value_head
            .moment_bytes(agent.model.hidden_size, config.updates.moments);
        // Weights and moments stay for the whole run; gradients exist only during an update.
        memory.lasting.push(MemoryNeed::new(
            "critic",
            moments.saturating_add(parameters * FLOAT_BYTES),
        ));
        memory.temporary.push(MemoryNeed::new(
            "critic's gradients",
            parameters * FLOAT_BYTES,
        ));
        memory
    }

    fn build(
        &self,
        agents: &[Agent],
        spec: &EnvironmentSpec,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        config.validate()?;
        self.validate(config)?;
        self.validate_for(spec)?;
        let heads = agents.iter().enumerate().map(|(index, agent)| {
            let width = agent.model.config().hidden_size;
            let key = weights_key(
                config.seed,
                to_stream_key_field("agents", spec.first_agent + index)?,
            );
            Ok(ValueHead::new(self.value_head, width, key))
        });
        Ok(Box::new(Trainer {
            settings: self.clone(),
            references: match self.kl {
                Kl::Off => Vec::new(),
                Kl::Loss { .. } | Kl::Reward { .. } => references(agents),
            },
            learners: Learners::new(agents),
            heads: heads.collect::<Result<_, MarlError>>()?,
        }))
    }
}

/// The algorithm while it trains a team.
struct Trainer {
    settings: IndependentActorCritic,
    /// One per agent; empty if no divergence is measured.
    references: Vec<LanguageModel>,
    learners: Learners,
    /// One per agent.
    heads: Vec<ValueHead>,
}

impl Algorithm for Trainer {
    fn sampling_plan(&self) -> SamplingPlan {
        AlgorithmSettings::sampling_plan(&self.settings)
    }

    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        let (team_size, roles, settings) = (agents.len(), &step.spec.roles, &self.settings);
        score_references(agents, &self.references, rollout, step.config.temperature())?;
        assign_values(agents, &self.heads, rollout)?;
        rollout.assign_advantages(|node, role| settings.advantages(node, role))?;
        self.learners.add_to_buffers(rollout, step.spec);
        let pairs = self.learners.0.iter_mut().zip(&mut self.heads);
        let updates = update_each(
            agents,
            &mut pairs.collect::<Vec<_>>(),
            on_progress,
            |index, agent, (learner, head)| {
                let agent_roles = roles_of(index, team_size, roles.len()).count();
                let update = PolicyUpdate::new(index, agent, agent_roles, step);
                let rate = settings.head_learning_rate(update.learning_rate, step);
                match update.take_if_full(learner) {
                    Some(groups) => update_actor_and_critic(
                        agent, learner, head, &groups, settings, &update, rate,
                    ),
                    None => Ok(ActorCriticReport {
                        actor: update.empty_report(),
                        ..ActorCriticReport::default()
                    }),
                }
            },
        )?;
        let metrics = roles.iter().enumerate().flat_map(|(role, name)| {
            let report = &updates[agent_of_role(team_size, role)];
            let actor = update_metrics(name, &report.actor, report.policy_stats.as_ref());
            let critic = critic_metrics(name, report.value_loss, &rollout.groups_of(&[role]));
            actor.into_iter().chain(critic)
        });
        Ok(metrics.collect())
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        let heads: Vec<HeadState> = self.heads.iter().map(ValueHead::state).collect();
        let mut state = self.learners.state(agents, &heads)?;
        for (agent, head) in agents.iter().zip(&self.heads) {
            state.tensors.extend(head.tensors(&prefix(agent)));
        }
        Ok(state)
    }

    fn restore(&mut self, agents: &[Agent], saved: &SavedState<'_>) -> Result<(), MarlError> {
        let (learners, states): (_, Vec<HeadState>) = Learners::from_state(agents, saved)?;
        let heads = agents.iter().zip(&states).map(|(agent, state)| {
            let (shape, width) = (self.settings.value_head, agent.model.config().hidden_size);
            ValueHead::from_state(shape, width, &prefix(agent), state, saved)
        });
        self.heads = heads.collect::<Result<_, _>>()?;
        self.learners = learners;
        Ok(())
    }

    fn gradient_steps(&self) -> usize {
        self.learners.gradient_steps()
    }
}

/// Gives every group the value of its history, before any agent learns from the rollout. This takes one
/// forward pass per prompt, because sampling keeps no hidden states and may have run in bfloat16.
fn assign_values(
    agents: &[Agent],
    heads: &[ValueHead],
    rollout: &mut Rollout,
) -> Result<(), MarlError> {
    let value = |role: usize, group: &RoleGroup| {
        let index = agent_of_role(agents.len(), role);
        let state = last_hidden_state(&agents[index].model, &group.history.tokens)?;
        Ok(heads[index].forward(&state).value)
    };
    for (group, value) in for_each_group(agents, rollout, value)? {
        group.value = Some(value);
    }
    Ok(())
}

/// What the update of one agent and its critic did.
#[derive(Default)]
struct ActorCriticReport {
    actor: UpdateReport,
    policy_stats: Option<PolicyStats>,
    /// The mean of the critic's loss over the responses of all gradient steps.
    value_loss: Option<f64>,
}

/// Updates an agent and its critic from groups that have values and advantages.
fn update_actor_and_critic(
    agent: &mut Agent,
    learner: &mut Learner,
    head: &mut ValueHead,
    buffer: &[RoleGroup],
    settings: &IndependentActorCritic,
    update: &PolicyUpdate<'_>,
    head_learning_rate: f64,
) -> Result<ActorCriticReport, MarlError> {
    let (loss, mut report) = (settings.policy_loss(), update.empty_report());
    let (mut terms, mut value_losses) = (Vec::new(), Vec::new());
    let step_config = update.gradient_step_config(HiddenStates::EndOfHistory);
    for minibatch in update.minibatches(buffer.len())? {
        let groups: Vec<&RoleGroup> = minibatch.iter().map(|&index| &buffer[index]).collect();
        let weights = loss.weights(&groups, update.max_new_tokens);
        let responses: usize = groups.iter().map(|group| group.samples.len()).sum();
        let value_weight = settings.value_coefficient / responses as f64;
        let mut critic = CriticLoss::new(head, settings.value_clip, value_weight);
        let outcome = gradient_step(
            agent,
            learner,
            &groups,
            &step_config,
            &mut report,
            &mut |index, scores| {
                let group = groups[index];
                let actor = loss.of_group(group, &weights[index], scores, &mut terms)?;
                critic.add_to(actor, group, scores)
            },
        )?;
        value_losses.extend(critic.losses);
        let gradients = critic.gradients;
        if let StepOutcome::Taken { .. } = outcome {
            head.step(gradients, head_learning_rate, update.updates);
        }
    }
    Ok(ActorCriticReport {
        actor: report,
        policy_stats: PolicyStats::of(&terms),
        value_loss: (!value_losses.is_empty()).then(|| mean(&value_losses)),
    })
}

#[cfg(test)]
mod tests;
