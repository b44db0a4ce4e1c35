//! The names of the files in a run's directory.

/// The resolved recipe.
pub(crate) const RECIPE: &str = "recipe.ron";
/// What the run says of itself.
pub(crate) const INFO: &str = "run.json";
/// Where a team was evaluated outside of its training, the recipe of that.
pub(crate) const TRAINING: &str = "training.ron";
/// The training steps that the saved agents have had.
pub(crate) const TRAINED: &str = "trained.ron";
/// How the environment describes itself.
pub(crate) const ENVIRONMENT: &str = "environment.json";
/// One object per step.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// The units and meanings of what stands there.
pub(crate) const CATALOG: &str = "metrics.json";
/// What was sampled, one object per node.
pub(crate) const ROLLOUTS: &str = "rollouts.jsonl";
/// One object per evaluation.
pub(crate) const EVALUATIONS: &str = "evaluations.jsonl";
/// The same figures for TensorBoard, which knows such files by their names.
pub(crate) const EVENTS: &str = "tensorboard/events.out.tfevents.polyphony";
/// The folder of the saved agents.
pub(crate) const AGENTS: &str = "agents";
