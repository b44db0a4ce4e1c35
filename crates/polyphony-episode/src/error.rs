//! The error of environments.

use std::error::Error;

use thiserror::Error;

use crate::TaskError;

/// Why an environment could not be built, or could not start or score an episode.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// The task lacks a field.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Anything else.
    #[error("{message}")]
    Failed {
        /// What failed, and what would help.
        message: String,
        /// The cause, if there is one.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl EnvironmentError {
    /// An error without a cause. The message says what failed, and what would help.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            source: None,
        }
    }

    /// An error with a cause. The message says what failed, without repeating the message of `source`.
    pub fn because(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            message: message.into(),
            source: Some(source.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_not_part_of_the_message() {
        let number = "seven".parse::<u8>().unwrap_err();
        let error = EnvironmentError::because("task `t`: the target is not a number", number);
        assert_eq!(error.to_string(), "task `t`: the target is not a number");
        let source = error.source().unwrap();
        assert_eq!(source.to_string(), "invalid digit found in string");
        assert!(EnvironmentError::failed("no").source().is_none());
    }
}
