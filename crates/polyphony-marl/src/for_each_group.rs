//! Work that is done once for each group of a rollout, shared by the replicas of the agents.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    MarlError, agent::Agent, ranks::RankGroup, rollout::Rollout, traffic::Message, tree::RoleGroup,
};

/// Does some work for each group: `work` is given the group's role and the group. If the agents have replicas,
/// each of them does a share, and all get all results. Returns the groups with their results.
///
/// # Errors
/// Those of `work`, and if another replica fails or cannot be reached.
pub(crate) fn for_each_group<'a, T: Serialize + DeserializeOwned>(
    agents: &[Agent],
    rollout: &'a mut Rollout,
    work: impl Fn(usize, &RoleGroup) -> Result<T, MarlError>,
) -> Result<Vec<(&'a mut RoleGroup, T)>, MarlError> {
    let alone = RankGroup::default();
    let replicas = agents.first().map_or(&alone, |agent| &agent.replicas);
    let groups = rollout.groups_mut().into_iter();
    let groups: Vec<(usize, &mut RoleGroup)> = groups
        .flat_map(|of_node| of_node.iter_mut().enumerate())
        .collect();
    let results = replicas.deal(Message::Samples, groups.len(), |index| {
        let (role, group) = &groups[index];
        work(*role, group)
    })?;
    let groups = groups.into_iter().map(|(_, group)| group);
    Ok(groups.zip(results).collect())
}
