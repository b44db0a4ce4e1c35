//! One turn of all tasks: every agent answers at all open nodes in one batch, and then all joint actions
//! are scored at once.

use polyphony_episode::{FinishReason, Next, Observation, Response};
use polyphony_model::{Finish, Generation, GenerationConfig, PromptGroup, generate};

use super::stage::{OpenNode, PlayedNode, RolloutContext};
use crate::{
    MarlError,
    agent::Agent,
    checks::check_reward,
    config::TrainingConfig,
    returns::mean,
    stream::{StreamId, to_stream_key_field},
    threads::on_threads,
    traffic::Message,
    tree::{Branch, JointMode, Node, RoleGroup, Sample, SamplingPlan},
};

impl RolloutContext<'_> {
    /// Samples the responses of every role at each node. The result is indexed by role, node and response.
    pub(super) fn sample(
        &self,
        open: &[OpenNode<'_>],
        turn: usize,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Vec<Sample>>>, MarlError> {
        let ranks = self.team.ranks();
        let sampled = self.sample_held(open, turn, on_tokens);
        if ranks.grid().parts == 1 {
            return sampled;
        }
        let responses = |sampled: &Vec<_>| responses_of(sampled);
        let (sampled, by_part) = ranks.publish_parts(Message::Responses, sampled, responses)?;
        let by_role = by_part.into_iter().flatten();
        let mut by_role: Vec<_> = by_role.map(samples_without_logprobs).collect();
        let held_roles = self.team.roles(self.environment.roles().len());
        by_role.splice(held_roles, sampled);
        Ok(by_role)
    }

    /// Samples the responses of the roles of this rank at each node, together with the replicas.
    fn sample_held(
        &self,
        open: &[OpenNode<'_>],
        turn: usize,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Vec<Sample>>>, MarlError> {
        let roles = self.environment.roles().len();
        let mut by_role = Vec::with_capacity(roles);
        for (index, agent) in self.team.iter().enumerate() {
            let agent_roles = || self.team.roles_of_agent(index, roles);
            let prompts = agent_roles().flat_map(|role| open.iter().map(move |node| (role, node)));
            let groups = prompts.map(|(role, node)| {
                let stream_id = StreamId {
                    seed: self.config.seed,
                    step: self.step,
                    task: node.index,
                    role: to_stream_key_field("roles", role)?,
                    turn: to_stream_key_field("turns", turn)?,
                    branch: node.branch,
                    sample: 0,
                };
                Ok(PromptGroup {
                    prompt: &node.histories[role].tokens,
                    keys: stream_id.keys(self.plan.samples)?,
                    prefix_group: stream_id.prefix_group(),
                })
            });
            let groups = groups.collect::<Result<Vec<_>, MarlError>>()?;
            // All roles that an agent plays are sampled in one batch, one role after the other.
            let mut samples = answer(agent, &groups, self.config, on_tokens)?.into_iter();
            for _ in agent_roles() {
                by_role.push(samples.by_ref().take(open.len()).collect());
            }
        }
        Ok(by_role)
    }

    /// Scores the joint actions of all nodes at once, so that a slow one does not hold up the others.
    /// `samples` are what [`sample`](Self::sample) returned.
    pub(super) fn score<'b>(
        &self,
        open: Vec<OpenNode<'b>>,
        samples: Vec<Vec<Vec<Sample>>>,
        turn: usize,
    ) -> Result<Vec<PlayedNode<'b>>, MarlError> {
        let mut level = with_groups(open, samples, turn);
        let all_picks = joint_picks(self.plan, self.environment.roles().len());
        let jobs: Vec<(usize, &[usize])> = (0..level.len())
            .flat_map(|index| all_picks.iter().map(move |picks| (index, picks.as_slice())))
            .collect();
        let world = self.team.ranks().world();
        let share = jobs[world.share(jobs.len())].to_vec();
        let outcomes = on_threads(self.environment.concurrency(), share, |(index, picks)| {
            let PlayedNode { open, node, .. } = &level[index];
            let action = node.joint_action(picks);
            let outcome = self.environment.step(open.task, &open.past, &action)?;
            check_reward(self.environment, open.task, &action, &outcome.reward)?;
            Ok::<_, MarlError>(outcome)
        });
        let outcomes = world.exchange(Message::Outcomes, outcomes)?;
        let mut outcomes = outcomes.into_iter().flatten();
        for played in &mut level {
            let node_outcomes = outcomes.by_ref().take(all_picks.len());
            for (picks, outcome) in all_picks.iter().zip(node_outcomes) {
                played.node.branches.push(Branch {
                    picks: picks.clone(),
                    reward: outcome.reward,
                    child: None,
                });
                played.next.push(match outcome.next {
                    Next::End => None,
                    Next::Continue(observations) => Some(observations),
                });
            }
            if self.ends_at(&played.node) {
                played.next.fill(None);
            }
        }
        Ok(level)
    }

    /// Whether a node's joint actions earn so much on average that the episode ends there.
    fn ends_at(&self, node: &Node) -> bool {
        let totals = node.branches.iter().map(|branch| branch.reward.total());
        let mean_reward = mean(&totals.collect::<Vec<_>>());
        let threshold = self.plan.termination_threshold;
        threshold.is_some_and(|threshold| mean_reward > threshold)
    }
}

/// The responses of samples by role, node and sample: all that the other ranks need of them.
fn responses_of(samples: &[Vec<Vec<Sample>>]) -> Vec<Vec<Vec<Response>>> {
    let responses = |group: &Vec<Sample>| {
        let samples = group.iter();
        samples.map(|sample| sample.response.clone()).collect()
    };
    let by_role = samples.iter();
    by_role
        .map(|by_node| by_node.iter().map(responses).collect())
        .collect()
}

/// Samples of a role of another rank, by node. Their log-probabilities stay with that rank.
fn samples_without_logprobs(by_node: Vec<Vec<Response>>) -> Vec<Vec<Sample>> {
    let sample = |response| Sample {
        response,
        logprobs: Vec::new(),
        reference_logprobs: None,
        advantage: None,
    };
    let by_node = by_node.into_iter();
    by_node
        .map(|responses| responses.into_iter().map(sample).collect())
        .collect()
}

/// The nodes with their responses, not scored yet.
fn with_groups<'a>(
    open: Vec<OpenNode<'a>>,
    samples: Vec<Vec<Vec<Sample>>>,
    turn: usize,
) -> Vec<PlayedNode<'a>> {
    let mut samples: Vec<_> = samples.into_iter().map(Vec::into_iter).collect();
    let nodes = open.into_iter().map(|open| {
        let node_samples = samples
            .iter_mut()
            .map(|role| role.next().unwrap_or_default());
        let prompts: Vec<(&Observation, _)> =
            open.observations.iter().zip(&open.histories).collect();
        let groups =
            prompts
                .into_iter()
                .zip(node_samples)
                .map(|((observation, history), samples)| RoleGroup {
                    observation: observation.clone(),
                    history: history.clone(),
                    value: None,
                    samples,
                });
        let node = Node {
            task: open.task.id.clone(),
            turn,
            groups: groups.collect(),
            branches: Vec::new(),
        };
        PlayedNode {
            open,
            node,
            next: Vec::new(),
        }
    });
    nodes.collect()
}

