//! A program: its registry, its command line, and its commands as functions.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Result;
use polyphony_episode::{Environment, EnvironmentSettings, TaskSource};
use polyphony_marl::{AlgorithmSettings, Communicator, SingleRank};
use polyphony_runner::{
    EvaluationRequest, EvaluationResult, Observer, Recipe, Registry, ResumeFrom, Stop, Trained,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    cli,
    launch::{self, Launch},
    standard, terminal,
};

/// Keeps freed memory for the next step, which needs the same amount. With the system's allocator, half of an
/// update's time is spent clearing pages.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status of a Rust program that has panicked.
const PANICKED: u8 = 101;

/// The usual stack size of a main thread. The default of worker threads is a quarter of it.
const STACK_BYTES: usize = 8 << 20;

/// A program that trains and evaluates teams, and the registry of everything that its recipes can name.
#[derive(Debug)]
pub struct Program {
    registry: Registry,
    world: Arc<dyn Communicator>,
}

impl Program {
    /// A program with the environments, algorithms, data sets and recipes of `polyphony`.
    pub fn standard() -> Self {
        Self::new(standard::registry())
    }

    /// A program without anything registered.
    pub fn empty() -> Self {
        Self::new(Registry::new())
    }

    fn new(registry: Registry) -> Self {
        Self {
            registry,
            world: Arc::new(SingleRank),
        }
    }

    /// Lets several processes share [`train`](Self::train), [`resume`](Self::resume) and
    /// [`evaluate`](Self::evaluate): each of them calls these functions on its own rank of the communicator.
    /// [`main`](Self::main) connects to the other processes by itself.
    #[must_use]
    pub fn on_ranks(self, world: Arc<dyn Communicator>) -> Self {
        Self { world, ..self }
    }

    /// Adds an environment: `environment: NAME(…)` in a recipe is read as `S`.
    #[must_use]
    pub fn environment<S>(self, name: &'static str) -> Self
    where
        S: EnvironmentSettings + Serialize + DeserializeOwned + 'static,
    {
        Self {
            registry: self.registry.environment::<S>(name),
            ..self
        }
    }

    /// Adds an algorithm: `algorithm: NAME(…)` in a recipe is read as `S`.
    #[must_use]
    pub fn algorithm<S>(self, name: &'static str) -> Self
    where
        S: AlgorithmSettings + Serialize + DeserializeOwned + 'static,
    {
        Self {
            registry: self.registry.algorithm::<S>(name),
            ..self
        }
    }

    /// Adds a kind of data set: `train: NAME(…)` in a recipe is read as `S`.
    #[must_use]
    pub fn task_source<S>(self, name: &'static str) -> Self
    where
        S: TaskSource + Serialize + DeserializeOwned + 'static,
    {
        Self {
            registry: self.registry.task_source::<S>(name),
            ..self
        }
    }

    /// Adds the wrapper that turns a team's environment into one for a single agent. Recipes write
    /// `NAME(Tldr)`; the command `polyphony baseline single` uses the wrapper too.
    #[must_use]
    pub fn single_agent(
        self,
        name: &'static str,
        wrap: fn(Box<dyn Environment>) -> Box<dyn Environment>,
    ) -> Self {
        Self {
            registry: self.registry.single_agent(name, wrap),
            ..self
        }
    }

    /// Adds a recipe, usually with `include_str!`. Commands then accept it by its name.
    #[must_use]
    pub fn recipe(self, name: &'static str, text: &'static str) -> Self {
        Self {
            registry: self.registry.recipe(name, text),
            ..self
        }
    }

    /// The registry of everything that recipes can name.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Runs the command in the arguments of this process. Errors are printed on standard error and set the
    /// exit status. If `mpirun` or `srun` has started several processes and the program was built with the feature
    /// `mpi`, they share the command, and an error of one ends all.
    pub fn main(self) -> ExitCode {
        #[cfg(feature = "mimalloc")]
        keep_freed_memory();
        set_panic_hook();
        let launch = match Launch::connect() {
            Ok(launch) => launch,
            Err(error) if launch::explains_failure() => return cli::fail(&error),
            Err(_) => return ExitCode::FAILURE,
        };
        let threads = match launch.threads() {
            Ok(threads) => threads.unwrap_or(0),
            Err(error) => {
                return launch.fail(&error, || {
                    cli::fail(&error);
                });
            }
        };
        // Everything runs on a worker of the pool. A thread outside the pool would have to wake a worker and
        // wait for it in each of the hundreds of small parallel loops of a decoding pass.
        let pool = rayon::ThreadPoolBuilder::new()
            .stack_size(STACK_BYTES)
            .num_threads(threads)
            .build_global();
        if let Err(error) = pool {
            return cli::fail(&anyhow::anyhow!(
                "the worker threads could not be started: {error}"
            ));
        }
        let run = AssertUnwindSafe(|| rayon::scope(|_| cli::main(&self.registry, &launch)));
        match catch_unwind(run) {
            Ok(status) => {
                launch.end();
                status
            }
            Err(_) => {
                // The panic hook has explained it. The other ranks would wait for this one forever.
                launch.abort_others(PANICKED.into());
                ExitCode::from(PANICKED)
            }
        }
    }

    /// Reads a recipe and applies overrides of the form `path=value`. `which` is the name of a registered
    /// recipe, or a file; `None` means the default recipe.
    ///
    /// # Errors
    /// Names the file and the line, or the override, and what is allowed there.
    pub fn load_recipe(&self, which: Option<&str>, overrides: &[String]) -> Result<Recipe> {
        self.registry.check()?;
        Recipe::load(&self.registry, which, overrides)
    }

    /// See [`polyphony_runner::train`].
    ///
    /// # Errors
    /// If data or models cannot be obtained, a step fails, or the run directory cannot be written.
    pub fn train(
        &self,
        recipe: &Recipe,
        run_dir: Option<&Path>,
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<Trained> {
        self.registry.check()?;
        polyphony_runner::train(&self.registry, recipe, run_dir, &self.world, stop, observer)
    }

    /// See [`polyphony_runner::resume`].
    ///
    /// # Errors
    /// As [`Program::train`], and if the run is complete or its checkpoint cannot be used.
    pub fn resume(
        &self,
        run: &Path,
        from: &ResumeFrom,
        overrides: &[String],
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<Trained> {
        self.registry.check()?;
        polyphony_runner::resume(
            &self.registry,
            run,
            from,
            overrides,
            &self.world,
            stop,
            observer,
        )
    }

    /// See [`polyphony_runner::evaluate`]. Returns `None` if the evaluation was stopped.
    ///
    /// # Errors
    /// If models or data cannot be obtained, or the evaluation fails.
    pub fn evaluate(
        &self,
        request: &EvaluationRequest<'_>,
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<Option<EvaluationResult>> {
        self.registry.check()?;
        polyphony_runner::evaluate(&self.registry, request, &self.world, stop, observer)
    }
}

/// Silences panics of decoders and tokenizers on damaged data, which are caught and become errors.
fn set_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        if !polyphony_env::is_catching_panic() && !polyphony_model::is_catching_panic() {
            terminal::write_panic(panic);
        }
    }));
}

/// Tells the allocator to keep freed memory. This does not raise the peak.
#[cfg(feature = "mimalloc")]
fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc.h, a constant that the binding does not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: the option exists and may be set at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
