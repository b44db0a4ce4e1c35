//! The figures of a step: what was earned and how the agents answered, whatever the algorithm.
//! `docs/metrics.md` has each one's formula.

use polyphony_episode::{Environment, Metric, MetricKey};

use crate::{
    advantage::{are_zero, standard_deviation},
    policy_loss::PolicyStats,
    returns::{returns, role_returns},
    rollout::Rollout,
    tree::{AgentGroup, Node, Sample, Tree},
    update::UpdateReport,
};

const REWARD: &str = "reward";

/// The arithmetic mean; NaN for no values, which is written as null.
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
    let at = |turn| nodes.iter().copied().filter(move |node| node.turn == turn);
    let turns = 0..environment.horizon().get();
    turns.map(|turn| at(turn).collect()).collect()
}

/// What the joint actions earned, and how much was sampled.
pub(crate) fn reward_metrics(
    environment: &dyn Environment,
    rollout: &Rollout,
    tree: &Tree,
) -> Vec<Metric> {
    let turns = by_turn(environment, &rollout.all_nodes());
    let mut metrics = vec![Metric::new(
        MetricKey::new("return"),
        mean_return(turns[0].iter().copied(), tree.discount),
        REWARD,
        "Mean return of the joint actions",
    )];
    metrics.extend(parts(
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
                mean_return(nodes.iter().copied(), tree.discount),
                REWARD,
                "Mean return of the joint actions of this turn",
            ));
            metrics.extend(parts(
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
            "Joint actions that would have gone on, had the next prompt fitted",
        ),
    ]);
    metrics
}

/// The mean of each part of the reward over all joint actions of the given nodes, for one role or all of
/// them. A joint action without a part counts as 0; NaN if there are no joint actions.
fn parts<'a>(
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

/// Whether each role has a reward of its own.
fn has_own_rewards(nodes: &[&Node]) -> bool {
    let mut branches = nodes.iter().flat_map(|node| &node.branches);
    branches.any(|branch| branch.reward.roles().is_some())
}

/// The figures of what each role earned and answered.
pub(crate) fn role_metrics(
    environment: &dyn Environment,
    rollout: &Rollout,
    tree: &Tree,
) -> Vec<Vec<Metric>> {
    let all = rollout.all_nodes();
    let turns = by_turn(environment, &all);
    let has_own_rewards = has_own_rewards(&all);
    let roles = environment.roles().iter().enumerate();
    let of_role = roles.map(|(role, named)| {
        let key = |name| MetricKey::new(name).of_role(&named.name);
        let mut metrics = Vec::new();
        if has_own_rewards {
            metrics.extend(own_rewards(environment, role, &turns, tree));
        }
        metrics.extend(answers(role, &all, &key, Wording::Overall));
        if turns.len() > 1 {
            for (turn, nodes) in (1..).zip(&turns) {
                let key = |name| key(name).at_turn(turn);
                metrics.extend(answers(role, nodes, &key, Wording::Turn));
            }
        }
        metrics
    });
    of_role.collect()
}

