//! Whole episodes: who reads what under each protocol, what counts, and what does not fit.

use std::{num::NonZeroUsize, sync::Arc};

use polyphony_episode::Task;

use super::*;
use crate::{
    agent::Language,
    fixture::{
        CONTEXT, Chain, Duet, agent, lengths, letter_template, plain_language, rollout_config,
        task, wide_model,
    },
    rollout::{LongPrompts, rollout},
};

fn config(protocol: Protocol, episodes: usize) -> EpisodeConfig {
    let rollout = rollout_config(episodes, 8);
    EpisodeConfig {
        episodes,
        protocol,
        responses: rollout.responses,
        key: rollout.key,
    }
}

fn indexed(tasks: &[Task]) -> Vec<IndexedTask<'_>> {
    let indexed = |(index, task)| IndexedTask { index, task };
    tasks.iter().enumerate().map(indexed).collect()
}

fn play(
    environment: &dyn Environment,
    agents: &[Agent],
    tasks: &[Task],
    config: &EpisodeConfig,
) -> Result<Episodes, MarlError> {
    play_episodes(agents, environment, &indexed(tasks), config, &mut |_| ())
}

/// Agents whose prompts are laid out by a template, so that what they are told shows in their text.
fn lettered(names: &[&str]) -> Vec<Agent> {
    let language = Arc::new(Language {
        template: Some(letter_template()),
        ..plain_language()
    });
    let agent = |name: &&str| Agent::new(*name, wide_model(), Arc::clone(&language));
    names.iter().map(agent).collect()
}

#[test]
fn agents_that_read_nothing_say_what_they_say_in_a_rollout() {
    let agents = ["first", "second"].map(agent);
    let tasks = [task("a", "kind"), task("b", "of")];
    let played = play(
        &Duet::new(lengths),
        &agents,
        &tasks,
        &config(Protocol::Parallel, 3),
    )
    .unwrap();
    let tree = rollout(
        &agents,
        &Duet::new(lengths),
        &indexed(&tasks),
        &rollout_config(3, 8),
        &mut |_| (),
    )
    .unwrap();
    assert_eq!((played.played.len(), played.left_out.len()), (6, 0));
    for (place, episode) in played.played.iter().enumerate() {
        let node = &tree.nodes[place / 3];
        let branch = &node.branches[place % 3];
        assert_eq!((&episode.task, episode.number), (&node.task, place % 3));
        assert_eq!(episode.turns[0].action, node.joint_action(&branch.picks));
        assert_eq!(episode.rewards, std::slice::from_ref(&branch.reward));
    }
    let sampled: usize = played
        .played
        .iter()
        .map(|episode| episode.sampled_tokens)
        .sum();
    assert_eq!(sampled, tree.sampled_tokens());
}

#[test]
fn what_agents_read_of_one_another_is_what_the_protocol_says() {
    let game = Duet::new(lengths);
    let agents = lettered(&["first", "second"]);
    let tasks = [task("a", "hi")];
    let read = |protocol| {
        let stage_config = config(protocol, 2);
        let stage = Stage {
            agents: &agents,
            models: sampling_models(&agents, stage_config.responses.weights).unwrap(),
            environment: &game,
            config: &stage_config,
        };
        let mut open = stage.open(&indexed(&tasks)).unwrap();
        stage.act(&mut open, 0, &mut |_| ()).unwrap();
        let text = |open: &Open<'_>, role: usize| {
            let (history, said) = open.said[role].clone().unwrap();
            let tokenizer = &agents[role].language.tokenizer;
            (tokenizer.decode(&history.tokens).unwrap(), said.text.to_string())
        };
        open.iter()
            .map(|open| [text(open, 0), text(open, 1)])
            .collect::<Vec<_>>()
    };
    for [(first, _), (second, _)] in read(Protocol::Parallel) {
        assert_eq!((first.as_str(), second.as_str()), ("u:hi;a:", "u:hi;a:"));
    }
    for [(first, said), (second, _)] in read(Protocol::Pipeline) {
        assert_eq!(first, "u:hi;a:");
        let expected = format!("u:hi\n\nYour partner \"first\" has already answered:\n{said};a:");
        assert_eq!(second, expected);
    }
    let drafts = read(Protocol::Parallel);
    for (revised, drafts) in read(Protocol::Discussion).iter().zip(&drafts) {
        for role in [0, 1] {
            let partner = ["first", "second"][1 - role];
            let (own, other) = (&drafts[role].1, &drafts[1 - role].1);
            let told = format!("Your partner \"{partner}\" has answered:\n{other}\n\nRevise");
            let text = &revised[role].0;
            assert!(text.starts_with(&format!("u:hi;a:{own}")), "{text:?}");
            assert!(text.contains(&told), "{text:?}");
        }
    }
}

