//! What a resumed run may change: the settings that leave the steps that are done as they are.

use anyhow::{Result, bail};
use polyphony_report::{FlatSettings, is_below, settings};

use crate::{operational::operational_keys, recipe::Recipe, registry::Registry};

/// How long the run is, what it keeps, and when it gives up.
const SETTINGS: [&str; 6] = [
    "steps",
    "checkpoints.every",
    "checkpoints.keep",
    "long_prompts",
    "updates.logprob_tolerance",
    "updates.max_skipped_updates",
];

/// The settings that a resumed run may change, by their paths.
#[derive(Clone, Debug)]
pub(crate) struct Changeable(Vec<String>);

impl Changeable {
    /// Those of a recipe: the runner's own, and the operational keys of what it names.
    ///
    /// # Errors
    /// If something that it names is not registered, or its settings cannot be read.
    pub(crate) fn of(registry: &Registry, recipe: &Recipe) -> Result<Self> {
        let operational = operational_keys(registry, recipe)?;
        let own = SETTINGS.map(str::to_owned).into_iter();
        Ok(Self(own.chain(operational).collect()))
    }

    /// Refuses a recipe that would change what a run has done.
    ///
    /// # Errors
    /// Names the setting, and those that may be changed.
    pub(crate) fn check(&self, before: &Recipe, after: &Recipe) -> Result<()> {
        let (before, after) = (settings(&before.to_ron()), settings(&after.to_ron()));
        let Some((path, value)) = self.broken(&before, &after) else {
            return Ok(());
        };
        let known: Vec<String> = self.0.iter().map(|path| format!("`{path}`")).collect();
        bail!(
            "`{path}` is {value} in this run, and a resumed run cannot change it: it may change {}",
            known.join(", ")
        )
    }

    /// The first setting of `before` that `after` has with another value and may not change. FlatSettings that
    /// only one of them has do not count: another version of the program may have added them.
    pub(crate) fn broken<'s>(
        &self,
        before: &'s FlatSettings,
        after: &FlatSettings,
    ) -> Option<(&'s str, &'s str)> {
        let mut differing = before
            .iter()
            .filter(|(path, value)| after.get(*path).is_some_and(|other| other != *value));
        let found = differing.find(|(path, _)| !self.contains(path));
        found.map(|(path, value)| (path.as_str(), value.as_str()))
    }

    fn contains(&self, path: &str) -> bool {
        self.0.iter().any(|own| is_below(path, own))
    }
}
