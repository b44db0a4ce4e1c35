//! From a recipe's models to agents that can learn.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use polyphony_episode::Environment;
use polyphony_marl::{Agent, Language};
use polyphony_model::{Assets, LanguageModel, ModelFiles};

use crate::{recipe::Recipe, sources};

/// The agents of a run, and what is saved beside each one's weights.
#[derive(Debug)]
pub struct Team {
    /// One agent a role.
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
    /// Obtains, reads and places the models of a recipe, each of them once.
    ///
    /// # Errors
    /// If a model cannot be obtained or read, or has no tokenizer.
    pub fn load(recipe: &Recipe, environment: &dyn Environment) -> Result<Self> {
        let device = recipe.device.open()?;
        let roles = environment.roles();
        let mut starts: HashMap<PathBuf, Start> = HashMap::new();
        let mut team = Self {
            agents: Vec::new(),
            assets: Vec::new(),
        };
        let models = recipe.team.models(roles.len());
        // Names that cannot be right are refused before anything is downloaded.
        models.iter().try_for_each(|model| sources::check(model))?;
        for (role, model) in roles.iter().zip(models) {
            let path = sources::resolve(model)?;
            if !starts.contains_key(&path) {
                let start = Start::read(&path, &device)
                    .with_context(|| format!("loading the model {}", path.display()))?;
                starts.insert(path.clone(), start);
            }
            let start = &starts[&path];
            let language = Arc::clone(&start.language);
            team.agents
                .push(Agent::new(&role.name, start.model.clone(), language));
            team.assets.push(Arc::clone(&start.assets));
        }
        Ok(team)
    }

    /// Each agent with what is saved beside its weights.
    pub fn with_assets(&self) -> impl Iterator<Item = (&Agent, &Assets)> {
        self.agents.iter().zip(self.assets.iter().map(Arc::as_ref))
    }
}

impl Start {
    fn read(path: &std::path::Path, device: &Device) -> Result<Self> {
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
