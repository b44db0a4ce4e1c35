//! The registry: the environments, algorithms, data sets and recipes that a program knows by name.
//!
//! Everything that ships with the program is registered in the same way as a user's own types: there is no
//! closed list. A registered type reads its own settings, and writes them with every key spelled out.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use indexmap::IndexMap;
use polyphony_episode::{
    Environment, EnvironmentSettings, TaskSource, can_name_directory, check_names,
};
use polyphony_marl::AlgorithmSettings;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    choice::{Choice, RegisteredRecipe},
    explain::WrongChoice,
    settings::read_settings,
};

/// Everything that the recipes of one program can name.
#[derive(Default)]
pub struct Registry {
    environments: Registrations<dyn EnvironmentSettings>,
    algorithms: Registrations<dyn AlgorithmSettings>,
    sources: Registrations<dyn TaskSource>,
    single_agent: Option<SingleAgent>,
    recipes: IndexMap<&'static str, &'static str>,
    /// Descriptions of the names that were registered twice.
    clashes: Vec<String>,
}

/// The wrapper that turns a team's environment into one for a single agent.
#[derive(Clone, Copy)]
struct SingleAgent {
    name: &'static str,
    wrap: fn(Box<dyn Environment>) -> Box<dyn Environment>,
}

/// Settings that were read from a choice, and the same choice with every key spelled out.
#[derive(Debug)]
pub struct Resolved<T: ?Sized> {
    /// The settings.
    pub settings: Box<T>,
    /// The choice with every key spelled out.
    pub choice: Choice,
}

/// Reads the settings of a registered name.
type Reader<T> = fn(&Choice) -> Result<Resolved<T>>;

/// Everything registered of one kind, such as all environments.
struct Registrations<T: ?Sized> {
    readers: IndexMap<&'static str, Reader<T>>,
}

impl<T: ?Sized> Default for Registrations<T> {
    fn default() -> Self {
        Self {
            readers: IndexMap::new(),
        }
    }
}

impl<T: ?Sized> Registrations<T> {
    fn names(&self) -> Vec<&'static str> {
        self.readers.keys().copied().collect()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers an environment by the type of its settings.
    #[must_use]
    pub fn environment<S>(mut self, name: &'static str) -> Self
    where
        S: EnvironmentSettings + Serialize + DeserializeOwned + 'static,
    {
        let is_wrapper = self.single_agent.is_some_and(|single| single.name == name);
        let previous = self.environments.readers.insert(name, |choice| {
            let (settings, choice) = read_settings::<S>(choice)?;
            Ok(Resolved {
                settings: Box::new(settings),
                choice,
            })
        });
        self.note_clash(previous.is_some() || is_wrapper, "environment", name);
        self
    }

    /// Registers an algorithm by the type of its settings.
    #[must_use]
    pub fn algorithm<S>(mut self, name: &'static str) -> Self
    where
        S: AlgorithmSettings + Serialize + DeserializeOwned + 'static,
    {
        let previous = self.algorithms.readers.insert(name, |choice| {
            let (settings, choice) = read_settings::<S>(choice)?;
            Ok(Resolved {
                settings: Box::new(settings),
                choice,
            })
        });
        self.note_clash(previous.is_some(), "algorithm", name);
        self
    }

    /// Registers a kind of data set by the type of its settings.
    #[must_use]
    pub fn task_source<S>(mut self, name: &'static str) -> Self
    where
        S: TaskSource + Serialize + DeserializeOwned + 'static,
    {
        let previous = self.sources.readers.insert(name, |choice| {
            let (settings, choice) = read_settings::<S>(choice)?;
            Ok(Resolved {
                settings: Box::new(settings),
                choice,
            })
        });
        self.note_clash(previous.is_some(), "data set", name);
        self
    }

    /// Registers the wrapper that turns a team's environment into one for a single agent. A recipe names the
    /// wrapper and the environment, as in `SingleAgent(Tldr)`.
    #[must_use]
    pub fn single_agent(
        mut self,
        name: &'static str,
        wrap: fn(Box<dyn Environment>) -> Box<dyn Environment>,
    ) -> Self {
        let is_taken = self.environments.readers.contains_key(name);
        let previous = self.single_agent.replace(SingleAgent { name, wrap });
        self.note_clash(is_taken || previous.is_some(), "environment", name);
        self
    }

    /// Registers a recipe by name. The first one is the default.
    #[must_use]
    pub fn recipe(mut self, name: &'static str, text: &'static str) -> Self {
        let previous = self.recipes.insert(name, text);
        self.note_clash(previous.is_some(), "recipe", name);
        self
    }

    fn note_clash(&mut self, is_clash: bool, what: &str, name: &str) {
        if is_clash {
            self.clashes.push(format!("the {what} `{name}`"));
        }
    }

    /// Checks that no name was registered twice.
    ///
    /// # Errors
    /// Lists the names that were registered twice.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.clashes.is_empty(),
            "this program registers {} twice: rename one of the two",
            self.clashes.join(" and ")
        );
        Ok(())
    }

    /// The recipes in the order in which they were registered.
    pub fn recipes(&self) -> impl ExactSizeIterator<Item = RegisteredRecipe> {
        let recipe =
            |(&name, &text): (&&'static str, &&'static str)| RegisteredRecipe { name, text };
        self.recipes.iter().map(recipe)
    }

    /// The names of all environments, without the single-agent wrapper.
    pub fn environment_names(&self) -> Vec<&'static str> {
        self.environments.names()
    }

