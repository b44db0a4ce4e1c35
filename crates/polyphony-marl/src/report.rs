//! What a step did, as numbers. `docs/metrics.md` has each one's formula.

use polyphony_episode::Environment;

use crate::{
    advantage::{standard_deviation, teaches_nothing},
    agent::player,
    config::Algorithm,
    returns::returns,
    rollout::Rollout,
    step::{StepConfig, node_advantages},
    tree::{Node, Sample},
    update::UpdateReport,
};

/// One step's figures. Means are NaN where there is nothing to average: a step whose tasks were all
/// left out, a turn that no episode reached.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Every turn's figures, as many as the environment has turns. The returns of the first hold
    /// those of all others.
    pub turns: Vec<TurnReport>,
    /// Tasks left out since a prompt did not fit.
    pub skipped_tasks: usize,
    /// Joint actions that would have gone on, had the next prompt fitted.
    pub cut_episodes: usize,
    /// Tokens that all agents sampled.
    pub sampled_tokens: usize,
    /// One report a role.
    pub agents: Vec<AgentReport>,
    /// What depends on clocks.
    pub timing: Timing,
}

/// The figures of the environment at one turn.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnReport {
    /// Nodes that were played.
    pub nodes: usize,
    /// The mean return over their joint actions.
    pub mean_return: f64,
    /// The mean of every part of the reward over the same joint actions.
    pub parts: Vec<(String, f64)>,
}

/// The figures of one role; its update is that of the agent that plays it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentReport {
    /// The role's name.
    pub name: String,
    /// The figures of all turns together.
    pub overall: RoleFigures,
    /// Every turn's figures, as many as the environment has turns.
    pub turns: Vec<RoleFigures>,
    /// What the update did.
    pub update: UpdateReport,
}

/// What a role's responses were like.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleFigures {
    /// The mean over groups of the standard deviation of their advantages.
    pub advantage_spread: f64,
    /// The share of groups whose advantages all vanish.
    pub zero_advantage_share: f64,
    /// The policy's entropy in nats a token, estimated as minus the mean log-probability of the
    /// sampled tokens.
    pub entropy: f64,
    /// Tokens of a response, on average.
    pub response_tokens: f64,
    /// The share of responses that the length limit cut.
    pub truncated_share: f64,
}

/// Durations and speeds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Seconds of rollout and scoring.
    pub rollout_secs: f64,
    /// Of these, seconds of scoring.
    pub reward_secs: f64,
    /// Seconds of all agents' updates, and of what their references say.
    pub update_secs: f64,
    /// Sampled tokens a second of rollout without scoring.
    pub tokens_per_sec: f64,
}

impl StepReport {
    /// `updates` has one report an agent.
    pub(crate) fn new(
        environment: &dyn Environment,
        rollout: &Rollout,
        updates: &[UpdateReport],
        config: &StepConfig,
    ) -> Self {
        let algorithm = &config.algorithm;
        let all: Vec<&Node> = rollout.nodes.iter().flat_map(Node::nodes).collect();
        let at = |turn| all.iter().copied().filter(move |node| node.turn == turn);
        let by_turn: Vec<Vec<&Node>> = (0..environment.horizon().get())
            .map(|turn| at(turn).collect())
            .collect();
        let agents = environment.roles().iter().enumerate().map(|(role, named)| {
            let figures = |nodes: &Vec<&Node>| RoleFigures::new(role, nodes, algorithm);
            AgentReport {
                name: named.name.clone(),
                overall: figures(&all),
                turns: by_turn.iter().map(figures).collect(),
                update: updates[player(updates.len(), role)].clone(),
            }
        });
        let turn = |nodes: &Vec<&Node>| TurnReport::new(environment, nodes, algorithm.discount);
        let turns: Vec<TurnReport> = by_turn.iter().map(turn).collect();
        Self {
            skipped_tasks: rollout.skipped_tasks,
            cut_episodes: rollout.cut_episodes,
            sampled_tokens: rollout.sampled_tokens(),
            agents: agents.collect(),
            timing: Timing::default(),
            turns,
        }
    }

    /// The figures of the first turn.
    pub fn first_turn(&self) -> &TurnReport {
        &self.turns[0]
    }

    pub(crate) fn timed(self, rollout: &Rollout, rollout_secs: f64, update_secs: f64) -> Self {
        let sampling_secs = rollout_secs - rollout.reward_secs;
        let tokens_per_sec = self.sampled_tokens as f64 / sampling_secs;
        Self {
            timing: Timing {
                rollout_secs,
                reward_secs: rollout.reward_secs,
                update_secs,
                tokens_per_sec,
            },
            ..self
        }
    }
}

/// The arithmetic mean; NaN of nothing.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

impl TurnReport {
    fn new(environment: &dyn Environment, nodes: &[&Node], discount: f64) -> Self {
        Self {
            nodes: nodes.len(),
            mean_return: mean_return(nodes.iter().copied(), discount),
            parts: mean_parts(environment, nodes.iter().copied()),
        }
    }
}

/// The mean return over all joint actions of the given nodes; NaN of none.
pub fn mean_return<'a>(nodes: impl IntoIterator<Item = &'a Node>, discount: f64) -> f64 {
    let returns = nodes.into_iter().flat_map(|node| returns(node, discount));
    mean(&returns.collect::<Vec<_>>())
}

/// The mean of each part of the reward over all joint actions of the given nodes; a joint action
/// without a part counts as 0. NaN of no joint actions.
fn mean_parts<'a>(
    environment: &dyn Environment,
    nodes: impl IntoIterator<Item = &'a Node> + Clone,
) -> Vec<(String, f64)> {
    let mean_part = |part: &String| {
        let nodes = nodes.clone().into_iter();
        let branches = nodes.flat_map(|node| &node.branches);
        let values: Vec<f64> = branches
            .map(|branch| branch.reward.part(part).unwrap_or(0.0))
            .collect();
        (part.clone(), mean(&values))
    };
    environment.reward_parts().iter().map(mean_part).collect()
}

impl RoleFigures {
    fn new(role: usize, nodes: &[&Node], algorithm: &Algorithm) -> Self {
        let samples = nodes.iter().flat_map(|node| &node.groups[role].samples);
        let samples: Vec<&Sample> = samples.collect();
        let logprobs: Vec<f64> = samples
            .iter()
            .flat_map(|s| &s.logprobs)
            .map(|&l| f64::from(l))
            .collect();
        let over_samples = |f: fn(&Sample) -> f64| {
            mean(&samples.iter().map(|sample| f(sample)).collect::<Vec<_>>())
        };
        let advantages = nodes
            .iter()
            .map(|node| node_advantages(node, role, algorithm));
        let advantages: Vec<Vec<f64>> = advantages.collect();
        let over_groups = |f: fn(&[f64]) -> f64| {
            mean(&advantages.iter().map(|group| f(group)).collect::<Vec<_>>())
        };
        Self {
            advantage_spread: over_groups(standard_deviation),
            zero_advantage_share: over_groups(|group| f64::from(u8::from(teaches_nothing(group)))),
            entropy: -mean(&logprobs),
            response_tokens: over_samples(|sample| sample.response.tokens.len() as f64),
            truncated_share: over_samples(|sample| f64::from(u8::from(sample.is_truncated()))),
        }
    }
}
