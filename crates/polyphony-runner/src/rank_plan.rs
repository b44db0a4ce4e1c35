//! What each rank of a run would hold, without starting the run.

use anyhow::Result;
use polyphony_marl::{EnvironmentSpec, Grid, Ranks, SamplingPlan};

use crate::{
    memory::{Member, Plan},
    observer::Observer,
    recipe::Recipe,
    registry::Registry,
    team::Models,
};

/// What is known about a run before it starts, to plan how many ranks should share it.
#[derive(Clone, Debug)]
pub struct RankPlan {
    /// The agents.
    pub agents: Vec<PlannedAgent>,
    /// The environment.
    pub spec: EnvironmentSpec,
    /// What the algorithm samples.
    pub sampling: SamplingPlan,
    members: Vec<Member>,
    recipe: Recipe,
}

/// An agent of a planned run.
#[derive(Clone, Debug)]
pub struct PlannedAgent {
    /// Its name.
    pub name: String,
    /// The model that it starts from, as the recipe names it.
    pub model: String,
    /// The number of weights that are trained.
    pub trained_weights: u64,
}

/// Opens the models of a recipe, without reading their weights.
///
/// # Errors
/// If the recipe does not fit its environment, or a model cannot be obtained or opened.
pub fn rank_plan(
    registry: &Registry,
    recipe: &Recipe,
    observer: &mut dyn Observer,
) -> Result<RankPlan> {
    let recipe = recipe.with_resolved_precision()?;
    let algorithm = registry.read_algorithm(&recipe.algorithm)?.settings;
    recipe.validate_for_training(algorithm.as_ref())?;
    let environment = registry.build_environment(&recipe.environment)?;
    recipe.validate_for(registry, algorithm.as_ref(), environment.as_ref())?;
    let models = Models::open(&recipe, environment.as_ref(), Ranks::default(), observer)?;
    let members = models.members(&recipe, environment.roles().len())?;
    let lora = recipe.fine_tuning.lora();
    let names = recipe.team.models(environment.roles().len());
    let agents = members
        .iter()
        .zip(names)
        .map(|(member, model)| PlannedAgent {
            name: member.name.clone(),
            model: model.to_owned(),
            trained_weights: match &lora {
                None => member.config.weight_count(),
                Some(lora) => member.config.adapter_weight_count(lora),
            },
        });
    Ok(RankPlan {
        agents: agents.collect(),
        spec: EnvironmentSpec::of(environment.as_ref()),
        sampling: algorithm.sampling_plan(),
        members,
        recipe,
    })
}

impl RankPlan {
    /// The bytes that each rank of a grid needs, on the device that needs most: the largest over all parts. Prompts have
    /// `prompt_tokens`.
    ///
    /// # Errors
    /// If the recipe names an algorithm that is not registered.
    pub fn bytes_per_rank(
        &self,
        registry: &Registry,
        grid: Grid,
        prompt_tokens: usize,
    ) -> Result<u64> {
        let algorithm = registry.read_algorithm(&self.recipe.algorithm)?.settings;
        let plan = Plan {
            recipe: &self.recipe,
            spec: self.spec.clone(),
            algorithm: algorithm.as_ref(),
        };
        let per_part = self.members.len() / grid.parts;
        let parts = self.members.chunks(per_part.max(1)).map(|part| {
            let mut part = part.to_vec();
            for member in &mut part {
                member.longest_prompt_tokens = Some(prompt_tokens);
            }
            plan.largest_device(&part)
        });
        Ok(parts.max().unwrap_or_default())
    }
}
