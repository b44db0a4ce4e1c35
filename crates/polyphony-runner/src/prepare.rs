//! Obtains and checks everything that a run needs, before anything is written.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use polyphony_episode::{Environment, Split, Task};
use polyphony_marl::{
    AlgorithmSettings, Communicator, EnvironmentSpec, Message, RankGroup, Ranks, StartedTasks,
    start_tasks,
};

use crate::{
    choice::Choice,
    memory,
    memory::Member,
    observer::Observer,
    ranks::{agree, arrange, check_replicas, check_same, digest},
    recipe::Recipe,
    registry::Registry,
    team::{LoadedTeam, Models, agent_names},
};

/// A team, its environment, its tasks, and the settings of the algorithm.
pub(crate) struct Prepared {
    pub(crate) environment: Box<dyn Environment>,
    pub(crate) algorithm: Box<dyn AlgorithmSettings>,
    pub(crate) team: LoadedTeam,
    /// Tasks to train on; empty if the team is only evaluated.
    pub(crate) train: StartedTasks,
    pub(crate) held_out: StartedTasks,
}

impl Prepared {
    /// Obtains everything that a training run needs. `algorithm` holds the settings of the recipe's
    /// algorithm.
    ///
    /// # Errors
    /// If data or models cannot be obtained, parts of the recipe do not fit together, or memory is too small.
    pub(crate) fn for_training(
        registry: &Registry,
        recipe: &Recipe,
        algorithm: Box<dyn AlgorithmSettings>,
        world: &Arc<dyn Communicator>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let everyone = RankGroup::of(Arc::clone(world));
        let local_recipe = recipe.on_node_rank(world.node().rank);
        let build = || {
            let environment = registry.build_environment(&recipe.environment)?;
            check_fit(registry, recipe, algorithm.as_ref(), environment.as_ref())?;
            let tasks = load_tasks(registry, recipe, Split::Train, environment.as_ref())?;
            ensure!(
                recipe.tasks_per_step <= tasks.len(),
                "`tasks_per_step` is {}, but `train` has only {} tasks",
                recipe.tasks_per_step,
                tasks.len()
            );
            let held_out = held_out_tasks(registry, recipe, environment.as_ref())?;
            Ok((environment, tasks, held_out))
        };
        let (environment, tasks, held_out) = agree(&everyone, build())?;
        let plan = memory::Plan {
            recipe,
            spec: EnvironmentSpec::of(environment.as_ref()),
            algorithm: algorithm.as_ref(),
        };
        check_same(&everyone, "tasks", || digest(&(&tasks, &held_out)))?;
        let ranks = arrange_for(world, recipe, environment.as_ref())?;
        ensure!(
            ranks.grid().parts == 1 || !algorithm.needs_whole_team(),
            "the algorithm `{}` must see all agents, so they cannot be spread over {} ranks: set \
             `parallel.replicas` to {}, the number of ranks",
            recipe.algorithm.name(),
            ranks.grid().parts,
            world.size()
        );
        warn_of_idle_replicas(recipe, ranks.grid().replicas);
        let models = Models::open(&local_recipe, environment.as_ref(), ranks, observer);
        let models = agree(&everyone, models)?;
        let mut members = models.members(&local_recipe, environment.roles().len())?;
        let available = memory::available();
        // Ranks on one machine share its memory.
        let check_memory = |members: &[Member]| {
            let node = world.node().first;
            let needed = (node, plan.main_memory(members));
            let all = everyone.exchange(Message::Records, Ok(needed))?;
            let on_node = all
                .iter()
                .filter(|(of, _)| *of == node)
                .map(|(_, bytes)| bytes);
            let others = on_node.sum::<u64>() - needed.1;
            agree(&everyone, plan.check(members, others, available))
        };
        // Memory is checked twice: before the weights are read, because they alone may need too much, and
        // again when the prompts are known.
        check_memory(&members)?;
        let team = agree(&everyone, models.load(&local_recipe))?;
        check_replicas(&team.agents)?;
        let train = start_all(recipe, environment.as_ref(), &team, tasks, "train")?;
        let held_out = start_all(recipe, environment.as_ref(), &team, held_out, "held_out")?;
        for member in &mut members {
            let prompts = [&train, &held_out].map(StartedTasks::longest_prompts);
            let lengths = prompts
                .iter()
                .flat_map(|of_roles| &of_roles[member.roles.clone()]);
            member.longest_prompt_tokens = lengths.copied().max();
        }
        plan.log(&members, available);
        check_memory(&members)?;
        if recipe.sampling.truncates() {
            log::warn!(
                "sampling with top-p or top-k biases the update, which differentiates the whole \
                 distribution; leave both out unless you reproduce a published run"
            );
        }
        Ok(Self {
            environment,
            algorithm,
            team,
            train,
            held_out,
        })
    }

    /// Obtains everything that an evaluation in this environment needs. `algorithm` holds the settings of the
    /// recipe's algorithm.
    ///
    /// # Errors
    /// If data or models cannot be obtained, or parts of the recipe do not fit together.
    pub(crate) fn for_evaluation(
        registry: &Registry,
        recipe: &Recipe,
        environment: Box<dyn Environment>,
        algorithm: Box<dyn AlgorithmSettings>,
        world: &Arc<dyn Communicator>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let everyone = RankGroup::of(Arc::clone(world));
        let check = || {
            check_fit(registry, recipe, algorithm.as_ref(), environment.as_ref())?;
            held_out_tasks(registry, recipe, environment.as_ref())
        };
        let held_out = agree(&everyone, check())?;
        check_same(&everyone, "tasks", || digest(&held_out))?;
        let ranks = arrange_for(world, recipe, environment.as_ref())?;
        let local_recipe = recipe.on_node_rank(world.node().rank);
        let load = || {
            Models::open(&local_recipe, environment.as_ref(), ranks, observer)?.load(&local_recipe)
        };
        let team = agree(&everyone, load())?;
        let held_out = start_all(recipe, environment.as_ref(), &team, held_out, "held_out")?;
        Ok(Self {
            environment,
            algorithm,
            team,
            train: StartedTasks::default(),
            held_out,
        })
    }

