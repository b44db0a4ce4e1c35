//! The context of a rollout, and its nodes while it is played.

use polyphony_episode::{Environment, Observation, Task, Turn};

use crate::{
    config::TrainingConfig,
    team::Team,
    tree::{History, Node, SamplingPlan},
};

/// Everything that all turns of a rollout need.
pub(super) struct RolloutContext<'a> {
    pub(super) team: &'a Team,
    pub(super) environment: &'a dyn Environment,
    pub(super) plan: &'a SamplingPlan,
    pub(super) config: &'a TrainingConfig,
    pub(super) step: u32,
}

/// A node before anyone has answered.
pub(super) struct OpenNode<'a> {
    pub(super) task: &'a Task,
    /// The task's index in the data set.
    pub(super) index: u32,
    /// The index of the parent node on its level, and that of the joint action that led here.
    pub(super) parent: Option<(usize, usize)>,
    /// The number of the joint action that led here, among all that are possible at the turn before; 0 at the
    /// first turn. It is part of the keys of random streams.
    pub(super) branch: u32,
    /// The turns before it.
    pub(super) past: Vec<Turn>,
    /// What each role reads.
    pub(super) observations: Vec<Observation>,
    /// What the model of each role reads, for the roles of this rank; empty for others.
    pub(super) histories: Vec<History>,
}

/// A node whose roles have answered, and what comes after each of its joint actions.
pub(super) struct PlayedNode<'a> {
    pub(super) open: OpenNode<'a>,
    pub(super) node: Node,
    /// The next observations after each joint action, if the episode continues.
    pub(super) next: Vec<Option<Vec<Observation>>>,
}
