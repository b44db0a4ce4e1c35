//! The description that a run saves of itself, for programs that do not know its environment and algorithm.

use std::path::Path;

use anyhow::Result;
use polyphony_report::{AlgorithmInfo, EnvironmentInfo, ProgramInfo, RanksInfo, RunInfo};

use crate::{operational::operational_keys, prepare::Prepared, recipe::Recipe, registry::Registry};

/// The description of a run with this recipe.
///
/// # Errors
/// If the recipe names something that is not registered.
pub(crate) fn run_info(
    registry: &Registry,
    recipe: &Recipe,
    prepared: &Prepared,
    ranks: Option<RanksInfo>,
) -> Result<RunInfo> {
    let Prepared {
        environment,
        algorithm,
        ..
    } = prepared;
    let roles = environment.roles();
    let team = registry.inner_environment(&recipe.environment);
    let held_out = match &recipe.held_out {
        Some(source) => registry.read_source(source)?.settings.label(),
        None => "its own tasks".to_owned(),
    };
    let models = recipe.team.models(roles.len()).into_iter();
    Ok(RunInfo {
        program: Some(program()),
        environment: EnvironmentInfo {
            name: recipe.environment.name().to_owned(),
            label: registry.label(&recipe.environment),
            comparison_name: registry.label(team.as_ref().unwrap_or(&recipe.environment)),
            roles: roles.iter().map(|role| role.name.clone()).collect(),
            horizon: environment.horizon().get(),
            is_single_agent: team.is_some(),
        },
        operational_keys: operational_keys(registry, recipe)?,
        held_out,
        algorithm: AlgorithmInfo {
            name: recipe.algorithm.name().to_owned(),
            method: algorithm.method(roles.len()),
            discount: prepared.discount(),
        },
        seed: recipe.seed,
        steps: recipe.steps,
        models: models.map(str::to_owned).collect(),
        ranks,
        training: None,
        trained_from: None,
    })
}

/// The program of this process.
fn program() -> ProgramInfo {
    let path = std::env::args().next().unwrap_or_default();
    let name = Path::new(&path).file_stem().unwrap_or_default();
    ProgramInfo {
        name: name.to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
