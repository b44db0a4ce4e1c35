//! Rollouts of the tiny model: what is sampled, how it is scored, and what is refused.

mod turns;

use polyphony_episode::{FinishReason, Reward, Role};

use super::*;
use crate::fixture::{CONTEXT, Duet, agent, lengths, rollout_config, task};

fn team() -> Vec<Agent> {
    vec![agent("first"), agent("second")]
}

/// Rolls tasks out under their index in the list.
fn play(tasks: &[Task], config: &RolloutConfig) -> Result<Rollout, MarlError> {
    let indexed: Vec<IndexedTask<'_>> = tasks
        .iter()
        .enumerate()
        .map(|(index, task)| IndexedTask { index, task })
        .collect();
    rollout(&team(), &Duet::new(lengths), &indexed, config, &mut |_| ())
}

#[test]
fn a_node_holds_what_was_seen_said_and_earned() {
    let tasks = [task("a", "one"), task("b", "another text")];
    let mut told = 0;
    let agents = team();
    let indexed = [0, 1].map(|index| IndexedTask {
        index,
        task: &tasks[index],
    });
    let config = rollout_config(3, 30);
    let rollout = rollout(&agents, &Duet::new(lengths), &indexed, &config, &mut |n| {
        told += n
    })
    .unwrap();
    assert_eq!((rollout.nodes.len(), rollout.skipped_tasks), (2, 0));
    assert_eq!(told, rollout.sampled_tokens());
    for (node, task) in rollout.nodes.iter().zip(&tasks) {
        assert_eq!((&node.task, node.turn), (&task.id, 0));
        for (group, agent) in node.groups.iter().zip(&agents) {
            assert_eq!(*group.observation.text, task.fields["text"]);
            let prompt = agent
                .language
                .tokenizer
                .decode(&group.history.tokens)
                .unwrap();
            assert_eq!(prompt, format!("{}\n\n", group.observation.text));
            for sample in &group.samples {
                let response = &sample.response;
                assert_eq!(sample.logprobs.len(), response.tokens.len());
                let (finish, spoken) = match response.tokens.split_last() {
                    Some((&2, spoken)) => (FinishReason::Stop, spoken),
                    _ => (FinishReason::Length, response.tokens.as_slice()),
                };
                assert_eq!(response.finish, finish);
                assert_eq!(
                    *response.text,
                    agent.language.tokenizer.decode(spoken).unwrap()
                );
            }
        }
        let picks: Vec<_> = node
            .branches
            .iter()
            .map(|branch| branch.picks.clone())
            .collect();
        assert_eq!(picks, [[0, 0], [1, 1], [2, 2]]);
        for branch in &node.branches {
            assert_eq!(branch.reward, lengths(&node.joint_action(&branch.picks)));
            assert_eq!(branch.child, None);
        }
    }
}

#[test]
fn a_task_is_played_the_same_alone_and_in_company() {
    let tasks: Vec<Task> = (0..4)
        .map(|i| task(&i.to_string(), &"text ".repeat(i + 1)))
        .collect();
    let together = play(&tasks, &rollout_config(2, 12)).unwrap();
    let alone = IndexedTask {
        index: 2,
        task: &tasks[2],
    };
    let alone = rollout(
        &team(),
        &Duet::new(lengths),
        &[alone],
        &rollout_config(2, 12),
        &mut |_| (),
    );
    let texts = |node: &Node| {
        let samples = node.groups.iter().flat_map(|group| group.samples.clone());
        samples.map(|sample| sample.response).collect::<Vec<_>>()
    };
    assert_eq!(texts(&alone.unwrap().nodes[0]), texts(&together.nodes[2]));
}

#[test]
fn task_agent_step_and_seed_each_have_their_own_chance() {
    let tasks = [task("a", "same"), task("b", "same")];
    let config = rollout_config(1, 12);
    let tokens = |rollout: &Rollout, node: usize, agent: usize| {
        rollout.nodes[node].groups[agent].samples[0]
            .response
            .tokens
            .clone()
    };
    let played = play(&tasks, &config).unwrap();
    let own = tokens(&played, 0, 0);
    assert_eq!(own, tokens(&play(&tasks, &config).unwrap(), 0, 0));
    assert_ne!(own, tokens(&played, 1, 0), "task");
    assert_ne!(own, tokens(&played, 0, 1), "agent");
    for key in [
        StreamKey {
            step: 1,
            ..config.key
        },
        StreamKey {
            seed: 6,
            ..config.key
        },
    ] {
        let other = play(
            &tasks,
            &RolloutConfig {
                key,
                ..config.clone()
            },
        )
        .unwrap();
        assert_ne!(own, tokens(&other, 0, 0), "{key:?}");
    }
}

