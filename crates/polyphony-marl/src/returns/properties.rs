//! Returns, credits and advantages of random trees against plain enumeration.

use polyphony_episode::{Observation, Response, Reward};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    advantage::{AdvantageScale, Baseline},
    magrpo::Magrpo,
    policy_loss::Kl,
    tree::{History, RoleGroup, Sample},
};

/// What a random tree looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) agents: usize,
    samples: usize,
    turns: usize,
    cross: bool,
    per_role: bool,
}

pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    (
        1..=4usize,
        2..=5usize,
        1..=3usize,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(agents, samples, turns, cross, per_role)| Shape {
            agents,
            samples,
            turns,
            cross,
            per_role,
        })
}

/// All joint actions, with the first agent's response varying fastest, unlike in the rollout.
fn picks(shape: Shape) -> Vec<Vec<usize>> {
    if !shape.cross {
        return (0..shape.samples).map(|g| vec![g; shape.agents]).collect();
    }
    let digit =
        |index: usize, agent: usize| index / shape.samples.pow(agent as u32) % shape.samples;
    (0..shape.samples.pow(shape.agents as u32))
        .map(|index| (0..shape.agents).map(|agent| digit(index, agent)).collect())
        .collect()
}

/// One reward for all, or one per role.
fn reward(shape: Shape, rng: &mut ChaCha8Rng) -> Reward {
    if !shape.per_role {
        return Reward::new([("r", rng.random_range(-2.0..2.0))]);
    }
    let rewards = (0..shape.agents).map(|_| [("r", rng.random_range(-2.0..2.0))]);
    Reward::per_role(rewards.collect::<Vec<_>>())
}

pub(crate) fn tree(shape: Shape, turn: usize, rng: &mut ChaCha8Rng) -> Node {
    let mut sample = || Sample {
        response: Response::from_text("x"),
        logprobs: (0..3).map(|_| rng.random_range(-3.0..0.0)).collect(),
        reference_logprobs: Some((0..3).map(|_| rng.random_range(-3.0..0.0)).collect()),
        advantage: None,
    };
    let groups = (0..shape.agents).map(|_| RoleGroup {
        observation: Observation::new("o"),
        history: History { tokens: [1].into() },
        value: None,
        samples: (0..shape.samples).map(|_| sample()).collect(),
    });
    let groups: Vec<RoleGroup> = groups.collect();
    let picks = picks(shape);
    // About three joint actions of a node continue, so that wide trees stay small.
    let continues = (3.0 / picks.len() as f64).min(0.8);
    let branches = picks.into_iter().map(|picks| Branch {
        picks,
        reward: reward(shape, rng),
        child: (turn + 1 < shape.turns && rng.random_bool(continues))
            .then(|| tree(shape, turn + 1, rng)),
    });
    let branches = branches.collect();
    Node {
        task: "t".to_owned(),
        turn,
        groups,
        branches,
    }
}

/// Every way in which an episode can continue from a joint action: its probability (later joint actions
/// are equally likely), and its rewards.
fn episodes(branch: &Branch, reward: &dyn Fn(&Branch) -> f64) -> Vec<(f64, Vec<f64>)> {
    let Some(child) = &branch.child else {
        return vec![(1.0, vec![reward(branch)])];
    };
    let branch_probability = 1.0 / child.branches.len() as f64;
    let later = child
        .branches
        .iter()
        .flat_map(|next| episodes(next, reward));
    later
        .map(|(probability, rest)| {
            let rewards = [vec![reward(branch)], rest].concat();
            (branch_probability * probability, rewards)
        })
        .collect()
}

/// The expected discounted sum of the rewards of all episodes through each joint action.
fn expected(node: &Node, discount: f64, reward: &dyn Fn(&Branch) -> f64) -> Vec<f64> {
    let expected_return = |branch| {
        let episodes = episodes(branch, reward).into_iter();
        let sums = episodes.map(|(probability, rewards)| {
            let discounted = rewards.iter().enumerate();
            probability
                * discounted
                    .map(|(turn, reward)| discount.powi(turn as i32) * reward)
                    .sum::<f64>()
        });
        sums.sum()
    };
    node.branches.iter().map(expected_return).collect()
}

fn all_close(actual: &[f64], expected: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        prop_assert!(
            (actual - expected).abs() < 1e-9,
            "{} is not {}",
            actual,
            expected
        );
    }
    Ok(())
}

const ALL_BASELINES: [Baseline; 4] = [
    Baseline::GroupMean,
    Baseline::LeaveOneOut,
    Baseline::GroupMax,
    Baseline::Zero,
];

