//! A choice in a recipe: the registered name of an environment, an algorithm or a data set, with its settings.

use std::fmt;

use ron::value::RawValue;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// A recipe that a program has registered.
#[derive(Clone, Copy, Debug)]
pub struct RegisteredRecipe {
    /// Its name on the command line.
    pub name: &'static str,
    /// The RON text, with its comments.
    pub text: &'static str,
}

/// A registered name with its settings, as a recipe writes them: `Tldr` or `Magrpo(samples: 8)`.
///
/// The name is that of an environment, an algorithm or a data set. The settings are stored as the RON text of a
/// struct. Only the type that is registered under the name interprets them, so recipes can be read, written and
/// compared without knowing that type.
#[derive(Clone, PartialEq, Eq)]
pub struct Choice {
    name: String,
    /// The RON text with its round brackets; empty if there are no settings.
    settings: String,
}

impl Choice {
    /// A choice without settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            settings: String::new(),
        }
    }

    /// A choice from the RON text of a struct, such as `(samples: 8)`; `()` means no settings.
    pub fn with_settings(name: impl Into<String>, settings: impl Into<String>) -> Self {
        let settings = settings.into();
        Self {
            name: name.into(),
            settings: match settings.trim() {
                "()" => String::new(),
                text => text.to_owned(),
            },
        }
    }

    /// Parses a RON value such as `Magrpo(samples: 8)`.
    ///
    /// # Errors
    /// If the text does not begin with a name, or if the name is followed by anything other than settings in
    /// round brackets.
    pub fn from_ron(text: &str) -> Result<Self, ChoiceError> {
        match parts(text) {
            Some((name, settings)) => Ok(Self::with_settings(name, settings)),
            None => Err(ChoiceError {
                given: text[content_start(text)..].trim_end().to_owned(),
            }),
        }
    }

    /// The registered name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The settings as the RON text of a struct; `()` if there are none.
    pub fn settings(&self) -> &str {
        match self.settings.as_str() {
            "" => "()",
            text => text,
        }
    }

    /// The RON text; every line after the first is indented by `spaces`.
    fn to_ron(&self, spaces: usize) -> String {
        let indented = format!("\n{}", " ".repeat(spaces));
        format!("{}{}", self.name, self.settings.replace('\n', &indented))
    }
}

/// A value in a recipe does not begin with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` does not begin with a name: write a name, followed by settings in round brackets if \
     needed, as in Magrpo(samples: 8)"
)]
pub struct ChoiceError {
    given: String,
}

/// The name and the settings in a RON value such as `Magrpo(samples: 8)`.
fn parts(text: &str) -> Option<(&str, &str)> {
    let text = &text[content_start(text)..];
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let settings = rest[content_start(rest)..].trim_end();
    let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let is_struct = settings.starts_with('(') && settings.ends_with(')');
    (is_name && (settings.is_empty() || is_struct)).then_some((name, settings))
}

/// The name and the settings of the choice called `name`. This choice is the RON value itself, or stands inside
/// it, as `Tldr` does in `SingleAgent(Tldr)`.
pub(crate) fn find<'t>(value: &'t str, name: &str) -> Option<(&'t str, &'t str)> {
    let (outer, settings) = parts(value)?;
    if outer == name {
        return Some((outer, settings));
    }
    find(settings.strip_prefix('(')?.strip_suffix(')')?, name)
}

/// The position of the first character that is neither white space nor part of a comment.
fn content_start(text: &str) -> usize {
    let mut rest = text.trim_start();
    loop {
        let after = match (rest.strip_prefix("//"), rest.strip_prefix("/*")) {
            (Some(line), _) => line.split_once('\n').map_or("", |(_, after)| after),
            (_, Some(block)) => block.split_once("*/").map_or("", |(_, after)| after),
            (None, None) => return text.len() - rest.len(),
        };
        rest = after.trim_start();
    }
}

/// As RON. The settings keep their line breaks.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_ron(0))
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How far a written recipe indents its keys.
const INDENTATION: usize = 4;

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.to_ron(INDENTATION);
        let raw = RawValue::from_ron(&text).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::from_ron(raw.get_ron()).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_settings_are_parsed() {
        for (text, name, settings) in [
            ("Tldr", "Tldr", "()"),
            (" Tldr() ", "Tldr", "()"),
            ("Magrpo(samples: 8)", "Magrpo", "(samples: 8)"),
            (
                "/* why */ SingleAgent // one\n (Tldr)",
                "SingleAgent",
                "(Tldr)",
            ),
            ("Embedded(TldrTrain)", "Embedded", "(TldrTrain)"),
        ] {
            let choice = Choice::from_ron(text).unwrap();
            assert_eq!(
                (choice.name(), choice.settings()),
                (name, settings),
                "{text}"
            );
        }
    }

    #[test]
    fn a_choice_is_found_inside_another() {
        let value = "SingleAgent(/* not Tldr */ Tldr(weight: 2))";
        assert_eq!(find(value, "Tldr"), Some(("Tldr", "(weight: 2)")));
        let (_, settings) = find(value, "SingleAgent").unwrap();
        assert_eq!(settings, "(/* not Tldr */ Tldr(weight: 2))");
        assert_eq!(find(value, "weight"), None);
    }

    #[test]
    fn a_value_without_a_name_is_refused() {
        for text in [
            "",
            "(samples: 8)",
            "\"Tldr\"",
            "8",
            "Tldr {}",
            "Tldr(",
            "Tldr Arxiv",
        ] {
            let message = Choice::from_ron(text).unwrap_err().to_string();
            assert!(message.contains("does not begin with a name"), "{message}");
        }
    }

    #[test]
    fn a_choice_is_written_as_it_is_read() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Holder {
            algorithm: Choice,
        }
        let text = "(\n    algorithm: Magrpo(\n        samples: 8,\n    ),\n)";
        let holder: Holder = ron::from_str(text).unwrap();
        let choice = Choice::with_settings("Magrpo", "(\n    samples: 8,\n)");
        let written = ron::ser::to_string_pretty(&Holder { algorithm: choice }, Default::default());
        assert_eq!(written.unwrap(), text);
        assert_eq!(holder.algorithm.name(), "Magrpo");
    }
}
