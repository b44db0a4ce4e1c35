//! Tiny models learn small games with every relative of MAGRPO, joint mode and credit; with shuffled
//! rewards they do not.

use polyphony_episode::Metric;
use polyphony_marl::{
    Agent, Algorithm, AlgorithmState, Baseline, Credit, JointMode, Magrpo, MarlError, Node,
    Progress, Rollout, StepContext, Tree,
};
use polyphony_model::{ModelError, TensorSpec};
use polyphony_test_support::games::{Challenge, SEEDS};
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

const BASELINES: [Baseline; 4] = [
    Baseline::GroupMean,
    Baseline::LeaveOneOut,
    Baseline::GroupMax,
    Baseline::Zero,
];

/// Every way of joining responses and crediting them.
const MODES: [(JointMode, Credit); 3] = [
    (JointMode::Aligned, Credit::Mean),
    (JointMode::Cross, Credit::Mean),
    (JointMode::Cross, Credit::Sum),
];

fn magrpo(baseline: Baseline, joint_mode: JointMode, credit: Credit) -> Magrpo {
    Magrpo {
        samples: match joint_mode {
            JointMode::Aligned => 8,
            JointMode::Cross => 4,
        },
        joint_mode,
        credit,
        baseline,
        ..Magrpo::default()
    }
}

/// Every algorithm learns the game, from every seed.
fn check_learned(challenge: &Challenge) {
    let mut failed = Vec::new();
    for baseline in BASELINES {
        for (joint_mode, credit) in MODES {
            let failures = challenge.failures(&magrpo(baseline, joint_mode, credit));
            let named = |failure| format!("{baseline:?}, {joint_mode:?}, {credit:?}, {failure}");
            failed.extend(failures.into_iter().map(named));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_team_learns_to_complement_each_other() {
    check_learned(&Challenge::complement());
}

#[test]
fn a_team_learns_to_hand_on_what_one_of_them_saw() {
    check_learned(&Challenge::relay());
}

/// An algorithm that learns from rewards that have nothing to do with the answers: those of each node are
/// dealt out anew among its joint actions. The rewards that are reported are the real ones.
struct Shuffled {
    inner: Box<dyn Algorithm>,
    dice: ChaCha8Rng,
}

impl Algorithm for Shuffled {
    fn tree(&self) -> Tree {
        self.inner.tree()
    }

    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        for node in &mut rollout.nodes {
            shuffle(node, &mut self.dice);
        }
        self.inner.learn(agents, rollout, step, on_progress)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        self.inner.state(agents)
    }

    fn restore(
        &mut self,
        agents: &[Agent],
        values: &str,
        read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<(), MarlError> {
        self.inner.restore(agents, values, read)
    }

    fn gradient_steps(&self) -> usize {
        self.inner.gradient_steps()
    }
}

/// Shuffles the rewards of a node's joint actions, and of all nodes below it.
fn shuffle(node: &mut Node, dice: &mut ChaCha8Rng) {
    let branches = node.branches.iter();
    let mut rewards: Vec<_> = branches.map(|branch| branch.reward.clone()).collect();
    rewards.shuffle(dice);
    for (branch, reward) in node.branches.iter_mut().zip(rewards) {
        branch.reward = reward;
        if let Some(child) = &mut branch.child {
            shuffle(child, dice);
        }
    }
}

/// Shuffled rewards teach nothing: the result is left to chance, and low on average.
fn check_not_learned(challenge: &Challenge) {
    let mut reached = Vec::new();
    for joint_mode in [JointMode::Aligned, JointMode::Cross] {
        let settings = magrpo(Baseline::GroupMean, joint_mode, Credit::Mean);
        for seed in SEEDS {
            let attempt = challenge.learn(&settings, seed, |inner| {
                Box::new(Shuffled {
                    inner,
                    dice: ChaCha8Rng::seed_from_u64(seed),
                })
            });
            reached.push(attempt.reached);
        }
    }
    let mean = reached.iter().sum::<f64>() / reached.len() as f64;
    assert!(mean < 0.6, "{reached:?}");
}

#[test]
fn shuffled_rewards_teach_no_complement() {
    check_not_learned(&Challenge::complement());
}

#[test]
fn shuffled_rewards_teach_no_relay() {
    check_not_learned(&Challenge::relay());
}
