//! Runs a program as an environment.

use std::{
    num::NonZeroUsize,
    process::Command,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use polyphony_episode::{
    Counter, Environment, EnvironmentError, EnvironmentSettings, JointAction, MetricKey,
    Observation, Outcome, Reward, Role, Split, Task, Turn,
};
use serde_json::{Value, json};

#[cfg(not(unix))]
use super::other::{ExchangeError, Worker};
#[cfg(unix)]
use super::worker::{ExchangeError, Worker};
use super::{
    answer::{self, Answer, Hello},
    call::{Call, CallName, PROTOCOL},
    error::{ProcessError, ProcessFailure, excerpt},
    settings::Process,
};

/// The purpose for which a program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A run: the program's standard error is logged, and a worker that ends is restarted.
    Run,
    /// A check: a worker that ends is not restarted, and the check's report has its standard error.
    Check,
}

/// A running program as an environment, created by [`Process::start`].
///
/// [`Process::start`] starts the first worker; the others are started when they are first needed. Dropping
/// the environment closes the standard input of all workers, which asks them to end. A second later they
/// are killed, with all processes of their groups. The same happens if Polyphony ends or is killed
/// before the environment is dropped.
pub struct ProcessEnvironment {
    settings: Process,
    purpose: Purpose,
    command: String,
    hello: Hello,
    roles: Vec<Role>,
    /// One entry per worker that no call uses; `None` for a worker
    /// that is not running yet.
    idle: Mutex<Vec<Option<Worker>>>,
    /// Signalled when an entry returns to `idle`.
    freed: Condvar,
    /// The number of calls so far, which is the id of the next call.
    calls: AtomicU64,
    restarts: AtomicU64,
    /// The time spent in calls, summed over the workers.
    nanos: AtomicU64,
}

impl Process {
    /// Starts the program and exchanges the handshake.
    ///
    /// # Errors
    /// If a setting is not allowed, or if the program cannot be started, does not answer in time, or
    /// answers something that the protocol does not allow.
    pub fn start(&self) -> Result<ProcessEnvironment, ProcessError> {
        self.start_for(Purpose::Run)
    }

    pub(super) fn start_for(&self, purpose: Purpose) -> Result<ProcessEnvironment, ProcessError> {
        self.validate()?;
        ProcessEnvironment::start(self.clone(), purpose)
    }
}

impl EnvironmentSettings for Process {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        match self.start() {
            Ok(environment) => Ok(Box::new(environment)),
            Err(error) => Err(EnvironmentError::because(
                "the environment's program cannot be used",
                error,
            )),
        }
    }

    /// The number of workers cannot change a reward, and an answer that is late or too long is an error, never
    /// another reward.
    fn operational_keys(&self) -> &'static [&'static str] {
        &["workers", "start_secs", "step_secs", "max_reply_bytes"]
    }

    fn label(&self) -> Option<String> {
        self.program_name()
    }
}

impl ProcessEnvironment {
    /// Starts the first worker, whose handshake describes the game.
    fn start(settings: Process, purpose: Purpose) -> Result<Self, ProcessError> {
        let command = settings.command_line();
        let started = Self::start_with_handshake(&settings, purpose, &command, 0);
        let (worker, hello) = started.map_err(|failure| ProcessError {
            command: command.clone(),
            failure,
        })?;
        let mut idle: Vec<Option<Worker>> = Vec::new();
        idle.resize_with(settings.workers.get() - 1, || None);
        // Workers are taken from the end, so this one is used first.
        idle.push(Some(worker));
        Ok(Self {
            purpose,
            command,
            roles: hello.roles(),
            hello,
            idle: Mutex::new(idle),
            freed: Condvar::new(),
            calls: AtomicU64::new(1),
            restarts: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            settings,
        })
    }

    /// Starts a worker and exchanges the handshake.
    fn start_with_handshake(
        settings: &Process,
        purpose: Purpose,
        command: &str,
        id: u64,
    ) -> Result<(Worker, Hello), ProcessFailure> {
        let mut worker = spawn(settings, purpose, command)?;
        let hello = Call::Hello {
            protocol: PROTOCOL,
            settings: &settings.settings,
        };
        let answer = exchange(&mut worker, settings, id, &hello);
        match answer.and_then(|answer| answer.hello()) {
            Ok(hello) => Ok((worker, hello)),
            Err(failure) => {
                worker.kill();
                Err(failure)
            }
        }
    }

