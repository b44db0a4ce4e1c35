//! Reads the settings of registered types from the RON text of a recipe, and writes them back.

use std::fmt;

use anyhow::Result;
use polyphony_report::{fields, ron_options};
use ron::error::{Error as Code, SpannedError};
use serde::{
    Deserializer, Serialize,
    de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};

use crate::{choice::Choice, explain::WrongChoice};

/// Reads the settings of a choice. Also returns the choice with every key of its settings spelled out.
///
/// # Errors
/// If the settings cannot be read. An unknown key is an error even if the type itself would accept any key; the
/// message names the nearest known key.
pub(crate) fn read_settings<S: Serialize + DeserializeOwned>(
    choice: &Choice,
) -> Result<(S, Choice)> {
    let (name, given) = (choice.name(), choice.settings());
    let settings: S = ron_options()
        .from_str(given)
        .map_err(|error| WrongChoice::settings(name, &error, given))?;
    let layout = ron::ser::PrettyConfig::new().struct_names(false);
    let text = ron::ser::to_string_pretty(&settings, layout)?;
    if let Some(fields) = fields(&text) {
        let known: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
        check_keys(name, given, &known)?;
    }
    Ok((settings, Choice::with_settings(name, text)))
}

/// Refuses settings with a key that is not `known`. Settings that are not a struct have no keys to check.
fn check_keys(name: &str, given: &str, known: &[&str]) -> Result<(), WrongChoice> {
    match ron_options().from_str_seed(given, Keys(known)) {
        Err(SpannedError {
            code: Code::NoSuchStructField { found, .. },
            span,
        }) => Err(WrongChoice::unknown_key(name, &found, span.start, known)),
        _ => Ok(()),
    }
}

/// Reads the keys of a struct, up to the first one that is not known.
struct Keys<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a struct with named fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if !self.0.contains(&key.as_str()) {
                return Err(A::Error::unknown_field(&key, &[]));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{Recipe, fixture};

    #[test]
    fn an_unknown_key_is_reported_with_its_line_and_column() {
        let wrong = "SameLength(/* wieght */ labels: [\"wieght\"], wieght: 2)";
        let text = fixture::TEXT.replace("SameLength()", wrong);
        let message = Recipe::from_ron(&fixture::registry(), &text)
            .unwrap_err()
            .to_string();
        let expected =
            "line 2, column 62: there is no key `wieght` in SameLength; did you mean `weight`?";
        assert!(message.starts_with(expected), "{message}");
    }
}
