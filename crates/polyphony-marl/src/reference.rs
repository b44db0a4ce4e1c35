//! References: earlier copies of the policies, from which divergence is measured.

use polyphony_model::LanguageModel;

use crate::{
    MarlError,
    agent::{Agent, agent_of_role},
    for_each_group::for_each_group,
    rollout::Rollout,
    tree::RoleGroup,
    update::score,
};

/// Scores the responses of a group with a reference model, and stores the log-probabilities in their
/// samples.
///
/// # Errors
/// If the model cannot run the group.
pub fn score_reference(
    reference: &LanguageModel,
    group: &mut RoleGroup,
    temperature: f32,
) -> Result<(), MarlError> {
    let logprobs = score(reference, group, temperature)?;
    set_reference_logprobs(group, &logprobs);
    Ok(())
}

fn set_reference_logprobs(group: &mut RoleGroup, logprobs: &[f32]) {
    let mut rest = logprobs;
    for sample in &mut group.samples {
        let response_logprobs;
        (response_logprobs, rest) = rest.split_at(sample.response.tokens.len());
        sample.reference_logprobs = Some(response_logprobs.to_vec());
    }
}

/// [`score_reference`] for a whole rollout, with one reference per agent. The replicas of the agents share the work.
///
/// # Errors
/// If a model cannot run a group.
pub fn score_references(
    agents: &[Agent],
    references: &[LanguageModel],
    rollout: &mut Rollout,
    temperature: f32,
) -> Result<(), MarlError> {
    if references.is_empty() {
        return Ok(());
    }
    let logprobs = |role: usize, group: &RoleGroup| {
        let reference = &references[agent_of_role(references.len(), role)];
        Ok(score(reference, group, temperature)?)
    };
    for (group, logprobs) in for_each_group(agents, rollout, logprobs)? {
        set_reference_logprobs(group, &logprobs);
    }
    Ok(())
}

/// Copies of a team's current policies. They share memory with the agents until an update changes the
/// agents' weights.
pub fn references(agents: &[Agent]) -> Vec<LanguageModel> {
    agents.iter().map(|agent| agent.model.clone()).collect()
}
