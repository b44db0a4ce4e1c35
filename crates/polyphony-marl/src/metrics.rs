//! The metrics that algorithms share: what the joint actions of a step earned, what the responses were like,
//! and what the updates did. `docs/metrics.md` has a formula for each.

use polyphony_episode::{Environment, Metric, MetricKey};

use crate::{
    advantage::{advantages_are_zero, standard_deviation},
    policy_loss::PolicyStats,
    returns::{returns, role_returns},
    rollout::Rollout,
    tree::{Node, RoleGroup, Sample, SamplingPlan},
    update::UpdateReport,
};

const REWARD: &str = "reward";

/// The arithmetic mean. Without values it is NaN, which files show as null.
pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean return over all joint actions of the given nodes; NaN if there are none.
fn mean_return<'a>(nodes: impl IntoIterator<Item = &'a Node>, discount: f64) -> f64 {
    mean(nodes.into_iter().flat_map(|node| returns(node, discount)))
}

/// The nodes of each turn, for as many turns as the environment has.
fn by_turn<'a>(environment: &dyn Environment, nodes: &[&'a Node]) -> Vec<Vec<&'a Node>> {
    let nodes_at = |turn| nodes.iter().copied().filter(move |node| node.turn == turn);
    let turns = 0..environment.horizon().get();
    turns.map(|turn| nodes_at(turn).collect()).collect()
}

/// What the joint actions earned, and how much was sampled.
pub(crate) fn reward_metrics(
    environment: &dyn Environment,
    rollout: &Rollout,
    plan: &SamplingPlan,
) -> Vec<Metric> {
    let turns = by_turn(environment, &rollout.all_nodes());
    let mut metrics = vec![Metric::new(
        MetricKey::new("return"),
        mean_return(turns[0].iter().copied(), plan.discount),
        REWARD,
        "Mean return of the joint actions",
    )];
    metrics.extend(part_metrics(
        environment,
        &turns[0],
        None,
        &MetricKey::new("reward"),
        "Mean of this part of their rewards at the first turn",
    ));
    if turns.len() > 1 {
        for (turn, nodes) in (1..).zip(&turns) {
            metrics.push(Metric::new(
                MetricKey::new("nodes").at_turn(turn),
                nodes.len(),
                "nodes",
                "Nodes that were played at this turn",
            ));
            metrics.push(Metric::new(
                MetricKey::new("return").at_turn(turn),
                mean_return(nodes.iter().copied(), plan.discount),
                REWARD,
                "Mean return of the joint actions of this turn",
            ));
            metrics.extend(part_metrics(
                environment,
                nodes,
                None,
                &MetricKey::new("reward").at_turn(turn),
                "Mean of this part of the rewards at this turn",
            ));
        }
    }
    metrics.extend([
        Metric::new(
            MetricKey::new("completion_tokens"),
            rollout.completion_tokens(),
            "tokens",
            "Tokens in the responses of all agents",
        ),
        Metric::new(
            MetricKey::new("skipped_tasks"),
            rollout.skipped_tasks,
            "tasks",
            "Tasks left out because a prompt did not fit",
        ),
        Metric::new(
            MetricKey::new("cut_episodes"),
            rollout.cut_episodes,
            "joint actions",
            "Joint actions after which the episode was cut because the next prompt did not fit",
        ),
    ]);
    metrics
}

/// The mean of each part of the reward over all joint actions of the given nodes, for one role or for the
/// whole team. A joint action without a part counts as 0; NaN if there are no joint actions.
fn part_metrics<'a>(
    environment: &'a dyn Environment,
    nodes: &'a [&Node],
    role: Option<usize>,
    key: &'a MetricKey,
    meaning: &'static str,
) -> impl Iterator<Item = Metric> + 'a {
    environment.reward_parts().iter().map(move |part| {
        let branches = nodes.iter().flat_map(|node| &node.branches);
        let values = branches.map(|branch| match role {
            None => branch.reward.part(part).unwrap_or(0.0),
            Some(role) => branch.reward.part_of(role, part).unwrap_or(0.0),
        });
        let key = key.clone().part(part);
        Metric::new(key, mean(values), REWARD, meaning)
    })
}

