//! How much memory a run will need, before it begins.
//!
//! Each layer counts what it knows: the model crate weights, keys and values; the algorithm what it
//! keeps and what its updates need. `docs/performance.md` compares the estimate with measurements.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range};

use anyhow::{Result, bail};
use polyphony_marl::{
    AgentPlan, AlgorithmMemory, AlgorithmSettings, ComputeDevice, EnvironmentSpec, Need, RolloutWeights,
};
use polyphony_model::{Activations, ModelConfig};
use sysinfo::{ProcessesToUpdate, System};

use crate::{
    batch::tasks_at_once,
    device::DeviceChoice,
    recipe::{FineTuning, Recipe, TeamModels},
};

/// Bytes per number.
const NUMBER: u64 = 4;

/// What the estimate needs to know about an agent.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) config: ModelConfig,
    pub(crate) device: DeviceChoice,
    /// The roles that it plays.
    pub(crate) roles: Range<usize>,
    /// Whether an agent before it starts from the same model on the same device.
    pub(crate) shares_start: bool,
    /// Tokens of the longest prompt; `None` before prompts are known. Nothing that grows with tokens is
    /// counted then.
    pub(crate) prompt: Option<usize>,
}

/// What determines the memory of a run.
pub(crate) struct Plan<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) game: EnvironmentSpec,
    pub(crate) algorithm: &'a dyn AlgorithmSettings,
}

/// What one agent needs, in bytes.
struct Needs {
    /// For the whole run: its own weights and what the algorithm keeps.
    lasting: Vec<Need>,
    /// During updates.
    updating: Vec<Need>,
    /// While it samples.
    sampling: Vec<Need>,
}

fn sum(needs: &[Need]) -> u64 {
    needs.iter().map(|need| need.bytes).sum()
}

impl Needs {
    fn lasting(&self) -> u64 {
        sum(&self.lasting)
    }

    fn passing(&self) -> u64 {
        sum(&self.updating).max(sum(&self.sampling))
    }

    fn describe(&self) -> String {
        let all = self
            .lasting
            .iter()
            .chain(&self.updating)
            .chain(&self.sampling);
        let mut text = String::new();
        for need in all.filter(|need| need.bytes > 0) {
            let separator = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{separator}{} {}", need.what, gigabytes(need.bytes));
        }
        text
    }
}

