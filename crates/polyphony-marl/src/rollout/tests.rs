//! Rollouts of the tiny model: sampling, scoring, and what is refused.

mod turns;

use polyphony_episode::{
    EnvironmentError, FinishReason, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};

use super::*;
use crate::{
    config::LongPrompts,
    fixture::{self, CONTEXT, Duet, agent, lengths, plan, task, training},
    tasks::start_tasks,
};

fn team() -> Team {
    Team::from([agent("first"), agent("second")])
}

/// Plays tasks with two responses of each agent.
fn play(tasks: &[Task], config: &TrainingConfig) -> Result<Rollout, MarlError> {
    fixture::play(&team(), &Duet::new(lengths), tasks, &plan(2), config)
}

#[test]
fn a_node_has_observations_responses_and_rewards() {
    let tasks = [task("a", "one"), task("b", "another text")];
    let mut reported_tokens = 0;
    let agents = team();
    let (duet, config) = (Duet::new(lengths), training(30));
    let started = start_tasks(&agents, &duet, tasks.to_vec(), &config).unwrap();
    let batch = started.batch(&[0, 1]);
    let mut count = |tokens| reported_tokens += tokens;
    let rollout = rollout(&agents, &duet, batch, &plan(3), &config, 0, &mut count).unwrap();
    assert_eq!((rollout.roots.len(), rollout.skipped_tasks), (2, 0));
    assert_eq!(reported_tokens, rollout.completion_tokens());
    for (node, task) in rollout.roots.iter().zip(&tasks) {
        assert_eq!((&node.task, node.turn), (&task.id, 0));
        for (group, agent) in node.groups.iter().zip(&agents) {
            assert_eq!(*group.observation.text, task.fields["text"]);
            let prompt = agent.codec.tokenizer.decode(&group.history.tokens).unwrap();
            assert_eq!(prompt, format!("{}\n\n", group.observation.text));
            for sample in &group.samples {
                let response = &sample.response;
                assert_eq!(sample.logprobs.len(), response.tokens.len());
                let (finish, spoken) = match response.tokens.split_last() {
                    Some((&2, spoken)) => (FinishReason::Stop, spoken),
                    _ => (FinishReason::Length, &response.tokens[..]),
                };
                assert_eq!(response.finish, finish);
                assert_eq!(
                    *response.text,
                    agent.codec.tokenizer.decode(spoken).unwrap()
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
fn a_task_is_played_the_same_alone_and_with_other_tasks() {
    let tasks: Vec<Task> = (0..4)
        .map(|i| task(&i.to_string(), &"text ".repeat(i + 1)))
        .collect();
    let config = training(12);
    let together = play(&tasks, &config).unwrap();
    let duet = Duet::new(lengths);
    let alone = fixture::play_some(&team(), &duet, (&tasks, &[2]), &plan(2), &config);
    let responses = |node: &Node| {
        let samples = node.groups.iter().flat_map(|group| group.samples.clone());
        samples.map(|sample| sample.response).collect::<Vec<_>>()
    };
    assert_eq!(
        responses(&alone.unwrap().roots[0]),
        responses(&together.roots[2])
    );
}

#[test]
fn task_agent_step_and_seed_each_change_the_random_numbers() {
    let tasks = [task("a", "same"), task("b", "same")];
    let tokens = |rollout: &Rollout, node: usize, agent: usize| {
        rollout.roots[node].groups[agent].samples[0]
            .response
            .tokens
            .clone()
    };
    let play = |step, seed| {
        let (duet, config) = (
            Duet::new(lengths),
            TrainingConfig {
                seed,
                ..training(12)
            },
        );
        let agents = team();
        let started = start_tasks(&agents, &duet, tasks.to_vec(), &config).unwrap();
        let batch = started.batch(&[0, 1]);
        rollout(&agents, &duet, batch, &plan(1), &config, step, &mut |_| ()).unwrap()
    };
    let rollout = play(0, 5);
    let original = tokens(&rollout, 0, 0);
    assert_eq!(original, tokens(&play(0, 5), 0, 0));
    assert_ne!(original, tokens(&rollout, 1, 0), "task");
    assert_ne!(original, tokens(&rollout, 0, 1), "agent");
    assert_ne!(original, tokens(&play(1, 5), 0, 0), "step");
    assert_ne!(original, tokens(&play(0, 6), 0, 0), "seed");
}

#[test]
fn steps_and_tasks_without_a_stream_are_refused() {
    let (duet, config, agents) = (Duet::new(lengths), training(4), team());
    let tasks = vec![task("a", "one")];
    let started = start_tasks(&agents, &duet, tasks, &config).unwrap();
    let play = |step: usize, index: usize| {
        let batch = started.batch(std::slice::from_ref(&index));
        let result = rollout(&agents, &duet, batch, &plan(1), &config, step, &mut |_| ());
        result.unwrap_err().to_string()
    };
    let message = play(1 << 32, 0);
    assert!(
        message.starts_with("4294967296 steps are more than"),
        "{message}"
    );
    let message = play(0, 1);
    assert_eq!(
        message,
        "there is no task 1: the data set has 1, counted from 0"
    );
}

/// Scoring may wait for programs or other machines, and the pool must be able to compute meanwhile.
#[test]
fn joint_actions_are_scored_outside_of_the_pool_that_computes() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let rollout = pool.unwrap().install(|| {
        let duet = Duet::new(|_| {
            let is_on_pool = rayon::current_thread_index().is_some();
            Reward::new([("one", f64::from(u8::from(is_on_pool)))])
        });
        let tasks = [task("a", "one"), task("b", "another text")];
        fixture::play(&team(), &duet, &tasks, &plan(2), &training(4))
    });
    let nodes = rollout.unwrap().roots.into_iter();
    let rewards: Vec<f64> = nodes
        .flat_map(|node| node.branches)
        .map(|branch| branch.reward.total())
        .collect();
    assert_eq!(rewards, [0.0; 4]);
}

#[test]
fn an_algorithm_may_sample_nothing() {
    let rollout = fixture::play(
        &team(),
        &Duet::new(lengths),
        &[task("a", "one")],
        &plan(0),
        &training(4),
    );
    assert!(rollout.unwrap().roots.is_empty());
}

#[test]
fn a_prompt_that_does_not_fit_fails_or_is_left_out_as_asked() {
    // Every letter is one token, and the plain prompt ends with two line feeds.
    let text = |tokens: usize| "z".repeat(tokens - 2);
    let tasks = [
        task("fits", &text(CONTEXT - 8)),
        task("long", &text(CONTEXT - 7)),
    ];
    let config = training(8);
    let message = play(&tasks, &config).unwrap_err().to_string();
    let expected = "task `long`: the prompt of agent `first` has 121 tokens and a response may \
                    have 8, but the model's context holds 128";
    assert!(message.starts_with(expected), "{message}");

    let mut skipping = config;
    skipping.long_prompts = LongPrompts::Skip;
    let rollout = play(&tasks, &skipping).unwrap();
    let played_tasks: Vec<&str> = rollout
        .roots
        .iter()
        .map(|node| node.task.as_str())
        .collect();
    assert_eq!((played_tasks, rollout.skipped_tasks), (vec!["fits"], 1));
}

#[test]
fn one_agent_answers_in_each_role_as_a_copy_of_it_would() {
    let tasks = [task("a", "one"), task("b", "another text")];
    let (duet, config) = (Duet::new(lengths), training(20));
    let [alone, copies] = [Team::from([agent("both")]), team()]
        .map(|agents| fixture::play(&agents, &duet, &tasks, &plan(3), &config).unwrap());
    let responses = |rollout: &Rollout| {
        let groups = rollout.roots.iter().flat_map(|node| &node.groups);
        let samples = groups.flat_map(|group| group.samples.clone());
        samples.map(|sample| sample.response).collect::<Vec<_>>()
    };
    assert_eq!(responses(&alone), responses(&copies));
}

#[test]
fn a_limit_beyond_all_numbers_is_refused() {
    let config = training(usize::MAX);
    let message = play(&[task("a", "x")], &config).unwrap_err().to_string();
    assert!(
        message.contains("the model's context holds 128"),
        "{message}"
    );
}

#[test]
fn an_environment_at_odds_with_its_team_is_refused() {
    let tasks = [task("a", "text")];
    let config = training(4);
    let play = |agents: &Team, environment: &dyn Environment| {
        fixture::play(agents, environment, &tasks, &plan(2), &config)
            .unwrap_err()
            .to_string()
    };
    let expected = "the environment has 2 roles, but the team has 3 agents";
    let message = play(&["a", "b", "c"].map(agent).into(), &Duet::new(lengths));
    assert!(message.starts_with(expected), "{message}");

    let secret = Duet::new(|_| Reward::new([("one", 0.0), ("secret", 1.0)]));
    let message = play(&team(), &secret);
    let expected = "task `a`: the environment gave the reward part `secret`, which its \
                    `reward_parts` does not name; it names: one, two";
    assert_eq!(message, expected);

    let rows = [
        (
            Duet::new(|_| Reward::new([("one", -1e30), ("two", f64::NAN)])),
            "NaN",
        ),
        (
            Duet::new(|_| Reward::new([("one", 1e30), ("two", 1e308)])),
            "1e308",
        ),
        (Duet::new(|_| Reward::new([("two", -1.1e30)])), "-1.1e30"),
    ];
    for (game, value) in rows {
        let message = play(&team(), &game);
        let expected = format!(
            "task `a`: the environment gave the reward part `two` the value {value}, but it must be a \
             number from -1e30 to 1e30: scale or clip it. The joint action was ["
        );
        assert!(message.starts_with(&expected), "{message}");
    }

    let three = Duet::new(|_| Reward::per_role([[("one", 0.0)]; 3]));
    let expected = "task `a`: the environment gave 3 rewards, but has 2 roles";
    assert!(play(&team(), &three).starts_with(expected));

    let later = Duet::new(|_| Reward::per_role([[("one", 0.0)], [("two", f64::INFINITY)]]));
    let expected = "task `a`: the environment gave the reward part `two` the value inf";
    assert!(play(&team(), &later).starts_with(expected));

    let message = play(&team(), &Silent(Duet::new(lengths)));
    let expected = "task `a`: the environment gave 1 observations for turn 1, but must give one for \
                    each of its roles: first, second";
    assert_eq!(message, expected);

    let fieldless = [task("a", "text"), Task::new("b", [("other", "x")])];
    let duet = Duet::new(lengths);
    let error = fixture::play(&team(), &duet, &fieldless, &plan(2), &config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task `b` has no field `text`; it has: other"
    );
}

/// Gives its second role no observation.
struct Silent(Duet);

impl Environment for Silent {
    fn roles(&self) -> &[Role] {
        self.0.roles()
    }

    fn reward_parts(&self) -> &[String] {
        self.0.reward_parts()
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        let mut observations = self.0.start(task)?;
        observations.pop();
        Ok(observations)
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
fn a_rollout_is_written_node_by_node() {
    let per_role = Duet::new(|action| {
        let [one, two] = [0, 1].map(|role| action.responses[role].tokens.len() as f64);
        Reward::per_role([[("one", one)], [("two", two)]])
    });
    let tasks = [task("a", "one")];
    let rollout = fixture::play(&team(), &per_role, &tasks, &plan(1), &training(3)).unwrap();
    let lines = serde_json::to_value(&rollout).unwrap();
    let line = &lines[0];
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["task", "turn", "path", "agents", "joint_actions"]);
    let sample = &rollout.roots[0].groups[1].samples[0];
    let response = &line["agents"][1]["responses"][0];
    assert_eq!(response["text"], *sample.response.text);
    assert_eq!(response["tokens"][0], sample.response.tokens[0]);
    assert!(response.get("reference_logprobs").is_none() && response.get("advantage").is_none());
    let action = &line["joint_actions"][0];
    assert_eq!(action["picks"], serde_json::json!([0, 0]));
    let tokens = sample.response.tokens.len() as f64;
    assert_eq!(action["per_role"][1]["two"], tokens);
    assert_eq!(action["parts"]["two"], tokens / 2.0);
}
