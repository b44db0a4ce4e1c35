//! Checks of everything that an environment returns, before it is used.

use polyphony_episode::{Environment, JointAction, Observation, Reward, Role, Task};

use crate::MarlError;

/// Refuses observations unless there is one per role.
pub(crate) fn check_observations(
    roles: &[Role],
    task: &Task,
    turn: usize,
    observations: &[Observation],
) -> Result<(), MarlError> {
    match observations.len() == roles.len() {
        true => Ok(()),
        false => Err(MarlError::Observations {
            task: task.id.clone(),
            turn: turn + 1,
            observations: observations.len(),
            roles: roles.iter().map(|role| role.name.clone()).collect(),
        }),
    }
}

/// Refuses a reward with a part that is not announced, not finite or too large. Also refuses rewards per role
/// unless there is one for each role.
pub(crate) fn check_reward(
    environment: &dyn Environment,
    task: &Task,
    action: &JointAction,
    reward: &Reward,
) -> Result<(), MarlError> {
    let roles = environment.roles().len();
    if let Some(rewards) = reward.role_count()
        && rewards != roles
    {
        return Err(MarlError::RewardCount {
            task: task.id.clone(),
            rewards,
            roles,
        });
    }
    // A shared reward is the same for each role.
    for role in 0..reward.role_count().unwrap_or(1) {
        for (part, value) in reward.parts_of(role) {
            check_part(environment, task, action, part, value)?;
        }
    }
    Ok(())
}

fn check_part(
    environment: &dyn Environment,
    task: &Task,
    action: &JointAction,
    part: &str,
    value: f64,
) -> Result<(), MarlError> {
    if !environment.reward_parts().iter().any(|known| known == part) {
        return Err(MarlError::UnknownPart {
            task: task.id.clone(),
            part: part.to_owned(),
            known: environment.reward_parts().to_vec(),
        });
    }
    // A range never contains NaN, so NaN is refused too.
    if !(-Reward::LARGEST_PART..=Reward::LARGEST_PART).contains(&value) {
        let responses = action.responses.iter();
        return Err(MarlError::RewardOutOfRange {
            task: task.id.clone(),
            part: part.to_owned(),
            value,
            responses: responses
                .map(|response| response.text.to_string())
                .collect(),
        });
    }
    Ok(())
}
