//! Independent actor-critic: each agent has a critic of its own history, a value head on the last
//! hidden state of its own backbone at the last token of a history.
//!
//! Source: "CoLLM", ICML 2026, arXiv 2601.21972, whose code calls it IAC. In reading order, for agent `i`
//! with history `h_t` at a node, response `a_t`, and value `V`:
//!
//! 1. Error of a joint action: `δ_t = r_t + γ V(h_{t+1}) − V(h_t)`, with `V = 0` where the episode ends.
//! 2. Advantage: `A_t = δ_t + γ λ · mean over the child node's joint actions of A_{t+1}` (GAE, arXiv
//!    1506.02438, on a tree). A response has the mean over the joint actions that contain it.
//! 3. Target: `T_t = V(h_t) + A_t`; with `λ = 0`, which is the published one, `r_t + γ V(h_{t+1})`.
//! 4. Loss: the policy's, as [`PolicyLoss`] says, and `c_v` times the mean over responses of
//!    `max((V − T)², (clip(V, V_old − ε, V_old + ε) − T)²)`. One forward pass gives both, and the
//!    gradient of both reaches the backbone.
//! 5. Update: AdamW for the backbone, and one of its own for the head.
//!
//! What departs from the authors' code, and why:
//!
//! - The critic reads the history alone. Theirs can also read the response (a value of state and action)
//!   and subtract that from the target, which leaves no signal.
//! - A model that all roles share has one critic, which learns once per batch and not once per role.
//! - Advantages are not normalized over the batch: tasks have different scales.
//! - The end-of-sequence token is trained, and log-probabilities are tempered.
//! - With `kl: Reward` each agent pays for its own divergence, in the targets too.

use polyphony_episode::{Metric, MetricKey};
use polyphony_model::{LanguageModel, ModelError, TensorSpec, last_state};
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    advantage::standard_deviation,
    agent::{Agent, player, roles_of},
    algorithm::{
        AgentPlan, Algorithm, AlgorithmMemory, AlgorithmSettings, AlgorithmState, Game, Need,
        Progress, StepContext,
    },
    config::{ConfigError, TrainingConfig, at_least_one, check, fraction, learning_rate, positive},
    memory::NUMBER,
    metrics::update_metrics,
    policy_loss::{Aggregation, Kl, Objective, PolicyLoss, PolicyShift},
    policy_update::PolicyUpdate,
    reference::{references, score_references},
    rollout::Rollout,
    state::{LearnerState, prefix},
    stream::{narrow, weights_key},
    team::update_each,
    tree::{AgentGroup, JointMode, MOST_SAMPLES, Node, Tree},
    update::{GroupLoss, GroupScores, Learner, States, StepOutcome, UpdateReport, gradient_step},
};

mod targets;
mod value_head;

pub use self::{targets::value_loss, value_head::HeadShape};
use self::{
    targets::{Outlook, Values, td_advantages},
    value_head::{HeadGradients, HeadState, ValueHead},
};

/// Settings of the independent actor-critic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndependentActorCritic {
    /// Responses that each agent samples at a node.
    pub samples: usize,
    /// How they are combined.
    pub joint_mode: JointMode,
    /// The discount `γ` of later turns.
    pub discount: f64,
    /// An episode ends at a node whose joint actions earn more than this on average.
    pub termination_threshold: Option<f64>,
    /// `λ`: how far advantages look beyond the next turn's value; 0 not at all, 1 to the end.
    pub lambda: f64,
    /// What the critic is made of.
    pub value_head: HeadShape,
    /// `c_v`: what the critic's loss is multiplied by.
    pub value_coefficient: f64,
    /// `ε`: how far a value counts as moved from that at rollout; `None` without a bound.
    pub value_clip: Option<f64>,
    /// The learning rate of the value head after warm-up; `None` for that of its agent.
    pub value_learning_rate: Option<f64>,
    /// What is maximized.
    pub objective: Objective,
    /// What keeps policies near their start.
    pub kl: Kl,
    /// How token terms are summed up.
    pub aggregation: Aggregation,
    /// Leaves responses that the length limit cut out of the policy's loss.
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
    fn outlook(&self) -> Outlook {
        Outlook {
            discount: self.discount,
            lambda: self.lambda,
            kl: self.kl,
        }
    }

    fn policy_loss(&self) -> PolicyLoss {
        PolicyLoss {
            objective: self.objective,
            kl: self.kl,
            aggregation: self.aggregation,
            mask_truncated: self.mask_truncated,
        }
    }
}