/// Whether each role has its own reward.
fn has_rewards_per_role(nodes: &[&Node]) -> bool {
    let mut branches = nodes.iter().flat_map(|node| &node.branches);
    branches.any(|branch| branch.reward.role_count().is_some())
}

/// For each role, the metrics of what it earned and answered.
pub(crate) fn role_metrics(
    environment: &dyn Environment,
    rollout: &Rollout,
    plan: &SamplingPlan,
) -> Vec<Vec<Metric>> {
    let all_nodes = rollout.all_nodes();
    let turns = by_turn(environment, &all_nodes);
    let has_rewards_per_role = has_rewards_per_role(&all_nodes);
    let roles = environment.roles().iter().enumerate();
    let by_role = roles.map(|(index, role)| {
        let key = |name| MetricKey::new(name).of_role(&role.name);
        let mut metrics = Vec::new();
        if has_rewards_per_role {
            metrics.extend(role_rewards(environment, index, &turns, plan));
        }
        metrics.extend(response_metrics(index, &all_nodes, &key, Scope::AllTurns));
        if turns.len() > 1 {
            for (turn, nodes) in (1..).zip(&turns) {
                let key = |name| key(name).at_turn(turn);
                metrics.extend(response_metrics(index, nodes, &key, Scope::OneTurn));
            }
        }
        metrics
    });
    by_role.collect()
}

/// What one role earned, if each role has its own reward.
fn role_rewards(
    environment: &dyn Environment,
    role: usize,
    turns: &[Vec<&Node>],
    plan: &SamplingPlan,
) -> Vec<Metric> {
    let name = &environment.roles()[role].name;
    let mean_role_return = |nodes: &[&Node]| {
        let returns = nodes
            .iter()
            .flat_map(|node| role_returns(node, role, plan.discount));
        mean(returns)
    };
    let mut metrics = vec![Metric::new(
        MetricKey::new("return").of_role(name),
        mean_role_return(&turns[0]),
        REWARD,
        "Mean return of the joint actions for this role",
    )];
    metrics.extend(part_metrics(
        environment,
        &turns[0],
        Some(role),
        &MetricKey::new("reward").of_role(name),
        "Mean of this part of the role's rewards at the first turn",
    ));
    if turns.len() > 1 {
        for (turn, nodes) in (1..).zip(turns) {
            metrics.push(Metric::new(
                MetricKey::new("return").of_role(name).at_turn(turn),
                mean_role_return(nodes),
                REWARD,
                "Mean return of the joint actions of this turn for this role",
            ));
            metrics.extend(part_metrics(
                environment,
                nodes,
                Some(role),
                &MetricKey::new("reward").of_role(name).at_turn(turn),
                "Mean of this part of the role's rewards at this turn",
            ));
        }
    }
    metrics
}

/// Whether metrics cover all turns or only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    AllTurns,
    OneTurn,
}

