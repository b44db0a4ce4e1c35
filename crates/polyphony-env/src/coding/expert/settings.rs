//! The settings of the outside model.

use std::num::NonZeroU64;

use polyphony_http::{Address, HttpError};
use serde::{Deserialize, Serialize};

use super::ExpertError;

/// How to reach the outside model, as written in a recipe.
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
    /// The address before `/chat/completions`, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// The model's name at that address.
    pub model: String,
    /// The environment variable that contains the key; `None` for servers that need no key.
    #[serde(default)]
    pub key_variable: Option<String>,
    /// The time limit of one request, in seconds.
    #[serde(default = "default_timeout_secs")]
    pub timeout_secs: NonZeroU64,
    /// How often a failed request is tried again.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// The sampling temperature; `None` omits it, for endpoints that refuse this setting.
    #[serde(default = "default_temperature")]
    pub temperature: Option<f64>,
    /// The sampling seed; `None` omits it, for endpoints that do not know this setting.
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
    // A message must not show a password or a query.
    let public_base = base.split('?').next().unwrap_or_default();
    let public_base = public_base.rsplit('@').next().unwrap_or_default();
    let invalid = |reason: &str| ExpertError::Address {
        base: public_base.to_owned(),
        reason: reason.to_owned(),
    };
    let url: Address = base.parse().map_err(|error| match error {
        HttpError::Address { reason, .. } if reason.contains("user's name") => invalid(
            "it contains a user's name; put the key into an environment variable and set \
             `key_variable` to that variable's name",
        ),
        HttpError::Address { reason, .. } => invalid(&reason),
        error => invalid(&error.to_string()),
    })?;
    let path = url.path().trim_end_matches('/');
    if path.ends_with("/chat/completions") {
        return Err(invalid(
            "leave out `/chat/completions`, which is added automatically",
        ));
    }
    let endpoint = url.with_path(&format!("{path}/chat/completions"));
    endpoint.map_err(|error| invalid(&error.to_string()))
}
