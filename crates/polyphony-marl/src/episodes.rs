//! Whole episodes for evaluation. Each is a single sequence of turns. (A team learns from the trees of a
//! [rollout](crate::rollout()) instead.)
//!
//! A [`Protocol`] decides whether agents answer independently, as they do in training, or read one another's
//! answers first.

use std::ops::Range;

use polyphony_episode::{
    Environment, JointAction, Next, Observation, Response, Reward, Task, Turn,
};
use polyphony_model::PromptGroup;
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    checks::{check_observations, check_reward},
    config::TrainingConfig,
    protocol::{Order, Protocol, RoundPrompt},
    rollout::answer,
    stream::{EVALUATION_STEP, StreamId, to_stream_key_field},
    tasks::{Batch, BatchTask},
    team::Team,
    threads::on_threads,
    traffic::Message,
    tree::History,
};

/// An episode that was played.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// The task's identifier.
    pub task: String,
    /// Its number among the task's episodes, counted from 0.
    pub number: usize,
    /// The environment's observations and the joint action of every turn. Drafts are not included, and
    /// neither are the prompts that quote other agents' answers.
    pub turns: Vec<Turn>,
    /// What each joint action earned.
    pub rewards: Vec<Reward>,
    /// Tokens that the agents sampled, including drafts.
    pub completion_tokens: usize,
    /// Tokens of the histories that the agents answered. Each history is counted in full.
    pub prompt_tokens: usize,
    /// Whether the episode ended only because the next prompt did not fit.
    pub is_cut: bool,
}

impl Episode {
    /// The responses of one role, one per turn.
    pub fn responses(&self, role: usize) -> impl Iterator<Item = &Response> {
        let turns = self.turns.iter();
        turns.map(move |turn| &turn.action.responses[role])
    }

    /// The discounted sum of its rewards, `Σ_t γ^t r_t`.
    pub fn discounted(&self, discount: f64, reward: impl Fn(&Reward) -> f64) -> f64 {
        let add = |later: f64, earned: &Reward| reward(earned) + discount * later;
        self.rewards.iter().rev().fold(0.0, add)
    }
}

/// The episodes of some tasks.
#[derive(Clone, Debug, Default)]
pub struct Episodes {
    /// The episodes that were played, in the order of tasks and numbers.
    pub played: Vec<Episode>,
    /// The episodes without a single joint action, because a prompt did not fit.
    pub left_out: Vec<Episode>,
}

/// Plays `episodes` complete episodes of every task of a batch, all in parallel. The random numbers of a
/// response depend only on the seed and on its task, episode, role, turn and round, and differ from those of
/// training. `on_tokens` is called repeatedly with the number of tokens sampled since the last call.
///
/// # Errors
/// If the environment fails, a prompt does not fit and may not be skipped, or generation fails.
pub fn play_episodes(
    team: &Team,
    environment: &dyn Environment,
    batch: Batch<'_>,
    episodes: usize,
    protocol: &Protocol,
    config: &TrainingConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Episodes, MarlError> {
    let player = EpisodePlayer {
        team,
        environment,
        protocol,
        config,
    };
    let (mut active, mut finished) = player.start(batch, episodes)?;
    let horizon = environment.horizon().get();
    for turn in 0..horizon {
        finished.extend(player.play_turn(&mut active, turn, on_tokens)?);
        active = player.score(active)?;
        if turn + 1 == horizon
            && let Some(unfinished) = active.iter().find(|active| active.continues)
        {
            return Err(MarlError::BeyondHorizon {
                task: unfinished.episode.task.clone(),
                horizon,
            });
        }
        finished.extend(active.extract_if(.., |active| !active.continues));
        if active.is_empty() {
            break;
        }
    }
    finished.sort_by_key(|finished| (finished.batch_index, finished.episode.number));
    let episodes = finished.into_iter().map(|finished| finished.episode);
    let (played, left_out) = episodes.partition(|episode| !episode.turns.is_empty());
    Ok(Episodes { played, left_out })
}

/// Everything that all episodes need.
struct EpisodePlayer<'a> {
    team: &'a Team,
    environment: &'a dyn Environment,
    protocol: &'a Protocol,
    config: &'a TrainingConfig,
}

/// An episode that is being played.
struct ActiveEpisode<'a> {
    /// The index of its task in the batch.
    batch_index: usize,
    task: &'a Task,
    /// The task's index in the data set.
    task_index: u32,
    /// What each role reads.
    observations: Vec<Observation>,
    /// What the model of each role of this rank reads before the role's first answer.
    first_histories: Vec<History>,
    /// For each role, the history that it answered last, and that answer; `None` before its first answer.
    last_answers: Vec<Option<(History, Response)>>,
    continues: bool,
    episode: Episode,
}

