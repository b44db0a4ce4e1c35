//! The environments that recipes name, made ready.

use std::{num::NonZeroUsize, sync::Arc};

use anyhow::{Context as _, Result};
use polyphony_env::{Coding, CodingSettings, Expert, Solo, Writing, WritingTask};
use polyphony_episode::{Environment, Role};
use polyphony_sandbox::{Pool, Settings, Tier};
use serde::{Deserialize, Serialize};

/// What the agents do together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::large_enum_variant,
    reason = "a recipe has one of them, and boxes would show in its type"
)]
pub enum EnvironmentKind {
    /// A concise and a detailed summary of a post.
    Tldr,
    /// Background and method from an abstract.
    Arxiv,
    /// A helper function and the function that solves a Python problem with it.
    Coding {
        /// How an episode goes.
        #[serde(default)]
        settings: CodingSettings,
        /// Where the programs run.
        #[serde(default)]
        sandbox: Settings,
    },
    /// One agent does the work of another environment's team.
    Solo(Box<EnvironmentKind>),
}

/// An environment that is ready to play, and the sandbox that it needs, if it needs one.
pub struct Ready {
    /// The environment.
    pub environment: Box<dyn Environment>,
    /// Where it runs programs.
    pub pool: Option<Arc<Pool>>,
    /// The outside model that it asks.
    pub expert: Option<Arc<Expert>>,
}

impl EnvironmentKind {
    /// A short name, for directories and messages.
    pub fn name(&self) -> String {
        match self {
            Self::Tldr => "tldr".to_owned(),
            Self::Arxiv => "arxiv".to_owned(),
            Self::Coding { .. } => "coding".to_owned(),
            Self::Solo(team) => format!("{}-solo", team.name()),
        }
    }

    /// The name of the environment that a team plays, also where one agent does its work.
    pub(crate) fn team_name(&self) -> String {
        match self {
            Self::Solo(team) => team.name(),
            team => team.name(),
        }
    }

    /// The roles of its agents.
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Self::Tldr => Writing::new(WritingTask::Tldr).roles().to_vec(),
            Self::Arxiv => Writing::new(WritingTask::Arxiv).roles().to_vec(),
            Self::Coding { .. } => Coding::ROLES.map(Role::new).into(),
            Self::Solo(_) => vec![Role::new(Solo::ROLE)],
        }
    }

    /// The most turns of its episodes.
    pub fn horizon(&self) -> NonZeroUsize {
        match self {
            Self::Tldr | Self::Arxiv => NonZeroUsize::MIN,
            Self::Coding { settings, .. } => settings.turns,
            Self::Solo(team) => team.horizon(),
        }
    }

    /// The environment itself. One that runs programs starts its sandbox.
    ///
    /// # Errors
    /// If a sandbox cannot be started: what failed, and what would help.
    pub fn build(&self) -> Result<Ready> {
        let (settings, sandbox) = match self {
            Self::Tldr => return Ok(Ready::without_pool(Writing::tldr())),
            Self::Arxiv => return Ok(Ready::without_pool(Writing::arxiv())),
            Self::Coding { settings, sandbox } => (settings, sandbox),
            Self::Solo(team) => {
                let ready = team.build()?;
                return Ok(Ready {
                    environment: Box::new(Solo::new(ready.environment)),
                    ..ready
                });
            }
        };
        let pool = Arc::new(start_pool(sandbox)?);
        let coding = Coding::new(Arc::clone(&pool), settings.clone())
            .context("checking `environment.settings`")?;
        Ok(Ready {
            expert: coding.expert().cloned(),
            environment: Box::new(coding),
            pool: Some(pool),
        })
    }
}

impl Ready {
    fn without_pool(environment: impl Environment + 'static) -> Self {
        Self {
            environment: Box::new(environment),
            pool: None,
            expert: None,
        }
    }
}

/// Starts a sandbox and tells what it is.
///
/// # Errors
/// If it cannot be started: what failed, and what would help.
pub(crate) fn start_pool(settings: &Settings) -> Result<Pool> {
    let pool = Pool::start(settings).context("starting the sandbox of `environment.sandbox`")?;
    let python = pool.interpreter();
    match pool.tier() {
        Tier::Off => log::warn!(
            "programs of the models run WITHOUT confinement, as `isolation: Off` asks for: they \
             can do whatever you can (Python {} at {})",
            python.version,
            python.path.display()
        ),
        tier => log::info!(
            "programs run in the sandbox's {tier} tier, with Python {} at {}",
            python.version,
            python.path.display()
        ),
    }
    Ok(pool)
}
