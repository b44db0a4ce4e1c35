//! Measures the time of training steps on a fixed workload.
//!
//! The workload is that of the reference measurement (`docs/performance.md`): two agents summarize one post,
//! every response has the full length, and a made-up reward distinguishes any two responses, so that no group
//! is skipped. The steps are ordinary training steps, run by [`train_step`].

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use burn::tensor::Device;
use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};
use polyphony_marl::{
    Agent, AlgorithmSettings, EnvironmentSpec, Magrpo, MomentFormat, Progress, Step, Team,
    TextCodec, TrainingConfig, Updates, start_tasks, train_step,
};
use polyphony_model::{
    Activations, DeviceWork, GenerationConfig, LanguageModel, ModelFiles, Precision, PromptGroup,
    Sampling, StreamKey, generate,
};
use polyphony_runner::peak_memory_mib;
use serde::Serialize;

/// The size of the workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Responses per agent and step.
    pub(crate) samples: usize,
    /// Tokens of every response.
    pub(crate) new_tokens: usize,
    /// Steps to run; the measurements are medians over them.
    pub(crate) steps: usize,
    /// Which activations of a forward pass the updates keep.
    pub(crate) activations: Activations,
    /// How the optimizers keep their moments.
    pub(crate) moments: MomentFormat,
}

/// The results. Times are medians over the steps, so that the first two steps, which use new memory, do not
/// dominate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Measurements {
    /// The median time of a step.
    pub(crate) seconds_per_step: f64,
    /// The median time of both agents' rollout in a step, including the rewards.
    pub(crate) generation_seconds_per_step: f64,
    /// The median time of both agents' updates in a step.
    pub(crate) update_seconds_per_step: f64,
    /// Tokens that both agents sample per step; the same in all steps.
    pub(crate) response_tokens_per_step: usize,
    /// `response_tokens_per_step` divided by the median time of a rollout.
    pub(crate) generation_tokens_per_second: f64,
    /// The most memory that the process has held, including while it loaded the model, in units of 1,000,000
    /// KiB, which is what `ru_maxrss / 1e6` gives on Linux; `null` if the system does not report it.
    pub(crate) peak_rss_gb: Option<f64>,
    /// Threads that share the work.
    pub(crate) threads: usize,
    /// Memory that the steps made the GPU allocate, which includes freed memory that is kept, in units of 10⁹ bytes;
    /// `null` on the CPU.
    pub(crate) device_memory_gb: Option<f64>,
    /// `null` on the CPU.
    #[serde(flatten)]
    pub(crate) pass: PassWork,
}

/// What a decoding pass costs besides computing: for all responses of one agent, which are decoded together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct PassWork {
    /// Kernels that are launched in a pass that is not the replay of a recorded one.
    pub(crate) launches_per_pass: Option<u64>,
    /// Bytes that the host reads, on average over the passes between two readings.
    pub(crate) bytes_read_per_pass: Option<f64>,
}

/// Two agents summarize the task's `post`. The closer the length of the second text is to 2.4 times that of
/// the first, the higher the reward.
#[derive(Debug)]
struct LengthRatio {
    roles: [Role; 2],
    parts: [String; 1],
}

impl LengthRatio {
    fn new() -> Self {
        Self {
            roles: ["brief", "detailed"].map(Role::new),
            parts: ["length_ratio".to_owned()],
        }
    }
}

/// The instruction of each agent, which comes before the post.
const INSTRUCTIONS: [&str; 2] = [
    "In a sentence or two, say what this post is about.",
    "Retell this post at length, with many different words and phrases that link your sentences.",
];

/// With the instructions and the default model's chat template, prompts have about 150 tokens.
const POST: &str = "My sister wants to borrow my car for a week to move to another city. Last \
    year she brought it back with a scratch on the door and an empty tank, and she never said a \
    word about either. I need the car on two days of that week for a job interview and a dentist. \
    My parents call me selfish, and my brother stays out of it. She says a rental is too \
    expensive. Should I say no, drive her there myself, or is there a middle way?";

impl Environment for LengthRatio {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        let post = task.field("post")?;
        let observe = |instruction| Observation::new(format!("{instruction}\n\n{post}"));
        Ok(INSTRUCTIONS.map(observe).into())
    }

    fn step(
        &self,
        _task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let [first, second] = action.texts().map(|text| text.chars().count() as f64);
        let deviation = (second / first.max(1.0) - 2.4).abs();
        Ok(Outcome::end(Reward::new([("length_ratio", -deviation)])))
    }
}

/// Runs the workload on two copies of a model. `on_step` gets the number of steps that are done.
///
/// # Errors
/// If the model has no tokenizer, a prompt does not fit into its context, a step fails, or an agent takes no
/// gradient step, so that the times would not be those of the whole workload.
pub(crate) fn bench(
    files: ModelFiles,
    (device, precision): (&Device, Precision),
    workload: Workload,
    on_step: &mut dyn FnMut(usize),
) -> Result<Measurements> {
    let environment = LengthRatio::new();
    let mut team = team(files, (device, precision), &environment)?;
    let settings = Magrpo {
        samples: workload.samples,
        ..Magrpo::default()
    };
    let config = training_config(workload);
    let mut algorithm = settings.build(&team, &EnvironmentSpec::of(&environment), &config)?;
    let task = Task::new("bench", [("post", POST)]);
    let tasks = start_tasks(&team, &environment, vec![task], &config)?;
    let mut steps = Vec::new();
    for index in 0..workload.steps {
        let start = Instant::now();
        let ignore_progress = &mut |_: Progress| {};
        let algorithm = algorithm.as_mut();
        let batch = tasks.batch(&[0]);
        let step = train_step(
            &mut team,
            algorithm,
            &environment,
            batch,
            &config,
            index,
            ignore_progress,
        )?;
        let seconds = start.elapsed().as_secs_f64();
        for agent in team.iter() {
            let gradient_steps = step.metric(&format!("{}/gradient_steps", agent.name));
            ensure!(
                gradient_steps.is_some_and(|steps| steps > 0.0),
                "agent `{}` learned nothing in step {}, so its update cannot be timed: use more \
                 --samples or --new-tokens",
                agent.name,
                index + 1
            );
        }
        steps.push((seconds, step));
        on_step(index + 1);
    }
    let memory = device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    let model = &team.iter().next().context("the team has no agent")?.model;
    Ok(Measurements {
        device_memory_gb: memory.map(|bytes| round(bytes as f64 / 1e9)),
        pass: match memory {
            Some(_) => pass_work(model, workload.samples)?,
            None => PassWork::default(),
        },
        ..measurements(&steps)
    })
}

