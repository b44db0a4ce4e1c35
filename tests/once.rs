//! Checks that a run or an evaluation does some things only once, such as building the environment, because
//! each time may start a sandbox or send a request.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use polyphony::{
    Program, Stop,
    episode::{
        Environment, EnvironmentError, EnvironmentSettings, FnEnvironment, JointAction,
        Observation, Outcome, Reward, Role, Split, Task, Turn,
    },
    marl::{
        Agent, AgentSpec, Algorithm, AlgorithmMemory, AlgorithmSettings, ConfigError,
        EnvironmentSpec, Magrpo, MarlError, Protocol, SamplingPlan, TrainingConfig,
    },
    runner::{EvaluatedAgents, EvaluationRequest},
};
use polyphony_test_support::chat_model;
use serde::{Deserialize, Serialize};

use crate::command::{TestDir, text};

static BUILT: AtomicUsize = AtomicUsize::new(0);
static READ: AtomicUsize = AtomicUsize::new(0);
static STARTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Checks that `work` builds the environment once, reads the settings of the algorithm once, and starts each
/// of the tasks once.
#[track_caller]
fn check_once(tasks: &[&str], work: impl FnOnce()) {
    BUILT.store(0, Ordering::SeqCst);
    READ.store(0, Ordering::SeqCst);
    STARTED.lock().unwrap().clear();
    work();
    assert_eq!(BUILT.load(Ordering::SeqCst), 1, "environments");
    assert_eq!(READ.load(Ordering::SeqCst), 1, "settings");
    let mut started = STARTED.lock().unwrap().clone();
    started.sort();
    assert_eq!(started, tasks);
}

/// Settings of an environment with its own tasks. They count how often it is built.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counted {}

impl EnvironmentSettings for Counted {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        BUILT.fetch_add(1, Ordering::SeqCst);
        let length = |_: &Task, action: &JointAction| {
            let [left, right] = action.texts();
            Reward::new([("length", left.len() as f64 - right.len() as f64)])
        };
        Ok(Box::new(WithTasks(FnEnvironment::new(
            ["left", "right"],
            ["length"],
            length,
        ))))
    }
}

struct WithTasks(FnEnvironment);

impl Environment for WithTasks {
    fn roles(&self) -> &[Role] {
        self.0.roles()
    }

    fn reward_parts(&self) -> &[String] {
        self.0.reward_parts()
    }

    fn tasks(&self, split: Split) -> Option<Vec<Task>> {
        let ids = match split {
            Split::Train => ["train-1", "train-2"],
            Split::HeldOut => ["held-out-1", "held-out-2"],
        };
        Some(ids.map(|id| Task::new(id, [("prompt", "Go.")])).into())
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        STARTED.lock().unwrap().push(task.id.clone());
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

/// MAGRPO that counts how often its settings are read.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Magrpo", into = "Magrpo")]
struct CountedMagrpo(Magrpo);

impl From<Magrpo> for CountedMagrpo {
    fn from(settings: Magrpo) -> Self {
        READ.fetch_add(1, Ordering::SeqCst);
        Self(settings)
    }
}

impl From<CountedMagrpo> for Magrpo {
    fn from(CountedMagrpo(settings): CountedMagrpo) -> Self {
        settings
    }
}

impl AlgorithmSettings for CountedMagrpo {
    fn validate(&self, config: &TrainingConfig) -> Result<(), ConfigError> {
        self.0.validate(config)
    }

    fn validate_for(&self, environment: &EnvironmentSpec) -> Result<(), ConfigError> {
        self.0.validate_for(environment)
    }

    fn method(&self, roles: usize) -> String {
        self.0.method(roles)
    }

    fn sampling_plan(&self) -> SamplingPlan {
        AlgorithmSettings::sampling_plan(&self.0)
    }

    fn memory(&self, agent: &AgentSpec, config: &TrainingConfig) -> AlgorithmMemory {
        self.0.memory(agent, config)
    }

    fn build(
        &self,
        agents: &[Agent],
        environment: &EnvironmentSpec,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        self.0.build(agents, environment, config)
    }
}

#[test]
fn training_and_every_evaluation_do_each_thing_once() {
    let dir = TestDir::new();
    chat_model(&dir.path("model"), 4096);
    let recipe = format!(
        "(environment: Counted(), team: Copies({:?}), max_new_tokens: 4, steps: 1, \
         algorithm: CountedMagrpo(samples: 2), evaluation: (tasks: 2, samples: 1))",
        text(&dir.path("model"))
    );
    let file = dir.write("recipe.ron", recipe);
    let program = Program::standard()
        .environment::<Counted>("Counted")
        .algorithm::<CountedMagrpo>("CountedMagrpo");
    let recipe = program.load_recipe(file.to_str(), &[]).unwrap();
    let (run, stop) = (dir.path("run"), Stop::new());

    let held_out = ["held-out-1", "held-out-2"];
    let all = ["held-out-1", "held-out-2", "train-1", "train-2"];
    check_once(&all, || {
        program.train(&recipe, Some(&run), &stop, &mut ()).unwrap();
    });
    for agents in [
        EvaluatedAgents::Team,
        EvaluatedAgents::AgentsOf(&run),
        EvaluatedAgents::SingleAgent,
    ] {
        check_once(&held_out, || {
            let request = EvaluationRequest {
                recipe: &recipe,
                agents,
                protocol: &Protocol::parallel(),
                step: None,
            };
            let result = program.evaluate(&request, &stop, &mut ());
            let result = result.unwrap().unwrap();
            assert_eq!(result.evaluation.tasks, 2);
            let is_single = matches!(agents, EvaluatedAgents::SingleAgent);
            assert_eq!(result.info.environment.is_single_agent, is_single);
            let label = &result.info.environment.label;
            assert_eq!(label == "counted-single-agent", is_single, "{label}");
        });
    }
}