    /// The discount `γ`: the factor by which the return of the next turn is multiplied.
    pub(crate) fn discount(&self) -> f64 {
        self.algorithm.sampling_plan().discount
    }
}

/// Warns if a step has too little work for all replicas of an agent.
fn warn_of_idle_replicas(recipe: &Recipe, replicas: usize) {
    for (key, value) in [
        ("tasks_per_step", recipe.tasks_per_step),
        ("updates.minibatch", recipe.updates.minibatch),
    ] {
        if value < replicas {
            log::warn!(
                "each agent has {replicas} replicas, but `{key}` is {value}: the other replicas wait. Raise it to a \
                 multiple of {replicas}, or start fewer ranks"
            );
        }
    }
}

fn arrange_for(
    world: &Arc<dyn Communicator>,
    recipe: &Recipe,
    environment: &dyn Environment,
) -> Result<Ranks> {
    let agents = agent_names(&recipe.team, environment.roles()).len();
    arrange(world, &recipe.parallel, agents)
}

fn check_fit(
    registry: &Registry,
    recipe: &Recipe,
    algorithm: &dyn AlgorithmSettings,
    environment: &dyn Environment,
) -> Result<()> {
    recipe
        .validate_for(registry, algorithm, environment)
        .context("checking the recipe against its environment")
}

fn held_out_tasks(
    registry: &Registry,
    recipe: &Recipe,
    environment: &dyn Environment,
) -> Result<Vec<Task>> {
    let mut tasks = load_tasks(registry, recipe, Split::HeldOut, environment)?;
    tasks.truncate(recipe.evaluation.tasks);
    Ok(tasks)
}

/// The tasks of one split: from the data set that the recipe names, or from the environment.
fn load_tasks(
    registry: &Registry,
    recipe: &Recipe,
    split: Split,
    environment: &dyn Environment,
) -> Result<Vec<Task>> {
    let (key, source): (_, &Option<Choice>) = match split {
        Split::Train => ("train", &recipe.train),
        Split::HeldOut => ("held_out", &recipe.held_out),
    };
    let tasks = match source {
        Some(source) => registry
            .read_source(source)?
            .settings
            .load()
            .map_err(anyhow::Error::from_boxed)
            .with_context(|| format!("loading `{key}`"))?,
        None => match environment.tasks(split) {
            Some(tasks) => tasks,
            None => bail!(
                "the key `{key}` is missing, and the environment `{}` has no tasks of its own for \
                 `{split}`: name a data set for the key, such as Embedded(TldrTrain) or \
                 File(path: \"tasks.jsonl\"), or add such tasks to the environment",
                recipe.environment.name()
            ),
        },
    };
    let Some(first) = tasks.first() else {
        bail!(
            "`{key}` has no tasks: add some for the environment `{}`",
            recipe.environment.name()
        );
    };
    // A data set for another environment is refused here, before a model is downloaded for nothing. The
    // environment's own tasks always fit, so none of them is started here.
    if source.is_some() {
        let context = || format!("loading `{key}`, which must hold tasks for the `environment`");
        environment.start(first).with_context(context)?;
    }
    Ok(tasks)
}

/// Starts and tokenizes all tasks, so that a task that cannot be played is found now and not after hours.
fn start_all(
    recipe: &Recipe,
    environment: &dyn Environment,
    team: &LoadedTeam,
    tasks: Vec<Task>,
    key: &str,
) -> Result<StartedTasks> {
    let count = tasks.len();
    let started = start_tasks(&team.agents, environment, tasks, &recipe.training_config())
        .with_context(|| format!("checking `{key}`"))?;
    ensure!(
        started.playable() > 0,
        "`{key}`: none of {count} tasks fits into the context with `max_new_tokens` {}: lower that, or use \
         shorter tasks",
        recipe.max_new_tokens
    );
    Ok(started)
}

#[cfg(test)]
mod tests {
    use polyphony_episode::{EnvironmentError, JointAction, Observation, Outcome, Role, Turn};

    use super::*;
    use crate::fixture::{recipe, registry};

    /// An environment with training tasks, but without held-out tasks.
    struct OnlyTrain;

    impl Environment for OnlyTrain {
        fn roles(&self) -> &[Role] {
            &[]
        }

        fn reward_parts(&self) -> &[String] {
            &[]
        }

        fn tasks(&self, split: Split) -> Option<Vec<Task>> {
            (split == Split::Train).then(|| vec![Task::new("1", [("a", "b")])])
        }

        fn start(&self, _: &Task) -> Result<Vec<Observation>, EnvironmentError> {
            Ok(Vec::new())
        }

        fn step(&self, _: &Task, _: &[Turn], _: &JointAction) -> Result<Outcome, EnvironmentError> {
            Err(EnvironmentError::failed("nobody plays"))
        }
    }

    #[test]
    fn an_environment_without_tasks_for_a_split_needs_a_data_set() {
        let recipe = recipe(&[]);
        let load = |split| load_tasks(&registry(), &recipe, split, &OnlyTrain);
        assert_eq!(load(Split::Train).unwrap().len(), 1);
        let message = load(Split::HeldOut).unwrap_err().to_string();
        let expected = "the key `held_out` is missing, and the environment `SameLength` has no tasks of \
                        its own for `held_out`: name a data set for the key";
        assert!(message.starts_with(expected), "{message}");
    }
}
