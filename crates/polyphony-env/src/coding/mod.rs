//! Python problems that two agents solve together.

mod expert;

pub use expert::{Draft, Expert, ExpertError, ExpertFailure, ExpertSettings, Review};