/// What a role's responses were like. Metrics about advantages are included if the algorithm has assigned
/// advantages.
fn response_metrics(
    role: usize,
    nodes: &[&Node],
    key: &dyn Fn(&'static str) -> MetricKey,
    scope: Scope,
) -> Vec<Metric> {
    let groups: Vec<&RoleGroup> = nodes.iter().map(|node| &node.groups[role]).collect();
    let samples: Vec<&Sample> = groups.iter().flat_map(|group| &group.samples).collect();
    let advantages: Option<Vec<Vec<f64>>> = groups.iter().map(|group| group.advantages()).collect();
    let logprobs = samples.iter().flat_map(|sample| &sample.logprobs);
    let metric = |name, value: f64, unit, [overall, turn]: [&'static str; 2]| {
        let meaning = match scope {
            Scope::AllTurns => overall,
            Scope::OneTurn => turn,
        };
        Metric::new(key(name), value, unit, meaning)
    };
    let mut metrics = Vec::new();
    if let Some(advantages) = advantages {
        metrics.push(metric(
            "advantage_std",
            mean(advantages.iter().map(|group| standard_deviation(group))),
            REWARD,
            [
                "Mean standard deviation of a group's advantages: how much there is to learn from",
                "Mean standard deviation of a group's advantages at this turn",
            ],
        ));
        metrics.push(metric(
            "zero_advantage_fraction",
            mean(
                advantages
                    .iter()
                    .map(|group| f64::from(u8::from(advantages_are_zero(group)))),
            ),
            "fraction",
            [
                "Groups that give no policy gradient, because all their advantages are 0",
                "Groups of this turn whose advantages are all 0",
            ],
        ));
    }
    metrics.push(metric(
        "entropy",
        -mean(logprobs.map(|&logprob| f64::from(logprob))),
        "nats/token",
        [
            "Entropy of the policy, estimated from the tokens that it sampled",
            "Entropy of the policy at this turn",
        ],
    ));
    metrics.push(metric(
        "completion_length",
        mean(
            samples
                .iter()
                .map(|sample| sample.response.tokens.len() as f64),
        ),
        "tokens",
        [
            "Mean length of a response",
            "Mean length of a response at this turn",
        ],
    ));
    metrics.push(metric(
        "truncated_fraction",
        mean(
            samples
                .iter()
                .map(|sample| f64::from(u8::from(sample.is_truncated()))),
        ),
        "fraction",
        [
            "Responses that the length limit cut",
            "Responses of this turn that the length limit cut",
        ],
    ));
    metrics
}

/// The metrics of one agent's update, under the name of a role that the agent plays.
pub fn update_metrics(
    role: &str,
    report: &UpdateReport,
    policy_stats: Option<&PolicyStats>,
) -> Vec<Metric> {
    let key = |name| MetricKey::new(name).of_role(role);
    vec![
        Metric::new(
            key("gradient_steps"),
            report.steps,
            "steps",
            "Gradient steps taken",
        ),
        Metric::new(
            key("grad_norm"),
            report.grad_norm,
            "",
            "Largest norm of a gradient before clipping",
        ),
        Metric::new(
            key("learning_rate"),
            report.learning_rate,
            "",
            "Learning rate of the step",
        ),
        Metric::new(
            key("skipped_groups"),
            report.skipped_groups,
            "groups",
            "Groups that the update left out",
        ),
        Metric::new(
            key("skipped_updates"),
            report.skipped,
            "steps",
            "Gradient steps skipped because the loss or the gradient was not finite",
        ),
        Metric::new(
            key("logprob_gap"),
            report.logprob_gap,
            "nats",
            "Largest difference of a token's log-probability between rollout and training, which should be only rounding",
        ),
        Metric::new(
            key("ratio"),
            policy_stats.map(|stats| stats.ratio),
            "",
            "Mean ratio of a token's probability in training to that at rollout",
        ),
        Metric::new(
            key("approx_kl"),
            policy_stats.map(|stats| stats.approx_kl),
            "nats/token",
            "KL divergence from the rollout policy to the policy in training, KL(rollout ‖ training), estimated from the sampled tokens",
        ),
        Metric::new(
            key("clip_fraction"),
            policy_stats.map(|stats| stats.clip_fraction),
            "fraction",
            "Tokens that the objective clipped",
        ),
        Metric::new(
            key("kl"),
            policy_stats.and_then(|stats| stats.kl),
            "nats/token",
            "Divergence from the reference, estimated from the tokens that were sampled",
        ),
    ]
}

/// All metrics in the order in which they are written: first the team's, then role by role (its response
/// metrics, then what the algorithm reports for it), and last those that depend on clocks.
pub(crate) fn merge_metrics(
    team: Vec<Metric>,
    roles: Vec<Vec<Metric>>,
    algorithm: Vec<Metric>,
    timing: Vec<Metric>,
) -> Vec<Metric> {
    let (algorithm_timing, algorithm): (Vec<_>, Vec<_>) = algorithm
        .into_iter()
        .partition(|metric| metric.key.is_timing());
    let (mut algorithm_roles, algorithm_team): (Vec<_>, Vec<_>) = algorithm
        .into_iter()
        .partition(|metric| metric.key.role.is_some());
    let mut metrics = team;
    metrics.extend(algorithm_team);
    for role_metrics in roles {
        let role = role_metrics
            .first()
            .and_then(|metric| metric.key.role.clone());
        metrics.extend(role_metrics);
        metrics.extend(algorithm_roles.extract_if(.., |metric| metric.key.role == role));
    }
    metrics.extend(algorithm_roles);
    metrics.extend(timing);
    metrics.extend(algorithm_timing);
    metrics
}
