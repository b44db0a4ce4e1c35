//! Loads a recipe's models and makes them a team of agents that can learn.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use polyphony_episode::{Environment, Role, SHARED_AGENT};
use polyphony_marl::{Agent, Message, Ranks, Team, TextCodec};
use polyphony_model::{LanguageModel, ModelAssets, ModelFiles};
use polyphony_report::{remove_unfinished, save_trained_steps, unfinished};

use crate::{
    device::DeviceChoice,
    memory::Member,
    models::resolve_model,
    observer::Observer,
    ranks::{agree, on_first},
    recipe::{Recipe, TeamModels},
};

/// The folder of a run's saved agents.
pub(crate) const AGENTS: &str = "agents";

/// The agents of this rank, and the files that are saved beside the weights of each agent.
#[derive(Debug)]
pub(crate) struct LoadedTeam {
    pub(crate) agents: Team,
    assets: Vec<Arc<ModelAssets>>,
}

/// The models of a team, opened but not loaded.
#[derive(Debug)]
pub(crate) struct Models {
    /// One for each pair of model and device.
    base_models: Vec<BaseModel>,
    /// The agents of this rank.
    agents: Vec<NamedAgent>,
    /// The number of agents of the whole team.
    team_size: usize,
    ranks: Ranks,
}

/// A model on a device from which one or more agents start.
#[derive(Debug)]
struct BaseModel {
    path: PathBuf,
    device: DeviceChoice,
    files: ModelFiles,
}

#[derive(Debug)]
struct NamedAgent {
    name: String,
    /// Its index in the whole team.
    index: usize,
    /// The index of its base model.
    base: usize,
}

impl Models {
    /// Obtains and opens the models of this rank's agents, each of them once per device.
    ///
    /// # Errors
    /// If the program was built without one of the devices, or a model cannot be obtained or opened.
    pub(crate) fn open(
        recipe: &Recipe,
        environment: &dyn Environment,
        ranks: Ranks,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let roles = environment.roles();
        let models = recipe.team.models(roles.len());
        // Wrong names are refused before anything is downloaded. Devices are checked only here, so that a run
        // made on another machine can be read without its devices.
        for device in recipe.devices.of_team(roles.len()) {
            device
                .check_built()
                .with_context(|| format!("`devices` has {device:?}"))?;
        }
        models
            .iter()
            .try_for_each(|model| polyphony_hub::check_model_name(model))?;
        let names = agent_names(&recipe.team, roles);
        let held = ranks.agents(names.len());
        let mut opened = Self {
            base_models: Vec::new(),
            agents: Vec::new(),
            team_size: names.len(),
            ranks,
        };
        let models = models.into_iter().zip(recipe.devices.of_team(roles.len()));
        let agents = names.into_iter().zip(models).enumerate();
        for (index, (name, (model, device))) in agents.filter(|(index, _)| held.contains(index)) {
            let path = resolve_model(model, observer)?;
            let is_same = |base: &BaseModel| base.path == path && base.device == device;
            let base = match opened.base_models.iter().position(is_same) {
                Some(index) => index,
                None => {
                    let files = ModelFiles::open(&path)?;
                    opened.base_models.push(BaseModel {
                        path,
                        device,
                        files,
                    });
                    opened.base_models.len() - 1
                }
            };
            opened.agents.push(NamedAgent { name, index, base });
        }
        Ok(opened)
    }

    /// The agents as the memory estimate needs them, before prompts are known.
    pub(crate) fn members(&self, recipe: &Recipe, roles: usize) -> Result<Vec<Member>> {
        let member = |agent: &NamedAgent| {
            let base = &self.base_models[agent.base];
            Ok(Member {
                name: agent.name.clone(),
                config: base.files.config.clone(),
                device: base.device,
                precision: recipe.precision.on(base.device)?,
                roles: match self.team_size {
                    1 => 0..roles,
                    _ => agent.index..agent.index + 1,
                },
                base: agent.base,
                longest_prompt_tokens: None,
            })
        };
        self.agents.iter().map(member).collect()
    }

    /// Loads the weights onto their devices.
    ///
    /// # Errors
    /// If a device cannot be opened or lacks what the recipe needs, or a model cannot be read or has no
    /// tokenizer.
    pub(crate) fn load(self, recipe: &Recipe) -> Result<LoadedTeam> {
        let lora = recipe.fine_tuning.lora();
        let mut base_models = Vec::new();
        for base in self.base_models {
            let device = base.device.open()?;
            let precision = recipe.precision.on(base.device)?;
            precision.check(&device).context("checking `precision`")?;
            let path = base.path;
            let mut loaded = LoadedModel::read(base.files, &device)
                .with_context(|| format!("loading the model {}", path.display()))?;
            match (&lora, peft_warning(&path)) {
                // Adapters are merged once for all agents that start from the model, so that these agents share
                // the result.
                (None, _) => loaded.model = loaded.model.merged(),
                (Some(_), Some(warning)) => log::warn!("{warning}"),
                (Some(_), None) => {}
            }
            loaded.model = loaded.model.with_precision(precision)?;
            base_models.push((path, loaded));
        }
        let (mut agents, mut assets) = (Vec::new(), Vec::new());
        for NamedAgent { name, index, base } in self.agents {
            let (path, base) = &base_models[base];
            let model = base.model.clone();
            let model = match &lora {
                Some(lora) => model
                    .with_lora(lora, recipe.seed, index as u32)
                    .with_context(|| {
                        format!(
                            "adding adapters to {} for agent `{name}` (`models merge` merges adapters into a \
                             whole model)",
                            path.display()
                        )
                    })?,
                None => model,
            };
            agents.push(Agent::new(name, model, Arc::clone(&base.codec)));
            assets.push(Arc::clone(&base.assets));
        }
        Ok(LoadedTeam {
            agents: Team::on_ranks(agents, self.team_size, self.ranks)?,
            assets,
        })
    }
}

