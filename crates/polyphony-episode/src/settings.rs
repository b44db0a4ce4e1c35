//! What stands in a recipe for an environment or a data set.

use std::error::Error;

use crate::{Environment, EnvironmentError, Task};

/// Settings as a recipe gives them, and how the environment is made from them. To stand in a recipe a
/// type is also `Serialize` and `DeserializeOwned`.
///
/// Every environment that can be cloned builds itself, so that a simple one needs no second type. One that holds more than its settings, such as processes, has a type of its own for
/// them:
///
/// ```
/// use polyphony_episode::{
///     Environment, EnvironmentError, EnvironmentSettings, FnEnvironment, Reward,
/// };
/// use serde::{Deserialize, Serialize};
///
/// /// `Brevity(longest: 20)`: a text must not be longer than that.
/// #[derive(Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Brevity {
///     longest: usize,
/// }
///
/// impl EnvironmentSettings for Brevity {
///     fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
///         let longest = self.longest;
///         let game = FnEnvironment::new(["writer"], ["brevity"], move |_, action| {
///             let [text] = action.texts();
///             Reward::new([("brevity", f64::from(u8::from(text.len() <= longest)))])
///         });
///         Ok(Box::new(game))
///     }
/// }
///
/// let settings: Brevity = ron::from_str("(longest: 20)")?;
/// assert_eq!(settings.build()?.roles()[0].name, "writer");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait EnvironmentSettings {
    /// Makes the environment.
    ///
    /// # Errors
    /// If a setting is not allowed, or something that the environment needs cannot be started: what is
    /// wrong, and what would help.
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError>;

    /// The keys that say how the environment runs on a machine, and change nothing that agents read or
    /// earn, such as a number of workers. Runs that differ in them alone are the same experiment to
    /// comparisons. A key within another is written with a point: `sandbox.workers`.
    fn operational_keys(&self) -> &'static [&'static str] {
        &[]
    }

    /// A name for run directories and comparisons, where the settings tell more than the name in recipes,
    /// such as the program that is the environment. It is used if it can name a directory.
    fn label(&self) -> Option<String> {
        None
    }
}

impl<E: Environment + Clone + 'static> EnvironmentSettings for E {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(self.clone()))
    }
}

/// A data set as a recipe names it. To stand in a recipe a type is also `Serialize` and
/// `DeserializeOwned`.
pub trait TaskSource {
    /// Loads its tasks: at least one, no two with the same identifier.
    ///
    /// # Errors
    /// If it cannot be read, or holds something that makes no task: what is wrong, where, and what would
    /// help.
    fn load(&self) -> Result<Vec<Task>, Box<dyn Error + Send + Sync>>;

    /// A short name for reports, such as the file's.
    fn label(&self) -> String;

    /// The keys of its settings that change no task, such as a limit of memory: comparisons do not take them for
    /// another experiment, and a resumed run may change them.
    fn operational_keys(&self) -> &'static [&'static str] {
        &[]
    }
}
