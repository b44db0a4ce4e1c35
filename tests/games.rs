//! Tiny models learn small games with every baseline, joint mode and credit of MAGRPO. With shuffled rewards,
//! they do not learn these games.

use polyphony_episode::Metric;
use polyphony_marl::{
    Agent, Algorithm, AlgorithmState, Baseline, Credit, JointMode, Magrpo, MarlError, Node,
    Progress, Rollout, SamplingPlan, SavedState, StepContext,
};
use polyphony_test_support::games::{Challenge, SEEDS};
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

const BASELINES: [Baseline; 4] = [
    Baseline::GroupMean,
    Baseline::LeaveOneOut,
    Baseline::GroupMax,
    Baseline::Zero,
];

/// Every combination of joint mode and credit. In aligned joint actions, both credits are the same.
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

/// Checks that the default baseline learns the game with every seed in every mode, and that each of the other
/// baselines learns it with one of the seeds, another one in each mode.
fn check_learned(challenge: &Challenge) {
    let mut all_failures = Vec::new();
    for baseline in BASELINES {
        for (index, (joint_mode, credit)) in MODES.into_iter().enumerate() {
            let seed = SEEDS[index % SEEDS.len()];
            let is_default = baseline == Baseline::default();
            let seeds = if is_default { &SEEDS[..] } else { &[seed] };
            let failures = challenge.failures(&magrpo(baseline, joint_mode, credit), seeds);
            let with_settings =
                |failure| format!("{baseline:?}, {joint_mode:?}, {credit:?}, {failure}");
            all_failures.extend(failures.into_iter().map(with_settings));
        }
    }
    assert!(all_failures.is_empty(), "{}", all_failures.join("\n"));
}

#[test]
fn a_team_learns_to_complement_each_other() {
    check_learned(&Challenge::complement());
}

#[test]
fn a_team_learns_to_relay_an_observation() {
    check_learned(&Challenge::relay());
}

/// An algorithm that learns from rewards that are independent of the answers: it shuffles the rewards of each
/// node among its joint actions. The reported rewards are the real ones.
struct ShuffledRewards {
    inner: Box<dyn Algorithm>,
    rng: ChaCha8Rng,
}

impl Algorithm for ShuffledRewards {
    fn sampling_plan(&self) -> SamplingPlan {
        self.inner.sampling_plan()
    }

    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        for node in &mut rollout.roots {
            shuffle(node, &mut self.rng);
        }
        self.inner.learn(agents, rollout, step, on_progress)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        self.inner.state(agents)
    }

    fn restore(&mut self, agents: &[Agent], saved: &SavedState<'_>) -> Result<(), MarlError> {
        self.inner.restore(agents, saved)
    }

    fn gradient_steps(&self) -> usize {
        self.inner.gradient_steps()
    }
}

/// Shuffles the rewards among the joint actions of a node, and of all nodes below it.
fn shuffle(node: &mut Node, rng: &mut ChaCha8Rng) {
    let branches = node.branches.iter();
    let mut rewards: Vec<_> = branches.map(|branch| branch.reward.clone()).collect();
    rewards.shuffle(rng);
    for (branch, reward) in node.branches.iter_mut().zip(rewards) {
        branch.reward = reward;
        if let Some(child) = &mut branch.child {
            shuffle(child, rng);
        }
    }
}

/// Checks that shuffled rewards lead to a result that is random, and low on average.
fn check_not_learned(challenge: &Challenge) {
    let mut results = Vec::new();
    for joint_mode in [JointMode::Aligned, JointMode::Cross] {
        let settings = magrpo(Baseline::GroupMean, joint_mode, Credit::Mean);
        for seed in SEEDS {
            let attempt = challenge.learn(&settings, seed, |inner| {
                Box::new(ShuffledRewards {
                    inner,
                    rng: ChaCha8Rng::seed_from_u64(seed),
                })
            });
            results.push(attempt.reached);
        }
    }
    let mean = results.iter().sum::<f64>() / results.len() as f64;
    assert!(mean < 0.6, "{results:?}");
}

#[test]
fn shuffled_rewards_do_not_teach_the_complement() {
    check_not_learned(&Challenge::complement());
}

#[test]
fn shuffled_rewards_do_not_teach_the_relay() {
    check_not_learned(&Challenge::relay());
}
