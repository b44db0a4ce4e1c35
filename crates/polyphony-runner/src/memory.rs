//! How much memory a run will need, before it begins.
//!
//! The estimate counts what grows with model and recipe: weights, optimizer, gradients, keys and
//! values of rollout, and activations of training. `docs/performance.md` holds it against what runs
//! have needed.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range};

use anyhow::{Result, bail};
use polyphony_marl::{Kl, RolloutWeights};
use polyphony_model::{Activations, ModelConfig};
use sysinfo::{ProcessesToUpdate, System};

use crate::{
    device::DeviceChoice,
    evaluation,
    recipe::{FineTuning, Recipe, Team},
};

/// Bytes of a number.
const NUMBER: u64 = 4;

/// Bytes of the logits that scoring holds at once, and of their gradient.
const HEAD_CHUNK: u64 = 2 << 26;

/// An agent as the estimate sees it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) config: ModelConfig,
    pub(crate) device: DeviceChoice,
    /// Roles that it plays.
    pub(crate) roles: Range<usize>,
    /// Whether an agent before it starts from the same model on the same device.
    pub(crate) shares_start: bool,
    /// Tokens of the longest prompt; `None` where prompts are not known yet, and then nothing is
    /// counted that grows with tokens.
    pub(crate) prompt: Option<usize>,
}

/// What one agent needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needs {
    /// Its own weights.
    weights: u64,
    /// The policy that it started from, where a divergence from it counts.
    reference: u64,
    /// The optimizer's moments.
    optimizer: u64,
    /// While it is updated.
    gradients: u64,
    /// While it is updated.
    activations: u64,
    /// While it samples.
    cache: u64,
}

impl Needs {
    fn of(member: &Member, recipe: &Recipe) -> Self {
        let config = &member.config;
        let (own, learning) = match recipe.fine_tuning.lora() {
            None => (config.weights(), config.weights()),
            Some(lora) => {
                let adapters = config.adapter_weights(&lora);
                // Frozen weights lie in memory once for all who start from them.
                let below = if member.shares_start {
                    0
                } else {
                    config.weights()
                };
                (below + adapters, adapters)
            }
        };
        let rounded = match recipe.rollout_weights {
            RolloutWeights::Full => 0,
            RolloutWeights::Bf16 => config.weights() * NUMBER / 2,
        };
        // Groups of a minibatch are differentiated one after the other and added up.
        let sums = if recipe.updates.minibatch * member.roles.len() > 1 {
            2
        } else {
            1
        };
        // Frozen weights below adapters are a reference already.
        let reference = match (recipe.algorithm.kl, &recipe.fine_tuning) {
            (Kl::Off, _) | (_, FineTuning::Lora { .. }) => 0,
            (_, FineTuning::Full) if member.shares_start => 0,
            (_, FineTuning::Full) => config.weights(),
        };
        Self {
            weights: own * NUMBER,
            reference: reference * NUMBER,
            optimizer: 2 * learning * NUMBER,
            gradients: sums * learning * NUMBER,
            activations: match member.prompt {
                Some(prompt) => activations(member, prompt, recipe),
                None => 0,
            },
            cache: match member.prompt {
                Some(prompt) => cache(member, prompt, recipe) + rounded,
                None => rounded,
            },
        }
    }

    fn lasting(self) -> u64 {
        self.weights + self.reference + self.optimizer
    }

    fn passing(self) -> u64 {
        self.cache.max(self.gradients + self.activations)
    }
}

/// Keys and values of the prompts and responses that are sampled together: those of a step, or of
/// a part of an evaluation.
fn cache(member: &Member, prompt: usize, recipe: &Recipe) -> u64 {
    let config = &member.config;
    let token = 2 * config.layers * config.kv_heads * config.head_size;
    let roles = member.roles.len() as u64;
    let last_prompt = last_prompt(prompt, recipe);
    let samples = recipe.algorithm.samples;
    let nodes = recipe.tasks_per_step as u64 * last_level(recipe);
    let step = roles * nodes * (last_prompt + samples * recipe.max_new_tokens) as u64;
    // Episodes of one turn share their prompt.
    let episodes = recipe.evaluation.samples;
    let prompts = if recipe.environment.horizon().get() == 1 {
        1
    } else {
        episodes
    };
    let tasks = evaluation::tasks_at_once(episodes).min(recipe.evaluation.tasks) as u64;
    let task = prompts * last_prompt + episodes * recipe.max_new_tokens;
    let judged = roles * tasks * task as u64;
    let number = match recipe.rollout_weights {
        RolloutWeights::Full => NUMBER,
        RolloutWeights::Bf16 => NUMBER / 2,
    };
    step.max(judged) * token as u64 * number
}

/// Nodes of a task's last turn.
fn last_level(recipe: &Recipe) -> u64 {
    let roles = recipe.environment.roles().len();
    let joint_actions = recipe.algorithm.joint_actions(roles).unwrap_or(usize::MAX) as u64;
    let before = recipe.environment.horizon().get() - 1;
    joint_actions.saturating_pow(before as u32)
}