    /// The name of the single-agent wrapper, if one is registered.
    pub fn single_agent_name(&self) -> Option<&'static str> {
        self.single_agent.map(|single| single.name)
    }

    /// Turns a team's environment into one for a single agent. Also returns the choice that describes the
    /// result, such as `SingleAgent(Tldr)`.
    ///
    /// # Errors
    /// If no wrapper is registered.
    pub(crate) fn wrap(
        &self,
        choice: &Choice,
        environment: Box<dyn Environment>,
    ) -> Result<(Choice, Box<dyn Environment>)> {
        let single = self.single_agent.context(
            "this program has no wrapper that lets one agent do a team's work: register one with \
             `single_agent`",
        )?;
        let choice = Choice::with_settings(single.name, format!("({choice})"));
        Ok((choice, (single.wrap)(environment)))
    }

    /// The team's environment inside a choice such as `SingleAgent(Tldr)`; `None` for other choices.
    pub fn inner_environment(&self, choice: &Choice) -> Option<Choice> {
        let single = self.single_agent?;
        let inner = choice.settings().strip_prefix('(')?.strip_suffix(')')?;
        (choice.name() == single.name)
            .then(|| Choice::from_ron(inner).ok())
            .flatten()
    }

    /// A short name for directories and reports: the [label](EnvironmentSettings::label) of the settings if it
    /// can name a directory, or else the environment's name in kebab case, such as `number-plate` for
    /// `NumberPlate`. The label of `SingleAgent(Tldr)` is `tldr-single-agent`.
    pub fn label(&self, environment: &Choice) -> String {
        if let Some(team) = self.inner_environment(environment) {
            return format!("{}-{}", self.label(&team), kebab(environment.name()));
        }
        let resolved = self.plain_environment(environment).ok();
        resolved
            .and_then(|resolved| resolved.settings.label())
            .filter(|label| can_name_directory(label))
            .unwrap_or_else(|| kebab(environment.name()))
    }

    /// The choice with every key of its settings spelled out.
    ///
    /// # Errors
    /// If the name is not registered, or the settings cannot be read.
    pub fn resolve_environment(&self, choice: &Choice) -> Result<Choice> {
        match (self.single_agent, self.inner_environment(choice)) {
            (Some(single), None) if choice.name() == single.name => bail!(
                "`{choice}` names no environment to wrap: write it inside, as in {}({})",
                single.name,
                self.environment_names().first().unwrap_or(&"Other")
            ),
            (_, Some(team)) => {
                ensure!(
                    self.inner_environment(&team).is_none(),
                    "`environment` is a {0} of a {0}, but must be a {0} of a team's environment",
                    choice.name()
                );
                let team = self.resolve_environment(&team)?;
                Ok(Choice::with_settings(choice.name(), format!("({team})")))
            }
            (_, None) => Ok(self.plain_environment(choice)?.choice),
        }
    }

    /// The environment that an argument of a command line names. Case, hyphens and underscores do not matter:
    /// `number-plate` finds `NumberPlate`. Any other text is read like the recipe key
    /// `environment`, as in `NumberPlate(digits: 4)`.
    ///
    /// # Errors
    /// If no environment has that name, or the settings cannot be read.
    pub fn find_environment(&self, text: &str) -> Result<Choice> {
        let normalize = |name: &str| name.replace(['-', '_'], "").to_lowercase();
        let mut names = self.environment_names().into_iter();
        match names.find(|name| normalize(name) == normalize(text)) {
            Some(name) => Ok(Choice::new(name)),
            None => self.resolve_environment(&Choice::from_ron(text)?),
        }
    }

    /// Builds the environment that a choice describes.
    ///
    /// # Errors
    /// If it is not registered or cannot be built; the message says what would help.
    pub fn build_environment(&self, choice: &Choice) -> Result<Box<dyn Environment>> {
        if let (Some(single), Some(team)) = (self.single_agent, self.inner_environment(choice)) {
            return Ok((single.wrap)(self.build_environment(&team)?));
        }
        let outcome = self.plain_environment(choice)?.settings.build();
        let context = || format!("building the environment `{}`", choice.name());
        let environment = outcome.with_context(context)?;
        check_names(environment.as_ref()).with_context(context)?;
        Ok(environment)
    }

    /// The keys of an environment that do not affect results, such as a number of workers. For
    /// `SingleAgent(…)`, those of the environment inside.
    ///
    /// # Errors
    /// If it is not registered, or its settings cannot be read.
    pub(crate) fn environment_operational_keys(
        &self,
        choice: &Choice,
    ) -> Result<&'static [&'static str]> {
        let team = self.inner_environment(choice);
        let resolved = self.plain_environment(team.as_ref().unwrap_or(choice))?;
        Ok(resolved.settings.operational_keys())
    }

    fn plain_environment(&self, choice: &Choice) -> Result<Resolved<dyn EnvironmentSettings>> {
        let reader = self.environments.readers.get(choice.name());
        let known = || {
            let mut names = self.environment_names();
            names.extend(self.single_agent_name());
            names
        };
        reader.ok_or_else(|| WrongChoice::unknown_name("environment", choice.name(), &known()))?(
            choice,
        )
    }

    /// The settings of an algorithm; those of the first registered one if the choice has no name.
    ///
    /// # Errors
    /// If it is not registered, or its settings cannot be read.
    pub fn read_algorithm(&self, choice: &Choice) -> Result<Resolved<dyn AlgorithmSettings>> {
        let first_registered = || {
            self.algorithms
                .names()
                .first()
                .map(|name| Choice::new(*name))
        };
        let default = choice.name().is_empty().then(first_registered).flatten();
        let choice = default.as_ref().unwrap_or(choice);
        let reader = self.algorithms.readers.get(choice.name());
        let known = || self.algorithms.names();
        reader.ok_or_else(|| WrongChoice::unknown_name("algorithm", choice.name(), &known()))?(
            choice,
        )
    }

    /// The settings of a data set.
    ///
    /// # Errors
    /// If its kind is not registered, or its settings cannot be read.
    pub fn read_source(&self, choice: &Choice) -> Result<Resolved<dyn TaskSource>> {
        let reader = self.sources.readers.get(choice.name());
        let known = || self.sources.names();
        reader
            .ok_or_else(|| WrongChoice::unknown_name("kind of data set", choice.name(), &known()))?(
            choice,
        )
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("environments", &self.environments.names())
            .field("algorithms", &self.algorithms.names())
            .field("sources", &self.sources.names())
            .field("single_agent", &self.single_agent.map(|single| single.name))
            .field("recipes", &self.recipes.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// A name such as `NumberPlate` in kebab case: `number-plate`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    let mut after_lowercase = false;
    for character in name.chars() {
        if character.is_uppercase() && after_lowercase {
            text.push('-');
        }
        after_lowercase = !character.is_uppercase();
        text.extend(character.to_lowercase());
    }
    text.replace('_', "-")
}

#[cfg(test)]
mod tests {
    use polyphony_episode::{EnvironmentError, FnEnvironment, JointAction, Reward, Task};

    use super::*;
    use crate::fixture::{SameLength, registry};

    fn choice(text: &str) -> Choice {
        Choice::from_ron(text).unwrap()
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let message = registry()
            .resolve_environment(&choice(text))
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }

    #[test]
    fn settings_are_spelled_out() {
        let resolved = registry()
            .resolve_environment(&choice("SameLength"))
            .unwrap();
        assert_eq!(
            resolved.settings(),
            "(\n    weight: 1.0,\n    labels: [],\n)"
        );
        let again = registry().resolve_environment(&resolved).unwrap();
        assert_eq!(again, resolved);
        let wrapped = registry()
            .resolve_environment(&choice("SingleAgent(SameLength(weight: 2.0))"))
            .unwrap();
        assert!(wrapped.settings().contains("weight: 2.0"), "{wrapped}");
        assert!(registry().build_environment(&wrapped).is_ok());
    }

    #[test]
    fn errors_name_the_nearest_name() {
        refused(
            "SameLenght",
            "this program has no environment `SameLenght`; did you mean `SameLength`? Known here: \
             SameLength, SingleAgent",
        );
        // The type itself would accept this key.
        refused(
            "SameLength(wieght: 2.0)",
            "there is no key `wieght` in SameLength; did you mean `weight`?",
        );
        refused("SameLength(weight: \"2\")", "expected a number");
        refused("SingleAgent", "names no environment to wrap");
        refused(
            "SingleAgent(SingleAgent(SameLength))",
            "is a SingleAgent of a SingleAgent",
        );
        refused("SingleAgent(Nothing)", "no environment `Nothing`");
        let error = registry().build_environment(&choice("SameLength(weight: 0.0)"));
        let message = format!("{:#}", error.err().unwrap());
        assert_eq!(
            message,
            "building the environment `SameLength`: `weight` is 0"
        );
        let none = Registry::new()
            .read_algorithm(&choice("Magrpo"))
            .err()
            .unwrap();
        assert!(none.to_string().contains("nor any other"), "{none}");
    }

    #[test]
    fn a_role_that_cannot_name_a_directory_is_refused() {
        #[derive(Default, Serialize, serde::Deserialize)]
        #[serde(default)]
        struct Named {
            role: String,
        }
        impl EnvironmentSettings for Named {
            fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
                let score = |_: &Task, _: &JointAction| Reward::new([("a", 1.0)]);
                Ok(Box::new(FnEnvironment::new([&*self.role], ["a"], score)))
            }
        }
        let registry = registry().environment::<Named>("Named");
        for text in [
            "Named(role: \"/data/x\")",
            "SingleAgent(Named(role: \"/data/x\"))",
        ] {
            let outcome = registry.build_environment(&choice(text));
            let message = format!("{:#}", outcome.err().unwrap());
            let expected = "building the environment `Named`: it has a role \"/data/x\", but";
            assert!(message.starts_with(expected), "{message}");
        }
        let outcome = registry.build_environment(&choice("Named(role: \"writer\")"));
        assert!(outcome.is_ok());
    }

    #[test]
    fn a_name_is_registered_once() {
        assert!(registry().check().is_ok());
        let twice = registry()
            .environment::<SameLength>("SameLength")
            .environment::<SameLength>("SingleAgent")
            .recipe("same-length", "()");
        let message = twice.check().unwrap_err().to_string();
        assert_eq!(
            message,
            "this program registers the environment `SameLength` and the environment `SingleAgent` and the \
             recipe `same-length` twice: rename one of the two"
        );
    }

    #[test]
    fn directories_are_named_after_the_environment() {
        for (text, label) in [
            ("SameLength", "same-length"),
            ("SingleAgent(SameLength)", "same-length-single-agent"),
            ("TLDR", "tldr"),
        ] {
            assert_eq!(registry().label(&choice(text)), label);
        }
    }

    #[test]
    fn a_label_of_the_settings_is_used_if_it_can_name_a_directory() {
        #[derive(Default, Serialize, serde::Deserialize)]
        #[serde(default)]
        struct Labelled {
            label: String,
        }
        impl EnvironmentSettings for Labelled {
            fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
                SameLength::default().build()
            }

            fn label(&self) -> Option<String> {
                Some(self.label.clone())
            }
        }
        let registry = registry().environment::<Labelled>("Labelled");
        for (text, label) in [
            ("Labelled(label: \"number_plate\")", "number_plate"),
            (
                "SingleAgent(Labelled(label: \"number_plate\"))",
                "number_plate-single-agent",
            ),
            ("Labelled(label: \"a/b\")", "labelled"),
            ("Labelled(label: \"..\")", "labelled"),
            ("Labelled", "labelled"),
            ("Labelled(label: 1)", "labelled"),
        ] {
            assert_eq!(registry.label(&choice(text)), label, "{text}");
        }
    }

    #[test]
    fn an_environment_is_found_without_its_capitals() {
        let find = |text| {
            registry()
                .find_environment(text)
                .map(|choice| choice.to_string())
        };
        assert_eq!(find("samelength").unwrap(), "SameLength");
        assert_eq!(find("same-length").unwrap(), "SameLength");
        assert!(find("chess").is_err());
    }
}
