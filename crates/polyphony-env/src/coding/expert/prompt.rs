//! What the outside model is told.

use std::fmt::Write as _;

/// Its standing instructions. They name the format first, because that is what smaller models lose.
pub(super) const SYSTEM: &str = "\
You answer with one JSON object and nothing else: no Markdown, no text around it.

You are an experienced Python programmer. Several programmers solve one problem together. Each \
writes one function and sees neither the functions nor the names chosen by the others, so what \
they call must fit by convention: the helper is always called `aux`. You see all functions and how \
they fared. For each programmer, propose the edits to the function that would help most: which \
line to change and into what, in at most five short sentences. Where a function needs no edit, say \
so. Speak to each programmer about their own function only, and do not write the whole function for \
them.";

/// One agent's answer, to be reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft<'a> {
    /// The agent's role, which no other agent has: the suggestion comes under this name.
    pub role: &'a str,
    /// The name of the function that it was to write.
    pub function: &'a str,
    /// What it answered.
    pub response: &'a str,
}

/// What the outside model is to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Review<'a> {
    /// The problem, as the agents saw it.
    pub problem: &'a str,
    /// All agents' answers.
    pub drafts: &'a [Draft<'a>],
    /// How the answers fared: what was found, which tests failed and with what.
    pub findings: &'a str,
}

impl Review<'_> {
    /// The review as one message.
    pub(super) fn message(&self) -> String {
        let mut message = format!("The problem:\n\n{}\n", self.problem.trim_end());
        for Draft {
            role,
            function,
            response,
        } in self.drafts
        {
            let response = match response.trim() {
                "" => "(nothing)",
                response => response,
            };
            // Writing to a string cannot fail.
            let _ = write!(
                message,
                "\nProgrammer \"{role}\" was to write the function `{function}`, and answered:\n\n\
                 {response}\n"
            );
        }
        let keys: Vec<String> = self
            .drafts
            .iter()
            .map(|draft| format!("{:?}: \"…\"", draft.role))
            .collect();
        let _ = write!(
            message,
            "\nHow it fared:\n\n{}\n\nAnswer with your edits in this form: {{{}}}",
            self.findings.trim(),
            keys.join(", ")
        );
        message
    }
}
