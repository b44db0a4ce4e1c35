//! Multi-agent reinforcement learning for language models: MAGRPO and its relatives, an independent
//! actor-critic, and the two traits that a new algorithm implements, [`AlgorithmSettings`] and [`Algorithm`].
//!
//! Each [`Agent`] keeps its own weights and sees only its own conversation; a reward scores the answers
//! of all agents together. This crate knows how a team learns from such rewards. It must not know any
//! concrete environment, recipes or files.
//!
//! Start reading at [`train_step`], which shows one step from top to bottom. An [`Algorithm`], such as
//! [`Magrpo`], decides how the team learns. A new algorithm can reuse the parts of MAGRPO:
//! [`rollout()`], [`returns`], [`credits`], [`advantages`], [`PolicyLoss`], [`score_references`],
//! [`Learners`], [`gradient_step`], [`AdamW`].
//!
//! ```
//! use polyphony_marl::{AdvantageScale, Baseline, advantages};
//!
//! let credits = [1.0, 2.0, 6.0];
//! let unscaled = |baseline| advantages(&credits, baseline, AdvantageScale::Unscaled);
//! assert_eq!(unscaled(Baseline::GroupMean), [-2.0, -1.0, 3.0]);
//! assert_eq!(unscaled(Baseline::LeaveOneOut), [-3.0, -1.5, 4.5]);
//! ```

mod actor_critic;
mod adamw;
mod advantage;
mod agent;
mod algorithm;
mod checks;
mod communicator;
mod config;
mod episodes;
mod error;
#[cfg(test)]
mod fixture;
mod for_each_group;
mod grid;
mod learners;
mod magrpo;
mod memory;
mod metrics;
mod policy_loss;
mod policy_update;
mod protocol;
mod ranks;
mod reference;
mod returns;
mod rollout;
mod saved_state;
mod state;
mod step;
mod stream;
mod tasks;
mod team;
mod thread_ranks;
mod threads;
mod traffic;
mod tree;
mod update;
mod update_each;

pub use actor_critic::{HeadShape, IndependentActorCritic, value_loss};
pub use adamw::{AdamW, StepSize, WeightStepCount};
pub use advantage::{AdvantageScale, Baseline, advantages, advantages_are_zero};
pub use agent::{Agent, TextCodec, agent_of_role, roles_of};
pub use algorithm::{
    AgentSpec, Algorithm, AlgorithmMemory, AlgorithmSettings, ComputeDevice, EnvironmentSpec,
    MemoryNeed, Progress, StepContext,
};
pub use communicator::{CommunicationError, Communicator, NodeRank, SingleRank, SumFormat};
pub use config::{ConfigError, LongPrompts, LrSchedule, MomentFormat, TrainingConfig, Updates};
pub use episodes::{Episode, Episodes, play_episodes};
pub use error::MarlError;
pub use grid::{Grid, GridError};
pub use learners::Learners;
pub use magrpo::Magrpo;
pub use metrics::update_metrics;
pub use policy_loss::{
    Aggregation, Kl, Objective, PolicyLoss, PolicyStats, TokenLogprobs, TokenTerm,
};
pub use policy_update::{PolicyUpdate, update_policy};
pub use protocol::{Order, Protocol, Round, RoundPrompt};
pub use ranks::{RankGroup, Ranks};
pub use reference::{references, score_reference, score_references};
pub use returns::{Credit, credits, penalized_returns, returns, role_returns};
pub use rollout::{NodeLine, Rollout, rollout};
pub use saved_state::{AlgorithmState, SavedState, StateTensor, StateTensors};
pub use state::LearnerState;
pub use step::{Step, train_step};
pub use stream::{EVALUATION_STEP, StreamId};
pub use tasks::{Batch, StartedTasks, start_tasks};
pub use team::Team;
pub use thread_ranks::thread_ranks;
pub use traffic::{Message, TrafficTotal};
pub use tree::{
    Branch, History, JointMode, MAX_JOINT_ACTIONS, MAX_SAMPLES, Node, RoleGroup, Sample,
    SamplingPlan,
};
pub use update::{
    GradientStepConfig, GroupLoss, GroupScores, HiddenStates, Learner, StepOutcome, UpdateReport,
    compare_logprobs_once, gradient_step, minibatches,
};
pub use update_each::update_each;
