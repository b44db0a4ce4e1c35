//! One agent's update: log-probabilities → loss → gradients → new weights.

use polyphony_model::{
    LanguageModel, ModelError, PackedGroup, ScoredGroup, WeightGradients, score_group,
};
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    advantage::teaches_nothing,
    agent::Agent,
    config::{Algorithm, Kl, Updates},
    objective::{Lesson, TokenLogprobs, TokenTerm, shares, token_term},
    tree::AgentGroup,
};

/// What an update needs to know besides the agent.
#[derive(Clone, Debug)]
pub struct UpdateConfig<'a> {
    /// The objective.
    pub algorithm: &'a Algorithm,
    /// The optimizer's settings.
    pub updates: &'a Updates,
    /// The learning rate.
    pub learning_rate: f64,
    /// Groups of one gradient step, or up to twice as many where they do not come out even.
    pub minibatch: usize,
    /// The temperature that responses were sampled at.
    pub temperature: f32,
    /// The most tokens of a response.
    pub max_new_tokens: usize,
}

/// An agent's group and the advantage of each of its responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedGroup {
    /// History and responses.
    pub group: AgentGroup,
    /// One advantage a response.
    pub advantages: Vec<f64>,
}

/// What one agent's update did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateReport {
    /// Groups that were not run, since all their advantages vanish or every response that has one is
    /// left out of the loss; in every pass through the buffer.
    pub skipped_groups: usize,
    /// Gradient steps taken.
    pub steps: usize,
    /// Gradient steps refused since loss or gradient were not finite.
    pub refused: usize,
    /// The largest gradient norm before clipping, over the steps taken.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The largest difference between a token's log-probability at rollout and in training, in
    /// nats; `None` of an empty buffer.
    pub logprob_gap: Option<f64>,
    /// What the tokens in the loss say of the policy; `None` where there were none.
    pub drift: Option<Drift>,
}

/// How far a policy is from the one that sampled, and from its reference: means over the tokens in
/// the loss of all gradient steps, refused ones among them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// The mean of the ratio `ρ`.
    pub ratio: f64,
    /// The share of tokens that the objective's bounds held back.
    pub clipped_share: f64,
    /// The mean of the estimator k3, in nats; `None` where no reference is kept.
    pub kl: Option<f64>,
}

/// Updates an agent from groups that it has not learned from yet.
///
/// # Errors
/// If rollout and training disagree about log-probabilities beyond the tolerance, or too many
/// updates in a row were refused.
pub fn update(
    agent: &mut Agent,
    buffer: &[JudgedGroup],
    config: &UpdateConfig<'_>,
) -> Result<UpdateReport, MarlError> {
    let mut report = UpdateReport {
        learning_rate: config.learning_rate,
        ..UpdateReport::default()
    };
    let mut terms = Vec::new();
    let passes = (0..config.updates.epochs).flat_map(|_| minibatches(buffer, config.minibatch));
    for minibatch in passes {
        // Only before the first gradient step are the weights those of the rollout.
        let on_policy = report.steps == 0;
        let (gradients, finite) =
            minibatch_gradients(agent, minibatch, config, on_policy, &mut report, &mut terms)?;
        if gradients.is_empty() {
            continue;
        }
        let norm = gradients.norm();
        if finite && norm.is_finite() {
            let Agent {
                model, optimizer, ..
            } = &mut *agent;
            optimizer.step(model, gradients, norm, config.learning_rate, config.updates);
            agent.refused_in_a_row = 0;
            report.steps += 1;
            report.gradient_norm = report.gradient_norm.max(norm);
        } else {
            refuse(agent, config, &mut report)?;
        }
    }
    // A buffer that taught nothing has not been scored yet.
    if let (None, Some(judged)) = (report.logprob_gap, buffer.first()) {
        let logprobs = score(&agent.model, &judged.group, config.temperature)?;
        match logprobs.iter().all(|logprob| logprob.is_finite()) {
            true => compare_logprobs(agent, judged, &logprobs, config, &mut report)?,
            false => refuse(agent, config, &mut report)?,
        }
    }
    report.drift = drift(&terms, agent.reference.is_some());
    Ok(report)
}

/// The buffer in parts of at least so many groups and nearly equal length: a small remainder would
/// weigh as much as a whole minibatch.
fn minibatches(buffer: &[JudgedGroup], groups: usize) -> impl Iterator<Item = &[JudgedGroup]> {
    let parts = (buffer.len() / groups).max(1);
    let end = move |part: usize| buffer.len() * part / parts;
    (0..parts).map(move |part| &buffer[end(part)..end(part + 1)])
}

