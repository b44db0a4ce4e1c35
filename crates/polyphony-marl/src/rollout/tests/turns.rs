//! Rollouts over several turns: trees, histories, and where episodes end.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    agent::{Agent, TextCodec},
    fixture::{Chain, letter_template, plain_codec, tiny_model, wide_model},
    tree::JointMode,
};

/// A team with many stop tokens, so that responses differ in length.
fn team_of(names: &[&str], codec: impl Fn() -> TextCodec) -> Team {
    let agent = |name: &&str| {
        let codec = TextCodec {
            stop_tokens: (0..256).step_by(6).collect(),
            ..codec()
        };
        Agent::new(*name, tiny_model(), codec.into())
    };
    names.iter().map(agent).collect()
}

fn play_chain(
    game: &Chain,
    agents: &Team,
    tasks: &[Task],
    plan: &SamplingPlan,
    max_new_tokens: usize,
) -> Rollout {
    fixture::play(agents, game, tasks, plan, &training(max_new_tokens)).unwrap()
}

fn endless(names: &[&str]) -> Chain {
    Chain {
        ends_early: false,
        ..Chain::new(names)
    }
}

fn level(rollout: &Rollout, turn: usize) -> Vec<&Node> {
    let nodes = rollout.roots.iter().flat_map(Node::nodes);
    nodes.filter(|node| node.turn == turn).collect()
}

const NAMES: [&str; 2] = ["first", "second"];

#[test]
fn a_level_has_a_node_for_every_joint_action_that_continued() {
    let tasks = [task("a", "one"), task("b", "another")];
    for (joint_mode, joint_actions) in [(JointMode::Aligned, 2), (JointMode::Cross, 4)] {
        let plan = SamplingPlan {
            joint_mode,
            ..plan(2)
        };
        let agents = team_of(&NAMES, plain_codec);
        let whole = play_chain(&endless(&NAMES), &agents, &tasks, &plan, 5);
        for turn in 0..3 {
            let nodes = level(&whole, turn);
            assert_eq!(nodes.len(), 2 * usize::pow(joint_actions, turn as u32));
            for node in nodes {
                let branches = node.branches.iter();
                assert!(
                    branches
                        .clone()
                        .all(|branch| branch.child.is_some() == (turn < 2))
                );
                let past = branches.map(|branch| branch.reward.part("past"));
                assert_eq!(
                    past.collect::<Vec<_>>(),
                    vec![Some(turn as f64); joint_actions]
                );
            }
        }
        assert_eq!(whole.cut_episodes, 0);
    }
}

#[test]
fn episodes_end_where_the_environment_says_so() {
    let tasks = [task("a", "one"), task("b", "another")];
    let agents = team_of(&NAMES, plain_codec);
    let rollout = play_chain(&Chain::new(&NAMES), &agents, &tasks, &plan(4), 6);
    let (mut continued, mut ended) = (0, 0);
    for node in [level(&rollout, 0), level(&rollout, 1)].concat() {
        for branch in &node.branches {
            let tokens = branch.reward.part("tokens").unwrap();
            assert_eq!(branch.child.is_some(), tokens % 2.0 == 0.0, "{tokens}");
            match branch.child {
                Some(_) => continued += 1,
                None => ended += 1,
            }
        }
    }
    assert!(continued > 1 && ended > 1, "{continued}, {ended}");
}

#[test]
fn a_node_that_earns_enough_is_the_last() {
    let tasks = [task("a", "one")];
    let agents = team_of(&NAMES, plain_codec);
    let play = |termination_threshold| {
        let plan = SamplingPlan {
            termination_threshold,
            ..plan(3)
        };
        play_chain(&endless(&NAMES), &agents, &tasks, &plan, 5)
    };
    let unlimited = play(None);
    let totals = unlimited.roots[0]
        .branches
        .iter()
        .map(|branch| branch.reward.total());
    let mean_reward = totals.sum::<f64>() / 3.0;
    // The mean itself does not exceed the threshold.
    assert_eq!(level(&play(Some(mean_reward)), 1).len(), 3);
    assert_eq!(level(&play(Some(mean_reward - 1e-9)), 1).len(), 0);
}

