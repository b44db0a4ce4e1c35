//! An algorithm of one's own: responses are compared by their rank within the group alone.
//!
//! `A_g = 2 · rank_g / (G − 1) − 1`: −1 for the lowest credit of a group and 1 for the highest, with the
//! mean rank for equal credits. Ranks have no unit, so a reward with large outliers does no harm. What an
//! agent has shown to be hard is trained longer: advantages are multiplied by a weight that follows how
//! often its groups had nothing to rank (`patience`), which is this algorithm's own state.
//!
//! Everything but the ranks is made of the public parts of `polyphony::marl`.

use polyphony::{
    episode::{Metric, MetricKey},
    marl::{
        AgentPlan, Algorithm, AlgorithmMemory, AlgorithmSettings, AlgorithmState, Agent,
        ConfigError, Credit, Game, JointMode, Learner, LearnerState, MOST_SAMPLES, MarlError,
        PolicyLoss, PolicyUpdate, Progress, Rollout, StepContext, TrainingConfig, Tree,
        credits, player, role_returns, roles_of, update_each, update_metrics,
        update_policy,
    },
    model::{ModelError, TensorSpec},
};
use serde::{Deserialize, Serialize};

/// The settings, as a recipe gives them: `RankBased(samples: 8)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RankBased {
    /// Responses that each agent samples at a node.
    samples: usize,
    /// How fast the weight of an agent's advantages follows its groups, from 0 (never) to 1 (at once).
    patience: f64,
}

impl Default for RankBased {
    fn default() -> Self {
        Self {
            samples: 8,
            patience: 0.1,
        }
    }
}

impl AlgorithmSettings for RankBased {
    fn validate(&self, _config: &TrainingConfig) -> Result<(), ConfigError> {
        if !(2..=MOST_SAMPLES).contains(&self.samples) {
            return Err(ConfigError::new(
                "samples",
                self.samples,
                "from 2 to 4096, since ranks compare responses",
            ));
        }
        if !(0.0..=1.0).contains(&self.patience) {
            return Err(ConfigError::new("patience", self.patience, "from 0 to 1"));
        }
        Ok(())
    }

    fn validate_for(&self, game: &Game) -> Result<(), ConfigError> {
        self.tree().validate_for(game.roles.len(), game.horizon)
    }

    fn method(&self, _roles: usize) -> String {
        "ranks".to_owned()
    }

    fn tree(&self) -> Tree {
        Tree {
            samples: self.samples,
            joint_mode: JointMode::Aligned,
            termination_threshold: None,
            discount: 1.0,
        }
    }

    fn memory(&self, agent: &AgentPlan, config: &TrainingConfig) -> AlgorithmMemory {
        agent.update_memory(self.samples, config)
    }

    fn build(
        &self,
        agents: &[Agent],
        _game: &Game,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        self.validate(config)?;
        Ok(Box::new(Training {
            settings: self.clone(),
            members: agents.iter().map(|_| Member::default()).collect(),
        }))
    }
}

/// The algorithm while it trains a team.
struct Training {
    settings: RankBased,
    /// One per agent.
    members: Vec<Member>,
}

struct Member {
    learner: Learner,
    /// What the advantages of this agent are multiplied by, from 1 to 2.
    weight: f64,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            learner: Learner::default(),
            weight: 1.0,
        }
    }
}

/// Of a member everything but tensors.
#[derive(Serialize, Deserialize)]
struct MemberState {
    learner: LearnerState,
    weight: f64,
}