/// The gradients of a minibatch's loss, accumulated group by group, and whether the loss is finite.
fn minibatch_gradients(
    agent: &Agent,
    minibatch: &[JudgedGroup],
    config: &UpdateConfig<'_>,
    on_policy: bool,
    report: &mut UpdateReport,
    terms: &mut Vec<TokenTerm>,
) -> Result<(WeightGradients, bool), MarlError> {
    let lessons: Vec<Lesson<'_>> = minibatch.iter().flat_map(JudgedGroup::lessons).collect();
    let shares = shares(&lessons, config.algorithm, config.max_new_tokens);
    let mut shares = shares.as_slice();
    let mut gradients = WeightGradients::default();
    let mut finite = true;
    for judged in minibatch {
        let (own, rest) = shares.split_at(judged.advantages.len());
        shares = rest;
        if judged.is_idle(own, config.algorithm) {
            report.skipped_groups += 1;
            continue;
        }
        let packed = packed(&judged.group)?;
        let activations = config.updates.activations;
        let scored = ScoredGroup::new(&agent.model, &packed, config.temperature, activations)?;
        if on_policy {
            compare_logprobs(agent, judged, scored.logprobs(), config, report)?;
        }
        let mut derivatives = Vec::with_capacity(scored.logprobs().len());
        for (share, term) in judged.terms(own, scored.logprobs(), config.algorithm) {
            finite &= (share * term.loss).is_finite();
            derivatives.push((share * term.slope) as f32);
            if share > 0.0 {
                terms.push(term);
            }
        }
        gradients = gradients + scored.backward(derivatives);
    }
    Ok((gradients, finite))
}

fn drift(terms: &[TokenTerm], has_reference: bool) -> Option<Drift> {
    let tokens = terms.len() as f64;
    let mean = |of: fn(&TokenTerm) -> f64| terms.iter().map(of).sum::<f64>() / tokens;
    (!terms.is_empty()).then(|| Drift {
        ratio: mean(|term| term.ratio),
        clipped_share: mean(|term| f64::from(u8::from(term.clipped))),
        kl: has_reference.then(|| mean(|term| term.kl)),
    })
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
    judged: &JudgedGroup,
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

/// The log-probabilities of all response tokens of a group, without what a gradient would need.
pub(crate) fn score(
    model: &LanguageModel,
    group: &AgentGroup,
    temperature: f32,
) -> Result<Vec<f32>, ModelError> {
    let logprobs = score_group(model, &packed(group)?, temperature)?;
    Ok(logprobs.into_data().iter::<f32>().collect())
}

fn packed(group: &AgentGroup) -> Result<PackedGroup<'_>, ModelError> {
    let responses = group.samples.iter();
    let responses = responses.map(|sample| sample.response.tokens.as_slice());
    PackedGroup::new(&group.history.tokens, responses.collect())
}

impl JudgedGroup {
    fn lessons(&self) -> impl Iterator<Item = Lesson<'_>> {
        let pairs = self.group.samples.iter().zip(&self.advantages);
        pairs.map(|(sample, &advantage)| Lesson { sample, advantage })
    }

    /// Whether nothing in the loss depends on this group, given the shares of its responses.
    fn is_idle(&self, shares: &[f64], algorithm: &Algorithm) -> bool {
        let pulls_back = matches!(algorithm.kl, Kl::Loss { .. });
        let in_loss = shares.iter().zip(&self.advantages);
        let advantages: Vec<f64> = in_loss
            .filter(|(share, _)| **share > 0.0)
            .map(|(_, advantage)| *advantage)
            .collect();
        advantages.is_empty() || (teaches_nothing(&advantages) && !pulls_back)
    }

    /// Each token's share and term, given the log-probabilities of all of them.
    fn terms(
        &self,
        shares: &[f64],
        trained: &[f32],
        algorithm: &Algorithm,
    ) -> impl Iterator<Item = (f64, TokenTerm)> {
        let responses = self.lessons().zip(shares);
        let tokens = responses.flat_map(|(lesson, &share)| {
            let sampled = lesson.sample.logprobs.iter().enumerate();
            sampled.map(move |(index, &sampled)| {
                let reference = lesson.sample.reference_logprobs.get(index);
                (share, lesson.advantage, sampled, reference.copied())
            })
        });
        tokens
            .zip(trained)
            .map(|((share, advantage, sampled, reference), &trained)| {
                let logprobs = TokenLogprobs {
                    trained: trained.into(),
                    sampled: sampled.into(),
                    reference: reference.map(f64::from),
                };
                (share, token_term(logprobs, advantage, algorithm))
            })
    }
}

#[cfg(test)]
mod tests;