/// What one role earned, if each has a reward of its own.
fn own_rewards(
    environment: &dyn Environment,
    role: usize,
    turns: &[Vec<&Node>],
    tree: &Tree,
) -> Vec<Metric> {
    let name = &environment.roles()[role].name;
    let own_return = |nodes: &[&Node]| {
        let returns = nodes
            .iter()
            .flat_map(|node| role_returns(node, role, tree.discount));
        mean(returns)
    };
    let mut metrics = vec![Metric::new(
        MetricKey::new("return").of_role(name),
        own_return(&turns[0]),
        REWARD,
        "Mean return of the joint actions for this role",
    )];
    metrics.extend(parts(
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
                own_return(nodes),
                REWARD,
                "Mean return of the joint actions of this turn for this role",
            ));
            metrics.extend(parts(
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

/// Whether figures cover all turns or only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wording {
    Overall,
    Turn,
}

/// What a role's responses were like. Figures about advantages are included if the algorithm has assigned
/// them.
fn answers(
    role: usize,
    nodes: &[&Node],
    key: &dyn Fn(&'static str) -> MetricKey,
    wording: Wording,
) -> Vec<Metric> {
    let groups: Vec<&AgentGroup> = nodes.iter().map(|node| &node.groups[role]).collect();
    let samples: Vec<&Sample> = groups.iter().flat_map(|group| &group.samples).collect();
    let advantages: Option<Vec<Vec<f64>>> = groups.iter().map(|group| group.advantages()).collect();
    let logprobs = samples.iter().flat_map(|sample| &sample.logprobs);
    let metric = |name, value: f64, unit, [overall, turn]: [&'static str; 2]| {
        let meaning = match wording {
            Wording::Overall => overall,
            Wording::Turn => turn,
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
                "Mean standard deviation of a group's advantages: what there is to learn from",
                "Mean standard deviation of a group's advantages at this turn",
            ],
        ));
        metrics.push(metric(
            "zero_advantage_fraction",
            mean(
                advantages
                    .iter()
                    .map(|group| f64::from(u8::from(are_zero(group)))),
            ),
            "share",
            [
                "Groups without anything to learn from, since all their advantages are 0",
                "Groups of this turn whose advantages are all 0",
            ],
        ));
    }
    metrics.push(metric(
        "entropy",
        -mean(logprobs.map(|&logprob| f64::from(logprob))),
        "nats/token",
        [
            "How undecided the agent is, estimated from the tokens that it sampled",
            "How undecided the agent is at this turn",
        ],
    ));
    metrics.push(metric(
        "completion_length",
        mean(samples.iter().map(|own| own.response.tokens.len() as f64)),
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
                .map(|own| f64::from(u8::from(own.is_truncated()))),
        ),
        "share",
        [
            "Responses that the length limit cut",
            "Responses of this turn that the length limit cut",
        ],
    ));
    metrics
}

/// What an update did, as the figures of the role that its agent plays.
pub fn update_metrics(
    role: &str,
    report: &UpdateReport,
    shift: Option<&PolicyStats>,
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
            "Gradient steps refused because something was not finite",
        ),
        Metric::new(
            key("logprob_gap"),
            report.logprob_gap,
            "nats",
            "Largest difference of a token's log-probability between rollout and training, which should be rounding alone",
        ),
        Metric::new(
            key("ratio"),
            shift.map(|shift| shift.ratio),
            "",
            "Mean ratio of a token's probability in training to that at rollout",
        ),
        Metric::new(
            key("clip_fraction"),
            shift.map(|shift| shift.clip_fraction),
            "share",
            "Tokens that the clipped objective held back",
        ),
        Metric::new(
            key("kl"),
            shift.and_then(|shift| shift.kl),
            "nats/token",
            "Divergence from the reference, estimated from the tokens that were sampled",
        ),
    ]
}

/// All figures in the order in which they are written: those of the team, then those of each role, from
/// its answers and from the algorithm, and finally those that depend on clocks.
pub(crate) fn joined(
    of_team: Vec<Metric>,
    of_roles: Vec<Vec<Metric>>,
    learned: Vec<Metric>,
    timing: Vec<Metric>,
) -> Vec<Metric> {
    let (timed, learned): (Vec<_>, Vec<_>) = learned
        .into_iter()
        .partition(|metric| metric.key.is_timing());
    let (by_role, by_team): (Vec<_>, Vec<_>) = learned
        .into_iter()
        .partition(|metric| metric.key.role.is_some());
    let mut by_role = by_role;
    let mut metrics = of_team;
    metrics.extend(by_team);
    for of_role in of_roles {
        let role = of_role.first().and_then(|metric| metric.key.role.clone());
        metrics.extend(of_role);
        metrics.extend(by_role.extract_if(.., |metric| metric.key.role == role));
    }
    metrics.extend(by_role);
    metrics.extend(timing);
    metrics.extend(timed);
    metrics
}
