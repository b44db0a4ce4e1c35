//! Settings of registered types, from the RON text of a recipe and back.

use anyhow::Result;
use polyphony_report::{fields, reader};
use serde::{Serialize, de::DeserializeOwned};

use crate::{choice::Choice, explain};

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
    if let (Some(given_keys), Some(known)) = (fields(given), fields(&text)) {
        let known: Vec<&str> = known.iter().map(|(key, _)| key.as_str()).collect();
        let mut given_keys = given_keys.iter().map(|(key, _)| key.as_str());
        if let Some(unknown) = given_keys.find(|key| !known.contains(key)) {
            let name = choice.name();
            return Err(explain::SettingsError::unknown_key(given, name, unknown, &known).into());
        }
    }
    Ok((settings, Choice::with_settings(choice.name(), text)))
}
