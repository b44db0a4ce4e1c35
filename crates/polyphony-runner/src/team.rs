//! From a recipe's models to agents that can learn.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use polyphony_episode::{Environment, Role};
use polyphony_marl::{Agent, Language};
use polyphony_model::{Assets, LanguageModel, ModelFiles};

use crate::{
    recipe::{self, Recipe},
    sources,
};

/// The agents of a run, and what is saved beside each one's weights.
#[derive(Debug)]
pub struct Team {
    /// One agent a role, or one for all roles.
    pub agents: Vec<Agent>,
    assets: Vec<Arc<Assets>>,
}

/// What agents that start from one model share.
struct Start {
    model: LanguageModel,
    language: Arc<Language>,
    assets: Arc<Assets>,
}

impl Team {
    /// Obtains, reads and places the models of a recipe, each of them once a device.
    ///
    /// # Errors
    /// If a model cannot be obtained or read, or has no tokenizer.
    pub fn load(recipe: &Recipe, environment: &dyn Environment) -> Result<Self> {
        let roles = environment.roles();
        let mut starts: HashMap<(PathBuf, String), Start> = HashMap::new();
        let mut team = Self {
            agents: Vec::new(),
            assets: Vec::new(),
        };
        let models = recipe.team.models(roles.len());
        let names = agent_names(&recipe.team, roles);
        let lora = recipe.fine_tuning.lora();
        // Names that cannot be right are refused before anything is downloaded.
        models.iter().try_for_each(|model| sources::check(model))?;
        let places = models.into_iter().zip(recipe.devices.of_team(roles.len()));
        for (index, (name, (model, device))) in names.into_iter().zip(places).enumerate() {
            let path = sources::resolve(model)?;
            let start = match starts.entry((path, device.to_string())) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let path = &entry.key().0;
                    let mut start = Start::read(path, &device.open()?)
                        .with_context(|| format!("loading the model {}", path.display()))?;
                    match (&lora, peft_warning(path)) {
                        // Once for all agents that start from it, so that they share the result.
                        (None, _) => start.model = start.model.merged(),
                        (Some(_), Some(warning)) => log::warn!("{warning}"),
                        (Some(_), None) => {}
                    }
                    entry.insert(start)
                }
            };
            let model = start.model.clone();
            let model = match &lora {
                Some(lora) => model
                    .with_lora(lora, recipe.seed, index as u32)
                    .with_context(|| format!("adding adapters to agent `{name}`"))?,
                None => model,
            };
            team.agents
                .push(Agent::new(name, model, Arc::clone(&start.language)));
            team.assets.push(Arc::clone(&start.assets));
        }
        Ok(team)
    }

    /// Each agent with what is saved beside its weights.
    pub fn with_assets(&self) -> impl Iterator<Item = (&Agent, &Assets)> {
        self.agents.iter().zip(self.assets.iter().map(Arc::as_ref))
    }
}

/// Why PEFT will not find the model below adapters that are trained on the one at this path.
fn peft_warning(path: &Path) -> Option<String> {
    let extension = path.extension()?;
    extension.eq_ignore_ascii_case("gguf").then(|| {
        format!(
            "the adapters will refer to {}, a GGUF file, which polyphony opens but PEFT does not; \
             `polyphony models merge` makes whole models of them, which transformers opens",
            path.display()
        )
    })
}

/// What the agents of a team are called: each after its role, or one that plays all roles.
pub fn agent_names(team: &recipe::Team, roles: &[Role]) -> Vec<String> {
    match team {
        recipe::Team::Shared(_) => vec!["shared".to_owned()],
        recipe::Team::Copies(_) | recipe::Team::Each(_) => {
            roles.iter().map(|role| role.name.clone()).collect()
        }
    }
}

impl Start {
    fn read(path: &Path, device: &Device) -> Result<Self> {
        let files = ModelFiles::open(path)?;
        let model = LanguageModel::load(&files, device)?;
        let tokenizer = files.tokenizer.context(
            "it has no tokenizer, which an agent needs to read and write text: put the \
             tokenizer.json that belongs to the weights beside them",
        )?;
        let language = Language {
            tokenizer,
            template: files.template,
            stop_tokens: files.stop_tokens,
        };
        Ok(Self {
            model,
            language: Arc::new(language),
            assets: Arc::new(files.assets),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_on_a_gguf_file_are_none_that_peft_opens() {
        for (path, warns) in [
            ("models/tiny.gguf", true),
            ("TINY.GGUF", true),
            ("models/tiny", false),
            ("models.gguf/tiny", false),
        ] {
            assert_eq!(peft_warning(Path::new(path)).is_some(), warns, "{path}");
        }
    }
}
