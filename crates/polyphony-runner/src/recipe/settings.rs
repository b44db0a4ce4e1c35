//! Settings of registered types, from the RON text of a recipe and back.

use anyhow::Result;
use serde::{Serialize, de::DeserializeOwned};

use super::{Choice, explain, overrides::Fields};

/// RON as recipes use it: `top_k: 50` is as good as `top_k: Some(50)`.
pub(crate) fn reader() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

/// The settings of a choice, and the choice with every key of them spelled out.
///
/// # Errors
/// Names the key and the nearest one that is known; also where the type itself would let an unknown
/// key pass.
pub(crate) fn read_settings<S: Serialize + DeserializeOwned>(
    choice: &Choice,
) -> Result<(S, Choice)> {
    let given = choice.settings();
    let settings: S = reader()
        .from_str(given)
        .map_err(|error| explain::SettingsError::new(given, &error))?;
    let layout = ron::ser::PrettyConfig::new().struct_names(false);
    let text = ron::ser::to_string_pretty(&settings, layout)?;
    if let (Some(given_keys), Some(known)) = (Fields::of(given), Fields::of(&text))
        && let Some(unknown) = given_keys.names().find(|name| !known.contains(name))
    {
        let known: Vec<&str> = known.names().collect();
        return Err(explain::SettingsError::unknown_key(given, choice.name(), unknown, &known).into());
    }
    Ok((settings, Choice::with_settings(choice.name(), text)))
}
