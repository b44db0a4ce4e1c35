//! The settings that a resumed run may change, because they do not affect the steps that are done.

use anyhow::{Result, bail};
use polyphony_report::{FlatSettings, is_below, settings};

use crate::{operational::operational_keys, recipe::Recipe, registry::Registry};

/// The runner's own changeable settings: how long a run is, what it saves, and when it gives up.
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
    /// The changeable settings of a recipe: the runner's own, and the operational keys of the environment and
    /// the data sets.
    ///
    /// # Errors
    /// If something that the recipe names is not registered, or its settings cannot be read.
    pub(crate) fn of(registry: &Registry, recipe: &Recipe) -> Result<Self> {
        let operational = operational_keys(registry, recipe)?;
        let runner = SETTINGS.map(str::to_owned).into_iter();
        Ok(Self(runner.chain(operational).collect()))
    }

    /// Refuses a recipe that contradicts the steps that a run has done.
    ///
    /// # Errors
    /// Names the setting that differs, and those that may be changed.
    pub(crate) fn check(&self, before: &Recipe, after: &Recipe) -> Result<()> {
        let (before, after) = (settings(&before.to_ron()), settings(&after.to_ron()));
        let Some((path, value)) = self.forbidden_change(&before, &after) else {
            return Ok(());
        };
        let known: Vec<String> = self.0.iter().map(|path| format!("`{path}`")).collect();
        bail!(
            "`{path}` is {value} in this run, and a resumed run cannot change it: it may change {}",
            known.join(", ")
        )
    }

    /// The first setting whose value differs between `before` and `after` although it may not change. Settings
    /// that only one of the two has are ignored: another version of the program may have added them.
    pub(crate) fn forbidden_change<'s>(
        &self,
        before: &'s FlatSettings,
        after: &FlatSettings,
    ) -> Option<(&'s str, &'s str)> {
        let mut differences = before
            .iter()
            .filter(|(path, value)| after.get(*path).is_some_and(|after| after != *value));
        let forbidden = differences.find(|(path, _)| !self.contains(path));
        forbidden.map(|(path, value)| (path.as_str(), value.as_str()))
    }

    fn contains(&self, path: &str) -> bool {
        self.0.iter().any(|section| is_below(path, section))
    }
}
