//! With one agent, MAGRPO is GRPO: a step of MAGRPO is compared with an independent computation of GRPO.

use super::*;
use crate::{
    agent::TextCodec,
    fixture::{self, Chain, plain_codec, plan, task, tiny_model, training, weights},
    magrpo::Magrpo,
    team::Team,
    tree::SamplingPlan,
};
use burn::{
    module::{ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};

/// With decay rates of 0 and this value as `epsilon`, AdamW's step is the gradient itself, scaled.
const ADDEND: f64 = 1e6;

/// Collects the gradient of every weight; zeros for a weight without a gradient.
struct Collect<'a> {
    grads: &'a Gradients,
    gradients: Vec<Vec<f32>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, weight: &Param<Tensor<D>>) {
        let weight = weight.val();
        let gradient = match weight.grad(self.grads) {
            Some(gradient) => gradient.into_data().try_into_vec().unwrap(),
            None => vec![0.0; weight.shape().num_elements()],
        };
        self.gradients.push(gradient);
    }
}

#[test]
fn with_one_agent_the_update_is_that_of_grpo() {
    let codec = TextCodec {
        stop_tokens: (0..256).step_by(6).collect(),
        ..plain_codec()
    };
    let mut agents = Team::from([Agent::new("only", tiny_model(), codec.into())]);
    let before = agents[0].model.clone();
    let game = Chain::new(&["only"]);
    // One turn, as in GRPO.
    let plan = SamplingPlan {
        termination_threshold: Some(-1.0),
        ..plan(5)
    };
    let tasks = [task("a", "one")];
    let mut rollout = fixture::play(&agents, &game, &tasks, &plan, &training(8)).unwrap();
    let magrpo = Magrpo::default();
    rollout
        .assign_advantages(|node, role| magrpo.advantages(node, role))
        .unwrap();
    let node = &rollout.roots[0];
    let updates = Updates {
        learning_rate: ADDEND,
        epsilon: ADDEND,
        beta_1: 0.0,
        beta_2: 0.0,
        max_grad_norm: 1e9,
        ..Updates::default()
    };
    let policy = magrpo.policy_loss();
    run_first(&mut agents[0], &node.groups, &updates, &policy).unwrap();

    // Dr. GRPO: −1/G Σ (r − mean r) Σ ℓ, with each response scored in a separate row.
    let rewards: Vec<f32> = node
        .branches
        .iter()
        .map(|branch| branch.reward.total() as f32)
        .collect();
    let center = rewards.iter().sum::<f32>() / 5.0;
    assert!(rewards.iter().any(|reward| *reward != center));
    let model = before.trainable();
    let group = &node.groups[0];
    let terms = group.samples.iter().zip(&rewards).map(|(sample, reward)| {
        let alone = PackedGroup::new(&group.history.tokens, vec![&sample.response.tokens]).unwrap();
        let logprobs = score_group(&model, &alone, 1.0).unwrap();
        logprobs.sum() * (-(reward - center) / 5.0)
    });
    let loss = terms.reduce(|a, b| a + b).unwrap();
    let grads = loss.backward();
    let mut collect = Collect {
        grads: &grads,
        gradients: Vec::new(),
    };
    model.visit_weights(&mut collect);

    let after = weights(&agents[0].model);
    let mut largest: f32 = 0.0;
    for (((name, old), (_, new)), gradient) in
        weights(&before).iter().zip(&after).zip(&collect.gradients)
    {
        let scale = gradient.iter().fold(0.0f32, |most, g| most.max(g.abs()));
        largest = largest.max(scale);
        for ((old, new), gradient) in old.iter().zip(new).zip(gradient) {
            let moved = old - new;
            // A difference of weights near 1 is precise to about 1e-7.
            assert!(
                (moved - gradient).abs() <= 1e-3 * scale + 3e-7,
                "{name}: {moved} is not {gradient}"
            );
        }
    }
    assert!(largest > 0.1, "{largest}");
}
