//! How the outside model is reached, as a recipe writes it.

use std::num::NonZeroU64;

use polyphony_http::{Address, HttpError};
use serde::{Deserialize, Serialize};

use super::ExpertError;

/// How the outside model is reached, as a recipe writes it.
///
/// ```
/// # use polyphony_env::ExpertSettings;
/// let recipe = r#"(base_url: "http://localhost:8080/v1", model: "qwen2.5-coder")"#;
/// let settings: ExpertSettings = ron::from_str(recipe)?;
/// assert_eq!((settings.key_variable, settings.retries), (None, 4));
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertSettings {
    /// Its address, up to what `/chat/completions` follows, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// The model's name at that address.
    pub model: String,
    /// The environment variable that holds the key; none for servers that want no key.
    #[serde(default)]
    pub key_variable: Option<String>,
    /// The longest that one request may take, in seconds.
    #[serde(default = "default_timeout_secs")]
    pub timeout_secs: NonZeroU64,
    /// How often a request that failed is tried again.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// The sampling temperature; `None` leaves it to an endpoint that refuses to be told.
    #[serde(default = "default_temperature")]
    pub temperature: Option<f64>,
    /// The seed of the sampling; `None` leaves it out for an endpoint that does not know it.
    #[serde(default = "default_seed")]
    pub seed: Option<u64>,
}

fn default_timeout_secs() -> NonZeroU64 {
    const { NonZeroU64::new(60).expect("sixty is not zero") }
}

fn default_retries() -> u32 {
    4
}

fn default_temperature() -> Option<f64> {
    Some(0.0)
}

fn default_seed() -> Option<u64> {
    Some(0)
}

/// The address of the endpoint below this base.
pub(super) fn completions_url(base: &str) -> Result<Address, ExpertError> {
    // Neither a password nor a query belongs in a message.
    let shown = base.split('?').next().unwrap_or_default();
    let shown = shown.rsplit('@').next().unwrap_or_default();
    let bad = |reason: &str| ExpertError::Address {
        base: shown.to_owned(),
        reason: reason.to_owned(),
    };
    let url: Address = base.parse().map_err(|error| match error {
        HttpError::Address { reason, .. } if reason.contains("user's name") => bad(
            "it holds a user's name; put the key into an environment variable and name that in \
             `key_variable`",
        ),
        HttpError::Address { reason, .. } => bad(&reason),
        other => bad(&other.to_string()),
    })?;
    let path = url.path().trim_end_matches('/');
    if path.ends_with("/chat/completions") {
        return Err(bad("leave out `/chat/completions`, which is added"));
    }
    let endpoint = url.with_path(&format!("{path}/chat/completions"));
    endpoint.map_err(|error| bad(&error.to_string()))
}
