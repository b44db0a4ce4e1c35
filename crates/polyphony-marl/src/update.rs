//! One agent's update: log-probabilities → loss → gradients → new weights. The loss is a callback. It is
//! given the log-probabilities of one group, and the hidden states that the configuration requests. It
//! returns the group's loss and its derivatives. To *score* a group means to compute its log-probabilities
//! with the current weights.

use polyphony_model::{
    LanguageModel, ModelError, PackedGroup, ScoredGroup, StreamKey, WeightGradients, score_group,
};

use crate::{
    MarlError,
    adamw::{AdamW, StepSize},
    agent::Agent,
    config::{ConfigError, Updates, at_least_one},
    ranks::RankGroup,
    traffic::Message,
    tree::RoleGroup,
};

/// The buffer and the optimizer of one agent.
#[derive(Clone, Debug, Default)]
pub struct Learner {
    /// Groups that the agent will learn from once there are enough of them.
    pub buffer: Vec<RoleGroup>,
    /// Its optimizer.
    pub optimizer: AdamW,
    /// Gradient steps taken.
    pub gradient_steps: usize,
    /// Gradient steps skipped in a row because the loss or the gradient was not finite.
    pub skipped_in_a_row: usize,
}

/// The configuration of a gradient step.
#[derive(Clone, Copy, Debug)]
pub struct GradientStepConfig<'a> {
    /// How weights are updated.
    pub updates: &'a Updates,
    /// The learning rate.
    pub learning_rate: f64,
    /// The temperature that responses were sampled at.
    pub temperature: f32,
    /// Which hidden states the loss reads.
    pub hidden_states: HiddenStates,
}

/// Which hidden states a loss reads besides log-probabilities.
#[derive(Clone, Copy, Debug, Default)]
pub enum HiddenStates {
    /// None.
    #[default]
    None,
    /// The one at the last token of each history, which a critic reads.
    EndOfHistory,
    /// Those at the positions that this function returns. A position is an index in the group's packed row:
    /// the prompt, then each response without its last token, from which nothing is predicted. See [`PackedGroup::response_index`].
    At(fn(&PackedGroup<'_>) -> Vec<usize>),
}

impl HiddenStates {
    fn positions(self, group: &PackedGroup<'_>) -> Vec<usize> {
        match self {
            Self::None => Vec::new(),
            Self::EndOfHistory => vec![group.last_prompt_index()],
            Self::At(positions) => positions(group),
        }
    }
}

/// A scored group, as it is passed to a loss.
#[derive(Clone, Copy, Debug)]
pub struct GroupScores<'a> {
    /// The natural log-probability of every response token, one response after the other.
    pub logprobs: &'a [f32],
    /// The requested hidden states, flattened: one row of the model's hidden size per requested position.
    pub hidden_states: &'a [f32],
}

/// The loss of one group and its derivatives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupLoss {
    /// The value of the loss.
    pub loss: f64,
    /// The derivative with respect to each log-probability.
    pub logprob_derivatives: Vec<f32>,
    /// The derivative with respect to each element of the hidden states; empty if the loss does not depend
    /// on them.
    pub hidden_state_derivatives: Vec<f32>,
}

/// The outcome of a gradient step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepOutcome {
    /// The weights have changed.
    Taken {
        /// The norm of the gradients before clipping.
        norm: f64,
    },
    /// The loss or the gradient was not finite, so the weights have not changed.
    Skipped,
    /// There was no group to learn from.
    Empty,
}

/// What one agent's update did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateReport {
    /// Groups that were left out because the loss does not depend on them. Each pass through the buffer
    /// counts them again.
    pub skipped_groups: usize,
    /// Gradient steps taken.
    pub steps: usize,
    /// Gradient steps skipped because the loss or the gradient was not finite.
    pub skipped: usize,
    /// The largest gradient norm before clipping, over the steps taken.
    pub grad_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The largest difference between a token's log-probability at rollout and in training, in nats; `None`
    /// if none were compared, for example because there was no update.
    pub logprob_gap: Option<f64>,
}

