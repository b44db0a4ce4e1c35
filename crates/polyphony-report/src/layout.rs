//! The names of the files in a run's directory.

/// The resolved recipe.
pub(crate) const RECIPE: &str = "recipe.ron";
/// What the run reports about itself.
pub(crate) const INFO: &str = "run.json";
/// In a saved evaluation of a trained team, the recipe of the training.
pub(crate) const TRAINING: &str = "training.ron";
/// The training steps that the saved agents have had.
pub(crate) const TRAINED: &str = "trained.ron";
/// How the environment describes itself.
pub(crate) const ENVIRONMENT: &str = "environment.json";
/// One object per step.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// The units and meanings of these metrics.
pub(crate) const CATALOG: &str = "metrics.json";
/// What was sampled, one object per node.
pub(crate) const ROLLOUTS: &str = "rollouts.jsonl";
/// One object per evaluation.
pub(crate) const EVALUATIONS: &str = "evaluations.jsonl";
/// The folder of the same figures for TensorBoard.
pub(crate) const TENSORBOARD: &str = "tensorboard";
/// The file there; TensorBoard recognizes it by its name.
pub(crate) const EVENT_FILE: &str = "events.out.tfevents.polyphony";
/// The folder of the saved agents.
pub(crate) const AGENTS: &str = "agents";
