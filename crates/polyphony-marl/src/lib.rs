//! Multi-agent reinforcement learning for language models: MAGRPO and its relatives.
//!
//! Each [`Agent`] keeps its own weights and sees only its own conversation; one shared reward
//! scores what all of them say. This crate knows how a team learns from such rewards. It knows no
//! concrete environment, no recipe and no file.
//!
//! Start reading at [`train_step`]: it is one step from top to bottom, and each of its calls is
//! one short file. `docs/one-step.md` tells the same in words. What an algorithm is made of can
//! also be used by itself:
//!
//! ```
//! use polyphony_marl::{AdvantageScale, Baseline, advantages};
//!
//! let credits = [1.0, 2.0, 6.0];
//! let judged = |baseline| advantages(&credits, baseline, AdvantageScale::Unscaled);
//! assert_eq!(judged(Baseline::GroupMean), [-2.0, -1.0, 3.0]);
//! assert_eq!(judged(Baseline::LeaveOneOut), [-3.0, -1.5, 4.5]);
//! ```

mod adamw;
mod advantage;
mod agent;
mod checkpoint;
mod config;
mod episodes;
mod error;
#[cfg(test)]
mod fixture;
mod objective;
mod report;
mod returns;
mod rollout;
mod step;
mod tree;
mod update;

pub use advantage::{advantages, teaches_nothing};
pub use agent::{Agent, Language};
pub use checkpoint::AgentState;
pub use config::{
    AdvantageScale, Aggregation, Algorithm, Baseline, ConfigError, Credit, JointMode, Kl,
    MOST_JOINT_ACTIONS, MOST_SAMPLES, Objective, Schedule, Updates,
};
pub use episodes::{Episode, EpisodeConfig, Episodes, Protocol, play_episodes};
pub use error::MarlError;
pub use objective::{Lesson, TokenLogprobs, TokenTerm, shares, token_term};
pub use report::{AgentReport, RoleFigures, StepReport, Timing, TurnReport, mean_return};
pub use returns::{credits, penalized_returns, returns};
pub use rollout::{
    IndexedTask, LongPrompts, Playable, ResponseConfig, Rollout, RolloutConfig, RolloutWeights,
    playable_tasks, rollout,
};
pub use step::{Progress, Step, StepConfig, train_step};
pub use tree::{AgentGroup, Branch, History, Node, Sample};
pub use update::{Drift, JudgedGroup, UpdateConfig, UpdateReport, update};