/// One gradient step of an agent from some groups. `loss` is called for one group after the other, with
/// the group's index and its scores. The gradients of all groups are summed and clipped before the step.
/// If the agent has replicas on other ranks, all of them pass the same groups and share the forward and backward
/// passes; `loss` is called for every group on each of them.
///
/// Before the first gradient step of an update, the weights are still those of the rollout. The scores are
/// therefore compared with the log-probabilities of the samples, and `report` has the largest difference.
///
/// # Errors
/// If the model cannot run a group, if rollout and training disagree about log-probabilities beyond the
/// tolerance, if too many gradient steps in a row were skipped, or if `loss` fails.
pub fn gradient_step(
    agent: &mut Agent,
    learner: &mut Learner,
    groups: &[&RoleGroup],
    config: &GradientStepConfig<'_>,
    report: &mut UpdateReport,
    loss: &mut dyn FnMut(usize, &GroupScores<'_>) -> Result<GroupLoss, MarlError>,
) -> Result<StepOutcome, MarlError> {
    let updates = config.updates;
    let mut gradients = WeightGradients::default();
    let mut is_finite = true;
    let replicas = agent.replicas.clone();
    // Each replica scores one group of a round. Then all of them know the scores of the round, so every loss is
    // computed everywhere, but each gradient in one place only.
    for (round, members) in groups.chunks(replicas.size()).enumerate() {
        // All of them are packed, so that one that cannot be is an error of all replicas.
        let members_packed = members.iter().map(|group| packed(group));
        let members_packed = members_packed.collect::<Result<Vec<_>, _>>()?;
        let dealt_group = members_packed.get(replicas.rank());
        let scored = dealt_group.map(|group| forward(&agent.model, group, config));
        let scored = scored.transpose().map_err(MarlError::from);
        let (scored, scores) = replicas.publish(Message::Samples, scored, |scored| {
            let scored = scored.as_ref();
            scored.map(|scored| (scored.logprobs().to_vec(), scored.hidden_states().to_vec()))
        })?;
        let mut dealt_loss = None;
        for (member, (group, scores)) in members.iter().zip(scores.iter().flatten()).enumerate() {
            let (logprobs, hidden_states) = scores;
            if report.steps == 0 {
                compare_logprobs(agent, group, logprobs, updates, report)?;
            }
            let scores = GroupScores {
                logprobs,
                hidden_states,
            };
            let group_loss = loss(round * replicas.size() + member, &scores)?;
            is_finite &= group_loss.loss.is_finite();
            if member == replicas.rank() {
                dealt_loss = Some(group_loss);
            }
        }
        if let (Some(scored), Some(group_loss)) = (scored, dealt_loss) {
            gradients = gradients + backward(scored, group_loss);
        }
    }
    if groups.is_empty() {
        return Ok(StepOutcome::Empty);
    }
    let gradients = summed(gradients, agent, &replicas)?;
    let norm = gradients.norm();
    if !(is_finite && norm.is_finite()) {
        skip(agent, learner, updates, report)?;
        return Ok(StepOutcome::Skipped);
    }
    // Clips to `max_grad_norm`.
    let size = StepSize::new(norm, config.learning_rate, updates);
    learner.optimizer.step(&mut agent.model, gradients, size);
    learner.skipped_in_a_row = 0;
    learner.gradient_steps += 1;
    report.steps += 1;
    report.grad_norm = report.grad_norm.max(norm);
    Ok(StepOutcome::Taken { norm })
}

/// Runs a group forward, and keeps what its backward pass needs.
fn forward<'a>(
    model: &'a LanguageModel,
    group: &'a PackedGroup<'a>,
    config: &GradientStepConfig<'_>,
) -> Result<ScoredGroup<'a>, ModelError> {
    let positions = config.hidden_states.positions(group);
    ScoredGroup::with_hidden_states(
        model,
        group,
        config.temperature,
        config.updates.activations,
        &positions,
    )
}

fn backward(scored: ScoredGroup<'_>, group_loss: GroupLoss) -> WeightGradients {
    let hidden_state_derivatives = match group_loss.hidden_state_derivatives.is_empty() {
        true => vec![0.0; scored.hidden_states().len()],
        false => group_loss.hidden_state_derivatives,
    };
    scored.backward_with_hidden_states(group_loss.logprob_derivatives, hidden_state_derivatives)
}

/// The sum of the gradients of all replicas, which is the same to the last bit on all of them.
fn summed(
    gradients: WeightGradients,
    agent: &Agent,
    replicas: &RankGroup,
) -> Result<WeightGradients, MarlError> {
    if replicas.is_single() {
        return Ok(gradients);
    }
    // A weight that no group of this replica depends on, such as an expert's, may have a gradient elsewhere.
    let present = replicas.exchange(
        Message::Gradients,
        Ok(agent.model.has_gradients(&gradients)),
    )?;
    let or = |left: Vec<bool>, right: Vec<bool>| {
        let pairs = left.into_iter().zip(right);
        pairs.map(|(left, right)| left || right).collect()
    };
    let present: Vec<bool> = present.into_iter().reduce(or).unwrap_or_default();
    let sum = |numbers: &mut [f32]| replicas.sum_gradients(numbers);
    agent.model.try_map_gradients(gradients, &present, sum)
}