/// Counts the work of a decoding pass with this many rows.
fn pass_work(model: &LanguageModel, rows: usize) -> Result<PassWork> {
    let work = |new_tokens: usize| {
        let keys = (0..rows).map(|row| StreamKey([row as u8; 32])).collect();
        let group = PromptGroup {
            prompt: &[0; 32],
            keys,
            prefix_group: 0,
        };
        let config = GenerationConfig {
            sampling: Sampling::default(),
            max_new_tokens: new_tokens,
            stop_tokens: Vec::new(),
        };
        let (work, generated) = DeviceWork::of(|| generate(model, &[group], &config, &mut |_| ()));
        generated?;
        anyhow::Ok(work)
    };
    // The first token comes from the prompt, and the pass for the second one is launched. The pass for the third one is
    // recorded, and later ones are replayed.
    let launches = work(3)?.launches - work(2)?.launches;
    let (few, many) = (17, 81);
    let bytes = work(many)?.sampled_bytes - work(few)?.sampled_bytes;
    Ok(PassWork {
        launches_per_pass: Some(launches),
        bytes_read_per_pass: Some(bytes as f64 / (many - few) as f64),
    })
}

/// Two copies of the model. Without stop tokens every response has the full length.
fn team(
    files: ModelFiles,
    (device, precision): (&Device, Precision),
    environment: &LengthRatio,
) -> Result<Team> {
    let model = LanguageModel::load(&files, device)?.with_precision(precision)?;
    let codec = Arc::new(TextCodec {
        tokenizer: files.tokenizer.context("the model has no tokenizer")?,
        template: files.template,
        stop_tokens: Vec::new(),
    });
    let agent = |role: &Role| Agent::new(&role.name, model.clone(), Arc::clone(&codec));
    let agents: Vec<Agent> = environment.roles.iter().map(agent).collect();
    Ok(agents.into())
}

fn training_config(workload: Workload) -> TrainingConfig {
    TrainingConfig {
        steps: workload.steps,
        sampling: Sampling {
            temperature: 0.7,
            top_p: 0.9,
            top_k: None,
        },
        max_new_tokens: workload.new_tokens,
        updates: Updates {
            activations: workload.activations,
            moments: workload.moments,
            ..Updates::default()
        },
        ..TrainingConfig::default()
    }
}

fn measurements(steps: &[(f64, Step)]) -> Measurements {
    let median_of = |value: &dyn Fn(&(f64, Step)) -> f64| median(steps.iter().map(value).collect());
    let median_timing = |name: &str| {
        let name = format!("timing.{name}");
        median_of(&|(_, step)| step.metric(&name).unwrap_or(f64::NAN))
    };
    let generation_seconds = median_timing("rollout_secs");
    let tokens = steps
        .first()
        .map_or(0, |(_, step)| step.rollout.completion_tokens());
    Measurements {
        seconds_per_step: round(median_of(&|(seconds, _)| *seconds)),
        generation_seconds_per_step: round(generation_seconds),
        update_seconds_per_step: round(median_timing("update_secs")),
        response_tokens_per_step: tokens,
        generation_tokens_per_second: round(tokens as f64 / generation_seconds),
        peak_rss_gb: peak_memory_mib().map(|mib| round(mib as f64 * 1024.0 / 1e6)),
        threads: rayon::current_num_threads(),
        device_memory_gb: None,
        pass: PassWork::default(),
    }
}

/// Rounds to three decimals: more would be noise.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The middle value, or the mean of the two middle values; 0 if there are no values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match values.get(upper) {
        None => 0.0,
        Some(middle) if values.len() % 2 == 1 => *middle,
        Some(middle) => (values[upper - 1] + middle) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use polyphony_episode::Response;

    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        for (values, expected) in [
            (vec![], 0.0),
            (vec![3.0], 3.0),
            (vec![9.0, 1.0, 2.0], 2.0),
            (vec![9.0, 1.0, 2.0, 4.0], 3.0),
        ] {
            assert_eq!(median(values), expected);
        }
    }

    #[test]
    fn the_reward_is_highest_at_the_wanted_ratio() {
        let environment = LengthRatio::new();
        let task = Task::new("bench", [("post", POST)]);
        let score = |first: usize, second: usize| {
            let texts = [first, second].map(|length| Response::from_text("é".repeat(length)));
            let outcome = environment.step(&task, &[], &JointAction::new(texts.into()));
            outcome.unwrap().reward.total()
        };
        assert!(score(10, 24).abs() < 1e-12);
        assert!((score(10, 10) + 1.4).abs() < 1e-12);
        assert!(
            (score(0, 3) + 0.6).abs() < 1e-12,
            "an empty first text counts as 1"
        );
    }
}