impl Plan<'_> {
    /// Refuses a run that cannot fit into the memory of the processor. `available` is the memory in bytes
    /// that this process has or can get; `None` if the system does not report it. Other devices never do.
    ///
    /// # Errors
    /// HiddenStates what is needed, what is available, and what would help.
    pub(crate) fn check(&self, members: &[Member], available: Option<u64>) -> Result<()> {
        let needed = by_device(&self.needs(members));
        let needed = needed.get(&DeviceChoice::Cpu.to_string());
        if let (Some(&needed), Some(available)) = (needed, available)
            && needed > available
        {
            bail!(
                "the run needs about {} of memory, but only {} are available: {}",
                gigabytes(needed),
                gigabytes(available),
                advice(self.recipe)
            );
        }
        Ok(())
    }

    /// Logs what a run will need.
    pub(crate) fn log(&self, members: &[Member], available: Option<u64>) {
        let needs = self.needs(members);
        for (member, needs) in &needs {
            log::info!("memory of {}, estimated: {}", member.name, needs.describe());
        }
        for (device, needed) in by_device(&needs) {
            let free = available.filter(|_| device == DeviceChoice::Cpu.to_string());
            let of_free = free.map_or_else(String::new, |free| format!(" of {}", gigabytes(free)));
            log::info!(
                "memory on {device}, estimated: {}{of_free}",
                gigabytes(needed)
            );
        }
    }

    fn needs<'a>(&self, members: &'a [Member]) -> Vec<(&'a Member, Needs)> {
        let of = |(index, member)| (member, self.needs_of(index, member));
        members.iter().enumerate().map(of).collect()
    }

    fn needs_of(&self, index: usize, member: &Member) -> Needs {
        let config = &member.config;
        let lora = self.recipe.fine_tuning.lora();
        let own = match &lora {
            None => config.weights(),
            // Agents that start from the same frozen weights share them.
            Some(lora) if member.shares_start => config.adapter_weights(lora),
            Some(lora) => config.weights() + config.adapter_weights(lora),
        };
        let plan = AgentPlan {
            index,
            model: config.clone(),
            lora,
            roles: member.roles.len(),
            shares_start: member.shares_start,
            history: member.prompt.map(|prompt| self.last_prompt(prompt)),
            place: match member.device {
                DeviceChoice::Cpu => ComputeDevice::Cpu,
                DeviceChoice::Cuda(_) | DeviceChoice::Wgpu | DeviceChoice::Vulkan(_) => {
                    ComputeDevice::Gpu
                }
            },
        };
        let training = self.recipe.training_config();
        let AlgorithmMemory { lasting, passing } = self.algorithm.memory(&plan, &training);
        let weights = Need::new("weights", own * NUMBER);
        Needs {
            lasting: std::iter::once(weights).chain(lasting).collect(),
            updating: passing,
            sampling: self.sampling(member),
        }
    }

    /// What an agent needs while it samples: keys and values, and a copy of rounded weights.
    fn sampling(&self, member: &Member) -> Vec<Need> {
        let (rounded, number) = match self.recipe.rollout_weights {
            RolloutWeights::Full => (0, NUMBER),
            RolloutWeights::Bf16 => (member.config.weights() * NUMBER / 2, NUMBER / 2),
        };
        let cache = member.prompt.map_or(0, |prompt| {
            self.cached_tokens(member, prompt) * member.config.cache_numbers() * number
        });
        vec![
            Need::new("keys and values", cache),
            Need::new("rounded weights", rounded),
        ]
    }

    /// Tokens of the prompts and responses that are sampled together, in a step or in a batch of an evaluation.
    fn cached_tokens(&self, member: &Member, prompt: usize) -> u64 {
        let recipe = self.recipe;
        let samples = self.algorithm.tree().samples;
        let step = recipe.tasks_per_step as u64 * self.tree_tokens(member.device, prompt, samples);
        // An episode is a branch of its own from the first response on.
        let episodes = recipe.evaluation.samples;
        let tasks = tasks_at_once(episodes).min(recipe.evaluation.tasks) as u64;
        let last_prompt = self.last_prompt(prompt);
        let prompts = match member.device {
            DeviceChoice::Cpu => prompt + episodes * (last_prompt - prompt),
            _ => episodes * last_prompt,
        };
        let evaluation = tasks * (prompts + episodes * recipe.max_new_tokens) as u64;
        member.roles.len() as u64 * step.max(evaluation)
    }

    /// Tokens of one role's prompts and responses at the last turn of a task. On the processor, what
    /// prompts begin with in common is kept once; on other devices each may be run alone.
    fn tree_tokens(&self, device: DeviceChoice, prompt: usize, samples: usize) -> u64 {
        let responses = (samples * self.recipe.max_new_tokens) as u64;
        let joint_actions = self.algorithm.tree().joint_actions(self.game.roles.len());
        let joint_actions = joint_actions.unwrap_or(usize::MAX) as u64;
        let mut nodes: u64 = 1;
        let mut shared = prompt as u64;
        for _ in 1..self.game.horizon {
            // Behind each response of a node stands what is read after it, once per joint action.
            let new = responses.saturating_add(joint_actions.saturating_mul(prompt as u64));
            shared = shared.saturating_add(nodes.saturating_mul(new));
            nodes = nodes.saturating_mul(joint_actions);
        }
        let prompts = match device {
            DeviceChoice::Cpu => shared,
            _ => nodes.saturating_mul(self.last_prompt(prompt) as u64),
        };
        prompts.saturating_add(nodes.saturating_mul(responses))
    }

    /// Tokens of the longest prompt at the last turn, if no observation is longer than the longest first
    /// one.
    fn last_prompt(&self, prompt: usize) -> usize {
        let turns = self.game.horizon;
        turns * prompt + (turns - 1) * self.recipe.max_new_tokens
    }
}

