//! Estimates how much memory a run needs, so that a run that cannot fit is refused before it starts.
//!
//! The model crate counts weights, keys and values. The algorithm counts what it keeps and what its updates
//! need. `docs/performance.md` compares the estimate with measurements.

use std::{collections::BTreeMap, fmt::Write as _, num::Saturating, ops::Range};

use anyhow::{Result, bail};
use polyphony_marl::{
    AgentSpec, AlgorithmMemory, AlgorithmSettings, ComputeDevice, EnvironmentSpec, MemoryNeed,
    MomentFormat,
};
use polyphony_model::{Activations, ModelConfig, Precision};
use sysinfo::{ProcessesToUpdate, System};

use crate::{
    batch::tasks_at_once,
    device::DeviceChoice,
    recipe::{FineTuning, Recipe, TeamModels},
};

/// Bytes per 32-bit float.
const F32_BYTES: u64 = 4;

/// What the estimate needs to know about an agent.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) config: ModelConfig,
    pub(crate) device: DeviceChoice,
    pub(crate) precision: Precision,
    /// The indices of the roles that the agent plays.
    pub(crate) roles: Range<usize>,
    /// The number of its base model; agents with the same number start from one copy of the weights.
    pub(crate) base: usize,
    /// The number of tokens of the longest prompt; `None` before the prompts are known. Memory that grows with
    /// the number of tokens is not counted then.
    pub(crate) longest_prompt_tokens: Option<usize>,
}

/// What determines the memory of a run.
pub(crate) struct Plan<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) spec: EnvironmentSpec,
    pub(crate) algorithm: &'a dyn AlgorithmSettings,
}

/// The memory that one agent needs, in bytes.
struct Needs {
    /// For the whole run: the agent's weights and what the algorithm keeps.
    lasting: Vec<MemoryNeed>,
    /// During updates only.
    updating: Vec<MemoryNeed>,
    /// During sampling only.
    sampling: Vec<MemoryNeed>,
}

fn sum(needs: &[MemoryNeed]) -> u64 {
    let bytes = needs.iter().map(|need| Saturating(need.bytes));
    bytes.sum::<Saturating<u64>>().0
}

impl Needs {
    fn lasting(&self) -> u64 {
        sum(&self.lasting)
    }

