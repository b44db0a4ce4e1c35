//! One agent's update: log-probabilities → loss → gradients → new weights (DESIGN 3.5).

use polyphony_model::{ModelError, PackedGroup, ScoredGroup, WeightGradients, score_group};

use crate::{
    MarlError,
    advantage::teaches_nothing,
    agent::Agent,
    config::{Algorithm, Updates},
    objective::{Lesson, token_weights},
    tree::AgentGroup,
};

/// What an update needs to know besides the agent.
#[derive(Clone, Debug)]
pub struct UpdateConfig<'a> {
    /// The objective.
    pub algorithm: &'a Algorithm,
    /// The optimizer's settings.
    pub updates: &'a Updates,
    /// Groups of one gradient step.
    pub minibatch: usize,
    /// The temperature that responses were sampled at.
    pub temperature: f32,
    /// The most tokens of a response.
    pub max_new_tokens: usize,
}

/// An agent's group and the advantage of each of its responses.
#[derive(Clone, Debug)]
pub struct JudgedGroup<'a> {
    /// History and responses.
    pub group: &'a AgentGroup,
    /// One advantage a response.
    pub advantages: Vec<f64>,
}

/// What one agent's update did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateReport {
    /// Groups that were not run, since all their advantages vanish or every response that has one is
    /// left out of the loss.
    pub skipped_groups: usize,
    /// Gradient steps taken.
    pub steps: usize,
    /// Gradient steps refused since loss or gradient were not finite.
    pub refused: usize,
    /// The largest gradient norm before clipping, over the steps taken.
    pub gradient_norm: f64,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// The largest difference between a token's log-probability at rollout and in training, in
    /// nats; `None` of an empty buffer.
    pub logprob_gap: Option<f64>,
}