/// The bytes that a team needs on each device: what lasts, and the largest temporary need.
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

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// What would make the run smaller.
fn advice(recipe: &Recipe) -> String {
    let mut ways = Vec::new();
    if recipe.fine_tuning == FineTuning::Full {
        ways.push("train adapters with `fine_tuning: Lora()`");
    }
    if recipe.updates.activations == Activations::Keep {
        ways.push("set `updates.activations` to Recompute");
    }
    if !matches!(recipe.team, TeamModels::Shared(_)) {
        ways.push("let all roles share one model with `team: Shared(…)`");
    }
    ways.push("lower `tasks_per_step`, `algorithm.samples` or `max_new_tokens`");
    ways.push("use smaller models");
    ways.join(", ")
}

/// The memory in bytes that this process holds or can get, within the limit of its control group (as in a
/// container). `None` if the system does not report it.
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

/// The most memory that this process has held, in MiB; `None` if the system does not report it.
pub fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = most.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib >> 10)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path, sync::LazyLock};

    use polyphony_marl::Magrpo;
    use polyphony_model::ModelFiles;

    use super::*;
    use crate::fixture;

    fn tiny() -> ModelConfig {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-model/fixtures");
        ModelFiles::open(&fixtures.join("tiny-llama"))
            .unwrap()
            .config
    }

    /// Two agents on the processor that start from one model, whose prompts have 100 tokens.
    fn members(config: &ModelConfig) -> [Member; 2] {
        ["a", "b"].map(|name| Member {
            name: name.to_owned(),
            config: config.clone(),
            device: DeviceChoice::Cpu,
            roles: if name == "a" { 0..1 } else { 1..2 },
            shares_start: name == "b",
            prompt: Some(100),
        })
    }

    /// The algorithm of the fixture's recipe.
    static ALGORITHM: LazyLock<Magrpo> = LazyLock::new(|| Magrpo {
        samples: 8,
        ..Magrpo::default()
    });

    fn plan(recipe: &Recipe) -> Plan<'_> {
        let registry = fixture::registry();
        let environment = registry.build_environment(&recipe.environment).unwrap();
        Plan {
            recipe,
            game: EnvironmentSpec::of(environment.as_ref()),
            algorithm: &*ALGORITHM,
        }
    }

    fn bytes(needs: &[Need], what: &str) -> u64 {
        let own = needs.iter().filter(|need| need.what == what);
        own.map(|need| need.bytes).sum()
    }

    #[test]
    fn weights_below_adapters_are_counted_once() {
        let config = tiny();
        let [first, second] = members(&config);
        let full = fixture::recipe(&[]);
        let weights = 4 * config.weights();
        let needs = plan(&full).needs_of(0, &first);
        assert_eq!(bytes(&needs.lasting, "weights"), weights);
        let lora = fixture::recipe(&["fine_tuning=Lora(rank: 1)"]);
        let below = plan(&lora).needs_of(0, &first).lasting;
        let above = plan(&lora).needs_of(1, &second).lasting;
        assert_eq!(
            bytes(&below, "weights") - bytes(&above, "weights"),
            weights,
            "frozen weights are shared"
        );
    }

    #[test]
    fn nothing_that_grows_with_tokens_is_counted_before_prompts_are_known() {
        let config = tiny();
        let [first, _] = members(&config);
        let recipe = fixture::recipe(&[]);
        let early = Member {
            prompt: None,
            ..first.clone()
        };
        let early = plan(&recipe).needs_of(0, &early);
        let later = plan(&recipe).needs_of(0, &first);
        assert_eq!(sum(&early.sampling), 0);
        assert!(early.passing() < later.passing());
        assert_eq!(early.lasting(), later.lasting());
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
            let recipe = fixture::recipe(changes);
            let needs = plan(&recipe).sampling(&first);
            assert_eq!(sum(&needs), token * tokens, "{changes:?}");
        }
        let recipe = Recipe {
            rollout_weights: RolloutWeights::Bf16,
            ..fixture::recipe(&["evaluation.tasks=1"])
        };
        let rounded = sum(&plan(&recipe).sampling(&first));
        assert_eq!(rounded, token * group / 2 + 2 * config.weights());
    }

    /// Conversations of a tree whose every token is another: three turns of two joint actions, of 5 tokens
    /// that are read and 3 that are answered.
    #[test]
    fn what_prompts_of_a_tree_begin_with_is_counted_once() {
        let (read, answered, samples) = (5, 3, 2);
        let mut fresh = 0_u32..;
        let mut level: Vec<Vec<u32>> = vec![fresh.by_ref().take(read).collect()];
        for _ in 1..3 {
            let longer = |prompt: &Vec<u32>| {
                let new = fresh.by_ref().take(answered + read);
                [prompt.clone(), new.collect()].concat()
            };
            let parents = level.iter().flat_map(|prompt| [prompt; 2]);
            level = parents.map(longer).collect();
        }
        // The prefix tree of `polyphony-model` keeps each of these once, as its tests show.
        let beginnings = level
            .iter()
            .flat_map(|prompt| (1..=prompt.len()).map(|end| &prompt[..end]));
        let kept = beginnings.collect::<BTreeSet<_>>().len();
        let responses = level.len() * samples * answered;

        let recipe = fixture::recipe(&["max_new_tokens=3"]);
        let algorithm = Magrpo {
            samples,
            ..Magrpo::default()
        };
        let mut plan = Plan {
            algorithm: &algorithm,
            ..plan(&recipe)
        };
        plan.game.horizon = 3;
        let counted = |device| plan.tree_tokens(device, read, samples);
        assert_eq!(counted(DeviceChoice::Cpu), (kept + responses) as u64);
        let whole: usize = level.iter().map(Vec::len).sum();
        assert_eq!(counted(DeviceChoice::Cuda(0)), (whole + responses) as u64);
    }

    #[test]
    fn agents_on_one_device_pass_their_memory_on() {
        let config = tiny();
        let mut members = members(&config);
        let recipe = fixture::recipe(&[]);
        let plan = plan(&recipe);
        let needs = plan.needs(&members);
        let (one, other) = (&needs[0].1, &needs[1].1);
        let together = by_device(&needs)["cpu"];
        assert_eq!(together, one.lasting() + other.lasting() + one.passing());
        let alone = one.lasting() + one.passing();
        members[1].device = DeviceChoice::Cuda(1);
        let apart = plan.needs(&members);
        let there = &apart[1].1;
        assert!(
            there.passing() > apart[0].1.passing(),
            "scores are kept there"
        );
        let by_device = by_device(&apart);
        assert_eq!(by_device["cpu"], alone);
        assert_eq!(by_device["cuda:1"], there.lasting() + there.passing());
    }

    #[test]
    fn a_run_that_cannot_fit_is_refused_with_the_ways_out() {
        let config = tiny();
        let members = members(&config);
        let recipe = fixture::recipe(&[]);
        assert!(plan(&recipe).check(&members, None).is_ok());
        assert!(plan(&recipe).check(&members, Some(1 << 40)).is_ok());
        let message = |changes: &[&str]| {
            let recipe = fixture::recipe(changes);
            let outcome = plan(&recipe).check(&members, Some(1 << 20));
            outcome.unwrap_err().to_string()
        };
        let text = message(&[]);
        for part in [
            "only 0.00 GB are available",
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
    fn the_system_reports_its_memory() {
        assert!(available().unwrap() > 1 << 20);
    }
}
