//! How the hub is reached and where its files are kept, from the environment variables that
//! Python's `huggingface_hub` reads.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use hf_hub::{HFClient, HFClientSync, HFResult};

/// Whether the hub may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    On,
    /// `HF_HUB_OFFLINE` is set: the cache is all there is.
    Off,
}

/// How the hub is reached and where its files are kept.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The hub's address, without a slash at the end.
    pub(super) endpoint: String,
    /// The folder of all repositories' files.
    pub(super) cache: PathBuf,
    /// The token; without it `hf-hub` looks in its usual places.
    pub(super) token: Option<String>,
    pub(super) network: Network,
    /// How often a request is tried again that failed for a passing reason.
    pub(super) retries: usize,
    /// How much of a large file is asked for at once, and lost at most when the program is killed.
    pub(super) piece_bytes: u64,
}

/// The longest wait for a connection, and for the next bytes on one. Without them a network that
/// swallows packets would hold a run for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

impl Settings {
    /// What the process's environment says.
    ///
    /// # Errors
    /// If no variable says where the cache is.
    pub(crate) fn from_environment() -> Result<Self> {
        let variable = |name: &str| match name {
            "HOME" => env::home_dir().map(|home| home.display().to_string()),
            _ => env::var(name).ok(),
        };
        Self::from_variables(&variable)
            .context("there is no place for files from the hub: set HF_HOME to a folder for them")
    }

    /// The settings of a test that reads the cache and asks nobody.
    #[cfg(test)]
    pub(crate) fn with_cache(cache: PathBuf) -> Self {
        Self {
            endpoint: String::new(),
            cache,
            token: None,
            network: Network::Off,
            retries: 0,
            piece_bytes: 1,
        }
    }

    /// What these variables say; nothing if they name no place for the cache.
    pub(super) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(folder("HF_HOME")?.join("hub")))
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface/hub")))
            .or_else(|| Some(folder("HOME")?.join(".cache/huggingface/hub")))?;
        let endpoint = variable("HF_ENDPOINT");
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
        });
        Some(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token: None,
            network: if offline { Network::Off } else { Network::On },
            retries: 3,
            piece_bytes: 64 << 20,
        })
    }

    /// A client with these settings.
    ///
    /// # Errors
    /// If the address is malformed, or the system holds no certificates to trust.
    pub(super) fn client(&self) -> HFResult<HFClientSync> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("polyphony/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()?;
        let mut builder = HFClient::builder()
            .client(http)
            .endpoint(&self.endpoint)
            .cache_dir(&self.cache)
            .retry_max_attempts(self.retries);
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        builder.build_sync()
    }
}