    /// Starts one more worker, which must describe the same game as the first.
    fn start_worker(&self) -> Result<Worker, ProcessFailure> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        let (mut worker, hello) =
            Self::start_with_handshake(&self.settings, self.purpose, &self.command, id)?;
        match self.hello.difference(&hello) {
            None => Ok(worker),
            Some(key) => {
                worker.kill();
                Err(ProcessFailure::Changed { key })
            }
        }
    }

    /// Sends a call to an idle worker, after waiting for one if necessary.
    ///
    /// A call contains everything that the program needs. So in a run, a worker that ends is restarted and
    /// gets the call once more. A worker with an invalid answer is killed, and the next call starts a new
    /// worker.
    fn call(&self, call: &Call<'_>) -> Result<Answer, ProcessError> {
        let started = Instant::now();
        let mut slot = self.take();
        let answer = self.call_in(&mut slot.worker, call);
        drop(slot);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        answer.map_err(|failure| self.error(failure))
    }

    fn call_in(
        &self,
        slot: &mut Option<Worker>,
        call: &Call<'_>,
    ) -> Result<Answer, ProcessFailure> {
        let mut times = 0;
        loop {
            let mut worker = match slot.take() {
                Some(worker) => worker,
                None => self.start_worker()?,
            };
            let id = self.calls.fetch_add(1, Ordering::Relaxed);
            match exchange(&mut worker, &self.settings, id, call) {
                Ok(answer) => {
                    *slot = Some(worker);
                    return Ok(answer);
                }
                // The program answered with an error, so the worker can take the next call.
                Err(failure @ ProcessFailure::Reported { .. }) => {
                    *slot = Some(worker);
                    return Err(failure);
                }
                Err(failure @ ProcessFailure::Ended { .. }) if self.purpose == Purpose::Check => {
                    return Err(failure);
                }
                Err(ProcessFailure::Ended { call, how, .. }) => {
                    times += 1;
                    if times > 1 {
                        return Err(ProcessFailure::Ended { call, times, how });
                    }
                    log::warn!(
                        "`{}` ended before it answered `{call}` and is restarted: {how}",
                        self.command
                    );
                    self.restarts.fetch_add(1, Ordering::Relaxed);
                }
                Err(failure) => {
                    worker.kill();
                    return Err(failure);
                }
            }
        }
    }

    fn take(&self) -> Slot<'_> {
        let mut idle = lock(&self.idle);
        loop {
            if let Some(worker) = idle.pop() {
                return Slot {
                    worker,
                    environment: self,
                };
            }
            idle = self
                .freed
                .wait(idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn error(&self, failure: ProcessFailure) -> ProcessError {
        ProcessError {
            command: self.command.clone(),
            failure,
        }
    }

    /// Whether each role has a separate reward.
    pub(super) fn is_per_role(&self) -> bool {
        self.hello.per_role
    }

    /// The first key of the handshake whose value is different in another start of the same program.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        self.hello.difference(&other.hello)
    }

    /// The end of the standard error of an idle worker; empty if no worker has written anything.
    pub(super) fn standard_error(&self) -> String {
        let workers = lock(&self.idle);
        let mut tails = workers.iter().flatten().map(Worker::standard_error);
        let tail = tails.find(|tail| !tail.is_empty());
        tail.unwrap_or_default().to_owned()
    }

    /// As [`Environment::start`], but an error does not name the task.
    pub(super) fn try_start(&self, task: &Task) -> Result<Vec<Observation>, ProcessError> {
        let answer = self.call(&Call::Start { task })?;
        let observations = answer.observations(&self.hello);
        observations.map_err(|failure| self.error(failure))
    }

    /// As [`Environment::step`], but an error does not name the task.
    pub(super) fn try_step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, ProcessError> {
        let answer = self.call(&Call::step(task, past, action))?;
        let outcome = answer.outcome(&self.hello);
        outcome.map_err(|failure| self.error(failure))
    }

    /// Ends all workers; returns whether every one ended by itself once its standard input was closed.
    pub(super) fn stop(self) -> bool {
        let mut workers = std::mem::take(&mut *lock(&self.idle));
        workers.iter_mut().flatten().for_each(Worker::close);
        // Collected first: `all` stops at the first `false`, which would leave the remaining workers running.
        let ended_itself: Vec<bool> = workers.into_iter().flatten().map(Worker::stop).collect();
        ended_itself.into_iter().all(|is_true| is_true)
    }
}