#[test]
fn a_prompt_that_does_not_fit_fails_or_is_left_out_as_asked() {
    // Letters are tokens of their own, and the plain prompt ends with two line feeds.
    let text = |tokens: usize| "z".repeat(tokens - 2);
    let tasks = [
        task("fits", &text(CONTEXT - 8)),
        task("long", &text(CONTEXT - 7)),
    ];
    let config = rollout_config(2, 8);
    let message = play(&tasks, &config).unwrap_err().to_string();
    let expected = "task `long`: the prompt of agent `first` has 121 tokens and a response may \
                    have 8, but the model's context holds 128";
    assert!(message.starts_with(expected), "{message}");

    let mut skipping = config;
    skipping.responses.long_prompts = LongPrompts::Skip;
    let rollout = play(&tasks, &skipping).unwrap();
    let played: Vec<&str> = rollout
        .nodes
        .iter()
        .map(|node| node.task.as_str())
        .collect();
    assert_eq!((played, rollout.skipped_tasks), (vec!["fits"], 1));
}

#[test]
fn one_agent_says_in_each_role_what_two_copies_of_it_would() {
    let tasks = [task("a", "one"), task("b", "another text")];
    let indexed = [0, 1].map(|index| IndexedTask {
        index,
        task: &tasks[index],
    });
    let config = rollout_config(3, 20);
    let [alone, copies] = [vec![agent("both")], team()].map(|agents| {
        rollout(&agents, &Duet::new(lengths), &indexed, &config, &mut |_| ()).unwrap()
    });
    let said = |rollout: &Rollout| {
        let groups = rollout.nodes.iter().flat_map(|node| &node.groups);
        let samples = groups.flat_map(|group| group.samples.clone());
        samples.map(|sample| sample.response).collect::<Vec<_>>()
    };
    assert_eq!(said(&alone), said(&copies));
}

#[test]
fn a_limit_beyond_all_numbers_is_refused() {
    let config = rollout_config(2, usize::MAX);
    let message = play(&[task("a", "x")], &config).unwrap_err().to_string();
    assert!(
        message.contains("the model's context holds 128"),
        "{message}"
    );
}

#[test]
fn an_environment_at_odds_with_its_team_is_refused() {
    let tasks = [task("a", "text")];
    let indexed = [IndexedTask {
        index: 0,
        task: &tasks[0],
    }];
    let config = rollout_config(2, 4);
    let play = |agents: &[Agent], environment: &Duet| {
        rollout(agents, environment, &indexed, &config, &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    let expected = "the environment has 2 roles and made 2 observations, but the team has 3 agents";
    let message = play(&["a", "b", "c"].map(agent), &Duet::new(lengths));
    assert!(message.starts_with(expected), "{message}");

    let secret = Duet::new(|_| Reward::new([("one", 0.0), ("secret", 1.0)]));
    let message = play(&team(), &secret);
    assert!(
        message.contains("gave the reward part `secret`"),
        "{message}"
    );

    let endless = Duet::new(|_| Reward::new([("one", 0.0), ("two", f64::NAN)]));
    let message = play(&team(), &endless);
    let expected = "task `a`: the environment gave the reward part `two` the value NaN";
    assert!(message.starts_with(expected), "{message}");

    let roles = [Role::new("first"), Role::new("second")];
    let fieldless = [task("a", "text"), Task::new("b", [("other", "x")])];
    let indexed = [0, 1].map(|index| IndexedTask {
        index,
        task: &fieldless[index],
    });
    let environment = Duet {
        roles,
        ..Duet::new(lengths)
    };
    let error = rollout(&team(), &environment, &indexed, &config, &mut |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task `b` has no field `text`; it has: other"
    );
}