/// Checks that a child's history consists of the ids of its parent's history, those of the response, and
/// those of the next observation. `continuation` returns the latter.
fn check_histories(rollout: &Rollout, continuation: impl Fn(&[u32], &str) -> Vec<u32>) {
    let mut checked = 0;
    for node in rollout.roots.iter().flat_map(Node::nodes) {
        for branch in &node.branches {
            let Some(child) = &branch.child else { continue };
            for (role, group) in child.groups.iter().enumerate() {
                let parent = &node.groups[role];
                let response = &parent.samples[branch.picks[role]].response;
                let feedback = Chain::feedback(node.turn, response);
                assert_eq!(*group.observation.text, feedback);
                let expected = [
                    &parent.history.tokens[..],
                    &response.tokens,
                    &continuation(&response.tokens, &feedback),
                ]
                .concat();
                assert_eq!(*group.history.tokens, expected);
                checked += 1;
            }
        }
    }
    assert!(checked > 8, "{checked}");
}

#[test]
fn histories_keep_exactly_the_ids_that_were_sampled() {
    let tasks = [task("a", "one"), task("b", "another")];
    let plan = SamplingPlan {
        joint_mode: JointMode::Cross,
        ..plan(2)
    };
    let agents = team_of(&NAMES, plain_codec);
    let rollout = play_chain(&Chain::new(&NAMES), &agents, &tasks, &plan, 6);
    let tokenizer = plain_codec().tokenizer;
    check_histories(&rollout, |_, feedback| {
        tokenizer
            .encode_more(&format!("\n\n{feedback}\n\n"))
            .unwrap()
    });

    // The same text may have other ids, so sampled ids are never encoded again.
    let groups = rollout.roots.iter().flat_map(Node::nodes);
    let samples = groups
        .flat_map(|node| &node.groups)
        .flat_map(|group| &group.samples);
    let differ = samples.filter(|sample| {
        tokenizer.encode_more(&sample.response.text).unwrap() != *sample.response.tokens
    });
    assert!(differ.count() > 0);
}

#[test]
fn a_template_ends_an_answer_once() {
    // This template ends an answer with `;`, which is a stop token here.
    let tokenizer = plain_codec().tokenizer;
    let [end] = tokenizer.encode_more(";").unwrap()[..] else {
        panic!("one token")
    };
    let codec = || TextCodec {
        template: Some(letter_template()),
        ..plain_codec()
    };
    let mut agents = team_of(&NAMES, codec);
    for agent in &mut agents {
        let with_end = TextCodec {
            stop_tokens: (0..256).step_by(6).chain([end]).collect(),
            ..codec()
        };
        agent.codec = with_end.into();
    }
    let tasks: Vec<Task> = (0..6).map(|i| task(&i.to_string(), "text")).collect();
    let game = endless(&NAMES);
    let rollout = play_chain(&game, &agents, &tasks, &plan(3), 6);
    // The number of answers without and with the end token.
    let counts = std::cell::Cell::new([0, 0]);
    check_histories(&rollout, |answer, feedback| {
        let text = format!(";u:{feedback};a:");
        let mut continuation = tokenizer.encode_more(&text).unwrap();
        let has_end = answer.last() == Some(&end);
        let mut new_counts = counts.get();
        new_counts[usize::from(has_end)] += 1;
        counts.set(new_counts);
        if has_end {
            continuation.remove(0);
        }
        continuation
    });
    assert!(counts.get().iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn every_node_has_its_own_stream_and_other_tasks_change_nothing() {
    let tasks: Vec<Task> = (0..3).map(|i| task(&i.to_string(), "text")).collect();
    let agents = team_of(&NAMES, plain_codec);
    let (plan, config, game) = (plan(2), training(5), endless(&NAMES));
    let rollout = play_chain(&game, &agents, &tasks, &plan, 5);
    let alone = fixture::play_some(&agents, &game, (&tasks, &[1]), &plan, &config).unwrap();
    let responses = |node: &Node| {
        let groups = node
            .nodes()
            .into_iter()
            .flat_map(|node| node.groups.clone());
        let samples = groups.flat_map(|group| group.samples);
        samples.map(|sample| sample.response).collect::<Vec<_>>()
    };
    assert_eq!(responses(&alone.roots[0]), responses(&rollout.roots[1]));

    // Two branches draw different tokens even if their histories are the same.
    let started = start_tasks(&agents, &game, tasks.clone(), &config).unwrap();
    let context = RolloutContext {
        team: &agents,
        environment: &game,
        plan: &plan,
        config: &config,
        step: 0,
    };
    let mut open = context.roots(started.batch(&[0, 1, 2])).unwrap().nodes;
    for turn in 0..3 {
        let mut ids: Vec<_> = open.iter().map(|node| (node.index, node.branch)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), open.len(), "turn {turn}");
        let samples = context.sample(&open, turn, &mut |_| ()).unwrap();
        let nodes = context.score(open, samples, turn).unwrap();
        open = context.children(&nodes).unwrap().nodes;
    }
}

#[test]
fn an_episode_whose_next_prompt_does_not_fit_fails_or_ends_as_asked() {
    // The first prompt just fits; the second does not.
    let tasks = [task("a", &"z".repeat(CONTEXT - 2 - 12))];
    let agents = team_of(&NAMES, plain_codec);
    let game = endless(&NAMES);
    let config = training(12);
    let error = fixture::play(&agents, &game, &tasks, &plan(3), &config).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("task `a`: the prompt of agent `first` has "),
        "{message}"
    );

    let config = TrainingConfig {
        long_prompts: LongPrompts::Skip,
        ..config
    };
    let rollout = fixture::play(&agents, &game, &tasks, &plan(3), &config).unwrap();
    assert_eq!((rollout.skipped_tasks, rollout.cut_episodes), (0, 3));
    assert_eq!(rollout.roots[0].nodes().len(), 1);
}

