//! Tasks that are started and tokenized once: what each role reads first, and what its model reads.

use std::{borrow::Cow, sync::Arc};

use polyphony_episode::{Environment, Observation, Task};

use crate::{
    MarlError,
    checks::check_observations,
    config::{LongPrompts, TrainingConfig},
    team::Team,
    threads::on_threads,
    tree::History,
};

/// The tasks of a data set after their start: an environment has given the first observations of every task,
/// and they have been checked. First turns are cached up to a memory limit; a task beyond the limit is
/// started again whenever it is played.
#[derive(Clone, Debug, Default)]
pub struct StartedTasks {
    tasks: Vec<Task>,
    /// For each task its first turn, if it is cached.
    cached: Vec<Option<Arc<FirstTurn>>>,
    playable: usize,
    longest_prompts: Vec<usize>,
}

/// Some of the tasks, which are played together.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// All tasks.
    pub tasks: &'a StartedTasks,
    /// The indices of those that are played. They are also part of the keys of random streams.
    pub indices: &'a [usize],
}

/// The first turn of a task.
#[derive(Clone, Debug)]
pub(crate) struct FirstTurn {
    /// What each role reads.
    pub(crate) observations: Vec<Observation>,
    /// What the model of each role reads, for the roles of this rank; empty for others.
    pub(crate) histories: Vec<History>,
}

/// A task of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchTask<'a> {
    /// Its index in the data set.
    pub(crate) index: usize,
    pub(crate) task: &'a Task,
    /// `None` if a prompt does not fit.
    pub(crate) first: Option<FirstTurn>,
}

/// The maximum size of a data set's cached texts and tokens, in bytes.
const MAX_CACHED_BYTES: usize = 256 << 20;

/// The number of tasks that are started at a time.
const CHUNK: usize = 256;

/// Starts all tasks without playing them. This checks the tasks before a long run, which then plays the
/// started tasks.
///
/// # Errors
/// If the environment cannot start a task, does not return one observation per role, or a prompt does not
/// fit and may not be skipped.
pub fn start_tasks(
    team: &Team,
    environment: &dyn Environment,
    tasks: Vec<Task>,
    config: &TrainingConfig,
) -> Result<StartedTasks, MarlError> {
    start_within(MAX_CACHED_BYTES, team, environment, tasks, config)
}

fn start_within(
    max_cached_bytes: usize,
    team: &Team,
    environment: &dyn Environment,
    tasks: Vec<Task>,
    config: &TrainingConfig,
) -> Result<StartedTasks, MarlError> {
    team.check(environment.roles().len())?;
    let mut started = StartedTasks {
        longest_prompts: vec![0; environment.roles().len()],
        ..StartedTasks::default()
    };
    let mut bytes = 0;
    for chunk in tasks.chunks(CHUNK) {
        let first_turns = start_chunk(team, environment, chunk, config);
        for first in team.ranks().keep_fitting(first_turns)? {
            bytes += first.as_ref().map_or(0, FirstTurn::bytes);
            if let Some(first) = &first {
                started.playable += 1;
                for (longest, history) in started.longest_prompts.iter_mut().zip(&first.histories) {
                    *longest = history.tokens.len().max(*longest);
                }
            }
            started
                .cached
                .push(first.filter(|_| bytes <= max_cached_bytes).map(Arc::new));
        }
    }
    started.tasks = tasks;
    Ok(started)
}

/// The first turns of some tasks; `None` for a task with a prompt that does not fit on this rank.
fn start_chunk(
    team: &Team,
    environment: &dyn Environment,
    tasks: &[Task],
    config: &TrainingConfig,
) -> Result<Vec<Option<FirstTurn>>, MarlError> {
    let observations = on_threads(environment.concurrency(), tasks.iter().collect(), |task| {
        environment.start(task)
    })?;
    let started = tasks.iter().zip(observations).map(|(task, observations)| {
        let first = FirstTurn::new(team, environment, task, observations)?;
        let fits = first.fits(team, environment, task, config);
        config.long_prompts.allow(fits.map(|()| first))
    });
    started.collect()
}

impl StartedTasks {
    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The tasks, in their order.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The number of tasks whose prompts fit.
    pub fn playable(&self) -> usize {
        self.playable
    }

    /// For each role, the number of tokens of its longest first prompt among those that fit.
    pub fn longest_prompts(&self) -> Vec<usize> {
        self.longest_prompts.clone()
    }

    /// The tasks at these indices.
    pub fn batch<'a>(&'a self, indices: &'a [usize]) -> Batch<'a> {
        Batch {
            tasks: self,
            indices,
        }
    }
}

