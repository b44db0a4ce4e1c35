//! The writing environments in a recipe: they have a name, but no settings.

use std::fmt;

use polyphony_episode::{Environment, EnvironmentError, EnvironmentSettings};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess},
};

use super::Writing;

/// A concise and a detailed summary of a post: [`Writing::tldr`]. It has no settings.
///
/// ```
/// # use polyphony_env::Tldr;
/// # use polyphony_episode::{Environment, EnvironmentSettings};
/// let settings: Tldr = ron::from_str("()")?;
/// assert_eq!(settings.build()?.roles()[0].name, "summarizer");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tldr;

/// Background and method from an abstract: [`Writing::arxiv`]. It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Arxiv;

impl EnvironmentSettings for Tldr {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(Writing::tldr()))
    }
}

impl EnvironmentSettings for Arxiv {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(Writing::arxiv()))
    }
}

impl<'de> Deserialize<'de> for Tldr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Tldr", &[], NoSettings)?;
        Ok(Self)
    }
}

impl<'de> Deserialize<'de> for Arxiv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Arxiv", &[], NoSettings)?;
        Ok(Self)
    }
}

/// Reads `()`. Unlike serde's unit structs, it refuses any key with an error that names the key.
struct NoSettings;

impl<'de> de::Visitor<'de> for NoSettings {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`()`, since there are no settings")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match map.next_key::<String>()? {
            Some(key) => Err(de::Error::unknown_field(&key, &[])),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_settings() {
        assert_eq!(ron::from_str("()"), Ok(Tldr));
        assert_eq!(ron::from_str(&ron::to_string(&Arxiv).unwrap()), Ok(Arxiv));
        let unit: ron::Value = ron::from_str("()").unwrap();
        assert_eq!(unit.into_rust(), Ok(Tldr));
        let error = ron::from_str::<Tldr>("(turns: 2)").unwrap_err();
        assert!(error.to_string().contains("turns"), "{error}");
    }
}