/// If no group of the update was scored, scores `group` (any one of the buffer), so that rollout and training
/// are compared at least once. Pass `None` if the buffer is empty.
///
/// # Errors
/// As [`gradient_step`].
pub fn compare_logprobs_once(
    agent: &Agent,
    learner: &mut Learner,
    group: Option<&RoleGroup>,
    config: &GradientStepConfig<'_>,
    report: &mut UpdateReport,
) -> Result<(), MarlError> {
    let (None, Some(group)) = (report.logprob_gap, group) else {
        return Ok(());
    };
    // One replica scores, so that all of them come to the same result.
    let replicas = &agent.replicas;
    let logprobs = match replicas.rank() {
        0 => score(&agent.model, group, config.temperature).map_err(MarlError::from),
        _ => Ok(Vec::new()),
    };
    let logprobs = replicas
        .exchange(Message::Samples, logprobs)?
        .swap_remove(0);
    match logprobs.iter().all(|logprob| logprob.is_finite()) {
        true => compare_logprobs(agent, group, &logprobs, config.updates, report),
        false => skip(agent, learner, config.updates, report),
    }
}

/// Splits the indices of a buffer's groups into minibatches, for `epochs` passes over the buffer. Each
/// minibatch has at least `minibatch` groups, if there are that many.
///
/// All minibatches have nearly the same size. A small leftover minibatch would get a gradient step of its
/// own, so its groups would count more than the others. A single pass follows the buffer's order. Of several
/// passes, each has its own random order, drawn from `key`.
///
/// # Errors
/// If `minibatch` is 0.
pub fn minibatches(
    buffer: usize,
    minibatch: usize,
    epochs: usize,
    key: StreamKey,
) -> Result<Vec<Vec<usize>>, ConfigError> {
    at_least_one("minibatch", minibatch)?;
    let parts = (buffer / minibatch).max(1);
    let end = |part: usize| buffer * part / parts;
    let mut draws = 0;
    let mut minibatches = Vec::with_capacity(parts * epochs);
    for _ in 0..epochs {
        let mut order: Vec<usize> = (0..buffer).collect();
        if epochs > 1 {
            // Fisher–Yates shuffle.
            for last in (1..buffer).rev() {
                let target = (key.uniform(draws) * (last + 1) as f64) as usize;
                order.swap(last, target);
                draws += 1;
            }
        }
        minibatches.extend((0..parts).map(|part| order[end(part)..end(part + 1)].to_vec()));
    }
    Ok(minibatches)
}

fn skip(
    agent: &Agent,
    learner: &mut Learner,
    updates: &Updates,
    report: &mut UpdateReport,
) -> Result<(), MarlError> {
    report.skipped += 1;
    learner.skipped_in_a_row += 1;
    log::warn!(
        "agent `{}`: gradient step skipped, its loss or gradient is not finite",
        agent.name
    );
    if learner.skipped_in_a_row >= updates.max_skipped_updates {
        let (agent, in_a_row) = (agent.name.clone(), learner.skipped_in_a_row);
        return Err(MarlError::NotFinite { agent, in_a_row });
    }
    Ok(())
}

/// Compares the log-probabilities of training with those of the rollout.
fn compare_logprobs(
    agent: &Agent,
    group: &RoleGroup,
    logprobs: &[f32],
    updates: &Updates,
    report: &mut UpdateReport,
) -> Result<(), MarlError> {
    let sampled = group.samples.iter().flat_map(|sample| &sample.logprobs);
    let gap = logprobs
        .iter()
        .zip(sampled)
        // A log-probability of training that is not finite is ignored here, since the gradient step is
        // skipped anyway. If that of the rollout is not finite, the difference counts as infinite.
        .filter(|(trained, _)| trained.is_finite())
        .map(|(trained, sampled)| match sampled.is_finite() {
            true => f64::from((trained - sampled).abs()),
            false => f64::INFINITY,
        })
        .fold(0.0, f64::max);
    report.logprob_gap = Some(report.logprob_gap.map_or(gap, |largest| largest.max(gap)));
    let tolerance = updates.logprob_tolerance;
    if gap <= tolerance {
        return Ok(());
    }
    let device = format!("{:?}", agent.model.device());
    Err(MarlError::LogprobGap {
        agent: agent.name.clone(),
        device,
        gap,
        tolerance,
    })
}

/// The log-probabilities of all response tokens of a group, computed without a gradient.
pub(crate) fn score(
    model: &LanguageModel,
    group: &RoleGroup,
    temperature: f32,
) -> Result<Vec<f32>, ModelError> {
    let logprobs = score_group(model, &packed(group)?, temperature)?;
    Ok(logprobs.into_data().iter::<f32>().collect())
}

pub(crate) fn packed(group: &RoleGroup) -> Result<PackedGroup<'_>, ModelError> {
    let responses = group.samples.iter();
    let responses = responses.map(|sample| &sample.response.tokens[..]);
    PackedGroup::new(&group.history.tokens, responses.collect())
}

#[cfg(test)]
mod tests;