#[test]
fn drafts_are_paid_for_but_not_scored() {
    let agents = lettered(&["first", "second"]);
    let tasks = [task("a", "kind")];
    let game = Duet::new(lengths);
    let episode = |protocol| {
        play(&game, &agents, &tasks, &config(protocol, 1))
            .unwrap()
            .played
            .remove(0)
    };
    let drafts = episode(Protocol::Parallel);
    let revised = episode(Protocol::Discussion);
    let scored = |episode: &Episode| episode.rewards[0].total() as usize;
    assert_eq!(drafts.sampled_tokens, scored(&drafts));
    assert_eq!(revised.sampled_tokens, scored(&drafts) + scored(&revised));
    assert!(revised.read_tokens > 2 * drafts.read_tokens);
    assert_ne!(revised.turns[0].action, drafts.turns[0].action);
    // What the environment told the agents is all that stands in the turn.
    assert_eq!(revised.turns[0].observations, drafts.turns[0].observations);
}

#[test]
fn episodes_go_on_turn_after_turn_under_every_protocol() {
    let mut game = Chain::new(&["first", "second"]);
    game.ends_early = false;
    let tasks = [task("a", "kind")];
    for (agents, protocol) in [
        (lettered(&["first", "second"]), Protocol::Parallel),
        (lettered(&["shared"]), Protocol::Parallel),
        (lettered(&["shared"]), Protocol::Pipeline),
        (lettered(&["first", "second"]), Protocol::Pipeline),
        (lettered(&["first", "second"]), Protocol::Discussion),
    ] {
        let mut config = config(protocol, 2);
        config.responses.max_new_tokens = 4;
        let played = play(&game, &agents, &tasks, &config).unwrap().played;
        assert_eq!(played.len(), 2);
        for episode in &played {
            assert_eq!((episode.turns.len(), episode.is_cut), (3, false));
            let said = |turn: usize| episode.turns[turn].action.responses[0].clone();
            assert_eq!(
                *episode.turns[1].observations[0].text,
                Chain::told(0, &said(0))
            );
            let earned: Vec<f64> = (0..3)
                .map(|turn| (said(turn).tokens.len() + turn) as f64)
                .collect();
            let expected = earned[0] + 0.5 * earned[1] + 0.25 * earned[2];
            assert_eq!(episode.discounted(0.5, Reward::total), expected);
        }
        assert_ne!(played[0].turns, played[1].turns);
    }
}

#[test]
fn an_environment_that_goes_on_beyond_its_horizon_is_named() {
    let mut game = Chain::new(&["first", "second"]);
    (game.ends_early, game.horizon) = (false, const { NonZeroUsize::new(2).unwrap() });
    let agents = lettered(&["first", "second"]);
    let mut config = config(Protocol::Parallel, 1);
    config.responses.max_new_tokens = 4;
    let message = play(&game, &agents, &[task("a", "kind")], &config)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("task `a`: the environment goes on after turn 2"),
        "{message}"
    );
}

#[test]
fn an_episode_whose_next_prompt_does_not_fit_keeps_the_turns_it_has() {
    let mut game = Chain::new(&["first", "second"]);
    game.ends_early = false;
    let agents = ["first", "second"].map(agent);
    let mut config = config(Protocol::Parallel, 2);
    config.responses.long_prompts = LongPrompts::Skip;
    // The first prompt, with the two line feeds after it, leaves just enough for an answer.
    let tasks = [task("a", &"z".repeat(CONTEXT - 8 - 2))];
    let episodes = play(&game, &agents, &tasks, &config).unwrap();
    assert_eq!((episodes.played.len(), episodes.left_out.len()), (2, 0));
    for episode in &episodes.played {
        assert_eq!((episode.turns.len(), episode.rewards.len()), (1, 1));
        assert!(episode.is_cut);
        let said: usize = (0..2)
            .flat_map(|role| episode.responses(role))
            .map(|said| said.tokens.len())
            .sum();
        assert_eq!(episode.sampled_tokens, said);
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_an_error_or_counted() {
    // Letters are tokens of their own, and the plain prompt ends with two line feeds.
    let text = |tokens: usize| "z".repeat(tokens - 2);
    let tasks = [
        task("fits", &text(CONTEXT - 8)),
        task("long", &text(CONTEXT - 7)),
    ];
    let agents = ["first", "second"].map(agent);
    let mut config = config(Protocol::Parallel, 2);
    let game = Duet::new(lengths);
    let message = play(&game, &agents, &tasks, &config)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("task `long`: the prompt of agent `first`"),
        "{message}"
    );

    config.responses.long_prompts = LongPrompts::Skip;
    let counts = |protocol| {
        config.protocol = protocol;
        let episodes = play(&game, &agents, &tasks, &config).unwrap();
        (episodes.played.len(), episodes.left_out.len())
    };
    let protocols = [Protocol::Parallel, Protocol::Pipeline, Protocol::Discussion];
    // Beside what the partner said there is no room for an answer.
    assert_eq!(protocols.map(counts), [(2, 2), (0, 4), (0, 4)]);
}
