//! Nodes at which the agents have yet to answer: what each is told, and what its model reads.

use polyphony_episode::{Environment, Observation, Role, Turn};

use super::{IndexedTask, Played, ResponseConfig};
use crate::{
    MarlError,
    agent::{Agent, player},
    tree::History,
};

/// A node before anyone has answered.
pub(super) struct OpenNode<'a> {
    pub(super) task: IndexedTask<'a>,
    /// The index of the node above it on its level, and that of the joint action that led here.
    pub(super) parent: Option<(usize, usize)>,
    /// Which of the joint actions that are possible up to here: names its random numbers.
    pub(super) branch: u32,
    /// The turns before it.
    pub(super) past: Vec<Turn>,
    /// What each role is told.
    pub(super) observations: Vec<Observation>,
    /// What the model of each role reads.
    pub(super) histories: Vec<History>,
}

/// Nodes that can be played, and the number of those that cannot.
#[derive(Default)]
pub(super) struct Opened<'a> {
    pub(super) nodes: Vec<OpenNode<'a>>,
    pub(super) left_out: usize,
}

impl<'a> Opened<'a> {
    /// Adds a node, or counts it where its prompts do not fit and that is no error.
    fn add(
        &mut self,
        node: Result<OpenNode<'a>, MarlError>,
        config: &ResponseConfig,
    ) -> Result<(), MarlError> {
        match config.long_prompts.allow(node)? {
            Some(node) => self.nodes.push(node),
            None => self.left_out += 1,
        }
        Ok(())
    }
}

/// The first turn of every task.
pub(super) fn roots<'a>(
    agents: &[Agent],
    environment: &dyn Environment,
    tasks: &[IndexedTask<'a>],
    config: &ResponseConfig,
) -> Result<Opened<'a>, MarlError> {
    let mut opened = Opened::default();
    for &task in tasks {
        let observations = environment.start(task.task)?;
        check_team(agents, environment.roles(), &observations)?;
        let histories = each(agents, environment.roles(), task, config, |role, index| {
            let language = &agents[player(agents.len(), index)].language;
            language.first_history(role, &observations[index])
        });
        let node = histories.map(|histories| OpenNode {
            task,
            parent: None,
            branch: 0,
            past: Vec::new(),
            observations,
            histories,
        });
        opened.add(node, config)?;
    }
    Ok(opened)
}

/// The next turn after every joint action that goes on.
pub(super) fn children<'a>(
    agents: &[Agent],
    environment: &dyn Environment,
    level: &[Played<'a>],
    config: &ResponseConfig,
) -> Result<Opened<'a>, MarlError> {
    let mut opened = Opened::default();
    for (parent, Played { open, node, next }) in level.iter().enumerate() {
        let joint_actions = node.branches.len();
        for (index, branch) in node.branches.iter().enumerate() {
            let Some(observations) = &next[index] else {
                continue;
            };
            check_team(agents, environment.roles(), observations)?;
            let task = open.task;
            let histories = each(agents, environment.roles(), task, config, |role, index| {
                let group = &node.groups[index];
                let said = &group.samples[branch.picks[index]].response;
                let language = &agents[player(agents.len(), index)].language;
                language.next_history(role, &group.history, said, &observations[index])
            });
            let child = histories.map(|histories| OpenNode {
                task,
                parent: Some((parent, index)),
                branch: open.branch * joint_actions as u32 + index as u32,
                past: [open.past.clone(), vec![node.turn_taken(branch)]].concat(),
                observations: observations.clone(),
                histories,
            });
            opened.add(child, config)?;
        }
    }
    Ok(opened)
}

pub(crate) fn check_team(
    agents: &[Agent],
    roles: &[Role],
    observations: &[Observation],
) -> Result<(), MarlError> {
    if observations.len() == roles.len() && [1, roles.len()].contains(&agents.len()) {
        return Ok(());
    }
    Err(MarlError::TeamSize {
        roles: roles.len(),
        agents: agents.len(),
        observations: observations.len(),
    })
}

/// The history of each role, if all of them leave room for a response.
fn each(
    agents: &[Agent],
    roles: &[Role],
    task: IndexedTask<'_>,
    config: &ResponseConfig,
    history: impl Fn(&Role, usize) -> Result<History, MarlError>,
) -> Result<Vec<History>, MarlError> {
    let fitting = |(index, role): (usize, &Role)| {
        let history = history(role, index)?;
        let agent = &agents[player(agents.len(), index)];
        agent.check_room(&task.task.id, role, &history, config.max_new_tokens)?;
        Ok(history)
    };
    roles.iter().enumerate().map(fitting).collect()
}
