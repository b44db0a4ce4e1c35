//! `polyphony plan`: predicts memory and time of a run on several ranks, before machines are reserved for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use polyphony_episode::{FnEnvironment, Observation, Reward, Role, Task};
use polyphony_marl::{
    Agent, AlgorithmSettings, EnvironmentSpec, Grid, Magrpo, Team, TextCodec, TrainingConfig,
    Updates, start_tasks, train_step,
};
use polyphony_model::{LanguageModel, ModelFiles};
use polyphony_report::table;
use polyphony_runner::{
    Event, Observer as _, RankPlan, Recipe, Registry, rank_plan, resolve_model,
};
use serde::Serialize;

use crate::{
    bench::median,
    display::Display,
    json_lines,
    step_model::{Network, Rates, StepTime, Work},
    terminal,
};

/// The arguments of `polyphony plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Plan this recipe: the name of a recipe that ships with the program, or a RON file; without it, the
    /// default recipe.
    recipe: Option<String>,
    /// Replace one value of the recipe, such as `tasks_per_step=16`; can be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// Predict for these numbers of ranks, separated by commas; by default those of 1, 2, 4, 8 and 16 that can hold
    /// the team.
    #[arg(long, value_delimiter = ',')]
    ranks: Vec<usize>,
    /// The rate at which a rank can send to others, in GB/s.
    #[arg(long, value_name = "GB/S", default_value_t = 1.0)]
    bandwidth: f64,
    /// The time from sending a short message to its arrival, in microseconds.
    #[arg(long, value_name = "US", default_value_t = 50.0)]
    latency: f64,
    /// The number of tokens in a prompt, with those of the chat template: one number for all agents, or one for each
    /// in their order, separated by commas.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "150")]
    prompt_tokens: Vec<usize>,
    /// The number of tokens in a response, instead of the recipe's `max_new_tokens`.
    #[arg(long, value_name = "N")]
    response_tokens: Option<usize>,
    /// The seconds of scoring in a step, divided by its joint actions; scoring is not counted if this is 0.
    #[arg(long, value_name = "SECS", default_value_t = 0.0)]
    reward_secs: f64,
}

/// The prediction for a number of ranks.
#[derive(Serialize)]
struct Prediction {
    ranks: usize,
    parts: usize,
    replicas: usize,
    /// The estimated memory of a rank, in bytes.
    bytes_per_rank: u64,
    #[serde(flatten)]
    time: StepTime,
    step_secs: f64,
    /// The time on one rank, divided by the time on these and their number.
    efficiency: f64,
}

/// Measures rates on this machine, and prints one line per number of ranks.
pub(crate) fn run(
    registry: &Registry,
    arguments: &Arguments,
    output: &mut dyn Write,
) -> Result<()> {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    ensure!(positive(arguments.bandwidth), "--bandwidth must be above 0");
    ensure!(
        arguments.latency.is_finite() && arguments.latency >= 0.0,
        "--latency must be at least 0"
    );
    ensure!(
        arguments.reward_secs.is_finite() && arguments.reward_secs >= 0.0,
        "--reward-secs must be at least 0"
    );
    ensure!(
        !arguments.prompt_tokens.contains(&0),
        "--prompt-tokens must be at least 1"
    );
    let recipe = Recipe::load(registry, arguments.recipe.as_deref(), &arguments.overrides)?;
    let response_tokens = arguments.response_tokens.unwrap_or(recipe.max_new_tokens);
    ensure!(response_tokens > 0, "--response-tokens must be at least 1");
    let mut display = Display::default();
    let plan = rank_plan(registry, &recipe, &mut display)?;
    // Numbers that cannot work are refused before anything is measured.
    let grid = |ranks: usize| Grid::new(ranks, plan.agents.len(), recipe.parallel.replicas);
    let grids: Vec<Grid> = match arguments.ranks.as_slice() {
        [] => [1, 2, 4, 8, 16].into_iter().flat_map(grid).collect(),
        ranks => ranks
            .iter()
            .map(|ranks| grid(*ranks).with_context(|| format!("--ranks {ranks}")))
            .collect::<Result<_>>()?,
    };
    let network = Network {
        bytes_per_sec: arguments.bandwidth * 1e9,
        latency_secs: arguments.latency * 1e-6,
    };
    let work = work(&plan, &recipe, response_tokens, arguments.reward_secs)?;
    let (given, agents) = (&arguments.prompt_tokens, plan.agents.len());
    let prompt_tokens = match given.as_slice() {
        [tokens] => vec![*tokens; agents],
        given => given.to_vec(),
    };
    ensure!(
        prompt_tokens.len() == agents,
        "--prompt-tokens has {} numbers, but the team has {agents} agent(s): give one number, or one for each",
        given.len()
    );
    let models = plan.agents.iter().map(|agent| agent.model.as_str());
    let workloads = models.zip(&prompt_tokens).map(|(model, tokens)| Workload {
        model,
        prompt_tokens: *tokens,
        response_tokens,
        samples: work.samples,
    });
    let rates = measure(&recipe, &workloads.collect::<Vec<_>>(), &mut display)?;
    let longest = prompt_tokens.into_iter().max().unwrap_or_default();
    let alone = work.on(Grid::new(1, plan.agents.len(), None)?, &rates, &network);
    let mut predictions = Vec::new();
    for grid in grids {
        let time = work.on(grid, &rates, &network);
        predictions.push(Prediction {
            ranks: grid.ranks(),
            parts: grid.parts,
            replicas: grid.replicas,
            bytes_per_rank: plan.bytes_per_rank(registry, grid, longest)?,
            step_secs: time.total(),
            efficiency: alone.total() / time.total() / grid.ranks() as f64,
            time,
        });
    }
    let names = plan.agents.iter().map(|agent| agent.name.as_str());
    let rates_by_name: Vec<(&str, Rates)> = names.zip(rates.iter().copied()).collect();
    terminal::write(&text(&predictions, &rates_by_name));
    terminal::write(&growth(&work, &rates, &network)?);
    predictions
        .iter()
        .try_for_each(|line| json_lines::write(output, line))
}

