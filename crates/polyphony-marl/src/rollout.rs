//! Rollout: every agent answers every task several times, and the environment scores the joint
//! actions.

use polyphony_episode::{
    Environment, FinishReason, JointAction, Observation, Response, Reward, Task,
};
use polyphony_model::{
    Finish, Generation, GenerationConfig, PromptGroup, Sampling, StreamKey, generate,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    agent::{Agent, player, roles_of},
    config::JointMode,
    tree::{AgentGroup, Branch, History, Node, Sample},
};

/// What happens to a task whose prompt does not fit into an agent's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LongPrompts {
    /// The run stops with an error that names the task.
    #[default]
    Fail,
    /// The task is left out, which is logged and counted.
    Skip,
}

/// The numbers that weights are made of while responses are sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutWeights {
    /// The 32-bit floats that are trained.
    #[default]
    Full,
    /// A copy in 16-bit brain floats, on devices that compute with them: faster, and a little off the
    /// policy that is trained.
    Bf16,
}

/// A task and its index in the data set, which names its random numbers.
#[derive(Clone, Copy, Debug)]
pub struct IndexedTask<'a> {
    /// The index in the data set.
    pub index: usize,
    /// The task.
    pub task: &'a Task,
}

/// How responses are sampled.
#[derive(Clone, Debug)]
pub struct RolloutConfig {
    /// Responses of each agent at a node, `G`.
    pub samples: usize,
    /// How they are combined.
    pub joint_mode: JointMode,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The most tokens of a response.
    pub max_new_tokens: usize,
    /// What weights are made of.
    pub weights: RolloutWeights,
    /// What happens to prompts that do not fit.
    pub long_prompts: LongPrompts,
    /// Seed and step of the random numbers; the rest of the key is filled in.
    pub key: StreamKey,
}

/// The nodes of one rollout, and the tasks that were left out.
#[derive(Clone, Debug, Default)]
pub struct Rollout {
    /// One root node a task.
    pub nodes: Vec<Node>,
    /// Tasks left out since a prompt did not fit.
    pub skipped_tasks: usize,
}

impl Rollout {
    /// Tokens that all agents sampled.
    pub fn sampled_tokens(&self) -> usize {
        let nodes = self.nodes.iter().flat_map(Node::nodes);
        let samples = nodes
            .flat_map(|node| &node.groups)
            .flat_map(|group| &group.samples);
        samples.map(|sample| sample.response.tokens.len()).sum()
    }
}

/// Samples and scores. `on_tokens` is told of every batch of new tokens.
///
/// # Errors
/// If the environment fails, a prompt does not fit and shall not be skipped, or generation fails.
pub fn rollout(
    agents: &[Agent],
    environment: &dyn Environment,
    tasks: &[IndexedTask<'_>],
    config: &RolloutConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Rollout, MarlError> {
    let (starts, skipped_tasks) = start_all(agents, environment, tasks, config)?;
    let roles = environment.roles().len();
    let mut by_role = Vec::with_capacity(roles);
    for (index, agent) in agents.iter().enumerate() {
        let played = || roles_of(index, agents.len(), roles);
        let prompts = played().flat_map(|role| starts.iter().map(move |start| (role, start)));
        let groups: Vec<PromptGroup<'_>> = prompts
            .map(|(role, (task, start))| PromptGroup {
                prompt: &start[role].1.tokens,
                samples: config.samples,
                key: StreamKey {
                    task: task.index as u32,
                    agent: role as u16,
                    ..config.key
                },
            })
            .collect();
        // All roles that an agent plays are sampled in one batch, one role after the other.
        let mut samples = sample(agent, &groups, config, on_tokens)?.into_iter();
        for _ in played() {
            let own: Vec<Vec<Sample>> = samples.by_ref().take(starts.len()).collect();
            by_role.push(own.into_iter());
        }
    }
    let nodes = starts.into_iter().map(|(task, start)| {
        let groups =
            start
                .into_iter()
                .zip(&mut by_role)
                .map(|((observation, history), samples)| AgentGroup {
                    observation,
                    history,
                    samples: samples.next().unwrap_or_default(),
                });
        let node = Node {
            task: task.task.id.clone(),
            turn: 0,
            groups: groups.collect(),
            branches: vec![],
        };
        (task.task, node)
    });
    // All joint actions of all tasks at once: a slow one keeps none of the others waiting.
    let nodes = nodes
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(task, node)| score(environment, task, node, config.joint_mode))
        .collect::<Result<_, _>>()?;
    Ok(Rollout {
        nodes,
        skipped_tasks,
    })
}

/// What can be played of some tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Playable {
    /// Tasks whose prompts fit.
    pub tasks: usize,
    /// For each role the tokens of its longest prompt.
    pub longest_prompts: Vec<usize>,
}

