//! What a recipe names: an environment, an algorithm or a data set, and its settings.

use std::fmt;

use ron::value::RawValue;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// A recipe that a program registered.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// What `train` calls it.
    pub name: &'static str,
    /// The RON text, comments included.
    pub text: &'static str,
}

/// A registered thing as a recipe names it, such as `Tldr` or `Magrpo(samples: 8)`.
///
/// The settings are kept as the RON text of a struct. Whoever registered the name reads them, so a
/// recipe can be read, written and compared without knowing their type.
#[derive(Clone, PartialEq, Eq)]
pub struct Choice {
    name: String,
    /// With its round brackets; empty where there are no settings.
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

    /// A choice from the RON text of a struct, such as `(samples: 8)`; `()` is as good as nothing.
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

    /// Takes a RON value such as `Magrpo(samples: 8)` apart.
    ///
    /// # Errors
    /// If it does not begin with a name, or something other than settings in round brackets follows.
    pub fn from_ron(text: &str) -> Result<Self, ChoiceError> {
        let text = &text[content_start(text)..];
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let rest = rest[content_start(rest)..].trim_end();
        let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !is_name || !(rest.is_empty() || rest.starts_with('(') && rest.ends_with(')')) {
            return Err(ChoiceError {
                given: text.trim_end().to_owned(),
            });
        }
        Ok(Self::with_settings(name, rest))
    }

    /// The registered name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The settings as the RON text of a struct; `()` where there are none.
    pub fn settings(&self) -> &str {
        match self.settings.as_str() {
            "" => "()",
            text => text,
        }
    }

    /// The RON text, every line after the first indented by `spaces`.
    fn to_ron(&self, spaces: usize) -> String {
        let indented = format!("\n{}", " ".repeat(spaces));
        format!("{}{}", self.name, self.settings.replace('\n', &indented))
    }
}

/// What stands where a recipe must name something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` does not begin with a name: write a name, and settings in round brackets if need be, \
     as in Magrpo(samples: 8)"
)]
pub struct ChoiceError {
    given: String,
}

/// Where the first character stands that is neither white space nor part of a comment.
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

/// As it stands in RON, on one line as far as its settings are.
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

/// How far a recipe's own keys are indented where it is written.
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
    fn a_name_and_its_settings_are_taken_apart() {
        for (text, name, settings) in [
            ("Tldr", "Tldr", "()"),
            (" Tldr() ", "Tldr", "()"),
            ("Magrpo(samples: 8)", "Magrpo", "(samples: 8)"),
            ("/* why */ Solo // one\n (Tldr)", "Solo", "(Tldr)"),
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
    fn what_is_not_named_is_refused() {
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
    fn it_is_written_as_it_is_read() {
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