/// A game that continues after its only turn.
struct Unending(Chain);

impl Environment for Unending {
    fn roles(&self) -> &[Role] {
        self.0.roles()
    }

    fn reward_parts(&self) -> &[String] {
        self.0.reward_parts()
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        self.0.start(task)
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        self.0.step(task, past, action)
    }
}

#[test]
fn an_environment_with_more_turns_than_its_horizon_is_refused() {
    let agents = team_of(&NAMES, plain_codec);
    let game = Unending(endless(&NAMES));
    let tasks = [task("a", "one")];
    let error = fixture::play(&agents, &game, &tasks, &plan(2), &training(5)).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("task `a`: the environment continues after turn 1"),
        "{message}"
    );
}

/// A game for one role in which only the second of two joint actions continues, turn after turn. Its number
/// is `2 * parent + 1`, which soon no longer fits into a key.
struct Narrow {
    roles: [Role; 1],
    parts: [String; 1],
    scored: AtomicUsize,
}

impl Environment for Narrow {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn horizon(&self) -> NonZeroUsize {
        const { NonZeroUsize::new(40).unwrap() }
    }

    fn start(&self, _task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        Ok(vec![Observation::new("one")])
    }

    fn step(
        &self,
        _task: &Task,
        _past: &[Turn],
        _action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let reward = Reward::new([("none", 0.0)]);
        // Only one thread scores, so joint actions arrive in order.
        let is_second = self.scored.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        Ok(match is_second {
            true => Outcome::continue_with(reward, vec![Observation::new("on")]),
            false => Outcome::end(reward),
        })
    }
}

#[test]
fn a_joint_action_without_a_stream_is_refused() {
    let game = Narrow {
        roles: [Role::new("only")],
        parts: ["none".to_owned()],
        scored: AtomicUsize::new(0),
    };
    let agents = Team::from([Agent::new("only", wide_model(), plain_codec().into())]);
    let tasks = [task("a", "one")];
    let error = fixture::play(&agents, &game, &tasks, &plan(2), &training(1)).unwrap_err();
    let message = error.to_string();
    // At the 33rd turn the number is 2^33 - 1.
    assert!(
        message.starts_with("8589934591 joint actions of a task are more than"),
        "{message}"
    );
}

#[test]
fn teams_of_one_and_of_three_play_too() {
    for names in [&["only"][..], &["a", "b", "c"]] {
        let plan = SamplingPlan {
            joint_mode: JointMode::Cross,
            ..plan(2)
        };
        let agents = team_of(names, plain_codec);
        let rollout = play_chain(&endless(names), &agents, &[task("a", "one")], &plan, 4);
        let joint_actions = 1 << names.len();
        assert_eq!(level(&rollout, 1).len(), joint_actions);
        assert_eq!(level(&rollout, 2).len(), joint_actions * joint_actions);
    }
}