/// Tokens of the longest prompt at the last turn, if what agents are told is never longer than at the
/// first.
fn last_prompt(prompt: usize, recipe: &Recipe) -> usize {
    let turns = recipe.environment.horizon().get();
    turns * prompt + (turns - 1) * recipe.max_new_tokens
}

/// What a forward pass over one packed group keeps, and the chunk of logits.
fn activations(member: &Member, prompt: usize, recipe: &Recipe) -> u64 {
    let config = &member.config;
    let [d, inner] = [config.hidden_size, config.intermediate_size];
    let (queries, keys) = (
        config.heads * config.head_size,
        config.kv_heads * config.head_size,
    );
    let tokens = last_prompt(prompt, recipe) + recipe.algorithm.samples * recipe.max_new_tokens;
    // Of every token attention's scores and weights for all others; the processor's kernel keeps
    // none of them.
    let pairs = match member.device {
        DeviceChoice::Cpu => 0,
        DeviceChoice::Cuda(_) | DeviceChoice::Wgpu | DeviceChoice::Vulkan(_) => {
            2 * config.heads * tokens
        }
    };
    // Hidden states before and after each norm and sum; queries, rotated queries and what they
    // gathered; keys and values, before and after; gate, way up, and their product.
    let layer = 6 * d + 3 * queries + 4 * keys + 3 * inner + pairs;
    let kept = match recipe.updates.activations {
        Activations::Keep => config.layers * layer,
        Activations::Recompute => config.layers * d + layer,
    };
    tokens as u64 * kept as u64 * NUMBER + HEAD_CHUNK
}

/// The bytes that a team needs on each device: those that last, and the most that pass.
fn by_device(members: &[(&Member, Needs)]) -> BTreeMap<String, u64> {
    let mut devices: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (member, needs) in members {
        let (lasting, passing) = devices.entry(member.device.to_string()).or_default();
        *lasting += needs.lasting();
        *passing = needs.passing().max(*passing);
    }
    let total = |(device, (lasting, passing))| (device, lasting + passing);
    devices.into_iter().map(total).collect()
}

/// Refuses a run that cannot fit into what the processor has. `available` is the memory in bytes
/// that the process has or can get, where the system says. Of other devices nobody says it.
///
/// # Errors
/// Says what is needed, what there is, and what would help.
pub(crate) fn check(members: &[Member], recipe: &Recipe, available: Option<u64>) -> Result<()> {
    let needed = by_device(&needs(members, recipe));
    let needed = needed.get(&DeviceChoice::Cpu.to_string());
    if let (Some(&needed), Some(available)) = (needed, available)
        && needed > available
    {
        bail!(
            "the run needs about {}, but there are {}: {}",
            gigabytes(needed),
            gigabytes(available),
            advice(recipe)
        );
    }
    Ok(())
}

/// Tells what a run will need.
pub(crate) fn tell(members: &[Member], recipe: &Recipe, available: Option<u64>) {
    let needs = needs(members, recipe);
    for (member, needs) in &needs {
        log::info!("memory of {}, estimated: {}", member.name, describe(*needs));
    }
    for (device, needed) in by_device(&needs) {
        let free = available.filter(|_| device == DeviceChoice::Cpu.to_string());
        let there = free.map_or_else(String::new, |free| format!(" of {}", gigabytes(free)));
        log::info!(
            "memory on {device}, estimated: {}{there}",
            gigabytes(needed)
        );
    }
}

fn needs<'a>(members: &'a [Member], recipe: &Recipe) -> Vec<(&'a Member, Needs)> {
    let of = |member| (member, Needs::of(member, recipe));
    members.iter().map(of).collect()
}

fn describe(needs: Needs) -> String {
    let parts = [
        ("weights", needs.weights),
        ("reference", needs.reference),
        ("optimizer", needs.optimizer),
        ("gradients", needs.gradients),
        ("activations", needs.activations),
        ("keys and values", needs.cache),
    ];
    let mut text = String::new();
    for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0) {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{name} {}", gigabytes(bytes));
    }
    text
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// What makes a run smaller that is not done yet.
fn advice(recipe: &Recipe) -> String {
    let mut ways = Vec::new();
    if recipe.fine_tuning == FineTuning::Full {
        ways.push("train adapters with `fine_tuning: Lora()`");
    }
    if recipe.updates.activations == Activations::Keep {
        ways.push("set `updates.activations` to Recompute");
    }
    if !matches!(recipe.team, Team::Shared(_)) {
        ways.push("let all roles share one model with `team: Shared(…)`");
    }
    ways.push("lower `tasks_per_step`, `algorithm.samples` or `max_new_tokens`");
    ways.push("take smaller models");
    ways.join(", ")
}

