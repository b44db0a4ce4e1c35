//! One turn of all tasks: every agent answers at all open nodes in one batch, and all joint actions
//! are scored at once.

use std::borrow::Cow;

use polyphony_episode::{
    Environment, FinishReason, JointAction, Next, Observation, Response, Reward, Task, Turn,
};
use polyphony_model::{
    Finish, Generation, GenerationConfig, LanguageModel, PromptGroup, StreamKey, generate,
};
use rayon::prelude::*;

use super::{OpenNode, Played, ResponseConfig, RolloutConfig};
use crate::{
    MarlError,
    agent::{Agent, roles_of},
    config::JointMode,
    returns::mean,
    tree::{AgentGroup, Branch, Node, Sample},
};

/// For every role its responses at each of the nodes. `models` has what each agent samples with.
pub(super) fn sample(
    agents: &[Agent],
    models: &[Cow<'_, LanguageModel>],
    open: &[OpenNode<'_>],
    turn: usize,
    config: &RolloutConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Vec<Sample>>>, MarlError> {
    let roles = open.first().map_or(0, |node| node.histories.len());
    let mut by_role = Vec::with_capacity(roles);
    for (index, agent) in agents.iter().enumerate() {
        let played = || roles_of(index, agents.len(), roles);
        let prompts = played().flat_map(|role| open.iter().map(move |node| (role, node)));
        let groups: Vec<PromptGroup<'_>> = prompts
            .map(|(role, node)| PromptGroup {
                prompt: &node.histories[role].tokens,
                samples: config.samples,
                key: StreamKey {
                    task: node.task.index as u32,
                    agent: role as u16,
                    turn: turn as u16,
                    branch: node.branch,
                    ..config.key
                },
            })
            .collect();
        // All roles that an agent plays are sampled in one batch, one role after the other.
        let mut samples =
            answer(agent, &models[index], &groups, &config.responses, on_tokens)?.into_iter();
        for _ in played() {
            by_role.push(samples.by_ref().take(open.len()).collect());
        }
    }
    Ok(by_role)
}

/// One agent's responses to all its prompts, in one batch.
pub(crate) fn answer(
    agent: &Agent,
    model: &LanguageModel,
    groups: &[PromptGroup<'_>],
    config: &ResponseConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Sample>>, MarlError> {
    let generation = GenerationConfig {
        sampling: config.sampling.clone(),
        max_new_tokens: config.max_new_tokens,
        stop_tokens: agent.language.stop_tokens.clone(),
    };
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
        text: text.into(),
        tokens: generation.tokens.into(),
        finish,
    };
    Ok(Sample {
        response,
        logprobs: generation.logprobs,
        reference_logprobs: Vec::new(),
    })
}

/// Scores the joint actions of all nodes at once: a slow one keeps none of the others waiting.
/// `samples` has for every role its responses at each of the nodes.
pub(super) fn score<'a>(
    environment: &dyn Environment,
    open: Vec<OpenNode<'a>>,
    samples: Vec<Vec<Vec<Sample>>>,
    turn: usize,
    config: &RolloutConfig,
) -> Result<Vec<Played<'a>>, MarlError> {
    let mut samples: Vec<_> = samples.into_iter().map(Vec::into_iter).collect();
    let nodes = open.into_iter().map(|open| {
        let own = samples
            .iter_mut()
            .map(|role| role.next().unwrap_or_default());
        let told = open.observations.iter().zip(&open.histories);
        let groups = told
            .zip(own)
            .map(|((observation, history), samples)| AgentGroup {
                observation: observation.clone(),
                history: history.clone(),
                samples,
            });
        let node = Node {
            task: open.task.task.id.clone(),
            turn,
            groups: groups.collect(),
            branches: vec![],
        };
        (open, node)
    });
    nodes
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(open, node)| score_node(environment, open, node, config))
        .collect()
}

/// What each role is told next, if the episode goes on.
type Told = Option<Vec<Observation>>;

fn score_node<'a>(
    environment: &dyn Environment,
    open: OpenNode<'a>,
    mut node: Node,
    config: &RolloutConfig,
) -> Result<Played<'a>, MarlError> {
    let task = open.task.task;
    let scored: Result<Vec<(Branch, Told)>, MarlError> =
        joint_picks(config.samples, node.groups.len(), config.joint_mode)
            .into_par_iter()
            .map(|picks| {
                let action = node.joint_action(&picks);
                let outcome = environment.step(task, &open.past, &action)?;
                check_reward(environment, task, &action, &outcome.reward)?;
                let branch = Branch {
                    picks,
                    reward: outcome.reward,
                    child: None,
                };
                let next = match outcome.next {
                    Next::End => None,
                    Next::Continue(observations) => Some(observations),
                };
                Ok((branch, next))
            })
            .collect();
    let (branches, mut next): (_, Vec<_>) = scored?.into_iter().unzip();
    node.branches = branches;
    let totals = node.branches.iter().map(|branch| branch.reward.total());
    let earned = mean(&totals.collect::<Vec<_>>());
    if config
        .termination_threshold
        .is_some_and(|enough| earned > enough)
    {
        next.fill(None);
    }
    Ok(Played { open, node, next })
}

/// Refuses a reward with a part that was not announced, or with one that is not finite.
pub(crate) fn check_reward(
    environment: &dyn Environment,
    task: &Task,
    action: &JointAction,
    reward: &Reward,
) -> Result<(), MarlError> {
    for (part, value) in reward.parts() {
        if !environment.reward_parts().iter().any(|own| own == part) {
            let part = part.to_owned();
            return Err(MarlError::UnknownPart { part });
        }
        if !value.is_finite() {
            let responses = action.responses.iter();
            return Err(MarlError::RewardNotFinite {
                task: task.id.clone(),
                part: part.to_owned(),
                value,
                responses: responses.map(|response| response.text.to_string()).collect(),
            });
        }
    }
    Ok(())
}

/// For each joint action the index of each role's response. Crossed, the last role's runs fastest.
fn joint_picks(samples: usize, roles: usize, mode: JointMode) -> Vec<Vec<usize>> {
    match mode {
        JointMode::Aligned => (0..samples).map(|sample| vec![sample; roles]).collect(),
        JointMode::Cross => (0..roles).fold(vec![vec![]], |picks, _| {
            let extended = |picks: Vec<usize>| {
                (0..samples).map(move |sample| [picks.as_slice(), &[sample]].concat())
            };
            picks.into_iter().flat_map(extended).collect()
        }),
    }
}

impl Node {
    /// The turn that a joint action made of this node.
    pub(super) fn turn_taken(&self, branch: &Branch) -> Turn {
        Turn {
            observations: self
                .groups
                .iter()
                .map(|group| group.observation.clone())
                .collect(),
            action: self.joint_action(&branch.picks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joint_actions_are_aligned_or_all_there_are() {
        let picks = |mode| joint_picks(2, 3, mode);
        assert_eq!(picks(JointMode::Aligned), [[0, 0, 0], [1, 1, 1]]);
        let all = [
            [0, 0, 0],
            [0, 0, 1],
            [0, 1, 0],
            [0, 1, 1],
            [1, 0, 0],
            [1, 0, 1],
            [1, 1, 0],
            [1, 1, 1],
        ];
        assert_eq!(picks(JointMode::Cross), all);
        for mode in [JointMode::Aligned, JointMode::Cross] {
            assert_eq!(joint_picks(3, 1, mode), [[0], [1], [2]]);
        }
    }
}