impl AlgorithmSettings for IndependentActorCritic {
    fn validate(&self, config: &TrainingConfig) -> Result<(), ConfigError> {
        at_least_one("samples", self.samples)?;
        let allowed = "from 1 to 4096";
        check(
            self.samples <= MOST_SAMPLES,
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

    fn validate_for(&self, game: &Game) -> Result<(), ConfigError> {
        AlgorithmSettings::tree(self).validate_for(game.roles.len(), game.horizon)
    }

    fn method(&self, _roles: usize) -> String {
        "IAC".to_owned()
    }

    fn tree(&self) -> Tree {
        Tree {
            samples: self.samples,
            joint_mode: self.joint_mode,
            termination_threshold: self.termination_threshold,
            discount: self.discount,
        }
    }

    fn memory(&self, agent: &AgentPlan, config: &TrainingConfig) -> AlgorithmMemory {
        let mut memory = agent.update_memory(self.samples, config);
        if self.kl != Kl::Off {
            let reference = Need::new("reference", agent.reference_bytes());
            memory.lasting.insert(0, reference);
        }
        let numbers = self.value_head.numbers(agent.model.hidden_size) as u64;
        // Its weights and two moments; and its gradient.
        memory
            .lasting
            .push(Need::new("critic", 3 * numbers * NUMBER));
        memory
            .passing
            .push(Need::new("critic's gradients", numbers * NUMBER));
        memory
    }

    fn build(
        &self,
        agents: &[Agent],
        game: &Game,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        config.validate()?;
        self.validate(config)?;
        self.validate_for(game)?;
        let members = agents.iter().enumerate().map(|(index, agent)| {
            let width = agent.model.config().hidden_size;
            let key = weights_key(config.seed, narrow("agents", index)?);
            Ok(Member {
                learner: Learner::default(),
                head: ValueHead::new(self.value_head, width, key),
                buffer: Vec::new(),
            })
        });
        Ok(Box::new(Training {
            settings: self.clone(),
            references: match self.kl {
                Kl::Off => Vec::new(),
                Kl::Loss { .. } | Kl::Reward { .. } => references(agents),
            },
            members: members.collect::<Result<_, MarlError>>()?,
        }))
    }
}

/// The algorithm while it trains a team.
struct Training {
    settings: IndependentActorCritic,
    /// One per agent; none where no divergence counts.
    references: Vec<LanguageModel>,
    /// One per agent.
    members: Vec<Member>,
}

/// What one agent learns with.
struct Member {
    learner: Learner,
    head: ValueHead,
    /// What it will learn from, once there is enough of it.
    buffer: Vec<ValuedGroup>,
}

/// A group with what its critic expected and what it should have expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ValuedGroup {
    group: AgentGroup,
    /// The value of the history at rollout.
    value: f64,
}

impl ValuedGroup {
    /// What the value should be, for each response: the value and how much better than it the response
    /// was.
    fn targets(&self) -> Result<Vec<f64>, MarlError> {
        let advantages = self.group.advantages().ok_or(MarlError::NoAdvantage)?;
        Ok(advantages.iter().map(|own| self.value + own).collect())
    }
}

/// Of a member everything but tensors.
#[derive(Serialize, Deserialize)]
struct MemberState {
    learner: LearnerState,
    head: HeadState,
    buffer: Vec<ValuedGroup>,
}

/// What one agent's update did.
struct Updated {
    report: UpdateReport,
    shift: Option<PolicyShift>,
    /// The mean of the critic's loss over the responses of all gradient steps.
    value_loss: Option<f64>,
}

impl Algorithm for Training {
    fn tree(&self) -> Tree {
        AlgorithmSettings::tree(&self.settings)
    }

    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        let (team, roles) = (agents.len(), step.game.roles.len());
        score_references(&self.references, rollout, step.config.temperature())?;
        let values = self.values(agents, rollout)?;
        let trees = rollout.nodes.iter().zip(&values);
        let advantages =
            trees.map(|(root, values)| td_advantages(root, values, self.settings.outlook()));
        let advantages: Vec<_> = advantages.collect::<Result<_, _>>()?;
        rollout.set_advantages(advantages.concat())?;
        let expected: Vec<&[f64]> = values.iter().flat_map(Values::all).collect();
        let mut metrics = Vec::new();
        for (index, member) in self.members.iter_mut().enumerate() {
            for (node, values) in rollout.all_nodes().into_iter().zip(&expected) {
                for role in roles_of(index, team, roles) {
                    member.buffer.push(ValuedGroup {
                        group: node.groups[role].clone(),
                        value: values[role],
                    });
                }
            }
        }
        let settings = &self.settings;
        let updates = update_each(
            agents,
            &mut self.members,
            on_progress,
            |index, agent, own| {
                let update =
                    PolicyUpdate::new(index, agent, roles_of(index, team, roles).count(), step);
                match update.is_due(own.buffer.len()) {
                    true => own.update(agent, settings, &update, step),
                    false => Ok(Updated {
                        report: update.waiting(),
                        shift: None,
                        value_loss: None,
                    }),
                }
            },
        )?;
        for (role, name) in step.game.roles.iter().enumerate() {
            let own = &updates[player(updates.len(), role)];
            metrics.extend(update_metrics(name, &own.report, own.shift.as_ref()));
            let groups = rollout.groups_of(&[role]);
            let values = expected.iter().map(|values| values[role]).collect();
            metrics.extend(critic_metrics(name, own.value_loss, &groups, values));
        }
        Ok(metrics)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        let members = agents.iter().zip(&self.members);
        let values: Vec<MemberState> = members
            .clone()
            .map(|(agent, member)| MemberState {
                learner: member.learner.state(agent),
                head: member.head.state(),
                buffer: member.buffer.clone(),
            })
            .collect();
        let tensors = members.flat_map(|(agent, member)| {
            let of_head = member.head.tensors(&prefix(agent));
            member.learner.tensors(agent).into_iter().chain(of_head)
        });
        AlgorithmState::new(&values, tensors.collect())
    }