impl Drop for ProcessEnvironment {
    fn drop(&mut self) {
        // All workers are asked to end before the first one is waited for.
        let mut workers = lock(&self.idle);
        workers.iter_mut().flatten().for_each(Worker::close);
        workers.clear();
    }
}

impl std::fmt::Debug for ProcessEnvironment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = formatter.debug_struct("ProcessEnvironment");
        fields.field("settings", &self.settings);
        fields.finish_non_exhaustive()
    }
}

/// An entry of `idle` that a call uses. Dropping it returns the entry.
struct Slot<'a> {
    worker: Option<Worker>,
    environment: &'a ProcessEnvironment,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        lock(&self.environment.idle).push(self.worker.take());
        self.environment.freed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is harmless: no panic leaves the list of workers half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The deadline of a call that may take this many seconds.
fn deadline(secs: f64) -> Instant {
    Instant::now() + Duration::from_secs_f64(secs)
}

fn spawn(settings: &Process, purpose: Purpose, log_prefix: &str) -> Result<Worker, ProcessFailure> {
    let Some((program, arguments)) = settings.command.split_first() else {
        return Err(ProcessFailure::Setting("`command` is empty".to_owned()));
    };
    let mut command = Command::new(program);
    // Without these, Python buffers its output and guesses an encoding. Other programs ignore them.
    command
        .args(arguments)
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONUTF8", "1");
    if let Some(directory) = &settings.cwd {
        command.current_dir(directory);
    }
    let level = match purpose {
        Purpose::Run => log::Level::Info,
        Purpose::Check => log::Level::Debug,
    };
    Worker::start(command, log_prefix, level).map_err(|source| ProcessFailure::Spawn { source })
}

/// Sends a call to one worker and reads its answer, within the limits.
fn exchange(
    worker: &mut Worker,
    settings: &Process,
    id: u64,
    call: &Call<'_>,
) -> Result<Answer, ProcessFailure> {
    let name = call.name();
    let (secs, setting) = match name {
        CallName::Hello => (settings.start_secs, "start_secs"),
        CallName::Start | CallName::Step => (settings.step_secs, "step_secs"),
    };
    let limit = settings.max_reply_bytes.get();
    let line = worker
        .exchange(&call.line(id), deadline(secs), limit)
        .map_err(|error| match error {
            ExchangeError::Late(received) => ProcessFailure::Late {
                call: name,
                secs,
                setting,
                received: match received.is_empty() {
                    true => "nothing was received".to_owned(),
                    false => format!("received {} without a line end", excerpt(&received)),
                },
            },
            ExchangeError::TooLarge(received) => ProcessFailure::TooLarge {
                call: name,
                limit,
                received: excerpt(&received),
            },
            ExchangeError::Ended(how) => ProcessFailure::Ended {
                call: name,
                times: 1,
                how,
            },
            ExchangeError::Pipe(source) => ProcessFailure::Pipe { source },
        })?;
    answer::read(&line, name, id)
}

fn on_task(task: &Task, error: ProcessError) -> EnvironmentError {
    EnvironmentError::because(format!("task `{}`", task.id), error)
}

impl Environment for ProcessEnvironment {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.hello.reward_parts
    }

    fn horizon(&self) -> NonZeroUsize {
        self.hello.horizon
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.settings.workers
    }

    fn tasks(&self, split: Split) -> Option<Vec<Task>> {
        self.hello.tasks(split).cloned()
    }

    fn counters(&self) -> Vec<Counter> {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed) as f64;
        vec![
            Counter::new(
                MetricKey::new("process/restarts"),
                read(&self.restarts),
                "restarts",
                "Restarts of the environment's program after it ended",
            ),
            Counter::new(
                MetricKey::new("timing.process_secs"),
                read(&self.nanos) / 1e9,
                "s",
                "Time spent waiting for the environment's program, summed over its workers",
            ),
        ]
    }

    fn description(&self) -> Option<Value> {
        Some(json!({"command": self.settings.command, "handshake": self.hello}))
    }

    fn is_solved(&self, reward: &Reward) -> Option<bool> {
        self.hello
            .solved_at
            .map(|threshold| reward.total() >= threshold)
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        self.try_start(task).map_err(|error| on_task(task, error))
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let outcome = self.try_step(task, past, action);
        outcome.map_err(|error| on_task(task, error))
    }
}