/// The memory in bytes that this process holds or can get: of the machine, or of what its control
/// group may use where that is less, as in containers. `None` where the system does not say.
pub(crate) fn available() -> Option<u64> {
    let own = sysinfo::get_current_pid().ok()?;
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_processes(ProcessesToUpdate::Some(&[own]), false);
    let process = system.process(own)?;
    let free = match process.cgroup_limits() {
        None => system.available_memory(),
        Some(group) => {
            let left = group.total_memory.saturating_sub(group.rss);
            system.available_memory().min(left)
        }
    };
    Some(free + process.memory())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use polyphony_model::ModelFiles;

    use super::*;

    fn tiny() -> ModelConfig {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-model/fixtures");
        ModelFiles::open(&fixtures.join("tiny-llama"))
            .unwrap()
            .config
    }

    fn members(config: &ModelConfig) -> [Member; 2] {
        ["a", "b"].map(|name| Member {
            name: name.to_owned(),
            config: config.clone(),
            device: DeviceChoice::Cpu,
            roles: 0..1,
            shares_start: name == "b",
            prompt: Some(100),
        })
    }

    fn recipe(overrides: &[&str]) -> Recipe {
        let overrides: Vec<String> = overrides.iter().map(|&change| change.to_owned()).collect();
        Recipe::load(None, &overrides).unwrap()
    }

    #[test]
    fn each_need_follows_from_model_and_recipe() {
        let config = tiny();
        let [first, second] = members(&config);
        let weights = 4 * config.weights();
        let full = Needs::of(&first, &recipe(&[]));
        assert_eq!(full.weights, weights);
        assert_eq!((full.optimizer, full.gradients), (2 * weights, weights));
        let twice = Needs::of(
            &first,
            &recipe(&["updates.buffer=2", "updates.minibatch=2"]),
        );
        assert_eq!(twice.gradients, 2 * weights);

        let lora = ["fine_tuning=Lora(rank: 1)"];
        let below = Needs::of(&first, &recipe(&lora));
        let above = Needs::of(&second, &recipe(&lora));
        assert_eq!(
            below.weights - above.weights,
            weights,
            "frozen weights are shared"
        );
        assert_eq!(
            (above.optimizer, above.gradients),
            (2 * above.weights, above.weights)
        );

        let early = Member {
            prompt: None,
            ..first.clone()
        };
        let early = Needs::of(&early, &recipe(&[]));
        assert_eq!(
            (early.weights, early.activations, early.cache),
            (weights, 0, 0)
        );

        let again = Needs::of(&first, &recipe(&["updates.activations=Recompute"]));
        assert!(again.activations < full.activations);
    }

    #[test]
    fn keys_and_values_are_those_of_the_largest_batch() {
        let config = tiny();
        let [first, _] = members(&config);
        let token = (4 * 2 * config.layers * config.kv_heads * config.head_size) as u64;
        let group = 100 + 8 * 96;
        let rows: [(&[&str], u64); 4] = [
            (&["evaluation.tasks=1"], group),
            (&["evaluation.tasks=1", "tasks_per_step=3"], 3 * group),
            (&["evaluation.tasks=4", "evaluation.samples=8"], 4 * group),
            (
                &["evaluation.tasks=100", "evaluation.samples=2"],
                16 * (100 + 2 * 96),
            ),
        ];
        for (changes, tokens) in rows {
            let needs = Needs::of(&first, &recipe(changes));
            assert_eq!(needs.cache, token * tokens, "{changes:?}");
        }
        let recipe = Recipe {
            rollout_weights: RolloutWeights::Bf16,
            ..recipe(&["evaluation.tasks=1"])
        };
        let rounded = Needs::of(&first, &recipe).cache;
        assert_eq!(rounded, token * group / 2 + 2 * config.weights());
    }

    #[test]
    fn agents_on_one_device_pass_their_memory_on() {
        let config = tiny();
        let mut members = members(&config);
        let recipe = recipe(&[]);
        let one = Needs::of(&members[0], &recipe);
        let together = by_device(&needs(&members, &recipe));
        assert_eq!(together["cpu"], 2 * one.lasting() + one.passing());
        members[1].device = DeviceChoice::Cuda(1);
        let there = Needs::of(&members[1], &recipe);
        assert!(there.activations > one.activations, "scores are kept there");
        let apart = by_device(&needs(&members, &recipe));
        assert_eq!(apart["cpu"], one.lasting() + one.passing());
        assert_eq!(apart["cuda:1"], there.lasting() + there.passing());
    }

    #[test]
    fn a_run_that_cannot_fit_is_refused_with_the_ways_out() {
        let config = tiny();
        let members = members(&config);
        assert!(check(&members, &recipe(&[]), None).is_ok());
        assert!(check(&members, &recipe(&[]), Some(1 << 40)).is_ok());
        let message = |changes: &[&str]| {
            let outcome = check(&members, &recipe(changes), Some(1 << 20));
            outcome.unwrap_err().to_string()
        };
        let text = message(&[]);
        for part in [
            "there are 0.00 GB",
            "`fine_tuning: Lora()`",
            "Recompute",
            "Shared",
        ] {
            assert!(text.contains(part), "{text}\nlacks: {part}");
        }
        let text = message(&["fine_tuning=Lora()", "updates.activations=Recompute"]);
        assert!(
            !text.contains("Lora") && !text.contains("Recompute"),
            "{text}"
        );
    }

    #[test]
    fn the_system_says_what_there_is() {
        assert!(available().unwrap() > 1 << 20);
    }
}
