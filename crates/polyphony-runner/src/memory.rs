//! How much memory a run will need, before it begins.
//!
//! The estimate counts what grows with model and recipe: weights, optimizer, gradients, keys and
//! values of rollout, and activations of training. `docs/performance.md` holds it against what runs
//! have needed.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Result, bail};
use polyphony_marl::RolloutWeights;
use polyphony_model::{Activations, ModelConfig};

use crate::{
    device::DeviceChoice,
    recipe::{FineTuning, Recipe, Team},
};

/// Bytes of a number.
const NUMBER: u64 = 4;

/// Bytes of the logits that scoring holds at once, and of their gradient.
const HEAD_CHUNK: u64 = 2 << 26;

/// An agent as the estimate sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) name: &'a str,
    pub(crate) config: &'a ModelConfig,
    pub(crate) device: DeviceChoice,
    /// Roles that it plays.
    pub(crate) roles: usize,
    /// Whether an agent before it starts from the same model on the same device.
    pub(crate) shares_start: bool,
    /// Tokens of the longest prompt.
    pub(crate) prompt: usize,
}

/// What one agent needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needs {
    /// Its own weights.
    weights: u64,
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
    fn of(member: &Member<'_>, recipe: &Recipe) -> Self {
        let config = member.config;
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
        let sums = if recipe.updates.minibatch * member.roles > 1 {
            2
        } else {
            1
        };
        Self {
            weights: own * NUMBER,
            optimizer: 2 * learning * NUMBER,
            gradients: sums * learning * NUMBER,
            activations: activations(member, recipe),
            cache: cache(member, recipe) + rounded,
        }
    }

    fn lasting(self) -> u64 {
        self.weights + self.optimizer
    }

    fn passing(self) -> u64 {
        self.cache.max(self.gradients + self.activations)
    }
}

/// Keys and values of all prompts and responses of a step.
fn cache(member: &Member<'_>, recipe: &Recipe) -> u64 {
    let config = member.config;
    let groups = recipe.updates.buffer * member.roles;
    let tokens = member.prompt + recipe.algorithm.samples * recipe.max_new_tokens;
    let token = 2 * config.layers * config.kv_heads * config.head_size;
    groups as u64 * tokens as u64 * token as u64 * NUMBER
}

/// What a forward pass over one packed group keeps, and the chunk of logits.
fn activations(member: &Member<'_>, recipe: &Recipe) -> u64 {
    let config = member.config;
    let [d, inner] = [config.hidden_size, config.intermediate_size];
    let (queries, keys) = (
        config.heads * config.head_size,
        config.kv_heads * config.head_size,
    );
    let tokens = member.prompt + recipe.algorithm.samples * recipe.max_new_tokens;
    // Hidden states before and after each norm and sum; queries, rotated queries and what they
    // gathered; keys and values, before and after; gate, way up, and their product.
    let layer = 6 * d + 3 * queries + 4 * keys + 3 * inner;
    let kept = match recipe.updates.activations {
        Activations::Keep => config.layers * layer,
        Activations::Recompute => config.layers * d + layer,
    };
    tokens as u64 * kept as u64 * NUMBER + HEAD_CHUNK
}

/// The bytes that a team needs on each device: those that last, and the most that pass.
fn by_device(members: &[(Member<'_>, Needs)]) -> BTreeMap<String, u64> {
    let mut devices: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (member, needs) in members {
        let (lasting, passing) = devices.entry(member.device.to_string()).or_default();
        *lasting += needs.lasting();
        *passing = needs.passing().max(*passing);
    }
    let total = |(device, (lasting, passing))| (device, lasting + passing);
    devices.into_iter().map(total).collect()
}

/// Tells what a run will need, and refuses one that cannot fit into what the processor has.
///
/// `available` is the memory in bytes that the process has or can get, where the system says.
///
/// # Errors
/// Says what is needed, what there is, and what would help.
pub(crate) fn check(members: &[Member<'_>], recipe: &Recipe, available: Option<u64>) -> Result<()> {
    let members: Vec<(Member<'_>, Needs)> = members
        .iter()
        .map(|member| (*member, Needs::of(member, recipe)))
        .collect();
    for (member, needs) in &members {
        log::info!("memory of {}, estimated: {}", member.name, describe(*needs));
    }
    for (device, needed) in by_device(&members) {
        let free = available.filter(|_| device == DeviceChoice::Cpu.to_string());
        let there = free.map_or_else(String::new, |free| format!(" of {}", gigabytes(free)));
        log::info!(
            "memory on {device}, estimated: {}{there}",
            gigabytes(needed)
        );
        if let Some(free) = free.filter(|&free| needed > free) {
            bail!(
                "the run needs about {}, but there are {}: {}",
                gigabytes(needed),
                gigabytes(free),
                advice(recipe)
            );
        }
    }
    Ok(())
}

fn describe(needs: Needs) -> String {
    let parts = [
        ("weights", needs.weights),
        ("optimizer", needs.optimizer),
        ("gradients", needs.gradients),
        ("activations", needs.activations),
        ("keys and values", needs.cache),
    ];
    let mut text = String::new();
    for (name, bytes) in parts {
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
    ways.push("lower `updates.buffer`, `algorithm.samples` or `max_new_tokens`");
    ways.push("take smaller models");
    ways.join(", ")
}

/// The memory in bytes that this process holds or can get; `None` where the system does not say.
pub(crate) fn available() -> Option<u64> {
    let free = field("/proc/meminfo", "MemAvailable:")?;
    Some(free + field("/proc/self/status", "VmRSS:")?)
}

/// A field of one of the system's files, in bytes.
pub(crate) fn field(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
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

    fn members(config: &ModelConfig) -> [Member<'_>; 2] {
        ["a", "b"].map(|name| Member {
            name,
            config,
            device: DeviceChoice::Cpu,
            roles: 1,
            shares_start: name == "b",
            prompt: 100,
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
        let token = 4 * 2 * config.layers * config.kv_heads * config.head_size;
        assert_eq!(full.cache, (token * (100 + 4 * 96)) as u64);
        let twice = Needs::of(
            &first,
            &recipe(&["updates.buffer=2", "updates.minibatch=2"]),
        );
        assert_eq!(
            (twice.cache, twice.gradients),
            (2 * full.cache, 2 * weights)
        );

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

        let again = Needs::of(&first, &recipe(&["updates.activations=Recompute"]));
        assert!(again.activations < full.activations);
    }

    #[test]
    fn agents_on_one_device_pass_their_memory_on() {
        let config = tiny();
        let needs = members(&config).map(|member| (member, Needs::of(&member, &recipe(&[]))));
        let one = needs[0].1;
        let together = by_device(&needs);
        assert_eq!(together["cpu"], 2 * one.lasting() + one.passing());
        let apart = [
            needs[0],
            (
                Member {
                    device: DeviceChoice::Cuda(1),
                    ..needs[1].0
                },
                needs[1].1,
            ),
        ];
        assert_eq!(by_device(&apart)["cuda:1"], one.lasting() + one.passing());
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
        if cfg!(target_os = "linux") {
            assert!(available().unwrap() > 1 << 20);
        }
        assert_eq!(field("/no/such/file", "VmRSS:"), None);
    }
}