    fn restore(
        &mut self,
        agents: &[Agent],
        values: &str,
        read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<(), MarlError> {
        let states: Vec<MemberState> = AlgorithmState::read_each(values, agents.len())?;
        let shape = self.settings.value_head;
        let members = agents.iter().zip(states).map(|(agent, state)| {
            let width = agent.model.config().hidden_size;
            Ok(Member {
                learner: Learner::restored(agent, &state.learner, read)?,
                head: ValueHead::restored(shape, width, &prefix(agent), &state.head, read)?,
                buffer: state.buffer,
            })
        });
        self.members = members.collect::<Result<_, MarlError>>()?;
        Ok(())
    }

    fn gradient_steps(&self) -> usize {
        let learners = self.members.iter().map(|member| &member.learner);
        learners.map(|learner| learner.gradient_steps).sum()
    }
}

impl Training {
    /// What the critics expect at every node, before anybody has learned from it; one tree per task.
    fn values(&self, agents: &[Agent], rollout: &Rollout) -> Result<Vec<Values>, MarlError> {
        let value = |node: &Node, role: usize| {
            let index = player(agents.len(), role);
            let history = &node.groups[role].history.tokens;
            let state = last_state(&agents[index].model, history)?;
            Ok::<_, MarlError>(self.members[index].head.forward(&state).value)
        };
        let trees = rollout.nodes.iter().map(|root| Values::of(root, &value));
        trees.collect()
    }
}

impl Member {
    /// Updates the agent and its critic from the buffer, which is empty then.
    fn update(
        &mut self,
        agent: &mut Agent,
        settings: &IndependentActorCritic,
        update: &PolicyUpdate<'_>,
        step: &StepContext<'_>,
    ) -> Result<Updated, MarlError> {
        let buffer = std::mem::take(&mut self.buffer);
        let (loss, mut report) = (settings.policy_loss(), update.waiting());
        let (mut terms, mut value_losses) = (Vec::new(), Vec::new());
        let step_settings = update.step_settings(States::EndOfHistory);
        let config = step.config;
        let rate = settings
            .value_learning_rate
            .map_or(update.learning_rate, |full| {
                config.updates.scheduled(full, step.step, config.steps)
            });
        for minibatch in update.minibatches(buffer.len())? {
            let valued: Vec<&ValuedGroup> = minibatch.iter().map(|&index| &buffer[index]).collect();
            let groups: Vec<&AgentGroup> = valued.iter().map(|own| &own.group).collect();
            let responses = groups.iter().flat_map(|group| &group.samples);
            let value_weight = settings.value_coefficient / responses.clone().count() as f64;
            let weights = loss.weights(responses, update.max_new_tokens);
            let starts = starts(&groups);
            let mut of_head = HeadGradients::new(&self.head);
            let head = &self.head;
            let outcome = gradient_step(
                agent,
                &mut self.learner,
                &groups,
                &step_settings,
                &mut report,
                &mut |index, scores| {
                    let own = &weights[starts[index]..][..groups[index].samples.len()];
                    let actor = loss.of_group(groups[index], own, scores, &mut terms)?;
                    let critic = Critic {
                        head,
                        clip: settings.value_clip,
                        weight: value_weight,
                    };
                    let (losses, gradients) = (&mut value_losses, &mut of_head);
                    critic.add_to(actor, valued[index], scores, losses, gradients)
                },
            )?;
            if let StepOutcome::Taken { .. } = outcome {
                self.head.step(of_head, rate, update.updates);
            }
        }
        let count = value_losses.len() as f64;
        Ok(Updated {
            report,
            shift: PolicyShift::of(&terms),
            value_loss: (count > 0.0).then(|| value_losses.iter().sum::<f64>() / count),
        })
    }
}

/// Where each group's responses begin among those of all.
fn starts(groups: &[&AgentGroup]) -> Vec<usize> {
    let lengths = groups.iter().map(|group| group.samples.len());
    lengths
        .scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some(start)
        })
        .collect()
}