/// A warning if adapters are trained on a model that PEFT cannot open.
fn peft_warning(path: &Path) -> Option<String> {
    let extension = path.extension()?;
    extension.eq_ignore_ascii_case("gguf").then(|| {
        format!(
            "the adapters will refer to {}, a GGUF file, which polyphony opens but PEFT does not; \
             `models merge` merges them into whole models, which transformers opens",
            path.display()
        )
    })
}

/// Everything that agents with the same base model share.
struct LoadedModel {
    model: LanguageModel,
    codec: Arc<TextCodec>,
    assets: Arc<ModelAssets>,
}

impl LoadedModel {
    fn read(files: ModelFiles, device: &Device) -> Result<Self> {
        let model = LanguageModel::load(&files, device)?;
        let tokenizer = files.tokenizer.context(
            "it has no tokenizer, which an agent needs to read and write text: put the \
             tokenizer.json of the model into the same directory",
        )?;
        let codec = TextCodec {
            tokenizer,
            template: files.template,
            stop_tokens: files.stop_tokens,
        };
        Ok(Self {
            model,
            codec: Arc::new(codec),
            assets: Arc::new(files.assets),
        })
    }
}

/// Saves every agent below `run` as a Hugging Face directory, replacing an earlier one, and the number of
/// training steps that the agents have had, if it is known. Returns the directories. The first replica of each agent
/// saves it; all ranks call this function.
///
/// # Errors
/// If the disk is full or gone.
pub(crate) fn save_agents(
    run: &Path,
    team: &LoadedTeam,
    steps: Option<usize>,
) -> Result<Vec<PathBuf>> {
    let folder = run.join(AGENTS);
    let ranks = team.agents.ranks();
    on_first(ranks.world(), || {
        remove_unfinished(&folder)?;
        // The number is removed first: it would be wrong while some agents are old and some are new.
        Ok(save_trained_steps(run, None)?)
    })?;
    let agents = team.agents.iter().zip(&team.assets);
    let saved = match ranks.replicas().rank() {
        0 => agents
            .map(|(agent, assets)| save_agent(&folder, agent, assets))
            .collect::<Result<Vec<PathBuf>>>(),
        _ => Ok(Vec::new()),
    };
    let saved = agree(ranks.world(), saved)?;
    on_first(ranks.world(), || Ok(save_trained_steps(run, steps)?))?;
    let paths = ranks.exchange_parts(Message::Records, Ok(saved))?;
    Ok(paths.into_iter().flatten().collect())
}

fn save_agent(folder: &Path, agent: &Agent, assets: &ModelAssets) -> Result<PathBuf> {
    let path = folder.join(&agent.name);
    if !path.exists() {
        agent.model.save(&path, assets)?;
        return Ok(path);
    }
    let fresh = unfinished(&path);
    agent.model.save(&fresh, assets)?;
    fs::remove_dir_all(&path)
        .and_then(|()| fs::rename(&fresh, &path))
        .with_context(|| format!("replacing {}", path.display()))?;
    Ok(path)
}

/// The names of a team's agents: the names of the roles, or one name for an agent that plays all of them.
pub(crate) fn agent_names(team: &TeamModels, roles: &[Role]) -> Vec<String> {
    match team {
        TeamModels::Shared(_) => vec![SHARED_AGENT.to_owned()],
        TeamModels::Copies(_) | TeamModels::Each(_) => {
            roles.iter().map(|role| role.name.clone()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use polyphony_model::{ModelError, save};

    use super::*;

    #[test]
    fn an_unfinished_directory_of_a_killed_process_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-model/fixtures");
        let files = ModelFiles::open(&fixtures.join("tiny-llama")).unwrap();
        let entries = || fs::read_dir(folder.path()).unwrap().count();
        let (path, specs) = (folder.path().join("writer"), files.weights.specs());
        let outcome = save(&path, &files.assets, &specs, |_| {
            // A process that is killed now leaves the files that it has written.
            assert_eq!(entries(), 1);
            remove_unfinished(folder.path()).unwrap();
            assert_eq!(entries(), 0);
            Err(ModelError::NoNewTokens)
        });
        assert!(
            matches!(outcome, Err(ModelError::NoNewTokens)),
            "{outcome:?}"
        );
    }

    #[test]
    fn adapters_on_a_gguf_file_warn_about_peft() {
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