impl<'a> Batch<'a> {
    /// The first turn of each task of the batch. A task that is left out because its prompt does not fit is
    /// logged.
    pub(crate) fn first_turns(
        &self,
        team: &Team,
        environment: &dyn Environment,
        config: &TrainingConfig,
    ) -> Result<Vec<BatchTask<'a>>, MarlError> {
        team.check(environment.roles().len())?;
        let first_turns = self.indices.iter().map(|&index| {
            let task = self.tasks.tasks.get(index).ok_or(MarlError::NoTask {
                index,
                tasks: self.tasks.len(),
            })?;
            let first = match &self.tasks.cached[index] {
                Some(first) => Cow::Borrowed(first.as_ref()),
                None => {
                    let single = vec![task];
                    let mut observations = on_threads(environment.concurrency(), single, |task| {
                        environment.start(task)
                    })?;
                    let observations = observations.pop().unwrap_or_default();
                    Cow::Owned(FirstTurn::new(team, environment, task, observations)?)
                }
            };
            let fits = first.fits(team, environment, task, config);
            let first = config
                .long_prompts
                .allow(fits.map(|()| first.into_owned()))?;
            Ok(first)
        });
        let first_turns = team.ranks().keep_fitting(first_turns.collect())?;
        let batch = self.indices.iter().zip(first_turns);
        let batch = batch.map(|(&index, first)| BatchTask {
            index,
            task: &self.tasks.tasks[index],
            first,
        });
        Ok(batch.collect())
    }
}

impl FirstTurn {
    fn new(
        team: &Team,
        environment: &dyn Environment,
        task: &Task,
        observations: Vec<Observation>,
    ) -> Result<Self, MarlError> {
        let roles = environment.roles();
        check_observations(roles, task, 0, &observations)?;
        let prompts = roles.iter().zip(&observations).enumerate();
        let histories = prompts.map(|(index, (role, observation))| match team.agent_of(index) {
            Some(agent) => agent.codec.first_history(role, observation),
            None => Ok(History::default()),
        });
        Ok(Self {
            histories: histories.collect::<Result<_, _>>()?,
            observations,
        })
    }

    fn fits(
        &self,
        team: &Team,
        environment: &dyn Environment,
        task: &Task,
        config: &TrainingConfig,
    ) -> Result<(), MarlError> {
        let roles = environment.roles().iter().zip(&self.histories).enumerate();
        for (index, (role, history)) in roles {
            if let Some(agent) = team.agent_of(index) {
                agent.check_room(&task.id, role, history, config.max_new_tokens)?;
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let texts = self
            .observations
            .iter()
            .map(|observation| observation.text.len());
        let tokens = self
            .histories
            .iter()
            .map(|history| 4 * history.tokens.len());
        texts.chain(tokens).sum()
    }
}

impl LongPrompts {
    /// If prompts that do not fit may be skipped, logs the error about such a prompt and returns `None`
    /// instead. Every other result stays the same.
    pub(crate) fn allow<T>(self, result: Result<T, MarlError>) -> Result<Option<T>, MarlError> {
        match result {
            Err(error @ MarlError::PromptTooLong { .. }) if self == Self::Skip => {
                log::warn!("left out: {error}");
                Ok(None)
            }
            result => result.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{CONTEXT, Duet, agent, lengths, task, training};

    fn many() -> Vec<Task> {
        let text = |index: usize| "word ".repeat(index % 7 + 1);
        (0..300)
            .map(|index| task(&index.to_string(), &text(index)))
            .collect()
    }

    #[test]
    fn cached_first_turns_and_those_that_are_started_again_are_the_same() {
        let agents = Team::from(["first", "second"].map(agent));
        let (game, config) = (Duet::new(lengths), training(8));
        let [all, some] = [usize::MAX, 2000]
            .map(|bound| start_within(bound, &agents, &game, many(), &config).unwrap());
        let cached = |started: &StartedTasks| started.cached.iter().flatten().count();
        assert_eq!(cached(&all), 300);
        assert!((1..300).contains(&cached(&some)), "{}", cached(&some));
        assert_eq!(
            (all.playable(), some.playable(), some.len()),
            (300, 300, 300)
        );
        assert_eq!(all.longest_prompts(), some.longest_prompts());
        let indices = [299, 0, 150];
        let first = |started: &StartedTasks| {
            let turns = started.batch(&indices).first_turns(&agents, &game, &config);
            let turns = turns.unwrap().into_iter();
            turns
                .map(|turn| {
                    (
                        turn.index,
                        turn.task.id.clone(),
                        turn.first.unwrap().histories,
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(first(&all), first(&some));
        assert_eq!(first(&all)[0].1, "299");
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_an_error_or_not_counted() {
        let agents = Team::from(["first", "second"].map(agent));
        let (game, mut config) = (Duet::new(lengths), training(8));
        // Every letter is one token, and the plain prompt ends with two line feeds.
        let text = |tokens: usize| "z".repeat(tokens - 2);
        let tasks = vec![
            task("fits", &text(CONTEXT - 8)),
            task("long", &text(CONTEXT - 7)),
        ];
        let error = start_tasks(&agents, &game, tasks.clone(), &config).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("task `long`: the prompt of agent `first`")
        );
        config.long_prompts = LongPrompts::Skip;
        let started = start_tasks(&agents, &game, tasks, &config).unwrap();
        assert_eq!((started.len(), started.playable()), (2, 1));
        assert_eq!(started.longest_prompts(), [CONTEXT - 8; 2]);
    }
}