/// Looks at all tasks without playing them: a check before a long run.
///
/// # Errors
/// If the environment cannot start a task, or a prompt does not fit and shall not be skipped.
pub fn playable_tasks(
    agents: &[Agent],
    environment: &dyn Environment,
    tasks: &[IndexedTask<'_>],
    config: &RolloutConfig,
) -> Result<Playable, MarlError> {
    let (starts, _) = start_all(agents, environment, tasks, config)?;
    let longest = |role: usize| {
        let prompts = starts.iter().map(|(_, start)| start[role].1.tokens.len());
        prompts.max().unwrap_or(0)
    };
    Ok(Playable {
        tasks: starts.len(),
        longest_prompts: (0..environment.roles().len()).map(longest).collect(),
    })
}

/// For each agent what it is told first, and the history that it continues.
type Start = Vec<(Observation, History)>;

/// Tasks that can be played.
type Starts<'a> = Vec<(&'a IndexedTask<'a>, Start)>;

/// The start of every task that fits, and the number of those that do not.
fn start_all<'a>(
    agents: &[Agent],
    environment: &dyn Environment,
    tasks: &'a [IndexedTask<'a>],
    config: &RolloutConfig,
) -> Result<(Starts<'a>, usize), MarlError> {
    let mut starts = Vec::with_capacity(tasks.len());
    let mut skipped = 0;
    for task in tasks {
        match start(agents, environment, task.task, config) {
            Ok(start) => starts.push((task, start)),
            Err(error @ MarlError::PromptTooLong { .. })
                if config.long_prompts == LongPrompts::Skip =>
            {
                log::warn!("task left out: {error}");
                skipped += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((starts, skipped))
}

fn start(
    agents: &[Agent],
    environment: &dyn Environment,
    task: &Task,
    config: &RolloutConfig,
) -> Result<Start, MarlError> {
    let observations = environment.start(task)?;
    let roles = environment.roles();
    if observations.len() != roles.len() || ![1, roles.len()].contains(&agents.len()) {
        return Err(MarlError::TeamSize {
            roles: roles.len(),
            agents: agents.len(),
            observations: observations.len(),
        });
    }
    let each = roles.iter().enumerate().zip(observations);
    each.map(|((index, role), observation)| {
        let agent = &agents[player(agents.len(), index)];
        let history = agent.language.first_history(role, &observation)?;
        let (prompt, new) = (history.tokens.len(), config.max_new_tokens);
        let max_positions = agent.model.config().max_positions;
        if prompt.saturating_add(new) > max_positions {
            let (task, agent) = (task.id.clone(), role.name.clone());
            return Err(MarlError::PromptTooLong {
                task,
                agent,
                prompt,
                new,
                max_positions,
            });
        }
        Ok((observation, history))
    })
    .collect()
}

/// One agent's responses to all its prompts, in one batch.
fn sample(
    agent: &Agent,
    groups: &[PromptGroup<'_>],
    config: &RolloutConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Sample>>, MarlError> {
    let generation = GenerationConfig {
        sampling: config.sampling.clone(),
        max_new_tokens: config.max_new_tokens,
        stop_tokens: agent.language.stop_tokens.clone(),
    };
    let rounded = match config.weights {
        RolloutWeights::Full => None,
        RolloutWeights::Bf16 => Some(agent.model.in_bf16()?),
    };
    let model = rounded.as_ref().unwrap_or(&agent.model);
    let responses = generate(model, groups, &generation, on_tokens)?;
    responses
        .into_iter()
        .map(|group| {
            group
                .into_iter()
                .map(|response| to_sample(agent, response))
                .collect()
        })
        .collect()
}

fn to_sample(agent: &Agent, generation: Generation) -> Result<Sample, MarlError> {
    let finish = match generation.finish {
        Finish::Stop => FinishReason::Stop,
        Finish::Length => FinishReason::Length,
    };
    let text = agent.language.tokenizer.decode(generation.spoken())?;
    let response = Response {
        text,
        tokens: generation.tokens,
        finish,
    };
    Ok(Sample {
        response,
        logprobs: generation.logprobs,
    })
}

/// Scores a node's joint actions, in parallel.
fn score(
    environment: &dyn Environment,
    task: &Task,
    mut node: Node,
    mode: JointMode,
) -> Result<Node, MarlError> {
    let branches: Result<Vec<Branch>, MarlError> = joint_picks(&node, mode)
        .into_par_iter()
        .map(|picks| {
            let action = node.joint_action(&picks);
            let outcome = environment.step(task, &[], &action)?;
            check_reward(environment, task, &action, &outcome.reward)?;
            Ok(Branch {
                picks,
                reward: outcome.reward,
                child: None,
            })
        })
        .collect();
    node.branches = branches?;
    Ok(node)
}

/// Refuses a reward with a part that was not announced, or with one that is not finite.
fn check_reward(
    environment: &dyn Environment,
    task: &Task,
    action: &JointAction,
    reward: &Reward,
) -> Result<(), MarlError> {
    for (part, value) in reward.parts() {
        if !environment.reward_parts().contains(&part) {
            let part = part.to_owned();
            return Err(MarlError::UnknownPart { part });
        }
        if !value.is_finite() {
            let responses = action.responses.iter();
            return Err(MarlError::RewardNotFinite {
                task: task.id.clone(),
                part: part.to_owned(),
                value,
                responses: responses.map(|response| response.text.clone()).collect(),
            });
        }
    }
    Ok(())
}

/// For each joint action the index of each agent's response.
fn joint_picks(node: &Node, mode: JointMode) -> Vec<Vec<usize>> {
    let samples = node
        .groups
        .iter()
        .map(|group| group.samples.len())
        .min()
        .unwrap_or(0);
    match mode {
        JointMode::Aligned => (0..samples)
            .map(|sample| vec![sample; node.groups.len()])
            .collect(),
    }
}

#[cfg(test)]
mod tests;