/// An agent's advantages by their definition, response by response.
fn enumerated_advantages(
    node: &Node,
    agent: usize,
    returns: &[f64],
    credit: Credit,
    baseline: Baseline,
) -> Vec<f64> {
    let samples = node.groups[agent].samples.len();
    let credit_of = |response: usize| {
        let actions = (0..returns.len()).filter(|&j| node.branches[j].picks[agent] == response);
        let its_returns: Vec<f64> = actions.map(|j| returns[j]).collect();
        let sum: f64 = its_returns.iter().sum();
        match credit {
            Credit::Sum => sum,
            Credit::Mean => sum / its_returns.len() as f64,
        }
    };
    let credits: Vec<f64> = (0..samples).map(credit_of).collect();
    let advantage = |response: usize| {
        let others = (0..samples).filter(|&other| other != response);
        let others: Vec<f64> = others.map(|other| credits[other]).collect();
        let sum_of_others: f64 = others.iter().sum();
        let credit = credits[response];
        credit
            - match baseline {
                Baseline::GroupMean => (sum_of_others + credit) / samples as f64,
                Baseline::LeaveOneOut => sum_of_others / others.len() as f64,
                Baseline::GroupMax => others.into_iter().fold(credit, f64::max),
                Baseline::Zero => 0.0,
            }
    };
    (0..samples).map(advantage).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn advantages_on_trees_are_those_of_enumeration(
        shape in shapes(),
        seed in any::<u64>(),
        discount in 0.0..=1.0f64,
        coefficient in prop::option::of(0.01..1.0f64),
        sum in any::<bool>(),
    ) {
        let root = tree(shape, 0, &mut ChaCha8Rng::seed_from_u64(seed));
        let credit = if sum { Credit::Sum } else { Credit::Mean };
        for node in root.nodes() {
            let team_returns = expected(node, discount, &|branch| branch.reward.total());
            all_close(&returns(node, discount), &team_returns)?;
            for agent in 0..shape.agents {
                let agent_returns =
                    expected(node, discount, &|branch| branch.reward.total_of(agent));
                all_close(&role_returns(node, agent, discount), &agent_returns)?;
                // Samples differ from node to node, so a penalty is looked up by its branch.
                let returns = match coefficient {
                    None => agent_returns,
                    Some(coefficient) => {
                        let nodes = node.nodes();
                        expected(node, discount, &|branch| {
                            let node = nodes.iter().find(|node| {
                                node.branches.iter().any(|other| std::ptr::eq(other, branch))
                            });
                            let group = &node.unwrap().groups[agent];
                            let sample = &group.samples[branch.picks[agent]];
                            let divergence: f64 = (0..3)
                                .map(|i| {
                                    let reference = sample.reference_logprobs.as_ref().unwrap();
                                    f64::from(sample.logprobs[i]) - f64::from(reference[i])
                                })
                                .sum();
                            branch.reward.total_of(agent) - coefficient * divergence
                        })
                    }
                };
                for baseline in ALL_BASELINES {
                    let algorithm = Magrpo {
                        discount,
                        credit,
                        baseline,
                        kl: coefficient
                            .map_or(Kl::Off, |coefficient| Kl::Reward { coefficient }),
                        ..Magrpo::default()
                    };
                    all_close(
                        &algorithm.advantages(node, agent).unwrap(),
                        &enumerated_advantages(node, agent, &returns, credit, baseline),
                    )?;
                }
            }
        }
    }

    /// The counterfactual advantage: the joint return minus its mean over this agent's alternatives,
    /// averaged over the responses of the others.
    #[test]
    fn mean_credit_with_the_group_mean_is_the_counterfactual_advantage(
        agents in 2..=4usize,
        samples in 2..=4usize,
        seed in any::<u64>(),
    ) {
        let shape = Shape { agents, samples, turns: 1, cross: true, per_role: false };
        let node = tree(shape, 0, &mut ChaCha8Rng::seed_from_u64(seed));
        let returns = returns(&node, 1.0);
        for agent in 0..agents {
            let others = |picks: &[usize]| {
                let mut others = picks.to_vec();
                others.remove(agent);
                others
            };
            let counterfactual = |response: usize| {
                let actions = (0..returns.len())
                    .filter(|&j| node.branches[j].picks[agent] == response);
                let gains: Vec<f64> = actions
                    .map(|j| {
                        let fixed = others(&node.branches[j].picks);
                        let alternatives: Vec<f64> = (0..returns.len())
                            .filter(|&k| others(&node.branches[k].picks) == fixed)
                            .map(|k| returns[k])
                            .collect();
                        returns[j] - mean(&alternatives)
                    })
                    .collect();
                mean(&gains)
            };
            let credits = credits(&node, agent, &returns, Credit::Mean);
            let advantages = crate::advantage::advantages(
                &credits, Baseline::GroupMean, AdvantageScale::Unscaled,
            );
            all_close(&advantages, &(0..samples).map(counterfactual).collect::<Vec<_>>())?;
        }
    }

    #[test]
    fn summed_credit_is_larger_by_the_others_combinations(
        agents in 1..=4usize,
        samples in 2..=4usize,
        seed in any::<u64>(),
    ) {
        let shape = Shape { agents, samples, turns: 1, cross: true, per_role: false };
        let node = tree(shape, 0, &mut ChaCha8Rng::seed_from_u64(seed));
        let returns = returns(&node, 1.0);
        let factor = (samples as f64).powi(agents as i32 - 1);
        for agent in 0..agents {
            let [mean, sum] =
                [Credit::Mean, Credit::Sum].map(|credit| credits(&node, agent, &returns, credit));
            all_close(&sum, &mean.iter().map(|mean| factor * mean).collect::<Vec<_>>())?;
        }
    }
}