/// Updates an agent from its buffer.
///
/// # Errors
/// If rollout and training disagree about log-probabilities beyond the tolerance, or too many
/// updates in a row were refused.
pub fn update(
    agent: &mut Agent,
    buffer: &[JudgedGroup<'_>],
    config: &UpdateConfig<'_>,
) -> Result<UpdateReport, MarlError> {
    let mut report = UpdateReport::default();
    for minibatch in buffer.chunks(config.minibatch) {
        // Only before the first gradient step are the weights those of the rollout.
        let on_policy = report.steps == 0;
        let (gradients, finite) =
            minibatch_gradients(agent, minibatch, config, on_policy, &mut report)?;
        if gradients.is_empty() {
            continue;
        }
        let norm = gradients.norm();
        if finite && norm.is_finite() {
            report.learning_rate = agent.optimizer.learning_rate(config.updates);
            let Agent {
                model, optimizer, ..
            } = &mut *agent;
            optimizer.step(model, gradients, norm, config.updates);
            agent.refused_in_a_row = 0;
            report.steps += 1;
            report.gradient_norm = report.gradient_norm.max(norm);
        } else {
            refuse(agent, config, &mut report)?;
        }
    }
    // A buffer that taught nothing has not been scored yet.
    if let (None, Some(judged)) = (report.logprob_gap, buffer.first()) {
        let logprobs = judged.score(agent, config)?;
        match logprobs.iter().all(|logprob| logprob.is_finite()) {
            true => compare_logprobs(agent, judged, &logprobs, config, &mut report)?,
            false => refuse(agent, config, &mut report)?,
        }
    }
    Ok(report)
}

/// The gradients of a minibatch's loss, accumulated group by group, and whether the loss is finite.
fn minibatch_gradients(
    agent: &Agent,
    minibatch: &[JudgedGroup<'_>],
    config: &UpdateConfig<'_>,
    on_policy: bool,
    report: &mut UpdateReport,
) -> Result<(WeightGradients, bool), MarlError> {
    let lessons: Vec<Lesson<'_>> = minibatch.iter().flat_map(JudgedGroup::lessons).collect();
    let weights = token_weights(&lessons, config.algorithm, config.max_new_tokens);
    let mut weights = weights.as_slice();
    let mut gradients = WeightGradients::default();
    let mut finite = true;
    for judged in minibatch {
        let (own, rest) = weights.split_at(judged.advantages.len());
        weights = rest;
        // All advantages vanish, or every response with one is left out of the loss.
        if teaches_nothing(&judged.advantages) || own.iter().all(|weight| *weight == 0.0) {
            report.skipped_groups += 1;
            continue;
        }
        let packed = judged.packed()?;
        let activations = config.updates.activations;
        let scored = ScoredGroup::new(&agent.model, &packed, config.temperature, activations)?;
        if on_policy {
            compare_logprobs(agent, judged, scored.logprobs(), config, report)?;
        }
        // The loss is linear in the log-probabilities: its derivative in each is minus its weight.
        let derivatives: Vec<f32> = judged.spread(own).map(|weight| -weight as f32).collect();
        let terms = scored.logprobs().iter().zip(&derivatives);
        let loss: f32 = terms.map(|(logprob, slope)| logprob * slope).sum();
        finite &= loss.is_finite();
        gradients = gradients + scored.backward(derivatives);
    }
    Ok((gradients, finite))
}

fn refuse(
    agent: &mut Agent,
    config: &UpdateConfig<'_>,
    report: &mut UpdateReport,
) -> Result<(), MarlError> {
    report.refused += 1;
    agent.refused_in_a_row += 1;
    log::warn!(
        "agent `{}`: update refused, its loss or gradient is not finite",
        agent.name
    );
    if agent.refused_in_a_row >= config.updates.max_nonfinite {
        let (agent, in_a_row) = (agent.name.clone(), agent.refused_in_a_row);
        return Err(MarlError::NotFinite { agent, in_a_row });
    }
    Ok(())
}

/// Holds the training path's log-probabilities against those of the rollout.
fn compare_logprobs(
    agent: &Agent,
    judged: &JudgedGroup<'_>,
    logprobs: &[f32],
    config: &UpdateConfig<'_>,
    report: &mut UpdateReport,
) -> Result<(), MarlError> {
    let sampled = judged
        .group
        .samples
        .iter()
        .flat_map(|sample| &sample.logprobs);
    let gap = logprobs
        .iter()
        .zip(sampled)
        // In training a value that is not finite is refused; one from the rollout is as far off as
        // can be.
        .filter(|(trained, _)| trained.is_finite())
        .map(|(trained, sampled)| match sampled.is_finite() {
            true => f64::from((trained - sampled).abs()),
            false => f64::INFINITY,
        })
        .fold(0.0, f64::max);
    report.logprob_gap = Some(report.logprob_gap.map_or(gap, |largest| largest.max(gap)));
    let tolerance = config.updates.logprob_tolerance;
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

impl JudgedGroup<'_> {
    fn lessons(&self) -> impl Iterator<Item = Lesson<'_>> {
        let pairs = self.group.samples.iter().zip(&self.advantages);
        pairs.map(|(sample, &advantage)| Lesson { sample, advantage })
    }

    fn packed(&self) -> Result<PackedGroup<'_>, ModelError> {
        let responses = self
            .group
            .samples
            .iter()
            .map(|sample| sample.response.tokens.as_slice())
            .collect();
        PackedGroup::new(&self.group.history.tokens, responses)
    }

    /// The log-probabilities of all response tokens.
    fn score(&self, agent: &Agent, config: &UpdateConfig<'_>) -> Result<Vec<f32>, ModelError> {
        let logprobs = score_group(&agent.model, &self.packed()?, config.temperature)?;
        Ok(logprobs.into_data().iter::<f32>().collect())
    }

    /// Each response's weight, once for each of its tokens.
    fn spread(&self, weights: &[f64]) -> impl Iterator<Item = f64> {
        let pairs = self.group.samples.iter().zip(weights);
        pairs
            .flat_map(|(sample, &weight)| std::iter::repeat_n(weight, sample.response.tokens.len()))
    }
}

#[cfg(test)]
mod tests;
