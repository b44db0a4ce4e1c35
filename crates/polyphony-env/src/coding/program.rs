//! Assembles one program from two responses, and finds in which function an error is.

use polyphony_sandbox::{Program, SyntaxError};

use super::{
    function::Function,
    problem::{HELPER, Problem},
};

/// A program and the lines at which its last two functions begin.
pub(super) struct Assembled {
    pub(super) program: Program,
    /// Where the helper begins, counted from 1; `None` without a helper.
    helper_line: Option<u32>,
    /// Where the entry function begins, counted from 1.
    entry_line: u32,
}

/// A syntax error, with its position inside the function that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedSyntaxError {
    /// The function that contains the error.
    pub function: String,
    /// The line in that function, counted from 1; 0 if Python reports none.
    pub line: u32,
    /// The column, counted from 1; 0 if Python reports none.
    pub column: u32,
    /// Python's message.
    pub message: String,
}

/// Assembles the program: the prompt's imports and functions, then the helper, then the entry function.
pub(super) fn assemble(
    problem: &Problem,
    helper: Option<&Function>,
    entry: &Function,
) -> Assembled {
    let mut source = problem.imports.clone();
    let mut begin = |part: &str| {
        let line = 1 + source.matches('\n').count();
        source.push_str(part);
        source.push_str("\n\n");
        u32::try_from(line).unwrap_or(u32::MAX)
    };
    for function in &problem.functions {
        begin(function);
    }
    let helper_line = helper.map(|helper| begin(&helper.source));
    let entry_line = begin(&entry.source);
    Assembled {
        program: Program {
            source,
            entry_point: problem.entry_point.clone(),
        },
        helper_line,
        entry_line,
    }
}

impl Assembled {
    /// The error, with its line counted from the start of the function that contains it. An error in the
    /// imports or functions of the prompt is attributed to the first function after them.
    pub(super) fn locate(&self, error: &SyntaxError) -> LocatedSyntaxError {
        let is_in_entry = error.line >= self.entry_line || error.line == 0;
        let (function, start) = match self.helper_line {
            Some(line) if !is_in_entry => (HELPER, line),
            _ => (self.program.entry_point.as_str(), self.entry_line),
        };
        LocatedSyntaxError {
            function: function.to_owned(),
            line: match error.line {
                0 => 0,
                line => line.saturating_sub(start).saturating_add(1),
            },
            column: error.column,
            message: error.message.clone(),
        }
    }
}
