//! An advantage estimator of one's own: responses are judged by their rank within the group alone.
//!
//! The loop below is a training step put together from its parts, with one of them replaced. Ranks
//! hold no units, so that a reward of large outliers does no harm. Two copies of a tiny model with
//! random weights learn to complement each other.
//!
//! `cargo run -p polyphony-marl --example advantage_estimator`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

#[path = "../../polyphony-episode/examples/games/complement.rs"]
mod complement;
#[path = "games_team/mod.rs"]
mod games_team;

use std::error::Error;

use complement::Complement;
use games_team::{number, rollout_config, team, update_config};
use polyphony_episode::Task;
use polyphony_marl::{
    Algorithm, Credit, IndexedTask, JudgedGroup, Node, Updates, credits, mean_return, returns,
    rollout, update,
};

/// The advantage of each credit: −1 for the lowest rank, 1 for the highest, and for equal credits the
/// mean of their ranks'.
fn rank_advantages(credits: &[f64]) -> Vec<f64> {
    let most = (credits.len() - 1).max(1) as f64;
    let rank = |own: &f64| {
        let lower = credits.iter().filter(|other| *other < own).count() as f64;
        let equal = credits.iter().filter(|other| *other == own).count() as f64;
        lower + (equal - 1.0) / 2.0
    };
    credits
        .iter()
        .map(|own| 2.0 * rank(own) / most - 1.0)
        .collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    assert_eq!(rank_advantages(&[0.5, 9.0, 0.5]), [-0.5, 1.0, -0.5]);
    let game = Complement::new();
    let mut agents = team(&game)?;
    let tasks = [("aaaa", "1"), ("zzzz", "3")]
        .map(|(call, sum)| Task::new(call, [("call", call), ("sum", sum)]));
    let tasks = [0, 1].map(|index| IndexedTask {
        index,
        task: &tasks[index],
    });
    let (algorithm, updates) = (Algorithm::default(), Updates::default());
    for step in 0..60 {
        let played = rollout(
            &agents,
            &game,
            &tasks,
            &rollout_config(8, step),
            &mut |_| (),
        )?;
        let nodes: Vec<&Node> = played.nodes.iter().flat_map(Node::nodes).collect();
        for (role, agent) in agents.iter_mut().enumerate() {
            let judge = |node: &&Node| {
                let credits = credits(node, role, &returns(node, 1.0), Credit::Mean);
                JudgedGroup {
                    group: node.groups[role].clone(),
                    advantages: rank_advantages(&credits),
                }
            };
            let groups: Vec<JudgedGroup> = nodes.iter().map(judge).collect();
            update(
                agent,
                &groups,
                &update_config(&algorithm, &updates, groups.len()),
            )?;
        }
        if (step + 1) % 10 == 0 {
            println!(
                "step {:>2}: return {:.2}",
                step + 1,
                mean_return(&played.nodes, 1.0)
            );
        }
    }
    Ok(())
}
