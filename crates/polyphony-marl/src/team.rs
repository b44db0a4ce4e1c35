//! The team, as far as this process holds it.

use std::ops::{Deref, DerefMut, Range};

use crate::{
    MarlError,
    agent::{Agent, roles_of},
    ranks::Ranks,
};

/// The agents that this process holds: the whole team, unless the team is trained by several [`Ranks`].
#[derive(Debug)]
pub struct Team {
    agents: Vec<Agent>,
    /// The number of agents on all ranks.
    size: usize,
    ranks: Ranks,
}

impl<A: Into<Vec<Agent>>> From<A> for Team {
    /// A team that this process holds alone: one agent per role, or one that plays all roles.
    fn from(agents: A) -> Self {
        let agents = agents.into();
        Self {
            size: agents.len(),
            agents,
            ranks: Ranks::default(),
        }
    }
}

impl FromIterator<Agent> for Team {
    fn from_iter<I: IntoIterator<Item = Agent>>(agents: I) -> Self {
        agents.into_iter().collect::<Vec<Agent>>().into()
    }
}

impl<'a> IntoIterator for &'a Team {
    type Item = &'a Agent;
    type IntoIter = std::slice::Iter<'a, Agent>;

    fn into_iter(self) -> Self::IntoIter {
        self.agents.iter()
    }
}

impl<'a> IntoIterator for &'a mut Team {
    type Item = &'a mut Agent;
    type IntoIter = std::slice::IterMut<'a, Agent>;

    fn into_iter(self) -> Self::IntoIter {
        self.agents.iter_mut()
    }
}

impl Deref for Team {
    type Target = [Agent];

    fn deref(&self) -> &[Agent] {
        &self.agents
    }
}

impl DerefMut for Team {
    fn deref_mut(&mut self) -> &mut [Agent] {
        &mut self.agents
    }
}

impl Team {
    /// A team of `size` agents on several ranks. `agents` are those of [`Ranks::agents`].
    ///
    /// # Errors
    /// If there are more or fewer agents than this rank holds.
    pub fn on_ranks(mut agents: Vec<Agent>, size: usize, ranks: Ranks) -> Result<Self, MarlError> {
        let expected = ranks.agents(size).len();
        if agents.len() != expected {
            return Err(MarlError::AgentsOfRank {
                rank: ranks.world().rank(),
                expected,
                agents: agents.len(),
            });
        }
        for agent in &mut agents {
            agent.replicas = ranks.replicas().clone();
        }
        Ok(Self {
            agents,
            size,
            ranks,
        })
    }

    /// The number of agents of the whole team.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The place of this process among the ranks that train the team.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The roles that the agents of this process play, by their index in an environment with this many roles.
    pub fn roles(&self, roles: usize) -> Range<usize> {
        self.roles_of_part(self.ranks.part(), roles)
    }

    /// The roles that the agents of a part play.
    pub(crate) fn roles_of_part(&self, part: usize, roles: usize) -> Range<usize> {
        match (self.size, self.ranks.grid().parts) {
            (1, _) | (_, 1) => 0..roles,
            (size, _) => self.ranks.agents_of(part, size),
        }
    }

    /// The roles that one of the agents of this process plays, by its index among them.
    pub(crate) fn roles_of_agent(&self, index: usize, roles: usize) -> impl Iterator<Item = usize> {
        let held = self.roles(roles);
        roles_of(index, self.len(), held.len()).map(move |role| held.start + role)
    }

    /// The agent that plays a role; `None` if another rank holds it.
    pub fn agent_of(&self, role: usize) -> Option<&Agent> {
        let index = if self.size == 1 { 0 } else { role };
        let held = self.ranks.agents(self.size);
        self.agents.get(index.checked_sub(held.start)?)
    }

    /// Refuses a team that has neither one agent per role nor one for all roles.
    pub(crate) fn check(&self, roles: usize) -> Result<(), MarlError> {
        match self.size == 1 || self.size == roles {
            true => Ok(()),
            false => Err(MarlError::TeamSize {
                roles,
                agents: self.size,
            }),
        }
    }
}
