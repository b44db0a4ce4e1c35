//! Shared by the unit tests: agents of the tiny fixture model, and environments of a few lines.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use burn::{
    module::{ModuleMapper, Param},
    tensor::{Device, Tensor, TensorData},
};
use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Response, Reward, Role, Task,
    Turn,
};
use polyphony_model::{ChatTemplate, LanguageModel, ModelFiles, Sampling, Tokenizer};

use crate::{
    MarlError,
    agent::{Agent, TextCodec},
    algorithm::{Algorithm, AlgorithmSettings, EnvironmentSpec},
    config::{LongPrompts, TrainingConfig, Updates},
    rollout::{Rollout, rollout},
    tasks::start_tasks,
    team::Team,
    tree::{JointMode, SamplingPlan},
};

/// Tokens that the tiny model's context holds.
pub(crate) const CONTEXT: usize = 128;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../polyphony-model/fixtures")
        .join(name)
}

pub(crate) fn tiny_model() -> LanguageModel {
    let files = ModelFiles::open(&file("tiny-llama")).unwrap();
    LanguageModel::load(&files, &Device::flex()).unwrap()
}

/// The same model with a larger context. Prompts that quote other agents' answers need it, because the tiny
/// tokenizer turns them into many tokens.
pub(crate) fn wide_model() -> LanguageModel {
    let mut files = ModelFiles::open(&file("tiny-llama")).unwrap();
    files.config.max_positions = 1024;
    LanguageModel::load(&files, &Device::flex()).unwrap()
}

/// The tiny tokenizer, `<|im_end|>` as the only stop token, and no template.
pub(crate) fn plain_codec() -> TextCodec {
    TextCodec {
        tokenizer: Tokenizer::from_file(&file("tiny-chat/tokenizer.json")).unwrap(),
        template: None,
        stop_tokens: vec![2],
    }
}

/// A template that writes the first letter of a message's role before the message.
pub(crate) fn letter_template() -> ChatTemplate {
    let source = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:";
    ChatTemplate::new(source, None, &file("letters.jinja")).unwrap()
}

pub(crate) fn agent(name: &str) -> Agent {
    Agent::new(name, tiny_model(), Arc::new(plain_codec()))
}

/// Every weight under its name.
pub(crate) fn weights(model: &LanguageModel) -> Vec<(String, Vec<f32>)> {
    let weights = model.named_weights().into_iter();
    weights
        .map(|(spec, weight)| (spec.name, weight.into_data().try_into_vec().unwrap()))
        .collect()
}

/// The bits of every weight, so that NaN equals itself.
pub(crate) fn weight_bits(model: &LanguageModel) -> Vec<Vec<u32>> {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    weights(model)
        .into_iter()
        .map(|(_, values)| bits(values))
        .collect()
}

/// The model with one element of one weight changed. Weights are counted in visiting order.
pub(crate) fn changed(
    model: &LanguageModel,
    weight: usize,
    index: usize,
    change: impl Fn(f32) -> f32,
) -> LanguageModel {
    struct Changer<F> {
        skip: Option<usize>,
        index: usize,
        change: F,
    }
    impl<F: Fn(f32) -> f32> ModuleMapper for Changer<F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let is_target = self.skip == Some(0);
            self.skip = self.skip.and_then(|remaining| remaining.checked_sub(1));
            if !is_target {
                return param;
            }
            param.map(|tensor| {
                let (shape, device) = (tensor.shape(), tensor.device());
                let mut values: Vec<f32> = tensor.into_data().try_into_vec().unwrap();
                values[self.index] = (self.change)(values[self.index]);
                Tensor::from_data(TensorData::new(values, shape), &device)
            })
        }
    }
    let mut changer = Changer {
        skip: Some(weight),
        index,
        change,
    };
    let mut model = model.clone();
    model.map_weights(&mut changer);
    model
}

/// Two roles that read the task's field `text`, and a reward that is a function of the two responses.
pub(crate) struct Duet {
    pub(crate) roles: [Role; 2],
    pub(crate) parts: Vec<String>,
    pub(crate) reward: fn(&JointAction) -> Reward,
}