impl Algorithm for Training {
    fn tree(&self) -> Tree {
        AlgorithmSettings::tree(&self.settings)
    }

    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        let (team, roles) = (agents.len(), step.game.roles.len());
        let weights: Vec<f64> = self.members.iter().map(|member| member.weight).collect();
        rollout.assign_advantages(|node, role| {
            let returns = role_returns(node, role, 1.0);
            let ranks = rank_advantages(&credits(node, role, &returns, Credit::Mean));
            let weight = weights[player(team, role)];
            Ok(ranks.into_iter().map(|rank| weight * rank).collect())
        })?;
        let mut agreement = Vec::new();
        for role in 0..roles {
            let groups = rollout.groups_of(&[role]);
            let idle = groups.iter().filter(|group| is_idle(group)).count();
            let fraction = idle as f64 / groups.len().max(1) as f64;
            let own = &mut self.members[player(team, role)].weight;
            *own += self.settings.patience * (1.0 + fraction - *own);
            agreement.push(rank_correlation(rollout, role));
        }
        let loss = PolicyLoss::default();
        let shared = &*rollout;
        let updates = update_each(agents, &mut self.members, on_progress, |index, agent, own| {
            let played: Vec<usize> = roles_of(index, team, roles).collect();
            let update = PolicyUpdate::new(index, agent, played.len(), step);
            let groups: Vec<_> = shared.groups_of(&played).into_iter().cloned().collect();
            update_policy(agent, &mut own.learner, &groups, &loss, &update)
        })?;
        let mut metrics = Vec::new();
        for (role, name) in step.game.roles.iter().enumerate() {
            let (report, shift) = &updates[player(team, role)];
            metrics.extend(update_metrics(name, report, shift.as_ref()));
            metrics.push(Metric::new(
                MetricKey::new("rank_correlation").of_role(name),
                agreement[role],
                "",
                "How well ranks agree with credits: their correlation over all responses",
            ));
        }
        Ok(metrics)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        let members = agents.iter().zip(&self.members);
        let state = |(agent, member): (&Agent, &Member)| MemberState {
            learner: member.learner.state(agent),
            weight: member.weight,
        };
        let values: Vec<MemberState> = members.clone().map(state).collect();
        let tensors = members.flat_map(|(agent, member)| member.learner.tensors(agent));
        AlgorithmState::new(&values, tensors.collect())
    }

    fn restore(
        &mut self,
        agents: &[Agent],
        values: &str,
        read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<(), MarlError> {
        let states: Vec<MemberState> = AlgorithmState::read_each(values, agents.len())?;
        let members = agents.iter().zip(states).map(|(agent, state)| {
            Ok(Member {
                learner: Learner::restored(agent, &state.learner, read)?,
                weight: state.weight,
            })
        });
        self.members = members.collect::<Result<_, MarlError>>()?;
        Ok(())
    }

    fn gradient_steps(&self) -> usize {
        let learners = self.members.iter().map(|member| &member.learner);
        learners.map(|learner| learner.gradient_steps).sum()
    }
}

/// The advantage of each credit: −1 for the lowest rank, 1 for the highest, and for equal credits the
/// mean of their ranks'.
fn rank_advantages(credits: &[f64]) -> Vec<f64> {
    let most = (credits.len() - 1).max(1) as f64;
    let rank = |own: &f64| {
        let lower = credits.iter().filter(|other| *other < own).count() as f64;
        let equal = credits.iter().filter(|other| *other == own).count() as f64;
        lower + (equal - 1.0) / 2.0
    };
    credits
        .iter()
        .map(|own| 2.0 * rank(own) / most - 1.0)
        .collect()
}

/// Whether no response of a group ranks above another.
fn is_idle(group: &polyphony::marl::AgentGroup) -> bool {
    let advantages = group.samples.iter().filter_map(|sample| sample.advantage);
    advantages.into_iter().all(|advantage| advantage == 0.0)
}

/// The correlation of a role's advantages with its credits; NaN where one of them does not vary.
fn rank_correlation(rollout: &Rollout, role: usize) -> f64 {
    let mut pairs = Vec::new();
    for node in rollout.all_nodes() {
        let credits = credits(node, role, &role_returns(node, role, 1.0), Credit::Mean);
        let samples = &node.groups[role].samples;
        let advantages = samples.iter().filter_map(|sample| sample.advantage);
        pairs.extend(credits.into_iter().zip(advantages));
    }
    correlation(&pairs)
}

fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        pairs.iter().map(|pair| of(pair.0 - x, pair.1 - y)).sum()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_know_no_distances_and_share_ties() {
        assert_eq!(rank_advantages(&[0.5, 9.0, 0.5]), [-0.5, 1.0, -0.5]);
        assert_eq!(rank_advantages(&[3.0, 3.0]), [0.0, 0.0]);
        assert_eq!(rank_advantages(&[1.0, 2.0, 900.0]), [-1.0, 0.0, 1.0]);
    }

    #[test]
    fn correlation_is_one_along_a_line() {
        let pairs = [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)];
        assert!((correlation(&pairs) - 1.0).abs() < 1e-12);
        assert!((correlation(&pairs.map(|(a, b)| (a, -b))) + 1.0).abs() < 1e-12);
    }
}
