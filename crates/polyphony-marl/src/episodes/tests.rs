//! Whole episodes: who reads what under each protocol, which tokens count, and which prompts do not fit.

use std::{num::NonZeroUsize, sync::Arc};

use polyphony_episode::Task;

use super::*;
use crate::{
    agent::{Agent, TextCodec},
    config::LongPrompts,
    fixture::{
        CONTEXT, Chain, Duet, agent, lengths, letter_template, plain_codec, plan, task, training,
        wide_model,
    },
    rollout::rollout,
    tasks::start_tasks,
};

fn play(
    environment: &dyn Environment,
    agents: &Team,
    tasks: &[Task],
    (protocol, episodes): (&Protocol, usize),
    config: &TrainingConfig,
) -> Result<Episodes, MarlError> {
    let started = start_tasks(agents, environment, tasks.to_vec(), config)?;
    let all: Vec<usize> = (0..tasks.len()).collect();
    let batch = started.batch(&all);
    play_episodes(
        agents,
        environment,
        batch,
        episodes,
        protocol,
        config,
        &mut |_| (),
    )
}

/// Agents with a template, so that their prompts show what they read.
fn lettered(names: &[&str]) -> Team {
    let codec = Arc::new(TextCodec {
        template: Some(letter_template()),
        ..plain_codec()
    });
    let agent = |name: &&str| Agent::new(*name, wide_model(), Arc::clone(&codec));
    names.iter().map(agent).collect()
}

#[test]
fn agents_that_do_not_read_each_other_answer_as_in_a_rollout() {
    let agents = Team::from(["first", "second"].map(agent));
    let tasks = [task("a", "kind"), task("b", "of")];
    let (duet, config) = (Duet::new(lengths), training(8));
    let parallel = Protocol::parallel();
    let episodes = play(&duet, &agents, &tasks, (&parallel, 3), &config).unwrap();
    // A rollout in the step whose number evaluations have.
    let started = start_tasks(&agents, &duet, tasks.to_vec(), &config).unwrap();
    let (batch, step) = (started.batch(&[0, 1]), EVALUATION_STEP as usize);
    let rollout = rollout(&agents, &duet, batch, &plan(3), &config, step, &mut |_| ()).unwrap();
    assert_eq!((episodes.played.len(), episodes.left_out.len()), (6, 0));
    for (index, episode) in episodes.played.iter().enumerate() {
        let node = &rollout.roots[index / 3];
        let branch = &node.branches[index % 3];
        assert_eq!((&episode.task, episode.number), (&node.task, index % 3));
        assert_eq!(episode.turns[0].action, node.joint_action(&branch.picks));
        assert_eq!(episode.rewards, std::slice::from_ref(&branch.reward));
    }
    let tokens: usize = episodes
        .played
        .iter()
        .map(|episode| episode.completion_tokens)
        .sum();
    assert_eq!(tokens, rollout.completion_tokens());
}

#[test]
fn the_protocol_decides_what_agents_read_of_one_another() {
    let game = Duet::new(lengths);
    let agents = lettered(&["first", "second"]);
    let tasks = [task("a", "hi")];
    let config = training(8);
    let started = start_tasks(&agents, &game, tasks.to_vec(), &config).unwrap();
    // For each episode and role: what the role read last, and its answer.
    let exchanges = |protocol: Protocol| {
        let player = EpisodePlayer {
            team: &agents,
            environment: &game,
            protocol: &protocol,
            config: &config,
        };
        let (mut active, _) = player.start(started.batch(&[0]), 2).unwrap();
        player.play_turn(&mut active, 0, &mut |_| ()).unwrap();
        let exchange = |active: &ActiveEpisode<'_>, role: usize| {
            let (history, answer) = active.last_answers[role].clone().unwrap();
            let tokenizer = &agents[role].codec.tokenizer;
            (
                tokenizer.decode(&history.tokens).unwrap(),
                answer.text.to_string(),
            )
        };
        active
            .iter()
            .map(|active| [exchange(active, 0), exchange(active, 1)])
            .collect::<Vec<_>>()
    };
    for [(first, _), (second, _)] in exchanges(Protocol::parallel()) {
        assert_eq!((first.as_str(), second.as_str()), ("u:hi;a:", "u:hi;a:"));
    }
    for [(first, answer), (second, _)] in exchanges(Protocol::pipeline()) {
        assert_eq!(first, "u:hi;a:");
        let expected = format!("u:hi\n\nYour partner \"first\" has already answered:\n{answer};a:");
        assert_eq!(second, expected);
    }
    let drafts = exchanges(Protocol::parallel());
    for (revised, drafts) in exchanges(Protocol::discussion()).iter().zip(&drafts) {
        for role in [0, 1] {
            let partner = ["first", "second"][1 - role];
            let (draft, partner_draft) = (&drafts[role].1, &drafts[1 - role].1);
            let prompt =
                format!("Your partner \"{partner}\" has answered:\n{partner_draft}\n\nRevise");
            let text = &revised[role].0;
            assert!(text.starts_with(&format!("u:hi;a:{draft}")), "{text:?}");
            assert!(text.contains(&prompt), "{text:?}");
        }
    }
}

#[test]
fn drafts_count_as_tokens_but_are_not_scored() {
    let agents = lettered(&["first", "second"]);
    let tasks = [task("a", "kind")];
    let game = Duet::new(lengths);
    let episode = |protocol: Protocol| {
        play(&game, &agents, &tasks, (&protocol, 1), &training(8))
            .unwrap()
            .played
            .remove(0)
    };
    let drafts = episode(Protocol::parallel());
    let revised = episode(Protocol::discussion());
    let scored = |episode: &Episode| episode.rewards[0].total() as usize;
    assert_eq!(drafts.completion_tokens, scored(&drafts));
    assert_eq!(
        revised.completion_tokens,
        scored(&drafts) + scored(&revised)
    );
    assert!(revised.prompt_tokens > 2 * drafts.prompt_tokens);
    assert_ne!(revised.turns[0].action, drafts.turns[0].action);
    // The turn has only the environment's observations.
    assert_eq!(revised.turns[0].observations, drafts.turns[0].observations);
}

