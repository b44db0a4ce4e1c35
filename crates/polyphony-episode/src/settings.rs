//! The settings of an environment or a data set in a recipe.

use std::error::Error;

use crate::{Environment, EnvironmentError, Task};

/// The settings of an environment, as a recipe gives them. They know how to build the environment. A type
/// that recipes can name also implements `Serialize` and `DeserializeOwned`.
///
/// An environment that can be cloned is its own settings, so a simple one needs no second type. An
/// environment that holds more than settings, such as processes, has a separate type for its settings:
///
/// ```
/// use polyphony_episode::{
///     Environment, EnvironmentError, EnvironmentSettings, FnEnvironment, Reward,
/// };
/// use serde::{Deserialize, Serialize};
///
/// /// `Brevity(longest: 20)`: a text must not be longer than 20 bytes.
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
    /// Builds the environment.
    ///
    /// # Errors
    /// If a setting is not allowed, or something that the environment needs cannot be started. The error
    /// says what is wrong, and what would help.
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError>;

    /// The keys of the settings that only change how the environment runs, such as a number of workers, and
    /// not its results: what agents read and earn. `compare` ignores these settings, and `resume` may change
    /// them. A nested key is written with a point: `sandbox.workers`.
    fn operational_keys(&self) -> &'static [&'static str] {
        &[]
    }

    /// A name for run directories and comparisons that is more specific than the name in recipes. For
    /// example, an environment that runs an external program gives the name of that program. A name that
    /// a directory cannot have is ignored.
    fn label(&self) -> Option<String> {
        None
    }
}

impl<E: Environment + Clone + 'static> EnvironmentSettings for E {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(self.clone()))
    }
}

/// A data set as a recipe names it. A type that recipes can name also implements `Serialize` and
/// `DeserializeOwned`.
pub trait TaskSource {
    /// Loads the tasks: at least one, and no two with the same identifier.
    ///
    /// # Errors
    /// If the data set cannot be read, or contains something that is not a task. The error says what is
    /// wrong, where, and what would help.
    fn load(&self) -> Result<Vec<Task>, Box<dyn Error + Send + Sync>>;

    /// A short name for reports, such as the name of the file.
    fn label(&self) -> String;

    /// The keys of the settings that do not change the tasks, such as a memory limit. `compare` ignores these
    /// settings, and `resume` may change them.
    fn operational_keys(&self) -> &'static [&'static str] {
        &[]
    }
}