/// Samples one agent's responses to all its prompts, in one batch. If the agent has replicas, each of them samples for a
/// share of the prompts, and all get all samples.
pub(crate) fn answer(
    agent: &Agent,
    groups: &[PromptGroup<'_>],
    config: &TrainingConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Sample>>, MarlError> {
    let share = &groups[agent.replicas.share(groups.len())];
    let samples = answer_alone(agent, share, config, on_tokens);
    let samples = agent.replicas.exchange(Message::Samples, samples)?;
    Ok(samples.into_iter().flatten().collect())
}

fn answer_alone(
    agent: &Agent,
    groups: &[PromptGroup<'_>],
    config: &TrainingConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Sample>>, MarlError> {
    let generation = GenerationConfig {
        sampling: config.sampling.clone(),
        max_new_tokens: config.max_new_tokens,
        stop_tokens: agent.codec.stop_tokens.clone(),
    };
    let generations = generate(&agent.model, groups, &generation, on_tokens)?;
    let samples = |group: Vec<Generation>| {
        let generations = group.into_iter();
        generations
            .map(|generation| to_sample(agent, generation))
            .collect()
    };
    generations.into_iter().map(samples).collect()
}

fn to_sample(agent: &Agent, generation: Generation) -> Result<Sample, MarlError> {
    let finish = match generation.finish {
        Finish::Stop => FinishReason::Stop,
        Finish::Length => FinishReason::Length,
    };
    let text = agent.codec.tokenizer.decode(generation.text_tokens())?;
    let response = Response {
        text: text.into(),
        tokens: generation.tokens.into(),
        finish,
    };
    Ok(Sample {
        response,
        logprobs: generation.logprobs,
        reference_logprobs: None,
        advantage: None,
    })
}

/// The index of each role's response in each joint action. With `Cross` the last role's index varies
/// fastest.
fn joint_picks(plan: &SamplingPlan, roles: usize) -> Vec<Vec<usize>> {
    let samples = plan.samples;
    match plan.joint_mode {
        JointMode::Aligned => (0..samples).map(|sample| vec![sample; roles]).collect(),
        JointMode::Cross => (0..roles).fold(vec![vec![]], |picks, _| {
            let extended = |picks: Vec<usize>| {
                (0..samples).map(move |sample| [picks.as_slice(), &[sample]].concat())
            };
            picks.into_iter().flat_map(extended).collect()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joint_actions_are_aligned_or_all_combinations() {
        let picks = |samples, roles, joint_mode| {
            let plan = SamplingPlan {
                samples,
                joint_mode,
                termination_threshold: None,
                discount: 1.0,
            };
            joint_picks(&plan, roles)
        };
        assert_eq!(picks(2, 3, JointMode::Aligned), [[0, 0, 0], [1, 1, 1]]);
        let combinations = [
            [0, 0, 0],
            [0, 0, 1],
            [0, 1, 0],
            [0, 1, 1],
            [1, 0, 0],
            [1, 0, 1],
            [1, 1, 0],
            [1, 1, 1],
        ];
        assert_eq!(picks(2, 3, JointMode::Cross), combinations);
        for mode in [JointMode::Aligned, JointMode::Cross] {
            assert_eq!(picks(3, 1, mode), [[0], [1], [2]]);
        }
    }
}
