//! The names of the files in a run's directory.

/// The resolved recipe.
pub(crate) const RECIPE: &str = "recipe.ron";
/// What the run reports about itself.
pub(crate) const INFO: &str = "run.json";
/// In a saved evaluation of a trained team, the recipe of the training run.
pub(crate) const TRAINING: &str = "training.ron";
/// How many training steps the saved agents have had.
pub(crate) const TRAINED: &str = "trained.ron";
/// How the environment describes itself.
pub(crate) const ENVIRONMENT: &str = "environment.json";
/// The metrics, one object per step.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// The units and meanings of the metrics.
pub(crate) const CATALOG: &str = "metrics.json";
/// The rollouts, one object per node.
pub(crate) const ROLLOUTS: &str = "rollouts.jsonl";
/// The evaluations, one object per evaluation.
pub(crate) const EVALUATIONS: &str = "evaluations.jsonl";
/// The folder with the metrics and the results of evaluations for TensorBoard.
pub(crate) const TENSORBOARD: &str = "tensorboard";
/// The file in that folder; TensorBoard recognizes it by its name.
pub(crate) const EVENT_FILE: &str = "events.out.tfevents.polyphony";
/// The folder of the saved agents.
pub(crate) const AGENTS: &str = "agents";