impl<'a> ActiveEpisode<'a> {
    /// The text of each role's last answer; empty before its first one.
    fn answer_texts(&self) -> Vec<&str> {
        let last_answers = self.last_answers.iter();
        last_answers
            .map(|last| last.as_ref().map_or("", |(_, answer)| &*answer.text))
            .collect()
    }

    /// The last answer of each role.
    fn joint_action(&self) -> JointAction {
        let last_answers = self.last_answers.iter().flatten();
        JointAction::new(last_answers.map(|(_, answer)| answer.clone()).collect())
    }
}

/// A response of a role, and the length of the history that it answers.
#[derive(Clone, Serialize, Deserialize)]
struct Answer {
    response: Response,
    prompt_tokens: usize,
}

impl EpisodePlayer<'_> {
    /// The episodes of all tasks: those that can be played, and those whose first prompt does not fit.
    fn start<'b>(
        &self,
        batch: Batch<'b>,
        episodes: usize,
    ) -> Result<(Vec<ActiveEpisode<'b>>, Vec<ActiveEpisode<'b>>), MarlError> {
        let mut started = Vec::new();
        let first_turns = batch.first_turns(self.team, self.environment, self.config)?;
        for (batch_index, batch_task) in first_turns.into_iter().enumerate() {
            let BatchTask { index, task, first } = batch_task;
            let task_index = to_stream_key_field("tasks", index)?;
            let fits = first.is_some();
            let (observations, first_histories) = match first {
                Some(first) => (first.observations, first.histories),
                None => (Vec::new(), Vec::new()),
            };
            started.extend((0..episodes).map(|number| ActiveEpisode {
                batch_index,
                task,
                task_index,
                observations: observations.clone(),
                first_histories: first_histories.clone(),
                last_answers: vec![None; observations.len()],
                continues: fits,
                episode: Episode {
                    task: task.id.clone(),
                    number,
                    turns: Vec::new(),
                    rewards: Vec::new(),
                    completion_tokens: 0,
                    prompt_tokens: 0,
                    is_cut: !fits,
                },
            }));
        }
        Ok(started.into_iter().partition(|episode| episode.continues))
    }

    /// Completes the joint action of every episode. Returns the episodes in which a prompt did not fit.
    fn play_turn<'b>(
        &self,
        active: &mut Vec<ActiveEpisode<'b>>,
        turn: usize,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<ActiveEpisode<'b>>, MarlError> {
        let all_roles = 0..self.environment.roles().len();
        let mut cut = Vec::new();
        let mut pass = 0;
        for round in &self.protocol.rounds {
            let parts: Vec<Range<usize>> = match round.order {
                Order::AtOnce => vec![all_roles.clone()],
                Order::InTurn => all_roles.clone().map(|role| role..role + 1).collect(),
            };
            for roles in parts {
                let stream_id = StreamId {
                    seed: self.config.seed,
                    step: EVALUATION_STEP,
                    turn: to_stream_key_field("turns", turn)?,
                    branch: pass,
                    ..StreamId::default()
                };
                cut.extend(self.answer(active, roles, &round.prompt, stream_id, on_tokens)?);
                pass += 1;
            }
        }
        Ok(cut)
    }

    /// Samples the answers of some roles in every episode. Returns the episodes in which a prompt did not
    /// fit.
    fn answer<'b>(
        &self,
        active: &mut Vec<ActiveEpisode<'b>>,
        roles: Range<usize>,
        prompt: &RoundPrompt,
        stream_id: StreamId,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<ActiveEpisode<'b>>, MarlError> {
        let histories = active.iter().map(|active| {
            let histories = roles.clone().map(|role| self.history(active, role, prompt));
            let long_prompts = self.config.long_prompts;
            long_prompts.allow(histories.collect::<Result<Vec<_>, _>>())
        });
        let histories = self.team.ranks().keep_fitting(histories.collect())?;
        let mut ready = Vec::new();
        let mut cut = Vec::new();
        for (mut active, histories) in std::mem::take(active).into_iter().zip(histories) {
            match histories {
                Some(histories) => ready.push((active, histories)),
                None => {
                    active.episode.is_cut = true;
                    cut.push(active);
                }
            }
        }
        let answers = self.sample_answers(&ready, &roles, stream_id, on_tokens)?;
        for ((mut answered, histories), answers) in ready.into_iter().zip(answers) {
            for ((role, history), answer) in roles.clone().zip(histories).zip(answers) {
                answered.episode.prompt_tokens += answer.prompt_tokens;
                answered.episode.completion_tokens += answer.response.tokens.len();
                answered.last_answers[role] = Some((history, answer.response));
            }
            active.push(answered);
        }
        Ok(cut)
    }

    /// Samples the answers of some roles to their histories, for each episode.
    fn sample_answers(
        &self,
        ready: &[(ActiveEpisode<'_>, Vec<History>)],
        roles: &Range<usize>,
        stream_id: StreamId,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Answer>>, MarlError> {
        let of_rank = self.sample_answers_of_rank(ready, roles, stream_id, on_tokens);
        let mut by_part = self
            .team
            .ranks()
            .exchange_parts(Message::Responses, of_rank)?
            .into_iter();
        let mut answers = by_part.next().unwrap_or_default();
        for of_part in by_part {
            for (answers, of_part) in answers.iter_mut().zip(of_part) {
                answers.extend(of_part);
            }
        }
        Ok(answers)
    }

    /// [`sample_answers`](Self::sample_answers) for the roles of this rank. Its replicas share the work.
    fn sample_answers_of_rank(
        &self,
        ready: &[(ActiveEpisode<'_>, Vec<History>)],
        roles: &Range<usize>,
        stream_id: StreamId,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Answer>>, MarlError> {
        let all_roles = self.environment.roles().len();
        let mut answers: Vec<Vec<Answer>> = vec![Vec::new(); ready.len()];
        for (index, agent) in self.team.iter().enumerate() {
            let agent_roles = self.team.roles_of_agent(index, all_roles);
            let agent_roles = agent_roles.filter(|role| roles.contains(role));
            let prompts = agent_roles.flat_map(|role| ready.iter().map(move |ready| (role, ready)));
            let groups = prompts.map(|(role, (active, histories))| {
                let stream_id = StreamId {
                    task: active.task_index,
                    role: to_stream_key_field("roles", role)?,
                    sample: to_stream_key_field("episodes of a task", active.episode.number)?,
                    ..stream_id
                };
                Ok(PromptGroup {
                    prompt: &histories[role - roles.start].tokens,
                    keys: vec![stream_id.key()],
                    prefix_group: stream_id.prefix_group(),
                })
            });
            let groups = groups.collect::<Result<Vec<_>, MarlError>>()?;
            if groups.is_empty() {
                continue;
            }
            let samples = answer(agent, &groups, self.config, on_tokens)?;
            // The samples have the order of the prompts: all episodes of one role, then those of the next.
            let responses = samples.into_iter().flatten().map(|sample| sample.response);
            for (index, (response, group)) in responses.zip(&groups).enumerate() {
                answers[index % ready.len()].push(Answer {
                    response,
                    prompt_tokens: group.prompt.len(),
                });
            }
        }
        Ok(answers)
    }

    /// What a role's model reads; empty if another rank holds the role's agent. A history that leaves no room for a
    /// response is an error.
    fn history(
        &self,
        active: &ActiveEpisode<'_>,
        role: usize,
        prompt: &RoundPrompt,
    ) -> Result<History, MarlError> {
        let roles = self.environment.roles();
        let Some(agent) = self.team.agent_of(role) else {
            return Ok(History::default());
        };
        let history = match (&active.last_answers[role], prompt) {
            (None, RoundPrompt::Observation) => active.first_histories[role].clone(),
            (last_answer, _) => {
                let observation = &active.observations[role];
                let text = prompt.to(role, roles, observation, &active.answer_texts());
                match last_answer {
                    None => agent.codec.first_history(&roles[role], &text)?,
                    Some((history, answer)) => {
                        agent
                            .codec
                            .next_history(&roles[role], history, answer, &text)?
                    }
                }
            }
        };
        let new = self.config.max_new_tokens;
        agent.check_room(&active.episode.task, &roles[role], &history, new)?;
        Ok(history)
    }

    /// Scores the last joint action of every episode.
    fn score<'b>(
        &self,
        mut active: Vec<ActiveEpisode<'b>>,
    ) -> Result<Vec<ActiveEpisode<'b>>, MarlError> {
        let roles = self.environment.roles();
        let world = self.team.ranks().world();
        let share = world.share(active.len());
        let outcomes = on_threads(self.environment.concurrency(), share.collect(), |index| {
            let active: &ActiveEpisode<'_> = &active[index];
            let action = active.joint_action();
            let past = &active.episode.turns;
            let outcome = self.environment.step(active.task, past, &action)?;
            check_reward(self.environment, active.task, &action, &outcome.reward)?;
            if let Next::Continue(observations) = &outcome.next {
                check_observations(roles, active.task, past.len() + 1, observations)?;
            }
            Ok(outcome)
        });
        let outcomes = world.exchange(Message::Outcomes, outcomes)?;
        for (active, outcome) in active.iter_mut().zip(outcomes.into_iter().flatten()) {
            active.episode.rewards.push(outcome.reward);
            active.episode.turns.push(Turn {
                action: active.joint_action(),
                observations: std::mem::take(&mut active.observations),
            });
            match outcome.next {
                Next::End => active.continues = false,
                Next::Continue(observations) => active.observations = observations,
            }
        }
        Ok(active)
    }
}

#[cfg(test)]
mod tests;