#[test]
fn episodes_continue_turn_after_turn_under_every_protocol() {
    let mut game = Chain::new(&["first", "second"]);
    game.ends_early = false;
    let tasks = [task("a", "kind")];
    for (agents, protocol) in [
        (lettered(&["first", "second"]), Protocol::parallel()),
        (lettered(&["shared"]), Protocol::parallel()),
        (lettered(&["shared"]), Protocol::pipeline()),
        (lettered(&["first", "second"]), Protocol::pipeline()),
        (lettered(&["first", "second"]), Protocol::discussion()),
    ] {
        let config = training(4);
        let episodes = play(&game, &agents, &tasks, (&protocol, 2), &config);
        let episodes = episodes.unwrap().played;
        assert_eq!(episodes.len(), 2);
        for episode in &episodes {
            assert_eq!((episode.turns.len(), episode.is_cut), (3, false));
            let response = |turn: usize| episode.turns[turn].action.responses[0].clone();
            assert_eq!(
                *episode.turns[1].observations[0].text,
                Chain::feedback(0, &response(0))
            );
            let rewards: Vec<f64> = (0..3)
                .map(|turn| (response(turn).tokens.len() + turn) as f64)
                .collect();
            let expected = rewards[0] + 0.5 * rewards[1] + 0.25 * rewards[2];
            assert_eq!(episode.discounted(0.5, Reward::total), expected);
        }
        assert_ne!(episodes[0].turns, episodes[1].turns);
    }
}

#[test]
fn an_environment_that_continues_beyond_its_horizon_is_an_error() {
    let mut game = Chain::new(&["first", "second"]);
    (game.ends_early, game.horizon) = (false, const { NonZeroUsize::new(2).unwrap() });
    let agents = lettered(&["first", "second"]);
    let parallel = Protocol::parallel();
    let message = play(
        &game,
        &agents,
        &[task("a", "kind")],
        (&parallel, 1),
        &training(4),
    )
    .unwrap_err()
    .to_string();
    assert!(
        message.starts_with("task `a`: the environment continues after turn 2"),
        "{message}"
    );
}

#[test]
fn an_episode_whose_next_prompt_does_not_fit_keeps_the_turns_it_has() {
    let mut game = Chain::new(&["first", "second"]);
    game.ends_early = false;
    let agents = Team::from(["first", "second"].map(agent));
    let config = TrainingConfig {
        long_prompts: LongPrompts::Skip,
        ..training(8)
    };
    // The first prompt, with the two line feeds after it, leaves just enough for an answer.
    let tasks = [task("a", &"z".repeat(CONTEXT - 8 - 2))];
    let parallel = Protocol::parallel();
    let episodes = play(&game, &agents, &tasks, (&parallel, 2), &config).unwrap();
    assert_eq!((episodes.played.len(), episodes.left_out.len()), (2, 0));
    for episode in &episodes.played {
        assert_eq!((episode.turns.len(), episode.rewards.len()), (1, 1));
        assert!(episode.is_cut);
        let tokens: usize = (0..2)
            .flat_map(|role| episode.responses(role))
            .map(|response| response.tokens.len())
            .sum();
        assert_eq!(episode.completion_tokens, tokens);
    }
}

/// As in training: see the test `joint_actions_are_scored_outside_of_the_pool_that_computes`.
#[test]
fn episodes_are_scored_outside_of_the_pool_that_computes() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let result = pool.unwrap().install(|| {
        let duet = Duet::new(|_| {
            let is_on_pool = rayon::current_thread_index().is_some();
            Reward::new([("one", f64::from(u8::from(is_on_pool)))])
        });
        let agents = Team::from(["first", "second"].map(agent));
        let tasks = [task("a", "kind"), task("b", "of")];
        play(
            &duet,
            &agents,
            &tasks,
            (&Protocol::parallel(), 2),
            &training(4),
        )
    });
    let episodes = result.unwrap().played.into_iter();
    let rewards = episodes.flat_map(|episode| episode.rewards);
    let totals: Vec<f64> = rewards.map(|reward| reward.total()).collect();
    assert_eq!(totals, [0.0; 4]);
}

#[test]
fn a_prompt_that_does_not_fit_is_an_error_or_counted() {
    // Every letter is one token, and the plain prompt ends with two line feeds.
    let text = |tokens: usize| "z".repeat(tokens - 2);
    let tasks = [
        task("fits", &text(CONTEXT - 8)),
        task("long", &text(CONTEXT - 7)),
    ];
    let agents = Team::from(["first", "second"].map(agent));
    let mut config = training(8);
    let game = Duet::new(lengths);
    let parallel = Protocol::parallel();
    let message = play(&game, &agents, &tasks, (&parallel, 2), &config)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("task `long`: the prompt of agent `first`"),
        "{message}"
    );

    config.long_prompts = LongPrompts::Skip;
    let counts = |protocol: Protocol| {
        let episodes = play(&game, &agents, &tasks, (&protocol, 2), &config).unwrap();
        (episodes.played.len(), episodes.left_out.len())
    };
    // A prompt that quotes the partner's answer leaves no room for an answer.
    assert_eq!(Protocol::all().map(counts), [(2, 2), (0, 4), (0, 4)]);
}
