//! The prompt for the outside model.

use std::fmt::Write as _;

/// The system message. It names the format first, because smaller models tend to forget it.
pub(super) const SYSTEM: &str = "\
You answer with one JSON object and nothing else: no Markdown, no text around it.

You are an experienced Python programmer. Several programmers solve one problem together. Each \
writes one function and sees neither the functions nor the names chosen by the others, so what \
they call must fit by convention: the helper is always called `aux`. You see all functions and how \
they fared. For each programmer, propose the edits to the function that would help most: which \
line to change and into what, in at most five short sentences. Where a function needs no edit, say \
so. Speak to each programmer about their own function only, and do not write the whole function for \
them.";

/// One agent's response, to be reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft<'a> {
    /// The agent's role, which must be unique: the answer has the suggestion under this name.
    pub role: &'a str,
    /// The name of the function that the agent had to write.
    pub function: &'a str,
    /// The agent's response.
    pub response: &'a str,
}

/// What the outside model reviews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Review<'a> {
    /// The problem, as the agents saw it.
    pub problem: &'a str,
    /// The responses of all agents.
    pub drafts: &'a [Draft<'a>],
    /// How the responses did: which functions were found, which tests failed and why.
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