    /// The most that is needed temporarily: updates and sampling do not overlap.
    fn temporary(&self) -> u64 {
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
    /// Refuses a run that cannot fit into the computer's main memory. `available` is the memory in bytes that
    /// this process has or can get; `None` if the system does not report it. `others` is what the other ranks on the
    /// machine need. The memory of GPUs is not checked, because burn does not report how much they have.
    ///
    /// # Errors
    /// States what is needed, what is available, and what would help.
    pub(crate) fn check(
        &self,
        members: &[Member],
        others: u64,
        available: Option<u64>,
    ) -> Result<()> {
        let needed = self.main_memory(members).saturating_add(others);
        if let Some(available) = available
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

    /// The bytes of the computer's main memory that these agents need.
    pub(crate) fn main_memory(&self, members: &[Member]) -> u64 {
        let needed = by_device(&self.needs(members));
        needed
            .get(&DeviceChoice::Cpu.to_string())
            .copied()
            .unwrap_or_default()
    }

    /// The bytes that these agents need on the device that needs most.
    pub(crate) fn largest_device(&self, members: &[Member]) -> u64 {
        let needed = by_device(&self.needs(members));
        needed.into_values().max().unwrap_or_default()
    }

    /// Logs how much memory a run will need.
    pub(crate) fn log(&self, members: &[Member], available: Option<u64>) {
        let needs = self.needs(members);
        for (member, needs) in &needs {
            log::info!("memory of {}, estimated: {}", member.name, needs.describe());
        }
        for (device, needed) in by_device(&needs) {
            let available = available.filter(|_| device == DeviceChoice::Cpu.to_string());
            let of_available = available.map_or_else(String::new, |available| {
                format!(" of {}", gigabytes(available))
            });
            log::info!(
                "memory on {device}, estimated: {}{of_available}",
                gigabytes(needed)
            );
        }
    }

    fn needs<'a>(&self, members: &'a [Member]) -> Vec<(&'a Member, Needs)> {
        let with_needs = |index: usize| (&members[index], self.needs_of(members, index));
        (0..members.len()).map(with_needs).collect()
    }

    /// What one of these agents needs.
    fn needs_of(&self, members: &[Member], index: usize) -> Needs {
        let member = &members[index];
        let mut earlier = members[..index].iter();
        let shares_initial_weights = earlier.any(|other| other.base == member.base);
        let config = &member.config;
        let lora = self.recipe.fine_tuning.lora();
        let weights = match &lora {
            None => config.weight_count(),
            // Agents that start from the same frozen weights share them.
            Some(lora) if shares_initial_weights => config.adapter_weight_count(lora),
            Some(lora) => config.weight_count() + config.adapter_weight_count(lora),
        };
        let plan = AgentSpec {
            index,
            model: config.clone(),
            lora,
            precision: member.precision,
            roles: member.roles.len(),
            shares_initial_weights,
            longest_history_tokens: member
                .longest_prompt_tokens
                .map(|prompt| usize::try_from(self.last_prompt(prompt).0).unwrap_or(usize::MAX)),
            device: match member.device {
                DeviceChoice::Cpu => ComputeDevice::Cpu,
                DeviceChoice::Cuda(_) | DeviceChoice::Wgpu | DeviceChoice::Vulkan(_) => {
                    ComputeDevice::Gpu
                }
            },
        };
        let training = self.recipe.training_config();
        let AlgorithmMemory { lasting, temporary } = self.algorithm.memory(&plan, &training);
        let weights = MemoryNeed::new("weights", weights * F32_BYTES);
        let packed = match plan.lora.is_some() && shares_initial_weights {
            true => 0,
            false => plan.packed_bytes(),
        };
        let packed = MemoryNeed::new("bfloat16 weights", packed);
        Needs {
            lasting: [weights, packed].into_iter().chain(lasting).collect(),
            updating: temporary,
            sampling: self.sampling(member),
        }
    }

    /// What an agent needs while it samples: keys and values, and on a GPU copies of weights.
    fn sampling(&self, member: &Member) -> Vec<MemoryNeed> {
        let cache = member.longest_prompt_tokens.map_or(0, |prompt| {
            self.cached_tokens(member, prompt)
                .saturating_mul(member.config.cached_numbers_per_token())
                .saturating_mul(member.precision.bytes())
        });
        let copies = match member.device {
            DeviceChoice::Cpu => 0,
            _ => {
                let lora = self.recipe.fine_tuning.lora();
                let config = &member.config;
                config.decoding_copy_bytes(lora.as_ref(), member.precision)
            }
        };
        vec![
            MemoryNeed::new("keys and values", cache),
            MemoryNeed::new("weights for decoding", copies),
        ]
    }

    /// The number of tokens of prompts and responses that are in memory together: in a training step or in a
    /// batch of an evaluation, whichever has more.
    fn cached_tokens(&self, member: &Member, prompt: usize) -> u64 {
        let recipe = self.recipe;
        let samples = self.algorithm.sampling_plan().samples;
        let step = self.tree_tokens(prompt, samples) * count(recipe.tasks_per_step);
        // In an evaluation, the episodes of a task share only their first prompt.
        let episodes = count(recipe.evaluation.samples);
        let tasks = tasks_at_once(recipe.evaluation.samples).min(recipe.evaluation.tasks);
        let (prompt, last_prompt) = (count(prompt), self.last_prompt(prompt));
        let prompts = prompt + episodes * (last_prompt - prompt);
        let evaluation = count(tasks) * (prompts + episodes * count(recipe.max_new_tokens));
        (count(member.roles.len()) * step.max(evaluation)).0
    }

    /// The number of tokens of one role's prompts and responses at the last turn of a task. A common prefix of several
    /// prompts is stored once.
    fn tree_tokens(&self, prompt: usize, samples: usize) -> Saturating<u64> {
        let responses = count(samples) * count(self.recipe.max_new_tokens);
        let joint_actions = self
            .algorithm
            .sampling_plan()
            .joint_actions(self.spec.roles.len());
        let joint_actions = count(joint_actions.unwrap_or(usize::MAX));
        let mut nodes = count(1);
        let mut distinct_tokens = count(prompt);
        for _ in 1..self.spec.horizon {
            // A node adds its responses, and after them one observation per joint action.
            distinct_tokens += nodes * (responses + joint_actions * count(prompt));
            nodes *= joint_actions;
        }
        distinct_tokens + nodes * responses
    }

    /// The number of tokens of the longest prompt at the last turn, assuming that no later observation is
    /// longer than the longest first one.
    fn last_prompt(&self, prompt: usize) -> Saturating<u64> {
        let turns = count(self.spec.horizon);
        turns * count(prompt) + (turns - count(1)) * count(self.recipe.max_new_tokens)
    }
}

/// A number that becomes the maximum instead of overflowing, which is more memory than any machine has.
fn count(number: usize) -> Saturating<u64> {
    Saturating(number as u64)
}

/// The bytes that a team needs on each device: the lasting needs of all agents, and the largest temporary
/// need, because agents on one device take turns.
fn by_device(members: &[(&Member, Needs)]) -> BTreeMap<String, u64> {
    let mut devices: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (member, needs) in members {
        let (lasting, temporary) = devices.entry(member.device.to_string()).or_default();
        *lasting = lasting.saturating_add(needs.lasting());
        *temporary = needs.temporary().max(*temporary);
    }
    let total = |(device, (lasting, temporary)): (_, (u64, u64))| {
        (device, lasting.saturating_add(temporary))
    };
    devices.into_iter().map(total).collect()
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// What the user can do to make the run smaller.
fn advice(recipe: &Recipe) -> String {
    let mut ways = Vec::new();
    if recipe.fine_tuning == FineTuning::Full {
        ways.push("train adapters with `fine_tuning: Lora()`");
    }
    if recipe.updates.activations == Activations::Keep {
        ways.push("set `updates.activations` to Recompute");
    }
    if recipe.updates.moments == MomentFormat::F32
        && recipe.devices.first_other_than_cpu().is_none()
    {
        ways.push("set `updates.moments` to Int8");
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
    let pid = sysinfo::get_current_pid().ok()?;
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), false);
    let process = system.process(pid)?;
    let free = match process.cgroup_limits() {
        None => system.available_memory(),
        Some(group) => {
            let unused = group.total_memory.saturating_sub(group.rss);
            system.available_memory().min(unused)
        }
    };
    Some(free + process.memory())
}

/// The most memory that this process has held, in MiB; `None` if the system does not report it.
pub fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
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

