//! The two writing tasks as data: the instructions for the agents, and the rules for their texts.

use super::{
    curve::Trapezoid,
    reward::{Rules, TransitionsIn},
};

/// One writing task for two agents.
#[derive(Debug)]
pub(super) struct TaskTable {
    /// The task field that contains the text to write about.
    pub(super) field: &'static str,
    /// The name of that text in the prompt.
    pub(super) label: &'static str,
    /// The agents, in the order of the reward's first and second text.
    pub(super) agents: [Agent; 2],
    /// The rules by which their texts are scored.
    pub(super) rules: Rules,
}

/// One agent's part in a task.
#[derive(Debug)]
pub(super) struct Agent {
    /// The name of its role.
    pub(super) role: &'static str,
    /// Its instruction. It is short and plain, because the models may have only 100 million parameters.
    pub(super) instruction: &'static str,
}

/// A concise and a detailed summary of a post.
pub(super) const TLDR: TaskTable = TaskTable {
    field: "post",
    label: "Post",
    agents: [
        Agent {
            role: "summarizer",
            instruction: "Summarize the post below in one or two short sentences.",
        },
        Agent {
            role: "elaborator",
            instruction: "Summarize the post below in detail, in four to six sentences. Use many \
                          different words, and connect your sentences with transition words such \
                          as \"however\", \"because\", \"for example\" and \"finally\".",
        },
    ],
    rules: Rules {
        words: 8..=256,
        length: Trapezoid {
            from: 1.1,
            full_from: 1.6,
            full_to: 3.2,
            to: 5.0,
        },
        vocabulary: Trapezoid {
            from: 1.3,
            full_from: 2.0,
            full_to: f64::INFINITY,
            to: f64::INFINITY,
        },
        transitions: TransitionsIn::Second,
        full_overlap: 0.03,
    },
};

/// The two halves of an introduction, from an abstract.
pub(super) const ARXIV: TaskTable = TaskTable {
    field: "abstract",
    label: "Abstract",
    agents: [
        Agent {
            role: "background",
            instruction: "From the abstract below, write about 140 words on the background and \
                          motivation of the paper: what problem it is about, and why it matters. \
                          Leave the method to your partner.",
        },
        Agent {
            role: "method",
            instruction: "From the abstract below, write about 200 words on the method of the \
                          paper and its implications: how the work was done, and what follows \
                          from it. Leave the background to your partner.",
        },
    ],
    rules: Rules {
        words: 128..=256,
        length: Trapezoid {
            from: 0.8,
            full_from: 1.3,
            full_to: 1.6,
            to: 2.0,
        },
        vocabulary: Trapezoid {
            from: 0.5,
            full_from: 0.7,
            full_to: 1.3,
            to: 1.7,
        },
        transitions: TransitionsIn::Both,
        full_overlap: 0.23,
    },
};
