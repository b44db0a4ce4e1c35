//! How to reach the hub and where to cache its files, read from the same environment variables as in Python's
//! `huggingface_hub`.

use std::{env, fmt, fs, path::PathBuf, time::Duration};

use crate::error::HubError;

/// The hub's address if `HF_ENDPOINT` is not set.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Whether the hub may be contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    On,
    /// `HF_HUB_OFFLINE` is set: only the cache is used.
    Off,
}

/// How to reach the hub, and where to cache its files.
#[derive(Clone)]
pub struct HubConfig {
    /// The hub's address, without a slash at the end.
    pub(super) endpoint: String,
    /// The folder of all repositories.
    pub(super) cache: PathBuf,
    /// The user's token, which only the hub itself may see.
    pub(super) token: Option<String>,
    pub(super) network: Network,
    /// How often a request that fails for a temporary reason is retried.
    pub(super) retries: u32,
    /// The wait before the first retry. Each later wait is twice as long.
    pub(super) first_wait: Duration,
    /// The longest time for a request. A download has additional time, in proportion to the size of the file.
    pub(super) time_limit: Duration,
}

/// The longest time for a request. A list of files takes a second or two.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The variable that errors about the cache's folder mention.
pub(super) const FOLDER_VARIABLE: &str = "HF_HOME";

impl HubConfig {
    /// The settings from the environment variables of this process.
    ///
    /// # Errors
    /// If no variable sets the folder of the cache.
    pub fn from_env() -> Result<Self, HubError> {
        let variable = |name: &str| match name {
            "HOME" => env::home_dir().map(|home| home.display().to_string()),
            _ => env::var(name).ok(),
        };
        Self::from_variables(&variable).ok_or(HubError::NoFolder {
            what: "files from the hub",
            variable: FOLDER_VARIABLE,
        })
    }

    /// Settings that use only this cache and never contact the hub.
    pub fn offline(cache: PathBuf) -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            cache,
            token: None,
            network: Network::Off,
            retries: 0,
            first_wait: Duration::ZERO,
            time_limit: TIME_LIMIT,
        }
    }

    /// The settings from these variables; `None` if they set no folder for the cache.
    pub(super) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let is_true = |name: &str| {
            let value = variable(name).unwrap_or_default().to_ascii_lowercase();
            ["1", "on", "yes", "true"].contains(&value.as_str())
        };
        let home = folder("HF_HOME")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(folder("HOME")?.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")))?;
        let saved_token = |path: PathBuf| {
            let token = fs::read_to_string(path).ok();
            token.filter(|token| !token.trim().is_empty())
        };
        let token = variable("HF_TOKEN")
            .or_else(|| saved_token(folder("HF_TOKEN_PATH")?))
            .or_else(|| saved_token(home?.join("token")))
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty() && !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let endpoint = variable("HF_ENDPOINT");
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let network = if is_true("HF_HUB_OFFLINE") {
            Network::Off
        } else {
            Network::On
        };
        Some(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token,
            network,
            retries: 3,
            first_wait: Duration::from_millis(200),
            time_limit: TIME_LIMIT,
        })
    }
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("HubConfig");
        fields
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "<token>"))
            .field("network", &self.network);
        fields.finish_non_exhaustive()
    }
}