    /// Two agents on the CPU that start from one model, with prompts of 100 tokens.
    fn members(config: &ModelConfig) -> [Member; 2] {
        ["a", "b"].map(|name| Member {
            base: 0,
            name: name.to_owned(),
            config: config.clone(),
            device: DeviceChoice::Cpu,
            precision: Precision::F32,
            roles: if name == "a" { 0..1 } else { 1..2 },
            longest_prompt_tokens: Some(100),
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
            spec: EnvironmentSpec::of(environment.as_ref()),
            algorithm: &*ALGORITHM,
        }
    }

    fn bytes(needs: &[MemoryNeed], what: &str) -> u64 {
        let matching = needs.iter().filter(|need| need.what == what);
        matching.map(|need| need.bytes).sum()
    }

    #[test]
    fn frozen_weights_are_counted_once() {
        let config = tiny();
        let members = members(&config);
        let full = fixture::recipe(&[]);
        let weights = 4 * config.weight_count();
        let needs = plan(&full).needs_of(&members, 0);
        assert_eq!(bytes(&needs.lasting, "weights"), weights);
        let lora = fixture::recipe(&["fine_tuning=Lora(rank: 1)"]);
        let of_first = plan(&lora).needs_of(&members, 0).lasting;
        let of_second = plan(&lora).needs_of(&members, 1).lasting;
        assert_eq!(
            bytes(&of_first, "weights") - bytes(&of_second, "weights"),
            weights,
            "frozen weights are shared"
        );
    }

    #[test]
    fn nothing_that_grows_with_tokens_is_counted_before_prompts_are_known() {
        let config = tiny();
        let [first, _] = members(&config);
        let recipe = fixture::recipe(&[]);
        let without_prompts = Member {
            longest_prompt_tokens: None,
            ..first.clone()
        };
        let early = plan(&recipe).needs_of(&[without_prompts], 0);
        let later = plan(&recipe).needs_of(&[first], 0);
        assert_eq!(sum(&early.sampling), 0);
        assert!(early.temporary() < later.temporary());
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
        let recipe = fixture::recipe(&["evaluation.tasks=1"]);
        let rounded = Member {
            precision: Precision::Bf16,
            ..first
        };
        assert_eq!(sum(&plan(&recipe).sampling(&rounded)), token * group / 2);
    }

    /// The conversations are those of a tree in which all tokens differ. It has three turns with two joint
    /// actions each. An observation has 5 tokens, and a response 3.
    #[test]
    fn shared_beginnings_of_prompts_are_counted_once() {
        let (observation, response, samples) = (5, 3, 2);
        let mut fresh_tokens = 0_u32..;
        let mut prompts: Vec<Vec<u32>> = vec![fresh_tokens.by_ref().take(observation).collect()];
        for _ in 1..3 {
            let child_prompt = |prompt: &Vec<u32>| {
                let added = fresh_tokens.by_ref().take(response + observation);
                [prompt.clone(), added.collect()].concat()
            };
            let parents = prompts.iter().flat_map(|prompt| [prompt; 2]);
            prompts = parents.map(child_prompt).collect();
        }
        // The prefix tree of `polyphony-model` stores every prefix once, as its tests show.
        let prefixes = prompts
            .iter()
            .flat_map(|prompt| (1..=prompt.len()).map(|end| &prompt[..end]));
        let stored = prefixes.collect::<BTreeSet<_>>().len();
        let responses = prompts.len() * samples * response;

        let recipe = fixture::recipe(&["max_new_tokens=3"]);
        let algorithm = Magrpo {
            samples,
            ..Magrpo::default()
        };
        let mut plan = Plan {
            algorithm: &algorithm,
            ..plan(&recipe)
        };
        plan.spec.horizon = 3;
        let tokens = plan.tree_tokens(observation, samples);
        assert_eq!(tokens, count(stored + responses));
    }

    #[test]
    fn an_estimate_that_would_overflow_is_more_than_any_machine_has() {
        let mut recipe = fixture::recipe(&[]);
        recipe.max_new_tokens = 1 << 24;
        recipe.evaluation.samples = usize::MAX;
        let mut plan = plan(&recipe);
        plan.spec.horizon = 1 << 20;
        let config = tiny();
        let mut members = members(&config);
        for device in [DeviceChoice::Cpu, DeviceChoice::Cuda(0)] {
            for member in &mut members {
                member.device = device;
            }
            let needed = by_device(&plan.needs(&members));
            assert_eq!(needed[&device.to_string()], u64::MAX);
        }
    }

    #[test]
    fn agents_on_one_device_take_turns_with_temporary_memory() {
        let config = tiny();
        let mut members = members(&config);
        let recipe = fixture::recipe(&[]);
        let plan = plan(&recipe);
        let needs = plan.needs(&members);
        let (first, second) = (&needs[0].1, &needs[1].1);
        let both = by_device(&needs)["cpu"];
        assert_eq!(both, first.lasting() + second.lasting() + first.temporary());
        let first_alone = first.lasting() + first.temporary();
        let copies = |needs: &Needs| bytes(&needs.sampling, "weights for decoding");
        assert_eq!(copies(first), 0);
        members[1].device = DeviceChoice::Cuda(1);
        let apart = plan.needs(&members);
        let on_gpu = &apart[1].1;
        assert_eq!(
            copies(on_gpu),
            config.decoding_copy_bytes(None, Precision::F32)
        );
        let by_device = by_device(&apart);
        assert_eq!(by_device["cpu"], first_alone);
        assert_eq!(by_device["cuda:1"], on_gpu.lasting() + on_gpu.temporary());
    }

    #[test]
    fn a_run_that_cannot_fit_is_refused_with_the_ways_out() {
        let config = tiny();
        let members = members(&config);
        let recipe = fixture::recipe(&[]);
        assert!(plan(&recipe).check(&members, 0, None).is_ok());
        assert!(plan(&recipe).check(&members, 0, Some(1 << 40)).is_ok());
        // Another rank on the machine takes the rest.
        let others = (1 << 40) - 1;
        assert!(
            plan(&recipe)
                .check(&members, others, Some(1 << 40))
                .is_err()
        );
        let message = |changes: &[&str]| {
            let recipe = fixture::recipe(changes);
            let outcome = plan(&recipe).check(&members, 0, Some(1 << 20));
            outcome.unwrap_err().to_string()
        };
        let text = message(&[]);
        for part in [
            "only 0.00 GB are available",
            "`fine_tuning: Lora()`",
            "Recompute",
            "`updates.moments` to Int8",
            "Shared",
        ] {
            assert!(text.contains(part), "{text}\nlacks: {part}");
        }
        let text = message(&[
            "fine_tuning=Lora()",
            "updates.activations=Recompute",
            "updates.moments=Int8",
        ]);
        for absent in ["Lora", "Recompute", "Int8"] {
            assert!(!text.contains(absent), "{text}");
        }
    }

    #[test]
    fn the_system_reports_its_memory() {
        assert!(available().unwrap() > 1 << 20);
    }
}
