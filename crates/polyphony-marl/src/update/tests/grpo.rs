//! With one agent, MAGRPO is GRPO: MAGRPO's step against an independent computation of GRPO's.

use super::*;
use crate::{
    agent::TextCodec,
    fixture::{self, Chain, plain_codec, task, tiny_model, training, tree, weights},
    magrpo::Magrpo,
    tree::Tree,
};
use burn::{
    module::{ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};

/// With decay rates of 0 and this addend AdamW's step is the gradient itself, scaled.
const ADDEND: f64 = 1e6;

/// Gathers every weight's gradient; zeros where there is none.
struct Collect<'a> {
    tape: &'a Gradients,
    found: Vec<Vec<f32>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, weight: &Param<Tensor<D>>) {
        let weight = weight.val();
        let gradient = match weight.grad(self.tape) {
            Some(gradient) => gradient.into_data().try_into_vec().unwrap(),
            None => vec![0.0; weight.shape().num_elements()],
        };
        self.found.push(gradient);
    }
}

#[test]
fn with_one_agent_the_update_is_grpos() {
    let codec = TextCodec {
        stop_tokens: (0..256).step_by(6).collect(),
        ..plain_codec()
    };
    let mut agents = [Agent::new("only", tiny_model(), codec.into())];
    let before = agents[0].model.clone();
    let game = Chain::new(&["only"]);
    // One turn, as in GRPO.
    let tree = Tree {
        termination_threshold: Some(-1.0),
        ..tree(5)
    };
    let tasks = [task("a", "one")];
    let mut played = fixture::play(&agents, &game, &tasks, &tree, &training(8)).unwrap();
    let magrpo = Magrpo::default();
    played
        .assign_advantages(|node, role| magrpo.advantages(node, role))
        .unwrap();
    let node = &played.nodes[0];
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

    // Dr. GRPO: −1/G Σ (r − mean r) Σ ℓ, each response scored in a row of its own.
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
    let tape = loss.backward();
    let mut gradients = Collect {
        tape: &tape,
        found: Vec::new(),
    };
    model.visit_weights(&mut gradients);

    let after = weights(&agents[0].model);
    let mut largest: f32 = 0.0;
    for (((name, old), (_, new)), gradient) in
        weights(&before).iter().zip(&after).zip(&gradients.found)
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