/// The work of a step of the recipe.
fn work(
    plan: &RankPlan,
    recipe: &Recipe,
    response_tokens: usize,
    reward_secs: f64,
) -> Result<Work> {
    let joint_actions = plan.sampling.joint_actions(plan.spec.roles.len());
    let trained_weights = plan.agents.iter().map(|agent| agent.trained_weights);
    Ok(Work {
        tasks: recipe.tasks_per_step,
        joint_actions: joint_actions.context("the recipe has too many joint actions")?,
        turns: plan.spec.horizon,
        samples: plan.sampling.samples,
        response_tokens,
        minibatch: recipe.updates.minibatch,
        epochs: recipe.updates.epochs,
        trained_weights: trained_weights.max().unwrap_or_default(),
        gradients: recipe.parallel.gradients,
        reward_secs,
    })
}

/// What is measured: the work of one agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Workload<'a> {
    model: &'a str,
    prompt_tokens: usize,
    response_tokens: usize,
    samples: usize,
}

/// Groups of the larger of the two measurements, between which time is linear.
const GROUPS: usize = 3;

/// Steps of a measurement. The first ones use new memory, so the median is taken.
const STEPS: usize = 4;

/// The rates of each agent on this machine, with the threads of this process. Agents with the same work are measured
/// once.
fn measure(recipe: &Recipe, agents: &[Workload<'_>], display: &mut Display) -> Result<Vec<Rates>> {
    let different: BTreeSet<Workload<'_>> = agents.iter().copied().collect();
    display.on_event(Event::PhaseStarted {
        title: "measuring",
        length: different.len() * 2 * STEPS,
        done: 0,
    });
    let mut measured = BTreeMap::new();
    for (index, workload) in different.into_iter().enumerate() {
        let rates = rates_of(recipe, workload, &mut |done| {
            let done = index * 2 * STEPS + done;
            display.on_event(Event::PhaseAdvanced { done });
        });
        let context = || format!("measuring the model {}", workload.model);
        measured.insert(workload, rates.with_context(context)?);
    }
    display.on_event(Event::PhaseEnded);
    Ok(agents.iter().map(|workload| measured[workload]).collect())
}

fn rates_of(
    recipe: &Recipe,
    workload: Workload<'_>,
    on_step: &mut dyn FnMut(usize),
) -> Result<Rates> {
    let path = resolve_model(workload.model, &mut ())?;
    let files = ModelFiles::open(&path)?;
    let device = recipe.devices.of_team(1).remove(0);
    let mut model = LanguageModel::load(&files, &device.open()?)?;
    model = match recipe.fine_tuning.lora() {
        Some(lora) => model.with_lora(&lora, recipe.seed, 0)?,
        None => model.merged(),
    };
    let model = model.with_precision(recipe.precision.on(device)?)?;
    let codec = Arc::new(TextCodec {
        tokenizer: files.tokenizer.context("the model has no tokenizer")?,
        template: files.template,
        // Every response has the full length.
        stop_tokens: Vec::new(),
    });
    let mut done = 0;
    let mut seconds = |groups: usize| {
        let agent = Agent::new("agent", model.clone(), Arc::clone(&codec));
        median_secs(agent, recipe, workload, groups, &mut || {
            done += 1;
            on_step(done);
        })
    };
    let (one, several) = (seconds(1)?, seconds(GROUPS)?);
    let another = |one: f64, several: f64| ((several - one) / (GROUPS - 1) as f64).max(0.0);
    Ok(Rates {
        first_prompt: one.0,
        another_prompt: another(one.0, several.0),
        first_group: one.1,
        another_group: another(one.1, several.1),
    })
}

/// The median seconds of the rollout and of the update of a step with this many groups.
fn median_secs(
    agent: Agent,
    recipe: &Recipe,
    workload: Workload<'_>,
    groups: usize,
    on_step: &mut dyn FnMut(),
) -> Result<(f64, f64)> {
    // Rewards differ, so that no group is skipped.
    let environment = FnEnvironment::new(["agent"], ["length"], |_task, action| {
        let [text] = action.texts();
        Reward::new([("length", text.chars().count() as f64)])
    });
    let prompt = prompt(&agent, workload.prompt_tokens)?;
    let tasks =
        (0..groups).map(|index| Task::new(index.to_string(), [("prompt", prompt.as_str())]));
    let config = TrainingConfig {
        seed: recipe.seed,
        steps: STEPS,
        sampling: recipe.sampling.clone(),
        max_new_tokens: workload.response_tokens,
        updates: Updates {
            buffer: groups,
            minibatch: groups,
            epochs: 1,
            learning_rates: Default::default(),
            ..recipe.updates.clone()
        },
        ..TrainingConfig::default()
    };
    let mut team = Team::from([agent]);
    let settings = Magrpo {
        samples: workload.samples.max(2),
        ..Magrpo::default()
    };
    let mut algorithm = settings.build(
        &team,
        &EnvironmentSpec::of_team(&team, &environment),
        &config,
    )?;
    let tasks = start_tasks(&team, &environment, tasks.collect(), &config)?;
    let all: Vec<usize> = (0..groups).collect();
    let mut secs = Vec::new();
    for index in 0..STEPS {
        let batch = tasks.batch(&all);
        let step = train_step(
            &mut team,
            algorithm.as_mut(),
            &environment,
            batch,
            &config,
            index,
            &mut |_| {},
        )?;
        let secs_of = |name| step.metric(name).unwrap_or(f64::NAN);
        secs.push((
            secs_of("timing.rollout_secs"),
            secs_of("timing.update_secs"),
        ));
        on_step();
    }
    let (rollouts, updates) = secs.into_iter().unzip();
    Ok((median(rollouts), median(updates)))
}

/// A text that makes a prompt of about this many tokens, with everything that the chat template adds.
fn prompt(agent: &Agent, tokens: usize) -> Result<String> {
    let role = Role::new("agent");
    let mut text = String::new();
    loop {
        text += "river ";
        let history = agent
            .codec
            .first_history(&role, &Observation::new(text.as_str()))?;
        if history.tokens.len() >= tokens {
            return Ok(text);
        }
    }
}

fn text(predictions: &[Prediction], rates: &[(&str, Rates)]) -> String {
    let header = [
        "ranks",
        "parts × replicas",
        "GB per rank",
        "sampling s",
        "scoring s",
        "updates s",
        "communication s",
        "step s",
        "efficiency",
        "sent MB",
    ];
    let row = |prediction: &Prediction| {
        let StepTime {
            sampling_secs,
            scoring_secs,
            update_secs,
            communication_secs,
            bytes,
        } = prediction.time;
        let secs = |secs: f64| format!("{secs:.2}");
        vec![
            prediction.ranks.to_string(),
            format!("{} × {}", prediction.parts, prediction.replicas),
            format!("{:.2}", prediction.bytes_per_rank as f64 / 1e9),
            secs(sampling_secs),
            secs(scoring_secs),
            secs(update_secs),
            secs(communication_secs),
            secs(prediction.step_secs),
            format!("{:.0} %", 100.0 * prediction.efficiency),
            format!("{:.1}", bytes as f64 / 1e6),
        ]
    };
    let rows: Vec<Vec<String>> = predictions.iter().map(row).collect();
    let measured = rates.iter().map(|(agent, rates)| {
        format!(
            "{agent}: {:.2} s to sample for a prompt, {:.2} s for one more; {:.2} s for a gradient step from a \
             group, {:.2} s for one more\n",
            rates.first_prompt, rates.another_prompt, rates.first_group, rates.another_group,
        )
    });
    format!(
        "\nmeasured with {} thread(s) per rank:\n{}\n{}\n",
        rayon::current_num_threads(),
        measured.collect::<String>(),
        table(&header.map(str::to_owned), &rows)
    )
}

/// How the time of a step grows if agents are added, and tasks together with replicas.
fn growth(work: &Work, rates: &[Rates], network: &Network) -> Result<String> {
    let secs = |rates: &&Rates| rates.sampling(GROUPS) + rates.update(GROUPS);
    let slowest = rates.iter().max_by(|a, b| secs(a).total_cmp(&secs(b)));
    let slowest = slowest.context("a team has agents")?;
    let header = ["agents", "replicas", "ranks", "step s", "communication s"].map(str::to_owned);
    let mut rows = Vec::new();
    for (agents, replicas) in [
        (1, 1),
        (2, 1),
        (8, 1),
        (64, 1),
        (2, 8),
        (8, 8),
        (64, 8),
        (64, 64),
    ] {
        let grown = Work {
            tasks: work.tasks * replicas,
            minibatch: work.minibatch * replicas,
            // All combinations of many agents would be too many.
            joint_actions: work.samples,
            ..*work
        };
        let grid = Grid::new(agents * replicas, agents, None)?;
        let time = grown.on(grid, &vec![*slowest; agents], network);
        rows.push(vec![
            agents.to_string(),
            replicas.to_string(),
            (agents * replicas).to_string(),
            format!("{:.2}", time.total()),
            format!("{:.2}", time.communication_secs),
        ]);
    }
    Ok(format!(
        "one agent per rank, aligned joint actions, and as many times the tasks as there are replicas:\n\n{}",
        table(&header, &rows)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::commands::parse;
    use crate::standard::registry;

    fn lines(more: &[&str]) -> Result<Vec<Value>> {
        lines_for("20", more)
    }

    fn lines_for(prompt_tokens: &str, more: &[&str]) -> Result<Vec<Value>> {
        let folder = polyphony_test_support::plain_model(2048);
        let team = format!("team=Copies({:?})", folder.path().display().to_string());
        let words = [
            "--set",
            &team,
            "--prompt-tokens",
            prompt_tokens,
            "--response-tokens",
            "4",
        ];
        let words = [&words[..], more].concat();
        let mut output = Vec::new();
        run(&registry(), &parse(&words), &mut output)?;
        let text = String::from_utf8(output)?;
        let lines = text.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }

    #[test]
    fn every_number_of_ranks_that_can_hold_the_team_gets_a_line() {
        let planned = lines(&["--set", "tasks_per_step=2"]).unwrap();
        let ranks: Vec<u64> = planned
            .iter()
            .map(|line| line["ranks"].as_u64().unwrap())
            .collect();
        assert_eq!(ranks, [1, 2, 4, 8, 16]);
        let number = |line: usize, key: &str| planned[line][key].as_f64().unwrap();
        assert!(number(0, "step_secs") > 0.0);
        assert_eq!(
            (number(0, "efficiency"), number(0, "communication_secs")),
            (1.0, 0.0)
        );
        // With agents apart, each rank has half of the work and half of the memory.
        assert_eq!(number(0, "sampling_secs"), 2.0 * number(1, "sampling_secs"));
        assert!(number(1, "bytes_per_rank") < number(0, "bytes_per_rank"));
        assert!(number(2, "bytes") > number(1, "bytes"));
    }

    #[test]
    fn an_agent_with_longer_prompts_is_waited_for() {
        let planned = lines_for("20,800", &["--ranks", "1,2"]).unwrap();
        let secs = |line: usize| planned[line]["update_secs"].as_f64().unwrap();
        // With equal prompts it would be half of the time.
        assert!(secs(1) > 0.6 * secs(0), "{planned:?}");
    }

    #[test]
    fn ranks_that_cannot_hold_the_team_are_refused_before_anything_is_measured() {
        let message = format!("{:#}", lines(&["--ranks", "2,3"]).unwrap_err());
        assert!(
            message.starts_with("--ranks 3: 3 ranks cannot hold 2 agents"),
            "{message}"
        );
        let message = lines_for("20,30,40", &[]).unwrap_err();
        assert!(
            message
                .to_string()
                .contains("has 3 numbers, but the team has 2 agent(s)"),
            "{message}"
        );
        let message = lines(&["--bandwidth", "0"]).unwrap_err().to_string();
        assert_eq!(message, "--bandwidth must be above 0");
    }
}
