//! References: earlier copies of the policies, from which divergence is measured.

use polyphony_model::LanguageModel;

use crate::{
    MarlError,
    agent::{Agent, agent_of_role},
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
    let mut rest = logprobs.as_slice();
    for sample in &mut group.samples {
        let response_logprobs;
        (response_logprobs, rest) = rest.split_at(sample.response.tokens.len());
        sample.reference_logprobs = Some(response_logprobs.to_vec());
    }
    Ok(())
}

/// [`score_reference`] for a whole rollout, with one reference per agent.
///
/// # Errors
/// If a model cannot run a group.
pub fn score_references(
    references: &[LanguageModel],
    rollout: &mut Rollout,
    temperature: f32,
) -> Result<(), MarlError> {
    if references.is_empty() {
        return Ok(());
    }
    for groups in rollout.groups_mut() {
        for (role, group) in groups.iter_mut().enumerate() {
            let reference = &references[agent_of_role(references.len(), role)];
            score_reference(reference, group, temperature)?;
        }
    }
    Ok(())
}

/// Copies of a team's current policies. They share memory with the agents until an update changes the
/// agents' weights.
pub fn references(agents: &[Agent]) -> Vec<LanguageModel> {
    agents.iter().map(|agent| agent.model.clone()).collect()
}
