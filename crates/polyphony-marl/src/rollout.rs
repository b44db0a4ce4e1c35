//! Rollout: every agent answers every task several times, the environment scores the joint actions,
//! and each that goes on is the beginning of another turn.
//!
//! All tasks are played together, turn after turn: [`open`] knows where agents stand before they
//! answer, [`level`] lets them answer and scores what they said.

use std::{borrow::Cow, time::Instant};

use polyphony_episode::{Environment, Observation, Task};
use polyphony_model::{LanguageModel, Sampling, StreamKey};
use serde::{Deserialize, Serialize};

use crate::{MarlError, agent::Agent, config::JointMode, tree::Node};

mod level;
mod open;

use self::open::OpenNode;
pub(crate) use self::{
    level::{answer, check_reward},
    open::check_team,
};

/// What happens to a task whose prompt does not fit into an agent's context, and to an episode whose
/// next prompt does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LongPrompts {
    /// The run stops with an error that names the task.
    #[default]
    Fail,
    /// The task is left out or the episode ends there, which is logged and counted.
    Skip,
}

impl LongPrompts {
    /// What needs a prompt, if the prompt fits; `None`, which is logged, where it does not and that is no
    /// error.
    pub(crate) fn allow<T>(self, prompted: Result<T, MarlError>) -> Result<Option<T>, MarlError> {
        match prompted {
            Err(error @ MarlError::PromptTooLong { .. }) if self == Self::Skip => {
                log::warn!("left out: {error}");
                Ok(None)
            }
            prompted => prompted.map(Some),
        }
    }
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

/// How an agent answers.
#[derive(Clone, Debug)]
pub struct ResponseConfig {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The most tokens of a response.
    pub max_new_tokens: usize,
    /// What weights are made of.
    pub weights: RolloutWeights,
    /// What happens to prompts that do not fit.
    pub long_prompts: LongPrompts,
}

/// How a tree of responses is sampled.
#[derive(Clone, Debug)]
pub struct RolloutConfig {
    /// Responses of each agent at a node, `G`.
    pub samples: usize,
    /// How they are combined.
    pub joint_mode: JointMode,
    /// An episode ends at a node whose joint actions earn more than this on average.
    pub termination_threshold: Option<f64>,
    /// How agents answer.
    pub responses: ResponseConfig,
    /// Seed and step of the random numbers; the rest of the key is filled in.
    pub key: StreamKey,
}

/// The nodes of one rollout, and what was left out of it.
#[derive(Clone, Debug, Default)]
pub struct Rollout {
    /// One root node a task.
    pub nodes: Vec<Node>,
    /// Tasks left out since a prompt did not fit.
    pub skipped_tasks: usize,
    /// Joint actions that would have gone on, had the next prompt fitted.
    pub cut_episodes: usize,
    /// Seconds that the environment took to score.
    pub reward_secs: f64,
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

/// Samples and scores all turns of all tasks. `on_tokens` is told of every batch of new tokens.
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
    let roots = open::roots(agents, environment, tasks, &config.responses)?;
    let mut rollout = Rollout {
        skipped_tasks: roots.left_out,
        ..Rollout::default()
    };
    let models = sampling_models(agents, config.responses.weights)?;
    let mut open = roots.nodes;
    let mut levels = Vec::new();
    for turn in 0..environment.horizon().get() {
        let samples = level::sample(agents, &models, &open, turn, config, on_tokens)?;
        let start = Instant::now();
        let played = level::score(environment, open, samples, turn, config)?;
        rollout.reward_secs += start.elapsed().as_secs_f64();
        let is_last = turn + 1 == environment.horizon().get();
        let goes_on = |played: &Played<'_>| played.next.iter().any(Option::is_some);
        if is_last && let Some(beyond) = played.iter().find(|played| goes_on(played)) {
            return Err(MarlError::BeyondHorizon {
                task: beyond.node.task.clone(),
                horizon: turn + 1,
            });
        }
        let children = open::children(agents, environment, &played, &config.responses)?;
        rollout.cut_episodes += children.left_out;
        open = children.nodes;
        levels.push(played);
        if open.is_empty() {
            break;
        }
    }
    rollout.nodes = assemble(levels);
    Ok(rollout)
}

/// What each agent samples with.
pub(crate) fn sampling_models<'a>(
    agents: &'a [Agent],
    weights: RolloutWeights,
) -> Result<Vec<Cow<'a, LanguageModel>>, MarlError> {
    let model = |agent: &'a Agent| {
        Ok(match weights {
            RolloutWeights::Full => Cow::Borrowed(&agent.model),
            RolloutWeights::Bf16 => Cow::Owned(agent.model.in_bf16()?),
        })
    };
    agents.iter().map(model).collect()
}

/// A node that has been played, and what comes after each of its joint actions.
struct Played<'a> {
    open: OpenNode<'a>,
    node: Node,
    /// For each joint action the next observations, if the episode goes on.
    next: Vec<Option<Vec<Observation>>>,
}

/// Hangs the nodes of every level below those of the level above; returns the roots.
fn assemble(mut levels: Vec<Vec<Played<'_>>>) -> Vec<Node> {
    while let Some(level) = levels.pop() {
        let Some(above) = levels.last_mut() else {
            return level.into_iter().map(|played| played.node).collect();
        };
        for Played { open, node, .. } in level {
            if let Some((parent, branch)) = open.parent {
                above[parent].node.branches[branch].child = Some(node);
            }
        }
    }
    Vec::new()
}

/// What can be played of some tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Playable {
    /// Tasks whose prompts fit.
    pub tasks: usize,
    /// For each role the tokens of its longest first prompt.
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
    config: &ResponseConfig,
) -> Result<Playable, MarlError> {
    let roots = open::roots(agents, environment, tasks, config)?.nodes;
    let longest = |role: usize| {
        let prompts = roots.iter().map(|root| root.histories[role].tokens.len());
        prompts.max().unwrap_or(0)
    };
    Ok(Playable {
        tasks: roots.len(),
        longest_prompts: (0..environment.roles().len()).map(longest).collect(),
    })
}

#[cfg(test)]
mod tests;