impl Duet {
    pub(crate) fn new(reward: fn(&JointAction) -> Reward) -> Self {
        Self {
            roles: [Role::new("first"), Role::new("second")],
            parts: ["one", "two"].map(String::from).into(),
            reward,
        }
    }
}

impl Environment for Duet {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        Ok(vec![Observation::new(task.field("text")?); 2])
    }

    fn step(
        &self,
        _task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        Ok(Outcome::end((self.reward)(action)))
    }
}

/// A game of three turns with one role per name. After each turn except the last, every agent reads how
/// long its answer was. The game ends early after a joint action whose first response has an odd number
/// of tokens. A turn earns the number of the first role's tokens plus the number of earlier turns.
pub(crate) struct Chain {
    pub(crate) roles: Vec<Role>,
    pub(crate) parts: [String; 2],
    pub(crate) ends_early: bool,
    /// The horizon that it announces.
    pub(crate) horizon: NonZeroUsize,
}

impl Chain {
    pub(crate) fn new(names: &[&str]) -> Self {
        Self {
            roles: names.iter().copied().map(Role::new).collect(),
            parts: ["tokens", "past"].map(String::from),
            ends_early: true,
            horizon: const { NonZeroUsize::new(3).unwrap() },
        }
    }

    /// What an agent reads after its answer.
    pub(crate) fn feedback(past: usize, response: &Response) -> String {
        format!("after {past}: {}", response.tokens.len())
    }
}

impl Environment for Chain {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn horizon(&self) -> NonZeroUsize {
        self.horizon
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        Ok(vec![
            Observation::new(task.field("text")?);
            self.roles.len()
        ])
    }

    fn step(
        &self,
        _task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let tokens = action.responses[0].tokens.len();
        let reward = Reward::new([("tokens", tokens as f64), ("past", past.len() as f64)]);
        if past.len() == 2 || (self.ends_early && tokens % 2 == 1) {
            return Ok(Outcome::end(reward));
        }
        let responses = action.responses.iter();
        let observations =
            responses.map(|response| Observation::new(Self::feedback(past.len(), response)));
        Ok(Outcome::continue_with(reward, observations.collect()))
    }
}

/// A reward with the number of each agent's tokens, as the parts `one` and `two`.
pub(crate) fn lengths(action: &JointAction) -> Reward {
    let [one, two] = [0, 1].map(|agent| action.responses[agent].tokens.len() as f64);
    Reward::new([("one", one), ("two", two)])
}

pub(crate) fn task(id: &str, text: &str) -> Task {
    Task::new(id, [("text", text)])
}

/// Aligned joint actions.
pub(crate) fn plan(samples: usize) -> SamplingPlan {
    SamplingPlan {
        samples,
        joint_mode: JointMode::Aligned,
        termination_threshold: None,
        discount: 1.0,
    }
}

pub(crate) fn training(max_new_tokens: usize) -> TrainingConfig {
    TrainingConfig {
        seed: 5,
        steps: 10,
        sampling: Sampling::default(),
        max_new_tokens,
        long_prompts: LongPrompts::Fail,
        updates: Updates::default(),
    }
}

/// Plays the tasks at these indices in the first step of a run.
pub(crate) fn play_some(
    team: &Team,
    environment: &dyn Environment,
    (tasks, indices): (&[Task], &[usize]),
    plan: &SamplingPlan,
    config: &TrainingConfig,
) -> Result<Rollout, MarlError> {
    let started = start_tasks(team, environment, tasks.to_vec(), config)?;
    let batch = started.batch(indices);
    rollout(team, environment, batch, plan, config, 0, &mut |_| ())
}

/// Plays all tasks in the first step of a run.
pub(crate) fn play(
    team: &Team,
    environment: &dyn Environment,
    tasks: &[Task],
    plan: &SamplingPlan,
    config: &TrainingConfig,
) -> Result<Rollout, MarlError> {
    let all: Vec<usize> = (0..tasks.len()).collect();
    play_some(team, environment, (tasks, &all), plan, config)
}

/// Builds an algorithm for a team and its environment.
pub(crate) fn built(
    settings: &dyn AlgorithmSettings,
    agents: &[Agent],
    environment: &dyn Environment,
    config: &TrainingConfig,
) -> Result<Box<dyn Algorithm>, MarlError> {
    settings.build(agents, &EnvironmentSpec::of(environment), config)
}