/// A critic's part in a loss.
struct Critic<'a> {
    head: &'a ValueHead,
    clip: Option<f64>,
    /// The weight of a response.
    weight: f64,
}

impl Critic<'_> {
    /// Adds the critic's loss of a group to the actor's, and the head's gradients to `gradients`.
    fn add_to(
        &self,
        actor: GroupLoss,
        own: &ValuedGroup,
        scores: &GroupScores<'_>,
        losses: &mut Vec<f64>,
        gradients: &mut HeadGradients,
    ) -> Result<GroupLoss, MarlError> {
        let expected = self.head.forward(scores.states);
        let (mut loss, mut derivative) = (actor.loss, 0.0);
        for target in own.targets()? {
            let (own_loss, own_derivative) =
                value_loss(expected.value, own.value, target, self.clip);
            loss += self.weight * own_loss;
            derivative += self.weight * own_derivative;
            losses.push(own_loss);
        }
        let states = self
            .head
            .backward(scores.states, &expected, derivative, gradients);
        Ok(GroupLoss {
            loss,
            states,
            ..actor
        })
    }
}

/// What a role's critic expected of this step's responses, and what it should have.
fn critic_metrics(
    role: &str,
    value_loss: Option<f64>,
    groups: &[&AgentGroup],
    values: Vec<f64>,
) -> Vec<Metric> {
    let (mut expected, mut targets, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (group, value) in groups.iter().zip(values) {
        for sample in &group.samples {
            let advantage = sample.advantage.unwrap_or(f64::NAN);
            expected.push(value);
            targets.push(value + advantage);
            errors.push(advantage);
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let of_targets = standard_deviation(&targets).powi(2);
    let unexplained = standard_deviation(&errors).powi(2) / of_targets;
    let key = |name| MetricKey::new(name).of_role(role);
    vec![
        Metric::new(
            key("value_loss"),
            value_loss,
            "reward²",
            "Mean of the critic's squared error over the gradient steps, with clipped values",
        ),
        Metric::new(
            key("explained_variance"),
            (of_targets > 0.0).then_some(1.0 - unexplained),
            "share",
            "How much of the targets' variance the critic foresaw; 0 for a constant, 1 for all of it",
        ),
        Metric::new(
            key("value_mean"),
            mean(&expected),
            "reward",
            "Mean value that the critic gave the histories",
        ),
        Metric::new(
            key("value_target_mean"),
            mean(&targets),
            "reward",
            "Mean of what the critic's values should have been",
        ),
    ]
}

#[cfg(test)]
mod tests;
